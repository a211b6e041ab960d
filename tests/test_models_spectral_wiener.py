"""The local spectral Wiener filter: couples coefficients, keeps what is strong, reaches as far as it says."""

from __future__ import annotations

import pytest
import torch

from hypermend.models.signal.spectral_wiener import CELL_PX, LEFT, REACH_PX, spectral_wiener


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_errors_across_the_spectra_of_a_window_go() -> None:
    """Two materials vary along one direction of four coefficients: the error in the other three is removed."""
    direction = torch.tensor([0.8, 0.4, -0.4, 0.2])[None, :, None, None]
    signal = 5 * randn(1, 1, 64, 64) * direction
    error = LEFT**0.5 * randn(1, 4, 64, 64, seed=1)
    left = spectral_wiener(signal + error) - signal
    assert float(left.square().mean()) < 0.6 * float(error.square().mean())
    along = (left * direction).sum(1), (error * direction).sum(1)
    torch.testing.assert_close(along[0].square().mean(), along[1].square().mean(), rtol=0.2, atol=0)


def test_what_is_strong_or_constant_stays() -> None:
    strong = 30 * randn(1, 3, 40, 40)
    torch.testing.assert_close(spectral_wiener(strong), strong, rtol=2e-3, atol=2e-2)
    constant = torch.full((1, 3, 40, 40), 7.0)
    torch.testing.assert_close(spectral_wiener(constant), constant, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 3), (40, 41)])
def test_any_size(height: int, width: int) -> None:
    out = spectral_wiener(randn(2, 3, height, width))
    assert out.shape == (2, 3, height, width) and bool(out.isfinite().all())


def test_reach_and_tiles() -> None:
    z = randn(1, 3, 80, 80, seed=2)
    once = spectral_wiener(z)
    moved = z.clone()
    moved[0, 0, 41, 41] += 5
    changed = ((spectral_wiener(moved) - once).abs()[0] > 0).nonzero()[:, 1:]
    assert int((changed - 41).abs().max()) <= REACH_PX
    margin = -(-REACH_PX // CELL_PX) * CELL_PX
    part = spectral_wiener(z[..., 32 - margin : 48 + margin, 32 - margin : 48 + margin])
    inner = slice(margin, -margin)
    torch.testing.assert_close(part[..., inner, inner], once[..., 32:48, 32:48], rtol=0, atol=1e-5)
