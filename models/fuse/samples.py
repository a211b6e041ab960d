"""Training samples of the network: pairs simulated from cubes, their local regression, and the error that it leaves.

Every pair has its own part of a scene, resolution, bands, spectral gain, response, scale, kernel and noise. Kernel and
noise levels that the local regression is given have realistic errors. Kernels are drawn anew from random families, so
no kernel of a benchmark is among them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from hypermend.models.arrays import F32, F64
from hypermend.models.fuse.correction_net import (
    COEFFICIENT_FEATURES,
    STEPS,
    coefficient_features,
    guide_features,
    residual_scale,
)
from hypermend.models.fuse.interface import Pair
from hypermend.models.fuse.kernel_estimate import Blur
from hypermend.models.fuse.local_regression import LocalRegressionModel, estimate
from hypermend.models.fuse.moments import pair_moments
from hypermend.models.sampling import SampleStream
from hypermend.models.signal.degrade import blur_down, centroid, gaussian, snr_std

BORDER_PX = 7
"""Outer pixels of a patch that do not count in the loss: the network's zero padding reaches them."""


@dataclass(frozen=True, kw_only=True)
class PairNoise:
    """Distribution of the errors of simulated pairs."""

    snr_db: tuple[float, float] = (28.0, 44.0)
    """Smallest and largest signal-to-noise ratio."""
    clean_guide: float = 0.5
    """Share of pairs whose guide has almost no noise except the cube's own."""
    kernel_error: tuple[float, float] = (0.02, 0.25)
    """Smallest and largest relative error of the kernel that the local regression is given."""


@dataclass(frozen=True, kw_only=True)
class FusionSampleSettings(PairNoise):
    """Distribution of the samples."""

    channels: int
    """Coefficients that the network corrects."""
    scales: tuple[int, ...] = (8, 8, 8, 8, 4, 3)
    """Scales, drawn evenly."""
    scene_px: int = 224
    """Edge of the part of a scene that a pair is simulated from."""
    patch_px: int = 44
    refresh_steps: int = 150
    """Steps between two new pairs of a slot."""
    keep: int = 6
    """Pairs of each slot that patches are cut from."""


@dataclass(frozen=True)
class Sample:
    """Features and error of one pair's local regression; in half precision, since the pool holds many."""

    coefficient_features: torch.Tensor
    """(k, COEFFICIENT_FEATURES, H, W)."""
    guide_features: torch.Tensor
    """(GUIDE_FEATURES, H, W)."""
    residual_scale: torch.Tensor
    """(k, H, W)."""
    missed: torch.Tensor
    """(k, H, W): truth minus local regression."""
    weight: torch.Tensor
    """(H, W): dark pixels weigh more, since angles are relative."""
    error: float
    """Mean of |missed|, plus 0.3 of the noise."""
    chance: F64
    """(k,) probability that a coefficient is drawn."""


