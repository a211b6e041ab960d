"""The pilot: removes unit noise, keeps flat images, commutes with turns and signs, reaches as far as it says."""

from __future__ import annotations

import torch

from models import pilot as module
from models.pilot import DCT, HALO


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pilot(z: torch.Tensor, power: float = 10.0) -> torch.Tensor:
    return module.pilot(z, torch.full((z.shape[1],), power))


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
