"""Wald's protocol: a scene is degraded to a pair whose truth is known, and models that fuse it are compared."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.errors import Refused
from hypermend.catalog.pairs.pairing import MIN_COVERAGE
from hypermend.catalog.sensors import Sensor, band_coverage, sensor, srf
from hypermend.models.arrays import F32, F64
from hypermend.models.fuse.interface import FusionModel, Pair, PairGeometry
from hypermend.models.signal import degrade
from hypermend.pipeline.protocols import kernels
from hypermend.pipeline.registry.compatibility import good_nm

SNR_DB = 40.0
GUIDES = {"cave": "nikon-d700"}
"""Sensor -> sensor of its guide."""
OTHER_GUIDE = "sentinel2a"
"""Its bands are the guide's of a sensor that is not in `GUIDES`."""


def degraded_pair(
    truth: F32,
    kernel: F64,
    setup: PairGeometry,
    snr_db: float,
    guide_snr_db: float | None = None,
    *,
    rng: np.random.Generator | None = None,
) -> Pair:
    """Blur and decimate a truth (b, s*h, s*w), and look at it through the guide's bands.

    Args:
        snr_db: of the noise of Y, which is drawn first.
        guide_snr_db: of the noise of X; None for none.
        rng: draws the noise; None: seeded by the decibels, afresh for each pair.
    """
    z = torch.from_numpy(truth)[None]
    y = degrade.blur_down(z, torch.from_numpy(kernel.astype(np.float32)), setup.scale)[0].numpy()
    x = degrade.respond(z, torch.from_numpy(setup.response))[0].numpy()
    y = degrade.gaussian(y, degrade.snr_std(y, snr_db), rng or np.random.default_rng([0, round(snr_db)]))
    if guide_snr_db is not None:
        noise = rng or np.random.default_rng([1, round(guide_snr_db)])
        x = degrade.gaussian(x, degrade.snr_std(x, guide_snr_db), noise)
    return whole_pair(y, x)


def whole_pair(y: F32, x: F32) -> Pair:
    """A pair of images without gaps."""
    return Pair(y=y, y_valid=np.ones(y.shape[1:], dtype=bool), x=x, x_valid=np.ones(x.shape[1:], dtype=bool))


def degraded(truth: F32, setup: PairGeometry) -> Iterator[tuple[str, Pair, PairGeometry]]:
    """Degrade a truth by every built-in kernel: (kernel's name, pair, geometry)."""
    for name, kernel in kernels.built_in().items():
        yield name, degraded_pair(truth, kernel, setup, SNR_DB), setup


def wald_setup(spec: CubeSpec, guide: Sensor | None, scale: int) -> PairGeometry:
    """Geometry of the protocol's pair: the guide's bands seen through the scene's, no shift.

    Raises:
        Refused: the scene sees none of the guide's bands.
    """
    table = guide or sensor(GUIDES.get(spec.sensor, OTHER_GUIDE))
    nm, bands = good_nm(spec), table.band_name
    used = [band for band, share in zip(bands, band_coverage(nm, table, bands), strict=True) if share >= MIN_COVERAGE]
    if not used:
        raise Refused(f"no band of {table.name} lies where the scene has bands; choose another --guide-sensor")
    return PairGeometry(
        scale=scale,
        response=srf(nm, table, bands=used).astype(np.float32),
        expected_centroid_px=0.0,
        wavelength_nm=tuple(nm),
    )


def tensors(pair: Pair) -> tuple[torch.Tensor, torch.Tensor]:
    """(y, x), a batch of one each."""
    return torch.from_numpy(pair.y)[None], torch.from_numpy(pair.x)[None]


def bicubic_pair(pair: Pair, setup: PairGeometry) -> F32:
    """Enlarge the coarse image by bicubic, its samples where the convention has them; no guide."""
    c = setup.expected_centroid_px
    return np.asarray(degrade.upsample(tensors(pair)[0], setup.scale, (c, c))[0].numpy())


def unadapted(model: FusionModel, pair: Pair, setup: PairGeometry) -> F32:
    """Fuse the whole image, without adaptation to it."""
    return np.asarray(model.bind(model.estimate(lambda: [pair], setup))(*tensors(pair))[0].numpy())
