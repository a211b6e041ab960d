"""Wavelengths and widths as files and users write them: one rule for every format."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

_NM = {"nm": 1.0, "nanometer": 1.0, "um": 1e3, "micron": 1e3, "micrometer": 1e3, "m": 1e9, "meter": 1e9}
_NM |= {"angstrom": 0.1, "å": 0.1}
_NONE = {"", "1", "unknown", "unitless", "none", "dimensionless", "-"}
_OPTICAL_NM = (150.0, 20_000.0)
"""No band of an imaging spectrometer lies outside, so a list without a unit can be nanometres or micrometres only."""


@dataclass(frozen=True)
class Spectrum:
    """A list of wavelengths in nm."""

    nm: tuple[float, ...]
    factor: float
    """nm for one unit of the list"""
    how: str
    """how the unit is known"""


def nm_per(unit: str) -> float | None:
    """Nanometres for one of a unit, whatever its spelling; None for what is no length: indices, wavenumbers."""
    name = re.sub(r"[µμ]", "u", unit.strip().lower()).replace("metre", "meter").replace(" ", "").rstrip(".")
    return _NM.get(name, _NM.get(name.removesuffix("s")))


def wavelengths_nm(values: Sequence[float], unit: str | None) -> Spectrum | None:
    """Wavelengths in nm; None where the numbers are none, or nothing tells their unit.

    Without a unit their size decides. Numbers 1, 2, 3 ... are indices, not micrometres.
    """
    if not values or not all(math.isfinite(v) and v > 0 for v in values):
        return None
    if unit is not None and unit.strip().lower() not in _NONE:
        factor = nm_per(unit)
        return None if factor is None else Spectrum(tuple(v * factor for v in values), factor, f"in {unit}")
    if len(values) > 1 and list(values) == list(range(1, len(values) + 1)):
        return None
    low, high = _OPTICAL_NM
    for name in ("nm", "um"):
        factor = _NM[name]
        if all(low <= v * factor <= high for v in values):
            return Spectrum(tuple(v * factor for v in values), factor, f"no unit given; their size says {name}")
    return None
