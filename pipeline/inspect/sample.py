"""Pixels for a look at a scene: one pass over few bands for the picture and the masks, small windows for the spectrum.

Reads are bounded: a scene that would cost more is looked at in its centre, and that is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hypermend.catalog.arrays import F64, Flags
from hypermend.catalog.cube.spec import FLAGS, VALID, CubeSpec
from hypermend.catalog.readers.scene_reader import Source
from hypermend.models.arrays import F32

MOST_BYTES, MOST_REMOTE_BYTES = 512 << 20, 48 << 20
"""Stored numbers that one look reads, of files on this machine and of others."""
BLOCK_BYTES = 8 << 20
EDGE_PX = 480
"""Longest edge of the picture of the scene"""
WINDOW_PX = 32
WINDOWS = 3
"""Windows along each axis from which the spectrum is taken"""


@dataclass(frozen=True, kw_only=True)
class View:
    """The scene as it is seen from afar."""

    image: F32
    """(3 or 1, h, w) physical values of every `step`-th pixel; NaN without data"""
    flags: Flags
    """(h, w)"""
    shares: dict[str, float]
    """{flag: share of the pixels looked at}"""
    part: str
    """which part of the scene was looked at; empty for all of it"""
    bands_nm: tuple[float, ...]
    """wavelengths of the bands of the image"""


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Mean of the valid pixels of some windows."""

    mean: F64
    """(bands,) physical values; NaN where no pixel has data"""
    pixels: int
    defects: float | None
    """share of the windows' numbers that the product marks as defective; None if it marks none"""


def look(source: Source, bands: Sequence[int], *, most_bytes: int = MOST_BYTES) -> View:
    """One pass over the scene, or over its centre.

    Args:
        bands: positions in the source of those that the picture shows.
    """
    spec = source.spec
    (y0, y1), (x0, x1), part = _part(spec, most_bytes)
    step = max(1, math.ceil(max(y1 - y0, x1 - x0) / EDGE_PX))
    rows = max(1, BLOCK_BYTES // (spec.bands * (x1 - x0) * np.dtype(spec.dtype).itemsize) // step) * step
    images: list[F32] = []
    flags: list[Flags] = []
    counts = dict.fromkeys(FLAGS, 0)
    for top in range(y0, y1, rows):
        window = slice(top, min(top + rows, y1)), slice(x0, x1)
        stored, here = source.read(*window)
        for name, bit in FLAGS.items():
            counts[name] += int(np.count_nonzero(here & bit))
        images.append(_physical(stored[list(bands), ::step, ::step], spec))
        flags.append(here[::step, ::step])
    total = (y1 - y0) * (x1 - x0)
    return View(
        image=np.concatenate(images, axis=1),
        flags=np.concatenate(flags),
        shares={name: n / total for name, n in counts.items() if n or name == "valid"},
        part=part,
        bands_nm=tuple(spec.wavelength_nm[i] for i in bands),
    )


def spectrum(source: Source) -> Spectrum:
    """The mean spectrum of the valid pixels of `WINDOWS` x `WINDOWS` windows."""
    spec = source.spec
    total, count = np.zeros(spec.bands), np.zeros(spec.bands, dtype=np.int64)
    pixels = marked = numbers = 0
    for y, x in _windows(spec):
        stored, flags = source.read(y, x)
        if (defects := source.defects(y, x)) is not None:
            marked, numbers = marked + int(np.count_nonzero(defects)), numbers + defects.size
        valid = (flags & VALID) > 0
        pixels += int(np.count_nonzero(valid))
        values = _physical(stored[:, valid], spec)
        known = np.isfinite(values)
        total += np.where(known, values, 0).sum(axis=1, dtype=np.float64)
        count += known.sum(axis=1)
    with np.errstate(invalid="ignore"):
        mean = np.where(count > 0, total / count, np.nan)
    return Spectrum(mean=mean, pixels=pixels, defects=marked / numbers if numbers else None)


def sampled_masks(source: Source) -> dict[str, float]:
    """{flag: share} of the pixels of the same windows; flags that no pixel has are left out, but for `valid`."""
    flags = np.concatenate([source.read(y, x)[1].ravel() for y, x in _windows(source.spec)])
    counts = {name: int(np.count_nonzero(flags & bit)) for name, bit in FLAGS.items()}
    return {name: n / flags.size for name, n in counts.items() if n or name == "valid"}


def _windows(spec: CubeSpec) -> Iterator[tuple[slice, slice]]:
    """Windows over the scene, each once."""
    starts = []
    for length in (spec.height, spec.width):
        if length <= WINDOWS * WINDOW_PX:  # all of it
            starts.append(list(range(0, length, WINDOW_PX)))
            continue
        centres = [(2 * i + 1) * length // (2 * WINDOWS) for i in range(WINDOWS)]
        starts.append([c - WINDOW_PX // 2 for c in centres])
    for y in starts[0]:
        for x in starts[1]:
            yield slice(y, min(y + WINDOW_PX, spec.height)), slice(x, min(x + WINDOW_PX, spec.width))


def _part(spec: CubeSpec, most_bytes: int) -> tuple[tuple[int, int], tuple[int, int], str]:
    """Rows and columns that are looked at, and their name where they are not all."""
    pixels = most_bytes // (spec.bands * np.dtype(spec.dtype).itemsize)
    if spec.height * spec.width <= pixels:
        return (0, spec.height), (0, spec.width), ""
    edge = max(WINDOW_PX, math.isqrt(pixels))
    height, width = min(spec.height, edge), min(spec.width, edge)
    y, x = (spec.height - height) // 2, (spec.width - width) // 2
    return (y, y + height), (x, x + width), f"of the {width} x {height} pixels in its centre"


def _physical(stored: NDArray[np.generic], spec: CubeSpec) -> F32:
    """Stored numbers as physical values, NaN without data."""
    values = stored.astype(np.float32) * np.float32(spec.scale_factor) + np.float32(spec.add_offset)
    if spec.fill is not None and not np.isnan(spec.fill):
        values[stored == spec.fill] = np.nan
    return values
