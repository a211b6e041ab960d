"""A border of one number that no source calls nodata: found on a few rows, to be reported and never masked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hypermend.catalog.arrays import Flags, Mask, Stored
from hypermend.catalog.cube.spec import VALID, CubeSpec
from hypermend.catalog.readers.decode import STORED_ATTR
from hypermend.catalog.readers.scene_reader import Source

ROWS = 5
MIN_PIXELS = 3
"""Fewer pixels are chance: a dark or a saturated one at the end of a row"""
MIN_SHARE = 0.02
"""Smaller shares of both edges are chance, too"""


@dataclass(frozen=True, kw_only=True)
class Border:
    """Pixels at the ends of some rows that hold one number in every band, although they count as valid."""

    value: float
    pixels: int
    looked_at: int
    """pixels in these rows"""

    def __str__(self) -> str:
        return (
            f"{self.pixels} of the {self.looked_at} pixels in some rows lie at an end of their row and hold "
            f"{self.value:g} in every band, and no source says that this is nodata; if it is, give --nodata "
            f"{self.value:g}"
        )


def constant_border(source: Source) -> Border | None:
    """The constant border of a scene, if it has one. Reads five rows: no column, which may cost a whole file."""
    spec = source.spec
    good = [i for i, g in enumerate(spec.good) if g] or list(range(spec.bands))
    if len(good) < 2:
        return None
    counts: dict[float, int] = {}
    rows = sorted({round(i * (spec.height - 1) / (ROWS - 1)) for i in range(ROWS)})
    for row in rows:
        values, flags = source.read(slice(row, row + 1), slice(0, spec.width))
        pixels = _stored(values[:, 0], spec)[good]
        same = np.all(pixels == pixels[:1], axis=0) & ((flags[0] & VALID) > 0)
        for end, step in ((0, 1), (spec.width - 1, -1)):
            run = _run(same & (pixels[0] == pixels[0, end]), step)
            if run and (step == 1 or run < spec.width):  # a row of one number alone counts once
                value = float(pixels[0, end])
                counts[value] = counts.get(value, 0) + run
    found = max(counts.items(), key=lambda pair: pair[1], default=(0.0, 0))
    if found[1] < MIN_PIXELS:
        return None
    return Border(value=found[0], pixels=found[1], looked_at=len(rows) * spec.width)


def edge_numbers(values: Stored, flags: Flags, spec: CubeSpec) -> dict[float, int]:
    """{number: pixels} of the valid pixels at an edge that hold one number in every good band.

    Args:
        values: (band, n) as the cube stores them.
        flags: (n,)
    """
    good = [i for i, g in enumerate(spec.good) if g] or list(range(spec.bands))
    if len(good) < 2:
        return {}
    pixels = _stored(values, spec)[good]
    same = np.all(pixels == pixels[:1], axis=0) & ((flags & VALID) > 0)
    numbers, counts = np.unique(pixels[0, same], return_counts=True)
    return {float(number): int(count) for number, count in zip(numbers, counts, strict=True)}


def edge_border(counts: Mapping[float, int], height: int) -> str | None:
    """Message about a constant border, of the numbers at the left and the right edge of a scene; None without one."""
    value, pixels = max(counts.items(), key=lambda pair: pair[1], default=(0.0, 0))
    if pixels < max(MIN_PIXELS, MIN_SHARE * 2 * height):
        return None
    return (
        f"{pixels} of the {2 * height} pixels at its left and right edge hold {value:g} in every band, and no source "
        f"says that this is nodata; if it is, give --nodata {value:g}"
    )


def _stored(values: Stored, spec: CubeSpec) -> Stored:
    """The numbers of the file (band, x), of a source that decodes each band by a scale of its own."""
    if (facts := spec.attrs.get(STORED_ATTR)) is None:
        return values
    scale, offset = (np.asarray(facts[name])[:, None] for name in ("scale_factor", "add_offset"))
    return np.asarray(np.rint((values - offset) / scale))


def _run(mask: Mask, step: int) -> int:
    """Length of the run of True from one end."""
    ended = np.flatnonzero(~mask[::step])
    return int(ended[0]) if ended.size else int(mask.size)
