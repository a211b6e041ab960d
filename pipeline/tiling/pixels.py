"""Pixels of a tile before and after the model: decoding, holes, rounding, flags. Pure NumPy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hypermend.catalog.cube.spec import NEAR_FILL, NODATA, VALID, CubeSpec
from hypermend.pipeline.tiling.tiles import Window

Stored = NDArray[Any]
"""(bands, h, w) numbers as the cube stores them."""
Physical = NDArray[np.float32]
Flags = NDArray[np.uint8]
Mask = NDArray[np.bool_]
N = TypeVar("N", bound=np.generic)


@dataclass(frozen=True, kw_only=True)
class TilePixels:
    """Core of a restored tile, not yet written."""

    stored: Stored
    flags: Flags
    read_s: float
    model_s: float
    saturated: int = 0
    """Numbers beyond the range of the cube's type, stored as its largest or smallest."""
    repaired: NDArray[np.bool_] | None = None
    """(bands, h, w) numbers that were predicted from other bands; None where the scene has no defects."""
    std: Physical | None = None
    """(bands, h, w) standard deviation of each number, physical units, NaN where it is not known; None where it was not
    asked for."""
    fill_errors: list[float] | None = None
    """For each bad band that was filled, the mean square error of such predictions; None where none is."""
    source: Stored
    """The numbers of the source, on its own pixels."""
    known: Mask
    """Pixels of the source that hold data."""


FILL_REACH_PX = 8
"""How far into a hole its neighbours reach; the rest of a hole holds the scene's mean spectrum."""


@dataclass(frozen=True, kw_only=True)
class ImageWindow:
    """One window of an image."""

    window: Window
    """In the image's own pixels; beyond its edge where the image is reflected there."""
    values: Physical
    """(b, h, w)"""
    known: Mask
    """(h, w): where the image holds data."""

    def filled(self, wide: ImageWindow, mean: Physical) -> ImageWindow:
        """The window with its holes filled.

        Args:
            wide: the same image, ``FILL_REACH_PX`` farther on each side: a hole takes its values from there. Filled in
                place.
            mean: (b,) the scene's mean spectrum.
        """
        fill_holes(wide.values, wide.known, mean)
        return replace(self, values=np.ascontiguousarray(wide.values[(..., *self.window.inside(wide.window))]))


class MeanSpectrum:
    """Mean of the pixels that hold data, band by band, over any number of windows."""

    def __init__(self) -> None:
        self.pixels = 0
        self._total: Any = 0.0

    def add(self, values: Physical, known: Mask) -> None:
        """Count one window: (b, h, w), (h, w)."""
        self._total = self._total + values[:, known].sum(axis=1, dtype=np.float64)
        self.pixels += int(known.sum())

    def mean(self) -> Physical:
        """(b,); at least one pixel must have been counted."""
        return np.asarray(self._total / self.pixels, dtype=np.float32)


def physical(stored: Stored, spec: CubeSpec) -> Physical:
    """CF decoding in float32; NaN where a stored number is the fill."""
    values = np.empty(stored.shape, np.float32)
    # band by band, so that each is decoded while it is in the processor's cache
    for number, value in zip(stored, values, strict=True):
        np.multiply(number, np.float32(spec.scale_factor), out=value)
        if spec.add_offset != 0.0:
            value += np.float32(spec.add_offset)
        if spec.fill is not None and not np.isnan(spec.fill):
            np.copyto(value, np.nan, where=number == spec.fill)
    return values


def data_mask(values: Physical, flags: Flags) -> Mask:
    """(h, w): the pixel holds data in every band. A cloud is data; nodata or a NaN in any good band is a hole."""
    finite: Mask = np.isfinite(values.sum(axis=0))  # one NaN or infinity spoils the sum
    finite &= (flags & NODATA) == 0
    return finite


