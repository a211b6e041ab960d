"""Test images for models of one image: a truth is degraded, and an estimate is compared with it.

Values are divided by the image's bright value or the sensor's full scale, so that 1 is the peak.
"""

from __future__ import annotations

import numpy as np
import torch

from hypermend.models.arrays import F32
from hypermend.models.restorer import Model
from hypermend.models.signal import metrics
from hypermend.models.signal.bicubic import enlarge, reduce
from hypermend.models.signal.degrade import gaussian


def noisy_image(truth: F32, sigma: int) -> F32:
    """Add white noise of standard deviation `sigma` / 255, unclipped; seeded by `sigma`, afresh for each image."""
    return gaussian(truth, sigma / 255, np.random.default_rng([0, sigma]))


def coarse_image(truth: F32, scale: int) -> F32:
    """Reduce (bands, scale*h, scale*w) to (bands, h, w) by antialiased bicubic."""
    return np.asarray(reduce(torch.from_numpy(truth), scale).numpy())


def bicubic_image(coarse: F32, scale: int) -> F32:
    """Enlarge (bands, h, w) by bicubic of the same convention: the baseline of every sharpener."""
    return np.asarray(enlarge(torch.from_numpy(coarse), scale).numpy())


def restored_in_one_call(model: Model, image: F32) -> F32:
    """Restore a whole image in one call, its edges reflected. For small squares; `scores.restored` works in tiles."""
    restorer = model.bind(model.estimate([(image, np.ones(image.shape[1:], dtype=bool))]))
    halo, margin = restorer.halo, restorer.halo * restorer.scale
    padded = np.pad(image, ((0, 0), (halo, halo), (halo, halo)), mode="reflect")
    inner = slice(margin, -margin or None)
    return np.asarray(restorer(torch.from_numpy(padded)[None])[0, :, inner, inner].numpy())


def psnr_db(truth: F32, estimate: F32) -> float:
    """Score an estimate, clipped to 0..1, by one mean square error over the cube."""
    return metrics.psnr(truth, np.clip(estimate, 0, 1))
