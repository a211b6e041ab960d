"""Degradations of an image: noise, stripes; blur and decimation; the spectral response of another sensor.

Pure functions of cube and generator. The one phase convention of fusion, for odd and even kernels k (n, n) alike:

    Y[i, j] = sum_uv k[u, v] Z[s i + u - n//2, s j + v - n//2],   edges of Z replicated

k is used as it is given, not flipped, and its element (n//2, n//2) lies on HR pixel (s i, s j). Positions in HR pixels
are counted from that pixel: `centroid` of a kernel is 0 for a laboratory pair, (s - 1) / 2 for an LR pixel that covers
the HR pixels s i .. s i + s - 1.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from hypermend.models.arrays import F32, F64, Floats

UPSAMPLE_TAPS = 2
"""LR samples on either side that `upsample` interpolates between."""


def gaussian(cube: F32, std: float | npt.ArrayLike, rng: np.random.Generator) -> F32:
    """Add white Gaussian noise, unclipped.

    Args:
        cube: (bands, h, w).
        std: one standard deviation or one for each band, in the cube's units.
        rng: drawn from in C order of the cube, in float64, so that one seed means one noise.
    """
    s = np.broadcast_to(np.asarray(std, dtype=np.float64), (cube.shape[0],))
    noise = rng.standard_normal(cube.shape) * s[:, None, None]
    return (cube + noise).astype(np.float32)


def stripes(cube: F32, std: float, rng: np.random.Generator, *, bands: float = 0.5, columns: float = 0.2) -> F32:
    """Add a constant to some columns of some bands, as a push-broom sensor's uneven detectors do.

    Args:
        cube: (bands, h, w).
        std: standard deviation of the constants.
        rng: source of randomness.
        bands: share of bands touched.
        columns: share of columns touched in each of them.
    """
    b, _, w = cube.shape
    offset = rng.normal(0.0, std, (b, w)) if std > 0 else np.zeros((b, w))
    offset *= (rng.random((b, 1)) < bands) & (rng.random((b, w)) < columns)
    return (cube + offset[:, None, :]).astype(np.float32)


def snr_std(cube: F32, snr_db: float) -> float:
    """Standard deviation of the noise at a signal-to-noise ratio over the whole cube: sqrt(mean(Y^2) / 10^(dB/10))."""
    return math.sqrt(float(np.square(cube, dtype=np.float64).mean()) / 10 ** (snr_db / 10))


def respond(z: torch.Tensor, response: torch.Tensor) -> torch.Tensor:
    """Apply a spectral response, X = P Z: (B, b, H, W) and (m, b) -> (B, m, H, W)."""
    return torch.einsum("mb,nbhw->nmhw", response, z)


def blur_down(z: torch.Tensor, kernel: torch.Tensor, scale: int) -> torch.Tensor:
    """Blur and decimate by the convention: (B, b, s*h, s*w) and (n, n) -> (B, b, h, w). Differentiable in both.

    Bands are a batch of single-channel images: one strided convolution, 4 to 20 ms for 31 x 512 x 512 at s = 8 to 32.

    Raises:
        ValueError: the scale does not divide the image, or the kernel is not square.
    """
    n, c = kernel.shape[-1], z.shape[1]
    if kernel.shape != (n, n):
        raise ValueError(f"kernel {tuple(kernel.shape)}: must be (n, n)")
    if z.shape[2] % scale or z.shape[3] % scale:
        raise ValueError(f"{z.shape[2]}x{z.shape[3]} pixels are no multiple of the scale {scale}; crop them")
    before = n // 2
    after = max(0, n - before - scale)  # the last LR pixel lies `scale` pixels before the edge
    x = functional.pad(z, (before, after, before, after), mode="replicate")
    y = functional.conv2d(x.reshape(-1, 1, *x.shape[2:]), kernel[None, None], stride=scale)
    h, w = z.shape[2] // scale, z.shape[3] // scale
    return y[:, :, :h, :w].reshape(-1, c, h, w)


def gaussian_kernel(size: int, sigma_px: float, *, centroid_px: float = 0.0) -> F64:
    """(size, size), sum 1; exp(-r^2 / (2 sigma^2)) about the point `centroid_px` away from the centre in both axes."""
    at = np.arange(size) - size // 2 - centroid_px
    one = np.exp(-0.5 * np.square(at / sigma_px))
    k = np.outer(one, one)
    return np.asarray(k / k.sum())


def centroid(kernel: Floats) -> tuple[float, float]:
    """Return the centroid of a kernel (n, n) of sum 1, (y, x) in HR pixels from its centre pixel."""
    n = kernel.shape[0]
    at = np.arange(n) - n // 2
    return float(kernel.sum(axis=1) @ at), float(kernel.sum(axis=0) @ at)


def upsample(y: torch.Tensor, scale: int, centroid_px: tuple[float, float] = (0.0, 0.0)) -> torch.Tensor:
    """Cubic interpolation of LR samples that lie `centroid_px` (y, x) away from their HR pixel.

    Sample i stands at HR position s i + c, so HR pixel p is read at LR coordinate (p - c) / s, with the four-tap cubic
    convolution of Keys (TASSP 1981, a = -1/2). Exact for quadratics. Edges replicated.
    An HR pixel depends on LR pixels at most UPSAMPLE_TAPS + ceil(|c| / s) away.

    Args:
        y: (B, b, h, w).
        scale: HR pixels for each LR pixel.
        centroid_px: centroid of the kernel that made y (`centroid`).

    Returns:
        (B, b, s*h, s*w).
    """
    return _upsample_rows(_upsample_rows(y, scale, centroid_px[0]).mT, scale, centroid_px[1]).mT


def _upsample_rows(y: torch.Tensor, scale: int, shift_px: float) -> torch.Tensor:
    """Along the third axis: (B, b, h, w) -> (B, b, s*h, w), one four-tap filter for each of the s phases."""
    b, c, h, w = y.shape
    at = [(d - shift_px) / scale for d in range(scale)]
    first = [math.floor(a) - 1 for a in at]
    low, high = min(0, *first), max(0, max(first) + 3)
    filters = y.new_zeros(scale, high - low + 1)
    for d, (a, start) in enumerate(zip(at, first, strict=True)):
        filters[d, start - low : start - low + 4] = y.new_tensor(_cubic(a - math.floor(a)))
    x = functional.pad(y.reshape(b * c, 1, h, w), (0, 0, -low, high), mode="replicate")
    out = functional.conv2d(x, filters[:, None, :, None])  # (b*c, s, h, w)
    return out.transpose(1, 2).reshape(b, c, scale * h, w)


def _cubic(t: float) -> list[float]:
    """Weights of samples -1, 0, 1, 2 at 0 <= t < 1."""
    return [
        ((-0.5 * t + 1.0) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1.0,
        ((-1.5 * t + 2.0) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    ]
