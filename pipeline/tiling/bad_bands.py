"""Isolated bad bands, predicted from the bands beside them in wavelength: `--fill-bands on`.

A bad band is isolated where at most `MOST_RUN` lie together between two good bands of its detector that are at most
`WIDEST_NM` apart. It gets the line between the two, pixel by pixel, as they were restored. In windows where the
atmosphere absorbs, neighbours say nothing of a band: these are never filled.

A filled band holds no measurement. It stays bad (`good` is False), the cube names it (`FILLED_ATTR`), and how far such
lines are from bands that were measured is told as its error: the good band on either side is predicted in the same
way, from the bands around it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from hypermend.catalog.cube.spec import CubeSpec
from hypermend.models.arrays import F64
from hypermend.pipeline.tiling.pixels import Mask, Stored, to_stored

FILLED_ATTR = "hypermend:filled_bands"
"""Attribute of a restored cube: numbers of the bands that were filled."""
MOST_RUN, WIDEST_NM = 2, 50.0
ABSORBED_NM = ((0, 400), (1330, 1490), (1770, 2010), (2430, 1e9))
"""Water vapour leaves almost no light here (Gao, Heidebrecht & Goetz, Remote Sensing of Environment 44, 1993)."""
LINES_NM = ((684, 696), (715, 735), (755, 775), (810, 838), (890, 990), (1085, 1180), (1240, 1290))
"""Weaker lines of oxygen and water: a spectrum is smooth across them only where they were corrected, in reflectance."""


@dataclass(frozen=True, kw_only=True)
class Between:
    """A band on the line between two others; positions in the cube."""

    band: int
    low: int
    high: int
    share: float
    """of `high`; `low` has the rest"""


@dataclass(frozen=True, kw_only=True)
class FilledBands:
    """Bad bands of a cube that can be filled."""

    bands: tuple[Between, ...]
    checks: tuple[tuple[Between, ...], ...]
    """For each, the good bands beside it, predicted in the same way."""

    def fill(self, stored: Stored, known: Mask, spec: CubeSpec) -> Stored:
        """Stored numbers (band, h, w) with these bands filled where there is data (h, w)."""
        out = stored.copy()
        for band in self.bands:
            out[band.band] = np.where(known, to_stored(_line(stored, band), spec), stored[band.band])
        return out

    def errors(self, stored: Stored, known: Mask, spec: CubeSpec) -> list[float]:
        """Mean square error of the checks of each band, in physical units, over the pixels with data; 0 for none."""
        if not known.any():
            return [0.0] * len(self.bands)
        square = [
            [float(np.square((_line(stored, c) - stored[c.band])[known]).mean()) for c in checks]
            for checks in self.checks
        ]
        return [sum(s) / max(1, len(s)) * spec.scale_factor**2 for s in square]


def isolated(spec: CubeSpec) -> FilledBands:
    """Find the bad bands that can be filled, and the checks of each."""
    found, checks = [], []
    for detector in dict.fromkeys(spec.detector):
        own = [i for i in range(spec.bands) if spec.detector[i] == detector]
        good = [i for i in own if spec.good[i]]
        for bad, run in groupby(own, key=lambda i: not spec.good[i]):
            bands = list(run)
            before = [i for i in good if i < bands[0]]
            after = [i for i in good if i > bands[-1]]
            if not bad or len(bands) > MOST_RUN or not before or not after:
                continue
            low, high = before[-1], after[0]
            if spec.wavelength_nm[high] - spec.wavelength_nm[low] > WIDEST_NM or _absorbed(spec, (low, *bands, high)):
                continue
            beside = [
                _between(spec, middle, outer, inner)
                for middle, outer, inner in ((low, before[-2:-1], high), (high, after[1:2], low))
                if outer
            ]
            found += [_between(spec, band, [low], high) for band in bands]
            checks += [tuple(beside)] * len(bands)
    return FilledBands(bands=tuple(found), checks=tuple(checks))


def rms_errors(spec: CubeSpec, filled: FilledBands, marks: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    """Error of each filled band, by its number, in physical units, from the sums of the tiles; None without any check.

    Args:
        spec: of the cube.
        filled: its bands.
        marks: `fill_errors` and `valid_px` of each tile.
    """
    sums, pixels = np.zeros(len(filled.bands)), 0
    for mark in marks:
        sums = sums + np.array(mark["fill_errors"], dtype=np.float64) * mark["valid_px"]
        pixels += int(mark["valid_px"])
    return {
        str(spec.band[band.band]): float(np.sqrt(total / pixels)) if pixels and checks else None
        for band, checks, total in zip(filled.bands, filled.checks, sums, strict=True)
    }


def _between(spec: CubeSpec, band: int, ends: Sequence[int], other: int) -> Between:
    low, high = sorted((ends[0], other))
    nm = spec.wavelength_nm
    return Between(band=band, low=low, high=high, share=(nm[band] - nm[low]) / (nm[high] - nm[low]))


def _line(stored: Stored, band: Between) -> F64:
    low, high = (stored[i].astype(np.float64) for i in (band.low, band.high))
    return np.asarray(low + band.share * (high - low))


def _absorbed(spec: CubeSpec, bands: Sequence[int]) -> bool:
    windows = ABSORBED_NM if spec.quantity == "reflectance" else (*ABSORBED_NM, *LINES_NM)
    low, high = spec.wavelength_nm[bands[0]], spec.wavelength_nm[bands[-1]]
    return any(low < end and begin < high for begin, end in windows)
