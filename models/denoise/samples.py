"""Training samples of the denoiser: patches of whitened coefficients with their noise, or patches of bands.

For the subspace, noise is added to a scene, the subspace is estimated from the noisy scene exactly as at restoration,
and many patches are cut from its coefficients. So the network sees the errors of the estimate too, and one estimate
serves many samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hypermend.models.arrays import F32
from hypermend.models.denoise.subspace_denoiser import features, trust
from hypermend.models.fit import Batch
from hypermend.models.sampling import SampleStream
from hypermend.models.signal.dct_shrinkage import dct_denoise
from hypermend.models.signal.degrade import gaussian, stripes
from hypermend.models.signal.subspace import moments, signal_axes, subspace

MARGIN_PX = 16
"""Outer pixels of a realisation that no patch is cut from: the DCT estimate there depends on the replicated edge."""
BORDER_PX = 4
"""Outer pixels of a patch that do not count in the loss: the network sees only half of their surroundings."""


@dataclass(frozen=True, kw_only=True)
class TrainingScene:
    """A clean cube for training."""

    cube: F32
    """(bands, h, w), about 0 to 1."""
    least_noise: float
    """Smallest noise to add; below it the network would learn the cube's own noise as signal."""
    weight: float = 1.0
    """Relative probability that the scene is drawn."""


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """Distribution of the samples."""

    channels: int
    """K, the number of coefficients that the network takes."""
    patch_px: int = 64
    scene_px: int = 160
    """Edge of the part of a scene that one realisation takes."""
    refresh_steps: int = 12
    """Steps between two new noisy scenes of the stream; each replaces the oldest one of its slot."""
    keep: int = 4
    """Noisy scenes of each slot that patches are cut from."""
    strongest_noise: float = 80 / 255

    @property
    def least_px(self) -> int:
        """Edge of a patch with its context."""
        return self.patch_px + 2 * MARGIN_PX


@dataclass(frozen=True)
class NoisyScene:
    """Whitened coefficients of one noisy scene."""

    noisy: torch.Tensor
    """(K, H, W)."""
    first: torch.Tensor
    """(K, H, W), the DCT estimate."""
    noise: torch.Tensor
    """(K, H, W), the added noise, in the same coefficients."""
    power: torch.Tensor
    """(K,) second moments, estimated."""


def simulate(scene: TrainingScene, s: SampleSettings, rng: np.random.Generator) -> NoisyScene | None:
    """Draw part, resolution, bands and noise; estimate the subspace; project. None where there is no subspace."""
    clean = scene.cube
    b, h, w = clean.shape
    if min(h, w) > 1.5 * s.scene_px and rng.random() < 0.3:  # twice coarser: sharper, its own noise is halved
        clean = clean[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2).mean((2, 4))
    top, left = (int(rng.integers(0, max(1, n - s.scene_px + 1))) for n in clean.shape[1:])
    clean = clean[:, top : top + s.scene_px, left : left + s.scene_px]
    if rng.random() < 0.4:  # other sensors: fewer bands, any subset
        n = int(rng.integers(min(8, b), b + 1))
        clean = clean[np.sort(rng.choice(b, n, replace=False))]
    level = _level(scene.least_noise, s.strongest_noise, rng)
    std = np.full(len(clean), level)
    if rng.random() < 0.3:
        std = std * np.exp(rng.normal(0, rng.uniform(0, 0.7), len(clean)))
    noisy = gaussian(clean, std, rng)
    if rng.random() < 0.08:
        noisy = stripes(noisy, level, rng, bands=0.3, columns=0.1)
    m = moments([(noisy, np.ones(noisy.shape[1:], dtype=bool))])
    space = subspace(m) if m else None
    if m is None or space is None or (space.noise_std <= 0).any():
        return None
    space = signal_axes(m, space)
    k = min(s.channels, space.basis.shape[1])
    project = (space.basis[:, :k] / space.noise_std[:, None]).T.astype(np.float32)  # (k, bands)
    z, noise = np.tensordot(project, noisy, 1), np.tensordot(project, noisy - clean, 1)  # (k, h, w)
    missing = s.channels - k  # fewer bands than channels: padded with zeros, as at restoration
    fill = ((0, missing), (0, 0), (0, 0))
    power = np.concatenate((space.power[:k], np.ones(missing))).astype(np.float32)
    coefficients = torch.from_numpy(np.pad(z, fill))
    first = dct_denoise(coefficients[None], torch.from_numpy(power))[0]
    return NoisyScene(coefficients, first, torch.from_numpy(np.pad(noise, fill)), torch.from_numpy(power))


def _level(low: float, high: float, rng: np.random.Generator) -> float:
    """Draw a noise level: half of the draws strong, as in the benchmarks, half of any size."""
    if rng.random() < 0.5:
        return float(rng.uniform(high / 4, high))
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def weighted(scenes: Sequence[TrainingScene], s: SampleSettings) -> Callable[[np.random.Generator], TrainingScene]:
    """Return a draw of the scenes by their weights.

    Raises:
        ValueError: a scene smaller than a patch with its context.
    """
    for i, scene in enumerate(scenes):
        if min(scene.cube.shape[1:]) < s.least_px:
            raise ValueError(
                f"scene {i} has {scene.cube.shape[1:]} pixels, a patch with its context needs {s.least_px}"
            )
    chance = np.array([scene.weight for scene in scenes], dtype=np.float64)
    chance /= chance.sum()
    return lambda rng: scenes[int(rng.choice(len(scenes), p=chance))]


