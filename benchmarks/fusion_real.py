"""Fusion on real satellite images: `python -m benchmarks.fusion_real --data ../shared/data`.

One JSON line for each pair and method, ratio 3, Wald's protocol: the hyperspectral image is blurred by 3 x 3 means and
decimated, fused with the guide at the image's own pixel size, and scored against the original. The kernel is thus known
and every method is told it; what is not known is how the guide's own optics and place differ from the image's.

    paris   Hyperion and ALI as delivered (EO-1; 72 x 72 x 128 and x 9, both 30 m). Noise, stripes and a shift of a
            fraction of a pixel are in the images, so in the truth too.
    enmap   EnMAP, Potsdam, the largest whole rectangle of the delivered tiles (126 x 63); ten Sentinel-2A bands
            SIMULATED from EnMAP through the real response: the guide shares EnMAP's optics and noise, which no real
            Sentinel-2 does.

PSNR and RMSE in units of the scene's maximum, which is peak 1. Output is not clipped: there is no 0..1 to clip to.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import rasterio
import torch
from scipy import io as matlab

from benchmarks.fusion import METHODS, Problem
from benchmarks.scenes import versions
from hypermend.catalog.sensors import sensor, srf
from hypermend.models.arrays import F32
from hypermend.models.fuse.interface import BadPair, PairGeometry
from hypermend.models.signal import degrade, metrics
from hypermend.pipeline.protocols.pairs import whole_pair

RATIO = 3
ENMAP_LEFT_M, ENMAP_TOP_M = (366975.0, 367935.0), (5808045.0, 5807085.0, 5806125.0, 5805165.0)
"""Corners, EPSG:32633, of the tiles that fill a rectangle."""
SENTINEL2 = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
SAID = {
    "paris": "Hyperion and ALI, both real",
    "enmap": "EnMAP real, Sentinel-2A bands simulated from it",
}


def paris(data: Path) -> tuple[F32, F32, F32]:
    """Image (b, h, w), guide (m, h, w) and response (m, b)."""
    found = matlab.loadmat(data / "hyperion_paris" / "paris_data_hs_ms.mat")
    nm = np.asarray(sensor("hyperion").wavelength_nm)[found["non_del_bands"].ravel() - 1]
    image, guide = (np.ascontiguousarray(found[k].transpose(2, 0, 1), np.float32) for k in ("HSim", "MSim"))
    return image, guide, srf(nm, "ali").astype(np.float32)


def enmap(data: Path) -> tuple[F32, F32, F32]:
    """As `paris`; the guide is simulated."""
    tiles, nm, good = {}, [], []
    for path in sorted((data / "enmap_potsdam").glob("*.tif")):
        with rasterio.open(path) as tile:
            tiles[tile.bounds.left, tile.bounds.top] = tile.read()
            tags = [tile.tags(i) for i in tile.indexes]
        nm, good = [float(t["wavelength"]) for t in tags], [t["bbl"] == "1" for t in tags]
    rows = [np.concatenate([tiles[left, top] for left in ENMAP_LEFT_M], axis=2) for top in ENMAP_TOP_M]
    image = np.concatenate(rows, axis=1)
    whole = np.asarray(good) & (image > -32768).all(axis=(1, 2))
    image = image[whole].astype(np.float32) * 1e-4
    response = srf(np.asarray(nm)[whole], "sentinel2a", bands=SENTINEL2).astype(np.float32)
    return image, np.tensordot(response, image, 1).astype(np.float32), response


PAIRS: dict[str, Callable[[Path], tuple[F32, F32, F32]]] = {"paris": paris, "enmap": enmap}


def wald(image: F32, guide: F32, response: F32) -> Problem:
    """Degrade the image by the ratio with 3 x 3 means; LR pixels cover HR pixels, and the kernel is known."""
    h, w = (n // RATIO * RATIO for n in image.shape[1:])
    peak = image.max()
    truth, x = image[:, :h, :w] / peak, guide[:, :h, :w] / peak
    c = RATIO - 1
    kernel = np.pad(np.ones((RATIO, RATIO)) / RATIO**2, ((c, 0), (c, 0)))  # centroid (s - 1) / 2 from the centre
    y = degrade.blur_down(torch.from_numpy(truth)[None], torch.from_numpy(kernel).float(), RATIO)[0].numpy()
    setup = PairGeometry(scale=RATIO, response=response, expected_centroid_px=(RATIO - 1) / 2, kernel=kernel)
    return Problem(truth, whole_pair(y, np.ascontiguousarray(x)), setup)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 1 when a method failed."""
    ap = argparse.ArgumentParser(prog="python -m benchmarks.fusion_real", description=__doc__.split("\n")[0])
    ap.add_argument("--data", type=Path, required=True, help="the folder with hyperion_paris and enmap_potsdam")
    ap.add_argument("--pairs", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    ap.add_argument(
        "--methods",
        nargs="+",
        choices=list(METHODS),
        default=["bicubic", "floor", "least-squares", "fusion", "hypermend"],
    )
    a = ap.parse_args(argv)
    failed, methods = 0, {m: METHODS[m]() for m in a.methods}
    for name in a.pairs:
        p = wald(*PAIRS[name](a.data))
        for method, run in methods.items():
            try:
                answer = run(p)
            except BadPair as e:
                failed += 1
                print(f"failed: {name} {method}: {e}", file=sys.stderr)
                continue
            line = {
                "scene": name,
                "images": SAID[name],
                "scale": RATIO,
                "method": method,
                "psnr": metrics.psnr(p.truth, answer.image),
                "ssim": metrics.ssim(p.truth, answer.image),
                "sam_deg": metrics.sam(p.truth, answer.image).degrees,
                "ergas": metrics.ergas(p.truth, answer.image, ratio=RATIO),
                "seconds": round(answer.seconds, 3),
                "shape": list(p.truth.shape),
                **versions(),
                **answer.more,
            }
            print(json.dumps(line, allow_nan=False), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
