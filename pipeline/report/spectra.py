"""Spectra of a scene on a coarse lattice of its pixels, before and after, small enough for a page."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np

from hypermend.catalog.arrays import F32
from hypermend.catalog.cube.cube import Cube

MOST_EDGE, LONG_PX, EDGE_OF_LONG = 32, 1024, 16
"""Most points along an edge of the lattice; fewer in a scene longer than so many pixels: each costs its chunks."""
MISSING = 2**16 - 1


@dataclass(frozen=True, kw_only=True)
class Lattice:
    """Pixels of a scene: rows and columns at equal distances."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @classmethod
    def over(cls, height: int, width: int, *, points: int) -> Lattice:
        """Return a lattice of at most so many points, with about square cells."""
        edge = MOST_EDGE if max(height, width) <= LONG_PX else EDGE_OF_LONG
        cell = max(1.0, (height * width / max(points, 1)) ** 0.5, max(height, width) / edge)
        rows, columns = (max(1, int(size / cell)) for size in (height, width))
        while rows * columns > max(points, 1):
            rows, columns = (rows - 1, columns) if rows > columns else (rows, columns - 1)
        return cls(rows=_centres(height, rows), columns=_centres(width, columns))


def _centres(size: int, count: int) -> tuple[int, ...]:
    return tuple(int((i + 0.5) * size / count) for i in range(count))


def lattice_spectra(after: Cube, before: Cube | None, *, room: int) -> dict[str, Any] | None:
    """Read spectra for a page: JSON values of at most about ``room`` bytes; None where that is too little for any.

    Args:
        after: the cube that is shown.
        before: the cube that it was restored from, whose pixels the lattice counts.

    Raises:
        BadCube: an object is damaged.
    """
    base = after if before is None else before
    scale = after.spec.height // base.spec.height
    good = np.flatnonzero(after.spec.good)
    sides = 1 if before is None else 2
    points = int(room * 3 / 4 / (2 * sides * max(len(good), 1)))
    if points < 1 or not len(good):
        return None
    lattice = Lattice.over(base.spec.height, base.spec.width, points=points)
    fine = [[scale * i + scale // 2 for i in places] for places in (lattice.rows, lattice.columns)]
    values = [after.at(*fine)[good]]
    if before is not None:
        values.insert(0, before.at(lattice.rows, lattice.columns)[good])
    low, high = _range(values)
    return {
        "rows": lattice.rows,
        "columns": lattice.columns,
        "height": base.spec.height,
        "width": base.spec.width,
        "nm": [round(after.spec.wavelength_nm[i], 2) for i in good],
        "detector": [list(dict.fromkeys(after.spec.detector)).index(after.spec.detector[i]) for i in good],
        "low": low,
        "high": high,
        "sides": ["before", "after"][-sides:],
        "values": [_packed(side, low, high) for side in values],
    }


def _range(values: list[F32]) -> tuple[float, float]:
    known = np.concatenate([side[np.isfinite(side)] for side in values])
    if not known.size:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    return low, high if high > low else low + 1.0


def _packed(values: F32, low: float, high: float) -> str:
    """Spectra one after the other, (rows, columns, band), as base64 of little-endian 16-bit steps from low to high."""
    steps = np.where(np.isfinite(values), np.rint((values - low) / (high - low) * (MISSING - 1)), MISSING)
    return base64.b64encode(np.moveaxis(steps, 0, -1).astype("<u2").tobytes()).decode("ascii")
