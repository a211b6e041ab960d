"""Limits on the adaptation of a fusion. Knows no torch, so that a plan can hold one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AdaptationBudget:
    """Limits for each block of a scene; adaptation stops at whichever is reached first."""

    steps: int
    """Optimiser steps. 0: no adaptation."""
    seconds: float | None = None
    """Wall-clock seconds. None: as long as the steps take. A limit in seconds makes pixels depend on the machine."""
