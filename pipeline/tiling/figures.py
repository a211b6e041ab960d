"""Figures of what a restoration did: of one tile, and of a scene as their sum. Pure NumPy.

A tile's figures are in its mark. Those of a scene are sums in the order of its tiles, so that any worker, engine and
resumed run gives the same. A finer result is compared on the source's pixels: by its means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.documents import MALFORMED
from hypermend.models.arrays import F32, Mask
from hypermend.models.signal.subspace import noise_removed
from hypermend.pipeline.tiling.pixels import Stored
from hypermend.pipeline.tiling.tiles import Window, sample_windows

SAMPLE_PX = 2**12
"""Pixels of a tile that are compared, in rows at equal distances."""
NOISE_EDGE_PX, NOISE_WINDOWS = 64, 4
"""Windows of a tile that its noise is estimated from, and their edge."""
LOSS = 1.1
"""A band in which more than this multiple of its noise was removed has lost signal."""
_DIGITS, _NOISE_DIGITS = 9, 3
_Decoded = Callable[[slice, slice], F32]
"""(rows, columns) of a tile -> physical values (good bands, h, w)."""


def tile_figures(before: Stored, after: Stored, known: Mask, spec: CubeSpec) -> dict[str, Any]:
    """Compare one tile before and after its restoration, over the good bands; JSON values.

    Args:
        before: (bands, h, w) stored numbers of the source.
        after: (bands, s * h, s * w) stored numbers of the result, as the cube of ``spec`` has them.
        known: (h, w) pixels that hold data.
        spec: layout of the result; the source's numbers mean the same.

    Returns:
        Number of pixels; sums of their energy, of that of their change, and of their spectral angles in degrees, by a
        sample; the noise of each good band, and how much like it was removed (``noise_removed``). Empty where a sum is
        no number.
    """
    pixels, height = int(np.count_nonzero(known)), len(known)
    if pixels == 0:
        return {"pixels": 0}
    rows = slice(0, None, -(-known.size // SAMPLE_PX))
    if not known[rows].any():
        rows = slice(0, None)
    there = known[rows]
    old, new = _decoded(before, height, spec), _decoded(after, height, spec)
    with np.errstate(over="ignore", invalid="ignore"):
        x = old(rows, slice(None))[:, there].astype(np.float64)
        y = new(rows, slice(None))[:, there].astype(np.float64)
        gone = x - y
        xx, yy, xy, change = (np.einsum("bn,bn->n", a, b) for a, b in ((x, x), (y, y), (x, y), (gone, gone)))
        angle = np.degrees(np.arctan2(np.sqrt(np.maximum(xx * yy - xy * xy, 0)), xy))
    sums = [float(values.mean()) * pixels for values in (xx, change, angle)]
    if not all(map(math.isfinite, sums)):
        return {}
    figures: dict[str, Any] = {"pixels": pixels}
    figures |= zip(("signal", "change", "angle_deg"), (_short(value, _DIGITS) for value in sums), strict=True)
    windows = sample_windows(*known.shape, edge_px=NOISE_EDGE_PX, at_most=NOISE_WINDOWS)
    with np.errstate(over="ignore", invalid="ignore"):
        noise = noise_removed(_compared(old, new, known, window) for window in windows)
    if noise is not None:
        figures["noise"] = [[_short(float(v), _NOISE_DIGITS) for v in values] for values in noise]
    return figures


def _compared(before: _Decoded, after: _Decoded, known: Mask, window: Window) -> tuple[F32, F32, Mask]:
    there = known[window.y, window.x]
    x, y = (np.where(there, values(window.y, window.x), np.float32(0)) for values in (before, after))
    return x, y, there


def scene_figures(tiles: Sequence[Mapping[str, Any]], bands: int) -> dict[str, Any]:
    """Sum up the figures of all tiles of a scene: {} where one has none, as those of earlier versions.

    Args:
        tiles: figures of every tile.
        bands: number of good bands.

    Returns:
        ``pixels``; ``signal``, the root mean square of the source; ``change``, the energy of the change as a share of
        the source's; ``angle_deg``, the mean spectral angle; and, where tiles have them, root mean squares over tiles
        of each good band: ``noise_before``, ``noise_removed``, and what these leave, ``noise_after``.
    """
    try:
        some = [tile for tile in tiles if tile["pixels"]]
        pixels = sum(int(tile["pixels"]) for tile in some)
        signal, change, angle = (math.fsum(float(t[k]) for t in some) for k in ("signal", "change", "angle_deg"))
        before, removed = (_root_mean_square(some, i) for i in (0, 1))
    except MALFORMED:
        return {}
    if not pixels:
        return {}
    figures: dict[str, Any] = {
        "pixels": pixels,
        "signal": _short(math.sqrt(signal / (pixels * bands)), 6),
        "change": _short(change / signal, 6) if signal else 0.0,
        "angle_deg": _short(angle / pixels, 6),
    }
    if len(before) == len(removed) == bands:
        after = [math.sqrt(max(b * b - r * r, 0.0)) for b, r in zip(before, removed, strict=True)]
        for name, noise in (("before", before), ("removed", removed), ("after", after)):
            figures[f"noise_{name}"] = [_short(value, _NOISE_DIGITS) for value in noise]
    return figures


def brief_figures(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a scene without those of each band: of these, the median as a share of the signal."""
    brief = {k: v for k, v in figures.items() if not isinstance(v, list)}
    for side in ("before", "after"):
        noise = figures.get(f"noise_{side}")
        if noise and figures["signal"]:
            brief[f"noise_share_{side}"] = _short(float(np.median(noise)) / figures["signal"], _NOISE_DIGITS)
    pairs = zip(figures.get("noise_before", ()), figures.get("noise_removed", ()), strict=True)
    brief["bands_losing_signal"] = sum(removed > LOSS * before for before, removed in pairs)
    return brief


def all_bands(figures: Mapping[str, Any], good: Sequence[bool]) -> dict[str, Any]:
    """Return the figures of a scene with None for the bands that are not good."""

    def spread(values: list[float]) -> list[float | None]:
        left = iter(values)
        return [next(left) if is_good else None for is_good in good]

    return {k: spread(v) if isinstance(v, list) else v for k, v in figures.items()}


def _root_mean_square(tiles: Sequence[Mapping[str, Any]], side: int) -> list[float]:
    told = [(int(tile["pixels"]), tile["noise"][side]) for tile in tiles if "noise" in tile]
    count = sum(pixels for pixels, _ in told)
    bands = zip(*([pixels * float(v) ** 2 for v in values] for pixels, values in told), strict=True)
    return [math.sqrt(math.fsum(band) / count) for band in bands]


def _decoded(stored: Stored, height: int, spec: CubeSpec) -> _Decoded:
    """Physical values of the good bands, on ``height`` rows of pixels: the means of finer ones."""
    bands, rows, columns = stored.shape
    scale = rows // height
    cells = stored.reshape(bands, height, scale, columns // scale, scale)
    good = slice(None) if all(spec.good) else np.flatnonzero(spec.good)

    def values(y: slice, x: slice) -> F32:
        part = cells[:, y, :, x, :][good]
        out = part[:, :, 0, :, 0].astype(np.float32) if scale == 1 else part.mean(axis=(2, 4), dtype=np.float32)
        out *= np.float32(spec.scale_factor)
        out += np.float32(spec.add_offset)
        return out

    return values


def _short(value: float, digits: int) -> float:
    """A float of few digits: short in JSON, and the same whatever the last bits are."""
    return float(f"{value:.{digits}g}")
