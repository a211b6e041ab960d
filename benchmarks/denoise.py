"""Denoising against classical methods: `python -m benchmarks.denoise --data DIR [--sigma 30 50 70] [--crop 300]`.

One JSON line for each scene, sigma (of 255) and method. Protocol: the whole-scene cube divided by its maximum, then
the centre crop; white noise from numpy.random.default_rng([0, sigma]) afresh for each scene, unclipped; every output
clipped to [0, 1] before scoring; PSNR with peak 1 from one mean square error over the cube, SSIM mean over bands, SAM
in degrees.

Methods: `noisy`; `svd`, truncated SVD of the best rank 3 to 8 (best by the truth: an oracle); `tv3d`, 3-D total
variation; `svd8-tv`, rank 8 and 2-D total variation on each eigenimage; `svd-bm3d`, rank 8 and BM3D on each (needs the
package bm3d, which is not free software and no dependency); `hypermend`, the shipped model. All but hypermend are told
sigma. The weights of the total variations, in units of sigma, are those of the best mean PSNR on crops of training
scenes (`TV3D`, `TV2D`). `fasthyde` is HyDe's FastHyDe as shipped (its own noise estimate, rank 10, BM3D on each
eigenimage); it needs `pip install hyde-images pytorch_wavelets "setuptools<80"`, and with them bm3d again. `estimate`
is hypermend without its network.

With --sensors, --data is the folder above: EnMAP, Hyperion, Pavia, AVIRIS and MUUFL, divided by a bright value, with
the same noise; what the sensor itself left in them counts as truth.

With --real, --data is the folder above: EnMAP, Hyperion and Pavia as they are (`benchmarks/denoise_real.py`).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import clean_scenes, denoise_real
from benchmarks.scenes import Scenes, crop, quality
from benchmarks.search_scaled import begin_with_nothing
from hypermend.models import checkpoint
from hypermend.models.arrays import F32
from hypermend.models.denoise.model import StasModel
from hypermend.pipeline.evaluate.scores import eigenimages, from_eigenimages, restored, truncated_svd
from hypermend.pipeline.protocols.images import noisy_image

MODEL = "stas-subspace"
LOW_NOISE = (0, 1, 2, 5, 10)

# Weight of denoise_tv_chambolle in units of the noise's standard deviation, and when it stops. Tuned for the best mean
# PSNR of training scenes at sigma 30 and 70. In 3-D the package's early stop (0.0002) is 0.6 to 1.2 dB better than
# convergence, on eigenimages convergence is 0.8 to 2 dB better.
TV3D = {"weight": 1.2, "eps": 2e-4, "max_num_iter": 200}
TV2D = {"weight": 1.1, "eps": 1e-8, "max_num_iter": 300}

Method = Callable[[F32, float, F32], F32]
"""(noisy, standard deviation, truth) -> estimate; only the oracle of `svd` looks at the truth."""


def _tv(image: F32, std: float, settings: dict[str, float]) -> F32:
    """Total variation (Chambolle 2004) of an image or a volume."""
    from skimage import restoration  # the optional extra `bench`

    if std == 0:
        return image
    tv: Any = restoration.denoise_tv_chambolle
    return np.asarray(tv(image, **{**settings, "weight": settings["weight"] * std}), np.float32)


def noisy_itself(noisy: F32, std: float, truth: F32) -> F32:
    """No denoising."""
    return noisy


def svd(noisy: F32, std: float, truth: F32) -> F32:
    """Truncated SVD, the rank of 3 to 8 that is closest to the truth."""
    return truncated_svd(noisy, truth)


def tv3d(noisy: F32, std: float, truth: F32) -> F32:
    """Total variation of the cube as a volume."""
    return _tv(noisy, std, TV3D)


def svd8_tv(noisy: F32, std: float, truth: F32) -> F32:
    """Rank 8, total variation on each eigenimage."""
    basis, images = eigenimages(noisy, 8)
    return from_eigenimages(basis, np.stack([_tv(i, std, TV2D) for i in images]))


def svd_bm3d(noisy: F32, std: float, truth: F32) -> F32:
    """Rank 8, BM3D on each eigenimage, each stretched to 0..1 as BM3D expects."""
    from bm3d import bm3d

    basis, images = eigenimages(noisy, 8)
    out = []
    for image in images:
        low, span = image.min(), max(float(np.ptp(image)), 1e-12)
        out.append(bm3d((image - low) / span, std / span) * span + low if std > 0 else image)
    return from_eigenimages(basis, np.stack(out).astype(np.float32))


def fasthyde(noisy: F32, std: float, truth: F32) -> F32:
    """Zhuang and Bioucas-Dias 2018, by the package hyde-images with its defaults; it works band-last."""
    from hyde import FastHyDe

    image = torch.from_numpy(np.ascontiguousarray(noisy.transpose(1, 2, 0)))
    return np.asarray(FastHyDe()(image).numpy().transpose(2, 0, 1), np.float32)


def hypermend() -> Method:
    """The shipped model on the whole crop in one call; estimating the scene's facts is part of its time."""
    model = checkpoint.load(checkpoint.builtin(MODEL))

    return lambda noisy, std, truth: restored(model, noisy)


