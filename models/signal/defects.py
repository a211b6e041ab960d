"""Defects of a detector, found in the pixels alone: columns that do not vary along the track, and repeated values.

Along the track is y: a column of the image is one detector element of a pushbroom sensor. A scene is read in groups of
columns, each in strips of rows, so memory depends on the width of the scene alone.

- A column of a band is dead (or hot) where it is constant along the track while the band varies: the median over
  blocks of 32 rows of its standard deviation is below `CONSTANT` of that of the columns around. Not where many columns
  side by side or most bands are: that is a saturated or an empty area.
- A value of a band marks defects where it occurs far too often, alone (no values near it), scattered (pixels side by
  side no more often than by chance), and in bright and dark places alike. A floor or a ceiling is not like that.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from scipy.ndimage import median_filter

from hypermend.models.arrays import F32, F64, I64, Mask
from hypermend.models.signal.masked_estimate import MaskedWindow, local_fill, pair_noise

BLOCK_ROWS = 32
CONSTANT = 1e-3
"""Variation of a constant column, relative to the median column around it: that of clean scenes is at least 0.008."""
AROUND_COLUMNS = 33
STEPS = 3
"""Where a band varies less than so many steps of its numbers, no column is known to be constant."""
MOST_COLUMNS = 8
"""Most constant columns side by side; more are an area."""
MOST_BANDS = 0.5
"""A column that is constant in a larger share of the bands is an area without data."""
SAMPLES = 400
"""Numbers of each band that a strip contributes to the search for repeated values."""
OFTEN, LEAST_COUNT = 0.002, 20
"""Least share of a band, and least number of samples, of a repeated value."""
NEAR = 0.3
"""Most mass near a repeated value, relative to its own."""
TOGETHER = 0.25
"""Largest correlation of the places of a repeated value with those beside and below."""
UNEVEN = 2.0
"""Largest ratio of its shares in the bright and the dark half of a band."""

Strips = Iterable[MaskedWindow]
Columns = Callable[[], Iterable[Strips]]
"""Gives groups of columns from left to right, each as strips from above to below; the same in each call."""


class DefectsJson(TypedDict):
    """`Defects` as JSON types."""

    columns: str
    """base64 of the packed bits"""
    width: int
    values: list[list[float]]


@dataclass(frozen=True, kw_only=True)
class Defects:
    """Defects of one scene."""

    columns: Mask
    """(b, W) dead or hot columns"""
    values: tuple[tuple[float, ...], ...]
    """for each band, the values that mark defects"""

    def __bool__(self) -> bool:
        return bool(self.columns.any() or any(self.values))

    def missing(self, pixels: F32, x: I64) -> Mask:
        """Which numbers of a window (b, h, w) are missing; x (w,) are its columns in the scene."""
        out = np.repeat(self.columns[:, None, x], pixels.shape[1], axis=1)
        for b, values in enumerate(self.values):
            for value in values:
                out[b] |= pixels[b] == np.float32(value)
        return out

    def to_json(self) -> DefectsJson:
        packed = base64.b64encode(np.packbits(self.columns).tobytes()).decode("ascii")
        return {"columns": packed, "width": self.columns.shape[1], "values": [list(v) for v in self.values]}

    @classmethod
    def from_json(cls, facts: DefectsJson) -> Defects:
        """Parse JSON types; the inverse of `to_json`."""
        shape = len(facts["values"]), int(facts["width"])
        bits = np.frombuffer(base64.b64decode(facts["columns"]), np.uint8)
        columns = np.unpackbits(bits, count=shape[0] * shape[1]).astype(bool).reshape(shape)
        return cls(columns=columns, values=tuple(tuple(float(v) for v in band) for band in facts["values"]))


def find_defects(columns: Columns) -> Defects:
    """Find the defects of a scene."""
    deviation: list[F64] = []
    samples: list[F32] = []
    at: list[I64] = []
    noise: list[F64] = []
    x = 0
    for strips in columns():
        blocks: list[F64] = []
        width = 0
        for values, valid, missing in strips:
            width = values.shape[2]
            there = ~missing & valid
            blocks += list(_block_deviation(values, there))
            if there.any():
                noise.append(pair_noise(values, there))
            picked = np.flatnonzero(valid)[:: max(1, int(valid.sum()) // SAMPLES)]
            flat = np.where(there, values, np.nan).reshape(len(values), -1)
            samples.append(flat[:, picked].astype(np.float32))
            at.append(x + picked % width)
        deviation.append(_median(blocks))
        x += width
    sampled, place = np.concatenate(samples, axis=1), np.concatenate(at)
    steps = np.array([_step(band) for band in sampled])
    dead = _dead(np.concatenate(deviation, axis=1), steps)
    sampled[dead[:, place]] = np.nan
    reach = np.maximum(0.02 * np.median(noise, axis=0) if noise else 0.0, 2.5 * steps)
    candidates = [_often(band, r) for band, r in zip(sampled, reach, strict=True)]
    found = Defects(columns=dead, values=tuple(() for _ in candidates))
    if any(candidates):
        counts = _Counted(candidates, reach, [_middle(band, v) for band, v in zip(sampled, candidates, strict=True)])
        for values, valid, missing, columns_x in _windows(columns()):
            counts.add(values, ~(missing | found.missing(values, columns_x)) & valid)
        found = Defects(columns=dead, values=counts.kept())
    return found


def _windows(groups: Iterable[Strips]) -> Iterator[tuple[F32, Mask, Mask, I64]]:
    x = 0
    for strips in groups:
        width = 0
        for values, valid, missing in strips:
            width = values.shape[2]
            yield values, valid, missing, np.arange(x, x + width)
        x += width


def _block_deviation(values: F32, there: Mask) -> Iterator[F64]:
    """(b, w) standard deviation along y of each block of rows; NaN where less than half of a column is there."""
    for top in range(0, max(1, values.shape[1] - BLOCK_ROWS // 2), BLOCK_ROWS):
        y, ok = values[:, top : top + BLOCK_ROWS].astype(np.float64), there[:, top : top + BLOCK_ROWS]
        n = ok.sum(axis=1)
        mean = np.where(ok, y, 0).sum(axis=1) / np.maximum(n, 1)
        variance = np.square(np.where(ok, y - mean[:, None], 0)).sum(axis=1) / np.maximum(n, 1)
        yield np.where(n >= max(4, ok.shape[1] // 2), np.sqrt(variance), np.nan)


def _median(blocks: Sequence[F64]) -> F64:
    """Median without NaN; NaN where there is nothing else."""
    stack = np.stack(blocks)
    known = np.isfinite(stack).any(axis=0)
    return np.asarray(np.nanmedian(np.where(known, stack, 0.0), axis=0) + np.where(known, 0, np.nan))


def _dead(deviation: F64, steps: F64) -> Mask:
    """(b, W) columns that are constant alone."""
    known = np.isfinite(deviation)
    around = median_filter(np.where(known, deviation, 0), (1, AROUND_COLUMNS), mode="reflect")
    constant = known & (np.where(known, deviation, 0) < CONSTANT * around) & (around > STEPS * steps[:, None])
    for band in constant:
        edges = np.flatnonzero(np.diff(np.concatenate(([0], band.astype(np.int8), [0]))))
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            if stop - start > MOST_COLUMNS:
                band[start:stop] = False
    constant[:, constant.mean(axis=0) > MOST_BANDS] = False
    return np.asarray(constant)


def _step(band: F32) -> float:
    """Smallest usual distance of the numbers of a band: its step, where it has one."""
    numbers = np.unique(band[np.isfinite(band)])
    return float(np.median(np.diff(numbers))) if numbers.size > 1 else 0.0


def _often(band: F32, reach: float) -> list[float]:
    """The two commonest values of the samples, where they are common and alone."""
    band = band[np.isfinite(band)]
    numbers, counts = np.unique(band, return_counts=True)
    out = []
    for i in np.argsort(counts)[::-1][:2]:
        near = np.count_nonzero(np.abs(band - numbers[i]) <= reach) - counts[i]
        if counts[i] >= max(LEAST_COUNT, OFTEN * band.size) and near <= NEAR * counts[i]:
            out.append(float(numbers[i]))
    return out


def _middle(band: F32, candidates: Sequence[float]) -> float:
    """Median of a band without its candidates: one number for the scene, as a window may be all dark or all bright."""
    rest = band[np.isfinite(band) & ~np.isin(band, np.asarray(candidates, np.float32))]
    return float(np.median(rest)) if rest.size else 0.0


class _Counted:
    """Counts of candidates over the windows of a scene."""

    def __init__(self, candidates: Sequence[Sequence[float]], reach: F64, middle: Sequence[float]) -> None:
        """
        Args:
            middle: number of each band between its dark and its bright half.
        """
        self._candidates, self._reach, self._middle = candidates, reach, middle
        # for each candidate: numbers, its own, near it, pairs, pairs of it, bright, its own there, dark, its own there
        self._sums = {(b, v): np.zeros(9) for b, values in enumerate(candidates) for v in values}

    def add(self, values: F32, there: Mask) -> None:
        """Count one window: (b, h, w) twice."""
        for b, candidates in enumerate(self._candidates):
            if not candidates or not there[b].any():
                continue
            band, ok = values[b], there[b]
            marked = np.isin(band, np.asarray(candidates, np.float32)) & ok
            smooth = local_fill(band[None], (marked | ~ok)[None])[0]
            bright = ok & (smooth > self._middle[b])
            for value in candidates:
                own = ok & (band == np.float32(value))
                near = ok & (np.abs(band - value) <= self._reach[b]) & ~own
                across, down = ok[:, 1:] & ok[:, :-1], ok[1:] & ok[:-1]
                both = [(own[:, 1:] & own[:, :-1]).sum(), (own[1:] & own[:-1]).sum()]
                pairs = [across.sum(), down.sum()]
                i = int(np.argmax(np.divide(both, np.maximum(pairs, 1))))
                dark = ok & ~bright
                areas = [bright.sum(), (own & bright).sum(), dark.sum(), (own & dark).sum()]
                self._sums[b, value] += [ok.sum(), own.sum(), near.sum(), pairs[i], both[i], *areas]

    def kept(self) -> tuple[tuple[float, ...], ...]:
        """Return the values of each band that mark defects."""
        return tuple(tuple(v for v in values if self._marks(b, v)) for b, values in enumerate(self._candidates))

    def _marks(self, b: int, value: float) -> bool:
        n, own, near, pairs, both, bright, own_bright, dark, own_dark = self._sums[b, value]
        share = own / max(n, 1)
        if not OFTEN <= share < 0.9 or near > NEAR * own:
            return False
        together = (both / max(pairs, 1) - share**2) / (share - share**2)
        parts = own_bright / max(bright, 1), own_dark / max(dark, 1)
        return bool(together < TOGETHER and max(parts) <= UNEVEN * min(parts))
