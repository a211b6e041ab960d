"""Mixed noise: `python -m benchmarks.mixed --data DIR [--cases 1 2 3 4 5] [--crop 256] [--seeds N] [--methods ...]`.

One JSON line for each scene, case, seed and method. Cases are those of `benchmarks/mixed_noise.py`: 1 to 5 are
QRNN3D's, 6 to 10 what sensors do. --data is a folder of CAVE-style scene folders; --cubes adds those of satellites and
aircraft below the folder --data/.. (divided by a bright value). Every output is clipped to [0, 1] before scoring.

Methods: `noisy`; `hypermend`, the shipped model, which finds and repairs defects; `hypermend-destripe`, with
`--destripe on`; `oracle`, the model told where every number is missing, on the image without stripes; `moment`, moment
matching of columns; `muench`, the wavelet-FFT filter of Muench et al. 2009 (needs PyWavelets); `column-l1`, columns by
medians of differences; `lrtdtv`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import median_filter, uniform_filter1d

from benchmarks import clean_scenes
from benchmarks.lrtdtv import lrtdtv
from benchmarks.mixed_noise import CASES, REALISTIC, Spoilt, spoil
from benchmarks.scenes import Scenes, crop, quality
from hypermend.models import checkpoint
from hypermend.models.arrays import F32
from hypermend.models.denoise.model import StasModel
from hypermend.pipeline.evaluate.scores import restored

Method = Callable[[Spoilt], F32]
NEEDS = {"muench": "pywt"}


def shipped() -> StasModel:
    model = checkpoint.load(checkpoint.builtin("stas-subspace"))
    assert isinstance(model, StasModel)
    return model


def hypermend() -> Method:
    """The shipped model on the whole crop; estimating the scene's facts is part of its time."""
    model = shipped()
    return lambda spoilt: restored(model, spoilt.image)


def hypermend_destripe() -> Method:
    """The same with `--destripe on`."""
    model = shipped()
    return lambda spoilt: restored(model, spoilt.image, destripe=True)


def oracle() -> Method:
    """The same with the missing numbers and the stripes known."""
    model = shipped()
    return lambda spoilt: restored(model, spoilt.image - spoilt.stripes, missing=spoilt.missing)


def moment(spoilt: Spoilt, width: int = 15) -> F32:
    """Bring mean and standard deviation of each column to those of the columns around."""
    y = spoilt.image
    mean, std = y.mean(axis=1), y.std(axis=1)
    smooth_mean, smooth_std = (uniform_filter1d(v, width, axis=1, mode="nearest") for v in (mean, std))
    gain = (smooth_std / np.maximum(std, 1e-9))[:, None]
    return np.asarray((y - mean[:, None]) * gain + smooth_mean[:, None], np.float32)


def muench(spoilt: Spoilt, levels: int = 4, sigma: float = 2.0) -> F32:
    """Damp the lowest frequencies along the track of the vertical details: db8, four levels."""
    import pywt

    out = np.empty_like(spoilt.image)
    for b, band in enumerate(spoilt.image):
        parts = pywt.wavedec2(band, "db8", level=levels, mode="symmetric")
        kept = [parts[0]]
        for across, down, diagonal in parts[1:]:
            wave = np.fft.fft(down, axis=0)
            at = np.fft.fftfreq(len(down)) * len(down)
            wave *= (1 - np.exp(-np.square(at) / (2 * sigma**2)))[:, None]
            kept.append((across, np.fft.ifft(wave, axis=0).real, diagonal))
        out[b] = pywt.waverec2(kept, "db8", mode="symmetric")[: band.shape[0], : band.shape[1]]
    return out


def column_l1(spoilt: Spoilt, steps: int = 10) -> F32:
    """Offsets of columns by medians of their differences, L1 in fit and size, without what is wider than 15 columns."""
    out = spoilt.image.copy()
    w = out.shape[2]
    rows = [np.eye(w, k=k)[: w - k] - np.eye(w)[: w - k] for k in (1, 2, 3)]
    system = np.concatenate(rows)
    for band in out:
        right = np.concatenate([np.median(band[:, k:] - band[:, :-k], axis=0) for k in (1, 2, 3)])
        offset, weight = np.zeros(w), np.ones(len(right))
        for _ in range(steps):
            small = 1e-3 + 1e-3 / np.maximum(np.abs(offset), 1e-3)
            left = system.T @ (weight[:, None] * system) + np.diag(small)
            offset = np.linalg.solve(left, system.T @ (weight * right))
            weight = 2e-3 / np.maximum(np.abs(system @ offset - right), 2e-3)
        band -= (offset - median_filter(offset, 15, mode="reflect")).astype(np.float32)
    return out


METHODS: dict[str, Callable[[], Method]] = {
    "noisy": lambda: lambda spoilt: spoilt.image,
    "moment": lambda: moment,
    "muench": lambda: muench,
    "column-l1": lambda: column_l1,
    "lrtdtv": lambda: lambda spoilt: lrtdtv(spoilt.image),
    "oracle": oracle,
    "hypermend": hypermend,
    "hypermend-destripe": hypermend_destripe,
}


def scenes(data: Path, names: Sequence[str] | None, cubes: bool, size: int) -> Iterator[tuple[str, F32]]:
    """(name, values 0..1) of the scenes."""
    for name, cube in Scenes(data, names=names):
        yield name, crop(cube, size)
    if cubes:
        yield from clean_scenes.scaled(data.parent, size)


def chosen(names: Sequence[str] | None) -> list[str]:
    """Select the methods named, or all that can run here.

    Raises:
        SystemExit: one that was asked for needs a package that is not here.
    """
    missing = {m for m, package in NEEDS.items() if importlib.util.find_spec(package) is None}
    if lacking := sorted(missing & set(names or ())):
        raise SystemExit(f"method {lacking[0]} needs the package {NEEDS[lacking[0]]!r}; leave the method out")
    return [m for m in METHODS if m not in missing] if names is None else list(names)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    ap = argparse.ArgumentParser(prog="python -m benchmarks.mixed", description=__doc__.split("\n")[0])
    ap.add_argument("--data", type=Path, required=True, help="folder of scene folders")
    ap.add_argument("--cases", type=int, nargs="+", choices=(*CASES, *REALISTIC), default=list(CASES))
    ap.add_argument("--crop", type=int, default=256, help="central pixels")
    ap.add_argument("--seeds", type=int, default=5, help="number of noise draws: seeds 0, 1 ...")
    ap.add_argument("--methods", nargs="+", choices=list(METHODS), help="default: all that can run here")
    ap.add_argument("--scenes", nargs="*", help="only these scenes of the folder, by name")
    ap.add_argument("--cubes", action="store_true", help="also the cubes of satellites and aircraft beside the folder")
    a = ap.parse_args(argv)
    methods = {m: METHODS[m]() for m in chosen(a.methods)}
    for name, truth in scenes(a.data, a.scenes, a.cubes, a.crop):
        for case in a.cases:
            for seed in range(a.seeds):
                spoilt = spoil(truth, case, seed)
                for method, run in methods.items():
                    begin = time.perf_counter()
                    estimate = run(spoilt)
                    seconds = round(time.perf_counter() - begin, 3)
                    line: dict[str, object] = {"scene": name, "case": case, "seed": seed, "method": method}
                    line |= {**quality(truth, estimate), "seconds": seconds}
                    print(json.dumps(line, allow_nan=False), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