def sample_stream(
    draw: Callable[[np.random.Generator], TrainingScene], s: SampleSettings, *, seed: int, batch: int
) -> SampleStream[NoisyScene]:
    """Stream features (4K, P, P) and target (2, K, P, P): see `loss`.

    Args:
        draw: returns a scene.
        s: distribution of the samples.
        seed: seed of all randomness.
        batch: samples in a batch.
    """

    def make(rng: np.random.Generator) -> NoisyScene | None:
        scene = simulate(draw(rng), s, rng)
        return scene if scene is not None and min(scene.noisy.shape[1:]) >= s.least_px else None

    def cut(scene: NoisyScene, rng: np.random.Generator) -> Batch:
        x, target = network_batch([patch(scene, s.patch_px, rng)])
        return x[0], target[0]

    return SampleStream(make, cut, seed=seed, batch=batch, every=s.refresh_steps * batch, keep=s.keep)


def network_batch(patches: Sequence[Batch]) -> Batch:
    """Return the features and the target of patches: (B, 4K, P, P) and (B, 2, K, P, P)."""
    triple, power = (
        torch.stack([c[0] for c in patches]),
        torch.stack([c[1] for c in patches]),
    )  # (B, 3, K, P, P), (B, K)
    z, first, noise = triple.unbind(dim=1)
    # The network predicts the noise, starting from the part that the DCT estimate removed; `trust` weighs the change.
    t = trust(power).expand_as(z)
    target = torch.stack((noise - (1 - t) * (z - first), t), dim=1)
    return features(z, first, power).contiguous(memory_format=torch.channels_last), target


def patch(r: NoisyScene, size: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut a patch away from the border, turned, mirrored and with random signs: (3, K, P, P) and (K,).

    The DCT estimate commutes with all of these, so it is computed once for the whole realisation.
    """
    k, h, w = r.noisy.shape
    y, x = (int(rng.integers(MARGIN_PX, n - MARGIN_PX - size + 1)) for n in (h, w))
    window = (slice(None), slice(y, y + size), slice(x, x + size))
    triple = torch.stack((r.noisy[window], r.first[window], r.noise[window]))
    triple = torch.rot90(triple, int(rng.integers(4)), (2, 3))
    if rng.random() < 0.5:
        triple = triple.flip(3)
    return triple * torch.from_numpy(rng.choice([-1.0, 1.0], (k, 1, 1)).astype(np.float32)), r.power


def loss(y: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Log of each patch's error, so that strong and weak noise have the same weight; mean over the batch.

    Errors are in units of the noise; 0.01 keeps empty patches from dominating. `y` is the network's output.
    """
    left, weight = target.unbind(dim=1)  # (B, K, P, P) each
    inner = slice(BORDER_PX, -BORDER_PX)
    e = (y * weight - left)[..., inner, inner].square().mean((1, 2, 3))
    return (e + 1e-2).log().mean()


SIGMAS = (30 / 255, 50 / 255, 70 / 255)
"""Noise levels of the paper."""


def any_of(cubes: Sequence[F32], patch_px: int) -> Callable[[np.random.Generator], F32]:
    """Return a draw of the cubes, all with the same chance.

    Raises:
        ValueError: cubes with different bands, or smaller than a patch.
    """
    bands = {cube.shape[0] for cube in cubes}
    if len(bands) != 1:
        raise ValueError(f"cubes with {sorted(bands)} bands in one batch; take the same bands of each")
    for i, cube in enumerate(cubes):
        if min(cube.shape[1:]) < patch_px:
            raise ValueError(f"cube {i} has {cube.shape[1:]} pixels, a patch needs {patch_px}")
    return lambda rng: cubes[int(rng.integers(len(cubes)))]


def band_stream(
    draw: Callable[[np.random.Generator], F32],
    *,
    patch_px: int,
    seed: int,
    batch: int,
    sigmas: Sequence[float] = SIGMAS,
    every: int = 1,
    keep: int = 1,
) -> SampleStream[F32]:
    """Stream noisy and clean patches (c, P, P); additive noise of one of the sigmas, unclipped.

    Args:
        draw: returns a cube (c, h, w), about 0 to 1.
        patch_px: P.
        seed: seed of all randomness.
        batch: samples in a batch.
        sigmas: noise levels.
        every: steps between two cubes of a slot; more than 1 where a cube takes long to read.
        keep: cubes of a slot that patches are cut from.
    """

    def cut(cube: F32, rng: np.random.Generator) -> Batch:
        clean = band_patch(cube, patch_px, rng)
        std = np.float32(rng.choice(np.asarray(sigmas)))
        noisy = clean + std * rng.standard_normal(clean.shape, dtype=np.float32)
        return torch.from_numpy(noisy), torch.from_numpy(clean)

    return SampleStream(draw, cut, seed=seed, batch=batch, every=every, keep=keep)


def band_patch(cube: F32, size: int, rng: np.random.Generator) -> F32:
    """Cut a patch at a random place, turned and mirrored at random."""
    y, x = (int(rng.integers(n - size + 1)) for n in cube.shape[1:])
    part = np.rot90(cube[:, y : y + size, x : x + size], int(rng.integers(4)), (1, 2))
    return np.ascontiguousarray(part[:, :, ::-1] if rng.random() < 0.5 else part)
