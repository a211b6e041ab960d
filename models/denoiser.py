"""The STAS denoiser on the signal subspace of a scene, blind to the noise level.

A scene's noise, whitening and axes are estimated once (`subspace.py`). Then, for each pixel of a tile, z = U^T W y has
white noise of standard deviation 1 in every coefficient, whatever the sensor, and

    z_k' = z_k - n_k            n = STAS(features of z_1..z_K), the noise in units of its standard deviation
    z_j' = z_j (1 - 1/power_j)  the further stored coefficients (Wiener, the whole scene's)
    r'   = r (1 - 1/power_r)    what is left of the whitened pixel
    y'   = W^-1 (U z' + r')

Every correction is a multiple of the noise, so it vanishes with the noise, and nothing is truncated.
"""

from __future__ import annotations

import torch
from torch.nn import functional

CONTEXT = 2
"""Pixels that the local mean among the features reaches."""


def features(z: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    """What the network sees of the coefficients.

    Args:
        z: (B, K, H, W) whitened coefficients.
        power: (B, K) second moment of each coefficient over the scene, noise (1) included.

    Returns:
        (B, 3K, H, W): local contrast in units of the noise (compressed far from zero: a first guess of the
        noise), the coefficient relative to its power, and the noise level relative to it.
    """
    scale = power.clamp_min(1e-6).rsqrt()[:, :, None, None]  # (B, K, 1, 1)
    mean = functional.avg_pool2d(z, 2 * CONTEXT + 1, stride=1, padding=CONTEXT, count_include_pad=False)
    contrast = 4 * torch.asinh((z - mean) / 4)
    return torch.cat((contrast, z * scale, scale.expand_as(z)), dim=1)
