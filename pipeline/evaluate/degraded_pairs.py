"""Fusion on trial: a scene made into a pair whose truth is known, and the answers that any model is held against."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.errors import Refused
from hypermend.catalog.pairs.pairing import MIN_COVERAGE
from hypermend.catalog.sensors import band_coverage, sensor, srf
from hypermend.models.arrays import F32, F64
from hypermend.models.fuse.protocol import FusionModel, Pair, PairGeometry
from hypermend.models.signal import degrade
from hypermend.pipeline.evaluate import kernels
from hypermend.pipeline.registry.compatibility import good_nm

SNR_DB = 40.0
GUIDES = {"cave": "nikon-d700"}
OTHER_GUIDE = "sentinel2a"
"""Whose bands a scene's guide has, where nobody says."""


def degraded_pair(
    truth: F32, kernel: F64, setup: PairGeometry, snr_db: float, guide_snr_db: float | None = None
) -> Pair:
    """Blur and decimate a truth (b, s*h, s*w), look at it through the guide's bands; noise of Y first, then of X where
    asked for. Seeded by the decibels, afresh for each pair.
    """
    z = torch.from_numpy(truth)[None]
    y = degrade.blur_down(z, torch.from_numpy(kernel.astype(np.float32)), setup.scale)[0].numpy()
    x = degrade.respond(z, torch.from_numpy(setup.response))[0].numpy()
    y = degrade.gaussian(y, degrade.snr_std(y, snr_db), np.random.default_rng([0, round(snr_db)]))
    if guide_snr_db is not None:
        x = degrade.gaussian(x, degrade.snr_std(x, guide_snr_db), np.random.default_rng([1, round(guide_snr_db)]))
    return whole_pair(y, x)


def whole_pair(y: F32, x: F32) -> Pair:
    """A pair of images without gaps."""
    return Pair(y=y, y_valid=np.ones(y.shape[1:], dtype=bool), x=x, x_valid=np.ones(x.shape[1:], dtype=bool))


def degraded(truth: F32, setup: PairGeometry) -> Iterator[tuple[str, Pair, PairGeometry]]:
    """The pairs of a truth under every built-in kernel."""
    for name, kernel in kernels.built_in().items():
        yield name, degraded_pair(truth, kernel, setup, SNR_DB), setup


def wald_setup(spec: CubeSpec, guide: str | None, scale: int) -> PairGeometry:
    """The protocol's pair: the guide's bands through the scene's, no shift.

    Raises:
        Refused: the scene sees none of the guide's bands.
    """
    name = guide or GUIDES.get(spec.sensor, OTHER_GUIDE)
    nm, bands = good_nm(spec), sensor(name).band_name
    used = [band for band, share in zip(bands, band_coverage(nm, name, bands), strict=True) if share >= MIN_COVERAGE]
    if not used:
        raise Refused(f"no band of {name} lies where the scene has bands; choose another --guide-sensor")
    return PairGeometry(scale=scale, response=srf(nm, name, bands=used).astype(np.float32), expected_centroid_px=0.0)


def tensors(pair: Pair) -> tuple[torch.Tensor, torch.Tensor]:
    """(y, x), a batch of one each."""
    return torch.from_numpy(pair.y)[None], torch.from_numpy(pair.x)[None]


def bicubic_pair(pair: Pair, setup: PairGeometry) -> F32:
    """The coarse image made finer, its samples where the convention has them; no guide."""
    c = setup.expected_centroid_px
    return np.asarray(degrade.upsample(tensors(pair)[0], setup.scale, (c, c))[0].numpy())


def unadapted(model: FusionModel, pair: Pair, setup: PairGeometry) -> F32:
    """A model as it is, on the whole image."""
    return np.asarray(model.bind(model.estimate(lambda: [pair], setup))(*tensors(pair))[0].numpy())
