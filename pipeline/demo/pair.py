"""The demo's pair: a coarse image of many bands and a sharp one of few, of one synthetic place, and their fusion.

The truth is made on the fine grid. An EnMAP-like instrument sees it blurred, on pixels three times as wide, with noise;
a Sentinel-2-like one sees it through the measured response of its bands. The fusion does not know the blur.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hypermend.catalog.archive import Item
from hypermend.catalog.cube.spec import VALID
from hypermend.catalog.sensors import sensor, srf
from hypermend.models.arrays import F32
from hypermend.models.signal.degrade import blur_down, gaussian, gaussian_kernel, upsample
from hypermend.pipeline.demo.deliveries import Place, write_enmap_tiles, write_sentinel2_file
from hypermend.pipeline.demo.scenes import landscape
from hypermend.pipeline.demo.score import Comparison

PAIR_SCALE = 3
COARSE, SHARP = "demo-pair-enmap", "demo-pair-sentinel2"
"""Collections of the two images."""
SHARP_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
CORNER = Place(crs="EPSG:32633", west=384000.0, north=5810010.0)
BLUR_PX = 1.4
"""Standard deviation of the coarse instrument's point spread, in fine pixels."""


@dataclass(frozen=True, kw_only=True)
class SyntheticPair:
    """Two images of one place, with the truth. Reflectance."""

    name: str
    truth: F32
    """(band, 3 y, 3 x)"""
    coarse: F32
    """(band, y, x)"""
    sharp: F32
    """(10, 3 y, 3 x)"""


def pair_scene(height: int, width: int) -> SyntheticPair:
    """Make a pair of ``height`` x ``width`` coarse pixels."""
    table = sensor("enmap")
    truth = landscape(table.wavelength_nm, height=PAIR_SCALE * height, width=PAIR_SCALE * width, seed=2023)
    kernel = torch.from_numpy(gaussian_kernel(13, BLUR_PX, centroid_px=(PAIR_SCALE - 1) / 2)).float()
    coarse = blur_down(torch.from_numpy(truth)[None], kernel, PAIR_SCALE)[0].numpy()
    rng = np.random.default_rng([2023, height, width])
    coarse = gaussian(coarse, 0.0008, rng)
    coarse[[not usable for usable in table.usable]] = 0.1 * rng.random(coarse.shape[1:], dtype=np.float32)
    sharp = np.tensordot(srf(table, "sentinel2a", bands=SHARP_BANDS), truth, axes=1)
    return SyntheticPair(name="PAIR", truth=truth, coarse=coarse, sharp=gaussian(sharp.astype(np.float32), 0.001, rng))


def deliver_pair(folder: Path, pair: SyntheticPair, *, delivery_px: int) -> None:
    """Write the files of both images that are missing."""
    table = sensor("enmap")
    write_enmap_tiles(
        folder / COARSE,
        pair.coarse,
        np.ones(pair.coarse.shape[1:], dtype=np.bool_),
        name=pair.name,
        wavelength_nm=table.wavelength_nm,
        fwhm_nm=table.fwhm_nm,
        good=table.usable,
        place=CORNER,
        start_time="2023-06-12T10:31:07",
        tile_px=delivery_px,
    )
    fine = Place(crs=CORNER.crs, west=CORNER.west, north=CORNER.north, pixel_m=CORNER.pixel_m / PAIR_SCALE)
    write_sentinel2_file(
        folder / SHARP, pair.sharp, name="PAIR-SENTINEL2", bands=SHARP_BANDS, place=fine, time="2023-06-12T10:20:31"
    )


def compare_pair(pair: SyntheticPair, before: Item, after: Item) -> Comparison:
    """Compare the source cube, upsampled by cubic interpolation, and the fused cube with the truth."""
    source, fused = before.dataset().load(), after.dataset().load()
    values = np.nan_to_num(source["reflectance"].values.astype(np.float32))
    middle = (PAIR_SCALE - 1) / 2
    return Comparison(
        scene=after.scene.id,
        sensor=after.scene.sensor,
        task="fuse",
        plan=str(after.scene.properties["hypermend:plan"]),
        adds=True,
        title=f"{after.scene.id}\n(synthetic, enmap-like at 30 m\nand sentinel2-like at 10 m)",
        wavelength_nm=fused["wavelength"].values,
        good=fused["good"].values.astype(bool),
        usable=(fused["valid"].values & VALID) != 0,
        before=upsample(torch.from_numpy(values)[None], PAIR_SCALE, (middle, middle))[0].numpy(),
        after=fused["reflectance"].values.astype(np.float32),
        truth=pair.truth[fused["band"].values.astype(int) - 1],
    )
