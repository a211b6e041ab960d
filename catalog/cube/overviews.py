"""Overviews of a cube: coarser copies of its pixels, made from one tile at a time. Pure arrays, no Zarr.

A pixel of an overview is the mean of the usable pixels under it, of those bands that no defect marks; where there is
none it is nodata. Means of integers are rounded, halves to even.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypermend.catalog.arrays import Defects, Flags, Stored
from hypermend.catalog.cube.spec import LEVEL_STEP, NODATA, VALID

_BANDS = 8
"""Bands added up at a time: few enough for the processor's cache, which halves the time."""


@dataclass(frozen=True, kw_only=True)
class OverviewPart:
    """The part of one overview that one tile gives."""

    level: int
    """Pixels of the cube along the edge of one of its pixels."""
    stored: Stored
    flags: Flags
    """VALID where a usable pixel lies under it, else NODATA."""


def overview_parts(
    stored: Stored, flags: Flags, defects: Defects | None, *, levels: Sequence[int], fill: float | int | None
) -> Iterator[OverviewPart]:
    """The overviews of one tile, each made of the sums of the one before, so that each is the mean of all its pixels.

    Args:
        stored: (band, h, w).
        flags: (h, w).
        defects: (band, h, w); None for none.
        levels: successive powers of `LEVEL_STEP`.
        fill: stored number of a pixel without data; None: 0, or NaN in a cube of floats.
    """
    usable = (flags & VALID) != 0
    whole = bool(usable.all())
    if fill is None:
        fill = np.nan if stored.dtype.kind == "f" else 0
    sums = np.empty((len(stored), *_coarser(flags.shape)), _exact(stored.dtype))
    for first in range(0, len(stored), _BANDS):
        some = stored[first : first + _BANDS]
        some = some if whole else _only(some, usable)
        sums[first : first + _BANDS] = _small_sums(some) if _is_small(some) else _block_sums(some, sums.dtype)
    counts = _block_sums(usable, np.dtype("int32"))[None]
    for band in () if defects is None else np.flatnonzero(defects.any(axis=(1, 2))):
        kept = usable & ~defects[band]  # type: ignore[index]
        counts = np.repeat(counts, len(stored), axis=0) if len(counts) == 1 else counts
        counts[band] = _block_sums(kept, counts.dtype)
        sums[band] = _block_sums(_only(stored[band], kept), sums.dtype)
    for level in levels:
        if level > LEVEL_STEP:
            sums, counts = _block_sums(sums, sums.dtype), _block_sums(counts, counts.dtype)
        if sums.dtype.kind == "i" and (counts == level * level).all():
            part = _mean_of_full(sums, level).astype(stored.dtype)
        else:
            means = sums / np.maximum(counts, 1)
            if stored.dtype.kind in "iu":
                np.rint(means, out=means)
            part = np.where(counts > 0, means, fill).astype(stored.dtype)
        flags_of_part = np.where((counts > 0).any(axis=0), VALID, NODATA).astype(np.uint8)
        yield OverviewPart(level=level, stored=part, flags=flags_of_part)


def _only(stored: Stored, kept: NDArray[np.bool_]) -> Stored:
    """0 where a pixel does not count; NaN times 0 would not do."""
    return np.where(kept, stored, stored.dtype.type(0))


def _mean_of_full(sums: NDArray[Any], level: int) -> NDArray[Any]:
    """Rounded means of blocks without a hole, halves to even: a shift, as the number of pixels is a power of two."""
    bits = 2 * (level.bit_length() - 1)
    means = sums >> bits
    means &= 1
    means += sums
    means += 2 ** (bits - 1) - 1
    means >>= bits
    return means


def _coarser(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-size // LEVEL_STEP) for size in shape)


def _exact(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A type that holds the sum of 256 pixels: integers for integers of up to 16 bits, which are the fastest."""
    return np.dtype("int32" if dtype.kind in "iu" and dtype.itemsize <= 2 else "float64")


def _block_sums(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Sums of `LEVEL_STEP` x `LEVEL_STEP` pixels over the last two axes; those at the edges may be of fewer.

    Whole rows first: strided additions of rows are several times as fast as NumPy's sum over a short axis.
    """
    rows = values[..., ::LEVEL_STEP, :].astype(dtype)
    for i in range(1, LEVEL_STEP):
        part = values[..., i::LEVEL_STEP, :]
        rows[..., : part.shape[-2], :] += part
    sums = rows[..., ::LEVEL_STEP].copy()
    for i in range(1, LEVEL_STEP):
        part = rows[..., i::LEVEL_STEP]
        sums[..., : part.shape[-1]] += part
    return sums


def _is_small(values: Stored) -> bool:
    """Whether four of the numbers fit into 16 bits, and blocks cut off by the edge of the scene do not occur."""
    if values.dtype.kind not in "iu" or values.dtype.itemsize != 2 or values.shape[1] % 4 or values.shape[2] % 4:
        return False
    return bool(values.view(np.uint16).max() < 2**14)  # a negative number is large here


def _small_sums(values: Stored) -> NDArray[np.int32]:
    """The same sums as `_block_sums`, in two thirds of the time: rows in 16 bits, then four columns in one of 64."""
    numbers = values.view(np.uint16)
    rows = np.add(numbers[:, ::4], numbers[:, 1::4], order="C")  # whatever the order of the tile in memory
    rows += numbers[:, 2::4]
    rows += numbers[:, 3::4]
    four = rows.view(np.uint64)
    every_other = np.uint64(0x0000FFFF0000FFFF)
    pairs = four & every_other
    pairs += (four >> np.uint64(16)) & every_other
    halves = pairs.view(np.uint32)
    return (halves[..., ::2] + halves[..., 1::2]).view(np.int32)
