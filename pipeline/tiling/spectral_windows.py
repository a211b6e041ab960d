"""Spectral windows: how the bands of a cube are divided for a network of fixed width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hypermend.pipeline.tiling.tiles import reflected


@dataclass(frozen=True, kw_only=True)
class SpectralWindow:
    """``take`` (c,) picks the network's input bands; ``weight`` (c,) blends its output back onto them.

    Where a run of bands is shorter than the network is wide, ``take`` reflects along the spectrum and the weights of
    the reflected copies are zero.
    """

    take: tuple[int, ...]
    weight: tuple[float, ...]


def spectral_windows(
    wavelength_nm: Sequence[float], detector: Sequence[str], good: Sequence[bool], window_bands: int
) -> tuple[SpectralWindow, ...]:
    """Overlapping windows of exactly ``window_bands`` bands that cover every good band, weights summing to 1.

    A window never mixes detectors and never crosses a gap wider than three band spacings; bad bands are in none.
    """
    if window_bands < 1:
        raise ValueError(f"a spectral window needs at least one band, got {window_bands}")
    windows: list[SpectralWindow] = []
    for run in band_runs(wavelength_nm, detector, good):
        windows.extend(_windows_of_run(run, window_bands))
    total = np.zeros(len(wavelength_nm))
    for window in windows:
        np.add.at(total, list(window.take), window.weight)
    return tuple(
        SpectralWindow(
            take=w.take,
            weight=tuple(v / total[b] if v else 0.0 for b, v in zip(w.take, w.weight, strict=True)),
        )
        for w in windows
    )


def band_runs(wavelength_nm: Sequence[float], detector: Sequence[str], good: Sequence[bool]) -> list[list[int]]:
    """Good bands of one detector without a wide gap, each run in order of wavelength."""
    runs: list[list[int]] = []
    for name in dict.fromkeys(detector):
        bands = [b for b in range(len(wavelength_nm)) if detector[b] == name and good[b]]
        if not bands:
            continue
        steps = [wavelength_nm[b] - wavelength_nm[a] for a, b in pairwise(bands)]
        widest = 3 * float(np.median(steps)) if steps else 0.0
        run = [bands[0]]
        for band, step in zip(bands[1:], steps, strict=True):
            if step > widest:
                runs.append(run)
                run = []
            run.append(band)
        runs.append(run)
    return runs


def _windows_of_run(run: list[int], width: int) -> Iterator[SpectralWindow]:
    if len(run) <= width:
        take = reflected(0, width, len(run))
        yield SpectralWindow(
            take=tuple(run[i] for i in take), weight=tuple(1.0 if i < len(run) else 0.0 for i in range(width))
        )
        return
    # Half-overlapping starts, the last one flush with the end; a triangle never reaches 0, so every band is covered.
    count = 1 + -(-(len(run) - width) // max(1, width // 2))
    triangle = tuple(float(min(i + 1, width - i)) for i in range(width))
    for start in (round(i * (len(run) - width) / (count - 1)) for i in range(count)):
        yield SpectralWindow(take=tuple(run[start : start + width]), weight=triangle)
