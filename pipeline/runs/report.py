"""What a run tells: events while it goes on, a report when it has ended. Plain values, which machines get as JSON."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

Status = Literal["published", "current", "failed", "skipped", "held"]
"""How a scene ends: published; current, nothing was left to do; failed or skipped, with a reason; held, another driver
is at work on it."""


def unit_id(collection: str, scene: str) -> str:
    """What tells a run's units apart: a scene id is unique in its collection only."""
    return f"{collection}/{scene}"


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something a person may want to see."""

    kind: Literal["opened", "block", "tile"] | Status
    scene: str
    """Id of the unit, or what is known of a scene that did not become one."""
    done: int = 0
    """Tiles, or adaptation blocks where the event is one."""
    total: int = 0
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class SceneResult:
    """How a scene ended."""

    scene: str
    status: Status
    collection: str | None = None
    """None for a scene that was refused before its collection was known."""
    tiles_written: int = 0
    tiles_failed: int = 0
    reason: str = ""
    warnings: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    """What was found out about the scene: of a fusion its pair, and steps, losses and fall-backs of every block."""

    @property
    def unit(self) -> str:
        """Id of the unit, as far as it is known."""
        return self.scene if self.collection is None else unit_id(self.collection, self.scene)


@dataclass(kw_only=True)
class RunReport:
    """How a run ended; complete once ``run`` is exhausted."""

    run: str
    scenes: list[SceneResult] = field(default_factory=list)
    tiles_written: int = 0
    bytes_written: int = 0
    seconds: float = 0.0
    samples: int = 0
    """Bands times pixels written."""
    worker_s: float = 0.0
    """Seconds that workers spent on tiles, added up."""
    peak_worker_bytes: int = 0
    notes: dict[str, Any] = field(default_factory=dict)
    """What else there is to say; ``stopped`` is why the run ended early by itself."""
    stopped: bool = False
    """It was asked to stop: what was in flight is done, the rest is not; the same command goes on."""

    @property
    def exit_code(self) -> int:
        """0: every scene is published. 1: some are not, see ``scenes`` and the ledger. 130: stopped before its end."""
        if self.stopped:
            return 130
        return int("stopped" in self.notes or any(s.status not in ("published", "current") for s in self.scenes))

    def count(self, status: str) -> int:
        return sum(s.status == status for s in self.scenes)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"exit_code": self.exit_code}


def new_run_id(verb: str) -> str:
    """Sorts by time and never meets another."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}-{verb}"
