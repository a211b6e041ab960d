"""The pilot: removes unit noise, keeps flat images, commutes with turns and signs, reaches as far as it says."""

from __future__ import annotations

import torch

from hypermend.models.signal import dct_shrinkage as module
from hypermend.models.signal.dct_shrinkage import DCT, HALO


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pilot(z: torch.Tensor, power: float = 10.0) -> torch.Tensor:
    return module.dct_denoise(z, torch.full((z.shape[1],), power))


def test_the_transform_is_orthonormal() -> None:
    torch.testing.assert_close(DCT @ DCT.T, torch.eye(8), atol=1e-5, rtol=0)


def test_noise_alone_goes_and_a_step_stays() -> None:
    noise = randn(1, 1, 64, 64)
    assert float(pilot(noise).square().mean()) < 0.02
    assert float(pilot(noise, power=1.0).square().mean()) < 0.005
    step = torch.zeros(1, 1, 64, 64)
    step[..., 32:] = 50.0
    error = (pilot(step + noise) - step).square().mean()
    assert float(error) < 0.15
    torch.testing.assert_close(
        pilot(torch.full((1, 2, 20, 20), 300.0)), torch.full((1, 2, 20, 20), 300.0), rtol=1e-3, atol=0
    )


def test_commutes_with_turns_mirrors_and_signs() -> None:
    z = 5 * randn(1, 1, 40, 40, seed=1)
    once = pilot(z)
    torch.testing.assert_close(pilot(z.rot90(1, (2, 3))), once.rot90(1, (2, 3)), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(pilot(-z.flip(3)), -once.flip(3), atol=1e-3, rtol=1e-4)


def test_reach() -> None:
    z = 3 * randn(1, 1, 60, 60, seed=2)
    moved = z.clone()
    moved[0, 0, 30, 30] += 5
    changed = ((pilot(moved) - pilot(z)).abs()[0, 0] > 0).nonzero()
    assert int((changed - 30).abs().max()) <= HALO


def test_long_waves_come_back_and_reach_as_far_as_they_say() -> None:
    """A wave of 64 pixels at a third of the noise, which no block of 8 pixels can see."""
    wave = (torch.arange(128) * (2 * torch.pi / 64)).sin().expand(1, 1, 128, 128) / 3
    z = wave + randn(1, 1, 128, 128)
    nothing = torch.zeros_like(z)
    found = module.low_frequency_residual(z, nothing)
    assert float((found - wave).square().mean()) < 0.5 * float(wave.square().mean())
    assert float(module.low_frequency_residual(randn(1, 1, 128, 128), nothing).square().mean()) < 0.01
    moved = z.clone()
    moved[0, 0, 64, 64] += 40
    changed = ((module.low_frequency_residual(moved, nothing) - found).abs()[0, 0] > 0).nonzero()
    assert int((changed - 64).abs().max()) <= 42
