"""Super-resolution: `python -m benchmarks.sharpen --data DIR [--real] [--scale 2 3 4] [--methods ...] [--crop 512]`.

One JSON line for each scene, scale and method. Protocol: 16-bit numbers divided by 65535, the top-left crop (cut to a
multiple of the scale), reduced by antialiased bicubic in MATLAB's `imresize` convention; every output clipped to [0, 1]
before scoring; PSNR with peak 1 from one mean square error over the cube, SSIM mean over bands, SAM in degrees.

Methods: `bicubic`, of the same convention; `hypermend`, the shipped model of the scale, run in tiles. A scale without a
shipped model has bicubic alone.

With --real, --data is the folder above: EnMAP, Hyperion and Pavia, which no training saw, are the truth. Their good
bands are divided by their 99.9th percentile and cut at 0 and 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import denoise_real
from benchmarks.scenes import Scenes, quality
from hypermend.models import checkpoint
from hypermend.models.arrays import F32
from hypermend.pipeline.evaluate.scores import restored
from hypermend.pipeline.protocols.images import bicubic_image, coarse_image

FULL_SCALE = 65535
MODEL = "ssrnet-x{scale}-small"

Method = Callable[[F32], F32]
"""(bands, h, w) -> (bands, scale*h, scale*w)."""


def bicubic(scale: int) -> Method:
    """The baseline."""
    return lambda coarse: bicubic_image(coarse, scale)


def hypermend(scale: int) -> Method:
    """The shipped model, tile by tile as the pipeline does it; estimating the scene's facts is part of its time.

    Raises:
        checkpoint.BadCheckpoint: none ships for the scale.
    """
    model = checkpoint.load(checkpoint.builtin(MODEL.format(scale=scale)))

    return lambda coarse: restored(model, coarse)


METHODS: dict[str, Callable[[int], Method]] = {"bicubic": bicubic, "hypermend": hypermend}


def _methods(names: Sequence[str] | None, scale: int) -> dict[str, Method]:
    """Select the methods named, or all for the scale.

    Raises:
        SystemExit: a method that was asked for has no model of the scale.
    """
    out: dict[str, Method] = {}
    for name in names or METHODS:
        try:
            out[name] = METHODS[name](scale)
        except checkpoint.BadCheckpoint as e:
            if names:
                raise SystemExit(f"method {name} at x{scale}: {e}") from e
            print(f"left out: {name} at x{scale}: {e}", file=sys.stderr)
    return out


def real(data: Path) -> Iterable[tuple[str, F32]]:
    """Real scenes in units of their bright value."""
    for name, cube, _ in denoise_real.scenes(data):
        yield name, np.clip(cube / np.percentile(cube, 99.9), 0, 1).astype(np.float32)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 1 when a scene could not be read or there is none of a name."""
    ap = argparse.ArgumentParser(prog="python -m benchmarks.sharpen", description=__doc__.split("\n")[0])
    ap.add_argument("--data", type=Path, required=True, help="folder of scene folders")
    ap.add_argument("--scale", type=int, nargs="+", default=[2, 3, 4], choices=[2, 3, 4])
    ap.add_argument("--crop", type=int, default=512, help="top-left pixels")
    ap.add_argument("--methods", nargs="+", choices=list(METHODS), help="default: all that there are for the scale")
    which = ap.add_mutually_exclusive_group()
    which.add_argument("--scenes", nargs="+", help="only these scenes, by name")
    which.add_argument("--real", action="store_true", help="scenes of sensors that no training saw")
    a = ap.parse_args(argv)
    methods = {scale: _methods(a.methods, scale) for scale in a.scale}
    lab = None if a.real else Scenes(a.data, names=a.scenes, peak=FULL_SCALE)
    done = False
    for name, cube in real(a.data) if lab is None else lab:
        done = True
        for scale in a.scale:
            h, w = (min(a.crop, n) // scale * scale for n in cube.shape[1:])
            truth = cube[:, :h, :w]
            coarse = coarse_image(truth, scale)
            for method, run in methods[scale].items():
                begin = time.perf_counter()
                estimate = run(coarse)
                seconds = round(time.perf_counter() - begin, 3)
                line: dict[str, object] = {"scene": name, "scale": scale, "method": method, "seconds": seconds}
                line |= quality(truth, estimate)
                line["model"] = MODEL.format(scale=scale) if method == "hypermend" else None
                print(json.dumps(line, allow_nan=False), flush=True)
    if a.real and not done:
        print(f"{a.data}: none of the folders {', '.join(denoise_real.SCENES)} in it", file=sys.stderr)
    return 0 if done and not (lab and lab.failed) else 1


if __name__ == "__main__":
    sys.exit(main())
