"""LRTDTV: low-rank Tucker decomposition with total variation (Wang et al., JSTARS 2018), by its augmented Lagrangian.

    min  tau |D Z|_1 + lambda |E|_1 + beta |N|^2    Y = X + E + N,  X = Z of low Tucker rank

D are differences along y, x and the bands. Settings of the paper: ranks 0.8 h, 0.8 w and 10; tau 1; lambda
100 / sqrt(h w); weights of the differences 1, 1 and 0.5; 40 steps. beta is ours, for values of 0..1: with 1 the result
is too smooth by far, 20 was the best of 1, 5, 10 and 20 on a synthetic cube.
"""

from __future__ import annotations

import numpy as np

from hypermend.models.arrays import F32, F64

SPECTRAL_RANK, SPATIAL_RANK = 10, 0.8
TAU, SPARSE, BETA = 1.0, 100.0, 20.0
WEIGHTS = (0.5, 1.0, 1.0)
"""Of the differences along the bands, y and x."""
MU, GROWTH, MOST_MU = 1e-2, 1.5, 1e6
STEPS = 40


def lrtdtv(noisy: F32) -> F32:
    """(b, h, w) -> the same."""
    y = noisy.astype(np.float64)
    b, h, w = y.shape
    ranks = min(SPECTRAL_RANK, b), int(SPATIAL_RANK * h), int(SPATIAL_RANK * w)
    sparse = SPARSE / np.sqrt(h * w)
    z, e, n = y.copy(), np.zeros_like(y), np.zeros_like(y)
    m1, m2 = np.zeros_like(y), np.zeros_like(y)
    m3 = [np.zeros_like(y) for _ in WEIGHTS]
    f = [np.zeros_like(y) for _ in WEIGHTS]
    spectrum = _spectrum(y.shape)
    mu = MU
    for _ in range(STEPS):
        x = _tucker(((y - e - n + m1 / mu) + (z - m2 / mu)) / 2, ranks)
        right = mu * x + m2
        for axis, weight in enumerate(WEIGHTS):
            right += weight * _back(mu * f[axis] - m3[axis], axis)
        z = np.fft.irfftn(np.fft.rfftn(right) / (mu + mu * spectrum), s=y.shape, axes=(0, 1, 2))
        for axis, weight in enumerate(WEIGHTS):
            d = weight * _forward(z, axis)
            f[axis] = _soft(d + m3[axis] / mu, TAU / mu)
            m3[axis] += mu * (d - f[axis])
        e = _soft(y - x - n + m1 / mu, sparse / mu)
        n = (mu * (y - x - e) + m1) / (mu + 2 * BETA)
        m1 += mu * (y - x - e - n)
        m2 += mu * (x - z)
        mu = min(GROWTH * mu, MOST_MU)
    return np.asarray(x, dtype=np.float32)


def _soft(x: F64, threshold: float) -> F64:
    return np.asarray(np.sign(x) * np.maximum(np.abs(x) - threshold, 0))


def _forward(x: F64, axis: int) -> F64:
    return np.asarray(np.roll(x, -1, axis) - x)


def _back(x: F64, axis: int) -> F64:
    """The adjoint of `_forward`."""
    return np.asarray(np.roll(x, 1, axis) - x)


def _spectrum(shape: tuple[int, ...]) -> F64:
    """Eigenvalues of the weighted sum of D^T D, for the real FFT."""
    total: F64 = np.zeros((shape[0], shape[1], shape[2] // 2 + 1))
    for axis, weight in enumerate(WEIGHTS):
        size = shape[axis]
        wave = np.arange(total.shape[axis]) / size
        values = (weight * 2 * np.sin(np.pi * wave)) ** 2
        total = total + values.reshape([-1 if a == axis else 1 for a in range(3)])
    return total


def _tucker(x: F64, ranks: tuple[int, ...]) -> F64:
    """Truncated higher-order SVD."""
    for axis, rank in enumerate(ranks):
        flat = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
        _, vectors = np.linalg.eigh(flat @ flat.T)
        u = vectors[:, -rank:]
        x = np.moveaxis(np.tensordot(u @ u.T, x, (1, axis)), 0, axis)
    return x