def estimate() -> Method:
    """The same with a network that corrects nothing."""
    model = checkpoint.load(checkpoint.builtin(MODEL))
    assert isinstance(model, StasModel)
    begin_with_nothing(model.net.conv3)

    return lambda noisy, std, truth: restored(model, noisy)


METHODS: dict[str, Callable[[], Method]] = {
    "noisy": lambda: noisy_itself,
    "svd": lambda: svd,
    "tv3d": lambda: tv3d,
    "svd8-tv": lambda: svd8_tv,
    "svd-bm3d": lambda: svd_bm3d,
    "fasthyde": lambda: fasthyde,
    "estimate": estimate,
    "hypermend": hypermend,
}
NEEDS = {"tv3d": "skimage", "svd8-tv": "skimage", "svd-bm3d": "bm3d", "fasthyde": "hyde"}
ASKED_FOR = ("svd-bm3d", "fasthyde")
"""Methods that run only when named: slow, and not of a free licence."""


def _chosen(names: Sequence[str] | None) -> list[str]:
    """Select the methods named, or all that can run here without `ASKED_FOR`.

    Raises:
        SystemExit: one that was asked for needs a package that is not here.
    """
    missing = {m for m, package in NEEDS.items() if importlib.util.find_spec(package) is None}
    if names is None:
        return [m for m in METHODS if m not in missing and m not in ASKED_FOR]
    for m in names:
        if m in missing:
            raise SystemExit(f"method {m} needs the package {NEEDS[m]!r}; pip install it, or leave the method out")
    return list(names)


def real(data: Path, picture: Path | None) -> int:
    """One line for each real scene; 1 when there is none."""
    model = checkpoint.load(checkpoint.builtin(MODEL))
    assert isinstance(model, StasModel)
    found = False
    for name, cube, known in denoise_real.scenes(data):
        print(json.dumps(denoise_real.measure(model, name, cube, known, picture), allow_nan=False), flush=True)
        found = True
    if not found:
        print(f"{data}: none of the folders {', '.join(denoise_real.SCENES)} in it", file=sys.stderr)
    return 0 if found else 1


def _cropped(scenes: Scenes, size: int) -> Iterator[tuple[str, F32]]:
    for name, cube in scenes:
        yield name, crop(cube, size)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 1 when a scene could not be read."""
    ap = argparse.ArgumentParser(prog="python -m benchmarks.denoise", description=__doc__.split("\n")[0])
    ap.add_argument("--data", type=Path, required=True, help="folder of scene folders")
    level = ap.add_mutually_exclusive_group()
    level.add_argument("--sigma", type=int, nargs="+", default=[30, 50, 70], help="noise, of 255")
    level.add_argument("--low-noise", action="store_true", help=f"sigma {LOW_NOISE}: is anything good spoilt?")
    ap.add_argument("--sensors", action="store_true", help="scenes of satellites and aircraft instead of folders")
    level.add_argument("--real", action="store_true", help="real scenes as they are: is anything of them lost?")
    ap.add_argument("--picture", type=Path, help="with --real: folder for PNGs of what was removed")
    ap.add_argument("--crop", type=int, default=300, help="central pixels")
    ap.add_argument("--methods", nargs="+", choices=list(METHODS), help="default: all free ones that can run here")
    ap.add_argument("--scenes", nargs="+", help="only these scenes, by name")
    a = ap.parse_args(argv)
    if a.real:
        return real(a.data, a.picture)
    methods = {m: METHODS[m]() for m in _chosen(a.methods)}
    folders = Scenes(a.data, names=a.scenes)
    for name, truth in clean_scenes.scaled(a.data, a.crop) if a.sensors else _cropped(folders, a.crop):
        for sigma in LOW_NOISE if a.low_noise else a.sigma:
            noisy = noisy_image(truth, sigma)
            for method, run in methods.items():
                begin = time.perf_counter()
                estimate = run(noisy, sigma / 255, truth)
                seconds = round(time.perf_counter() - begin, 3)
                line: dict[str, object] = {"scene": name, "sigma": sigma, "method": method, "seconds": seconds}
                line |= quality(truth, estimate)
                print(json.dumps(line, allow_nan=False), flush=True)
    return 1 if folders.failed else 0


if __name__ == "__main__":
    sys.exit(main())