def fill_holes(values: Physical, known: Mask, mean: Physical, *, reach: int = FILL_REACH_PX) -> None:
    """Fill unknown pixels in place: ring by ring with the mean of their known neighbours, then with ``mean``.

    After ``reach`` rings nothing farther away has been looked at, so a tile that reads that much around its halo fills
    its holes exactly as the whole scene would.
    """
    known = np.pad(known, 1)
    shifts = [(dy, dx) for dy in (0, 1, 2) for dx in (0, 1, 2) if (dy, dx) != (1, 1)]
    height, width = values.shape[1:]
    for _ in range(reach):
        neighbours = np.zeros((height, width), dtype=np.uint8)
        for dy, dx in shifts:
            neighbours += known[dy : dy + height, dx : dx + width]
        ys, xs = np.nonzero((neighbours > 0) & ~known[1:-1, 1:-1])
        if len(ys) == 0:
            break
        total = np.zeros((len(values), len(ys)), dtype=np.float64)
        for dy, dx in shifts:
            there = known[ys + dy, xs + dx]
            # clip only keeps the index legal: where it moved a pixel, `there` is False
            near = values[:, np.clip(ys + dy - 1, 0, height - 1), np.clip(xs + dx - 1, 0, width - 1)]
            total += np.where(there, near, 0.0)
        values[:, ys, xs] = total / neighbours[ys, xs]
        known[ys + 1, xs + 1] = True
    values[:, ~known[1:-1, 1:-1]] = mean[:, None]


def repeated(values: NDArray[N], scale: int) -> NDArray[N]:
    """(..., h, w) -> (..., scale * h, scale * w): every pixel as a square of finer ones."""
    return values if scale == 1 else values.repeat(scale, axis=-2).repeat(scale, axis=-1)


def mark_near_fill(flags: Flags, known: Mask, halo: int) -> Flags:
    """Set NEAR_FILL on usable pixels whose receptive field, ``halo`` pixels each way, held filled pixels."""
    if known.all() or halo == 0:
        return flags
    from scipy.ndimage import maximum_filter  # a plan needs a number of this file, and no filter

    near = maximum_filter(~known, size=2 * halo + 1, mode="constant", cval=False) & (flags & VALID != 0)
    marked = flags.copy()
    marked[near] |= NEAR_FILL
    return marked


class BadOutput(Exception):
    """A model gave NaN or infinity where there was data: nothing of the tile is written."""


def refuse_bad_output(values: Physical, known: Mask) -> None:
    """
    Raises:
        BadOutput: with the number of pixels, out of how many.
    """
    if np.isfinite(values.sum(dtype=np.float64)):  # one NaN or infinity spoils the sum
        return
    bad = int((known & ~np.isfinite(values).all(axis=0)).sum())
    if bad:
        raise BadOutput(f"the model gave NaN or infinity in {bad} of {int(known.sum())} pixels that hold data")


def to_stored(values: NDArray[Any], spec: CubeSpec) -> Stored:
    """Numbers as the cube stores them. Whole ones are rounded, and cut at the ends of their type: they never wrap.

    None is rounded onto the fill: data must not turn into nodata.
    """
    kind = np.dtype(spec.dtype)
    if kind.kind not in "iu":
        return values.astype(spec.dtype, copy=False)
    info = np.iinfo(kind)
    whole: NDArray[Any] = np.rint(values)
    # No float is the largest 64-bit number, no float32 the largest 32-bit one: what is not below it is set apart.
    high, low = whole >= info.max, whole <= info.min
    stored: Stored = np.where(high | low, 0, whole).astype(kind)
    stored[high], stored[low] = info.max, info.min
    if spec.fill is not None:
        stored[stored == spec.fill] = spec.fill + 1 if spec.fill < info.max else spec.fill - 1
    return stored


def count_saturated(values: NDArray[Any], known: Mask, spec: CubeSpec) -> int:
    """Numbers of known pixels that `to_stored` cuts at the ends of the cube's type.

    Args:
        values: (band, h, w).
        known: (h, w).
    """
    if np.dtype(spec.dtype).kind not in "iu":
        return 0
    info = np.iinfo(spec.dtype)
    return sum(int(np.count_nonzero(known & ((v > info.max) | (v < info.min)))) for v in map(np.rint, values))
