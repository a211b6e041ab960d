"""Is the stated standard deviation right? `python -m benchmarks.uncertainty --data DIR [--scenes ...] [--crop 128]`.

--data is a folder of CAVE-style scene folders; scenes of satellites and aircraft are read from the folder above. One
JSON line for each scene and case: white noise of 10, 30 and 60 of 255, noise of a level of its own in each band (10 to
70), and cases 3 to 5 of `benchmarks.mixed`, which are repaired first.

    within_1, within_2   share of numbers whose error is below one and two standard deviations (0.68, 0.95 if errors
                         were Gaussian given what is known)
    bands_1              10th and 90th percentile over bands of within_1, and its extremes
    repaired_1           within_1 of the numbers that were repaired
    ratio                mean square error over that of the bootstrap: `MORE` of `models/denoise/uncertainty.py`
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from benchmarks import clean_scenes
from benchmarks.mixed import shipped
from benchmarks.mixed_noise import spoil
from benchmarks.scenes import Scenes, crop, versions
from hypermend.models.arrays import F32, Mask
from hypermend.models.denoise.model import StasModel
from hypermend.models.denoise.subspace_denoiser import SubspaceDenoiser
from hypermend.models.denoise.uncertainty import MORE
from hypermend.models.restorer import array_from_json
from hypermend.pipeline.evaluate.scores import repaired

SIGMAS, MIXED = (10, 30, 60), (3, 4, 5)
WINDOW_PX, WINDOWS = 112, 4
"""As in a run."""


def cases(truth: F32) -> Iterator[tuple[str, F32]]:
    """(name, spoilt scene)."""
    rng = np.random.default_rng(5)
    uneven = np.random.default_rng(3).uniform(10, 70, len(truth))
    for name, level in (*((str(s), np.full(len(truth), s)) for s in SIGMAS), ("uneven", uneven)):
        noise = rng.standard_normal(truth.shape) * (level / 255)[:, None, None]
        yield name, (truth + noise).astype(np.float32)
    for case in MIXED:
        yield f"mixed {case}", spoil(truth, case, 0).image


def measure(model: StasModel, truth: F32, image: F32) -> dict[str, Any]:
    """Figures of one scene and case."""
    known, nothing = np.ones(image.shape[1:], bool), np.zeros(image.shape, bool)
    statistics, clean = repaired(model, image, known, nothing)
    h = model.halo
    padded = np.pad(clean, ((0, 0), (h, h), (h, h)), mode="reflect")
    statistics = model.estimate_errors(statistics, _windows(clean, model.margin))
    restorer = cast(SubspaceDenoiser, model.bind(statistics))
    y, std = (t[0, :, h:-h, h:-h].numpy() for t in restorer.with_std(torch.from_numpy(padded)[None]))
    error = np.abs(y - truth)
    inside = [(error < n * std) for n in (1, 2)]
    bands = inside[0].mean(axis=(1, 2))
    were: Mask = clean != image
    out = {
        "kind": statistics["kind"],
        "within_1": float(inside[0].mean()),
        "within_2": float(inside[1].mean()),
        "bands_1": [float(v) for v in (*np.quantile(bands, (0.1, 0.9)), bands.min(), bands.max())],
        "repaired_1": float(inside[0][were].mean()) if were.any() else None,
    }
    if "errors" in statistics:
        expected = np.square(std / _noise(restorer)[:, None, None]).mean() / MORE
        out["ratio"] = float(np.square(error / _noise(restorer)[:, None, None]).mean() / expected)
    elif "band_errors" in statistics:
        noise = std.mean(axis=(1, 2)) / np.sqrt(array_from_json(statistics["band_errors"]))
        square = np.square(error / noise[:, None, None]).mean()
        out["ratio"] = float(square / np.mean(array_from_json(statistics["band_errors"])) * MORE)
    return out


def _noise(restorer: SubspaceDenoiser) -> F32:
    return np.asarray(1 / restorer.white.numpy()[:, 0, 0], np.float32)


def _windows(image: F32, margin: int) -> Iterator[F32]:
    """At most `WINDOWS` windows, with their margin."""
    padded = np.pad(image, ((0, 0), (margin, margin), (margin, margin)), mode="reflect")
    height, width = image.shape[1:]
    per_axis = int(WINDOWS**0.5)
    for y in _starts(height, per_axis):
        for x in _starts(width, per_axis):
            yield padded[:, y : y + WINDOW_PX + 2 * margin, x : x + WINDOW_PX + 2 * margin]


def _starts(size: int, at_most: int) -> list[int]:
    count = min(at_most, -(-size // WINDOW_PX))
    return [round(i * max(0, size - WINDOW_PX) / max(1, count - 1)) for i in range(count)]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 1 when a scene could not be read."""
    ap = argparse.ArgumentParser(prog="python -m benchmarks.uncertainty", description=__doc__.split("\n")[0])
    ap.add_argument("--data", type=Path, required=True, help="folder of scene folders")
    ap.add_argument("--scenes", nargs="+", help="only these scenes, by name")
    ap.add_argument("--crop", type=int, default=128, help="central pixels")
    a = ap.parse_args(argv)
    model, folders = shipped(), Scenes(a.data, names=a.scenes)

    def scenes() -> Iterator[tuple[str, F32]]:
        yield from ((name, crop(cube, a.crop)) for name, cube in folders)
        yield from clean_scenes.scaled(a.data.parent, a.crop)

    for name, truth in scenes():
        for case, image in cases(truth):
            line = {"scene": name, "case": case, **measure(model, truth, image), "shape": list(truth.shape)}
            print(json.dumps(line | versions(), allow_nan=False), flush=True)
    return 1 if folders.failed else 0


if __name__ == "__main__":
    sys.exit(main())