def kernel(scale: int, rng: np.random.Generator) -> F64:
    """Draw a blur kernel (n, n) of sum 1, about as wide as an LR pixel: a Gaussian, a curve or a random path."""
    n = int(rng.integers(max(5, scale + 1), max(8, int(2.7 * scale)))) | 1
    if rng.random() < 0.35:
        long, short = np.maximum(rng.uniform(0.25, 0.75, 2) * scale, 0.6)
        return _gaussian(n, long, short, float(rng.uniform(0, np.pi)))
    path = _curve(rng) if rng.random() < 0.5 else _wander(rng)
    path -= path.mean(axis=0)
    path *= n * rng.uniform(0.2, 0.42) / np.abs(path).max()
    path += rng.uniform(-0.08 * scale, 0.08 * scale, 2)
    k = np.zeros((n, n))
    at = np.clip(np.rint(path + n // 2).astype(int), 0, n - 1)
    np.add.at(k, (at[:, 0], at[:, 1]), rng.uniform(0.5, 1.5, len(at)))
    k = ndimage.gaussian_filter(k, rng.uniform(0.5, 0.5 + scale / 8))
    return np.asarray(k / k.sum())


def _gaussian(n: int, long: float, short: float, angle: float) -> F64:
    """Return a Gaussian of two standard deviations, turned by an angle."""
    y, x = np.mgrid[:n, :n] - n // 2
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    k = np.exp(-0.5 * ((u / long) ** 2 + (v / short) ** 2))
    return np.asarray(k / k.sum())


def _curve(rng: np.random.Generator) -> F64:
    """Draw points (400, 2) of a random polynomial of degree 1 to 3."""
    t = np.linspace(0, 1, 400)[:, None]
    return np.asarray(sum(rng.normal(0, 1, (1, 2)) * t**i for i in range(1, int(rng.integers(2, 5)))))


def _wander(rng: np.random.Generator) -> F64:
    """Draw points (400, 2) of a path with random turns, as of a shaken camera."""
    turns = np.cumsum(rng.normal(0, rng.uniform(0.03, 0.3), 400)) + rng.uniform(0, 2 * np.pi)
    return np.cumsum(np.stack((np.sin(turns), np.cos(turns)), axis=1), axis=0)


def mistaken(k: F64, error: float, rng: np.random.Generator) -> F64:
    """Return the kernel with a relative error, as an estimate has it."""
    e = ndimage.gaussian_filter(rng.normal(0, 1, k.shape), 1.0) * np.sqrt(k + 1e-4 * k.max())
    k = np.maximum(k + e * error * np.linalg.norm(k) / np.linalg.norm(e), 0.0)
    return np.asarray(k / k.sum())


def response(bands: int, rng: np.random.Generator) -> F32:
    """Draw a response (m, bands) of 3 to 6 bell-shaped bands of random centre and width."""
    m = int(rng.integers(3, 7))
    centre, width = np.sort(rng.uniform(0.05, 0.95, m)) * bands, rng.uniform(0.04, 0.16, m) * bands
    p = np.exp(-0.5 * ((np.arange(bands) - centre[:, None]) / width[:, None]) ** 2)
    return np.asarray(p / p.sum(axis=1, keepdims=True), dtype=np.float32)


def simulate(cube: F32, responses: Sequence[F32], s: FusionSampleSettings, rng: np.random.Generator) -> Sample:
    """Simulate a pair from a part of a cube, and compute its local regression.

    Args:
        cube: (b, H, W).
        responses: (m, b) of real sensors, for half of the pairs.
        s: distribution of the samples.
        rng: source of all randomness.
    """
    scale = int(rng.choice(s.scales))
    z = part(cube, min(s.scene_px, *cube.shape[1:]) // scale * scale, rng, coarser=0.25)
    p = responses[int(rng.integers(len(responses)))] if responses and rng.random() < 0.5 else response(len(z), rng)
    if rng.random() < 0.4:
        some = np.sort(rng.choice(len(z), int(rng.integers(len(z) // 2, len(z) + 1)), replace=False))
        if (p[:, some].sum(axis=1) > 0.2).all():
            z, p = z[some], p[:, some] / p[:, some].sum(axis=1, keepdims=True)
    if rng.random() < 0.4:  # another illuminant
        z = z * np.exp(ndimage.gaussian_filter(rng.normal(0, 1.5, len(z)), 3)).astype(np.float32)[:, None, None]
    z = np.ascontiguousarray(z)
    pair, regression = regressed_pair(z, p, scale, s, rng)
    sharp = torch.from_numpy(z)
    start = regression(torch.from_numpy(pair.y)[None], torch.from_numpy(pair.x)[None])
    k = min(s.channels, start.coefficients.shape[1])
    u = residual_scale(regression, start)
    truth = torch.einsum("kb,bhw->khw", regression.t["project"], sharp)
    missed = (truth - start.coefficients[0])[:k]
    level = truth.square().sum(0).sqrt()
    share = missed.abs().mean((1, 2)).numpy().astype(np.float64)
    chance = np.sqrt(share) + 0.2
    return Sample(
        coefficient_features(regression, start, u)[0, :k].half(),
        guide_features(start)[0].half(),
        u[0, :k].half(),
        missed.half(),
        (1 + 0.5 * (level.mean() / level.clamp_min(1e-6)).clamp_max(4.0)).half(),
        float(share.mean()) + 0.3,
        chance / chance.sum(),
    )


def regressed_pair(
    z: F32, p: F32, scale: int, s: PairNoise, rng: np.random.Generator
) -> tuple[Pair, LocalRegressionModel]:
    """Simulate the pair of a truth z (b, H, W) and a response p (m, b), and fit its local regression to it.

    The regression is told a kernel and noise of the guide that have realistic errors.
    """
    blur = kernel(scale, rng)
    y = blur_down(torch.from_numpy(z)[None], torch.from_numpy(blur.astype(np.float32)), scale)[0].numpy()
    x = np.tensordot(p, z, 1).astype(np.float32)
    snr = float(rng.uniform(*s.snr_db))
    std_y, std_x = snr_std(y, snr), snr_std(x, snr + float(rng.uniform(-2, 2)))
    if rng.random() < s.clean_guide:
        std_x = std_x / 30
    y, x = gaussian(y, std_y, rng), gaussian(x, std_x, rng)
    pair = Pair(y=y, y_valid=np.ones(y.shape[1:], bool), x=x, x_valid=np.ones(x.shape[1:], bool))
    guess = mistaken(blur, float(rng.uniform(*s.kernel_error)), rng)
    scene = estimate(
        lambda: [pair],
        _blur(guess, np.full(len(x), std_x * rng.uniform(0.9, 1.4))),
        scale,
        pair_moments(lambda: [pair], guess, scale),
        np.ones((1, 1)),
    )
    return pair, LocalRegressionModel(scene)


def part(cube: F32, size: int, rng: np.random.Generator, *, coarser: float) -> F32:
    """Draw a square of the cube, turned and mirrored, in a share `coarser` of the draws with pixels twice as large."""
    b, h, w = cube.shape
    if min(h, w) >= 2 * size and rng.random() < coarser:
        cube = cube[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2).mean((2, 4))
    top, left = (int(rng.integers(0, n - size + 1)) for n in cube.shape[1:])
    z = np.rot90(cube[:, top : top + size, left : left + size], int(rng.integers(4)), (1, 2))
    return np.ascontiguousarray(z[:, :, ::-1] if rng.random() < 0.5 else z)


def _blur(k: F64, noise_x: F64) -> Blur:
    """Return a Blur with a kernel and the guide's noise, which is all that the local regression needs."""
    nothing = np.zeros(0)
    return Blur(
        kernel=k,
        centroid_px=centroid(k),
        shift_px=(0.0, 0.0),
        condition=1.0,
        determined=0.0,
        unknowns=0,
        tau=0.0,
        residual=0.0,
        held_out=0.0,
        pixels=0,
        needed=0,
        gain=nothing,
        offset=nothing,
        unexplained=nothing,
        noise_y=nothing,
        noise_x=noise_x,
        input_scale=1.0,
    )


def sample_stream(
    draw: Callable[[np.random.Generator], tuple[F32, Sequence[F32]]],
    s: FusionSampleSettings,
    *,
    seed: int,
    batch: int,
) -> SampleStream[Sample]:
    """Stream features (COEFFICIENT_FEATURES + GUIDE_FEATURES, P, P) and the target of `loss`, (3, P, P).

    Args:
        draw: returns a cube (b, H, W) and the responses (m, b) of real sensors to its bands, which may be none.
        s: distribution of the samples.
        seed: seed of all randomness.
        batch: samples in a batch.
    """
    return SampleStream(
        lambda rng: simulate(*draw(rng), s, rng),
        lambda pair, rng: patch(pair, s.patch_px, rng),
        seed=seed,
        batch=batch,
        every=s.refresh_steps,
        keep=s.keep,
    )


def patch(r: Sample, size: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut a patch of one coefficient, with random signs of it and of the guide's axes."""
    k = int(rng.choice(len(r.chance), p=r.chance))
    top, left = (int(rng.integers(0, n - size + 1)) for n in r.residual_scale.shape[1:])
    at = (slice(top, top + size), slice(left, left + size))
    sign = float(rng.choice([-1.0, 1.0]))
    odd = STEPS + 1  # features that change sign with the coefficient
    signs = torch.tensor([sign] * odd + [1.0] * (COEFFICIENT_FEATURES - odd) + [*rng.choice([-1.0, 1.0], 3), 1.0])
    x = torch.cat((r.coefficient_features[(k, slice(None), *at)], r.guide_features[(slice(None), *at)])).float()
    missed, u = r.missed[(k, *at)].float() * sign, r.residual_scale[(k, *at)].float()
    return x * signs.float()[:, None, None], torch.stack((missed / r.error, u / r.error, r.weight[at].float()))


def loss(y: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Smooth L1 of the remaining error, relative to the pair's mean error, so that every pair has the same weight.

    The weight by brightness makes it an angle as much as a distance: for small errors the squared angle is the sum over
    coefficients of the squares of error over length. The border of `y`, the network's output, does not count.
    """
    inner = slice(BORDER_PX, -BORDER_PX)
    missed, u, weight = (t[:, inner, inner] for t in target.unbind(1))
    e = y[:, 0, inner, inner] * u - missed
    return (weight * ((e.square() + 0.25).sqrt() - 0.5)).mean()
