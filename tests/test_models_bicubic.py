"""Bicubic resizing: MATLAB's convention, known in closed form, at the edges too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from hypermend.models.signal.bicubic import REACH, enlarge, reduce, resize


def image(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_inside_is_that_of_the_antialiased_interpolation(scale: int) -> None:
    x = image(1, 2, 24 * scale, 20 * scale)
    for ours, size in ((reduce(x, scale), (24, 20)), (enlarge(x, scale), (24 * scale**2, 20 * scale**2))):
        theirs = functional.interpolate(x, size=size, mode="bicubic", antialias=True, align_corners=False)
        edge = 2 if size == (24, 20) else 2 * scale
        inner = (..., slice(edge, -edge), slice(edge, -edge))
        torch.testing.assert_close(ours[inner], theirs[inner], atol=1e-12, rtol=0)
        assert float((ours - theirs).abs().max()) > 1e-4  # at the edges it is another convention


@pytest.mark.parametrize(("n_in", "n_out"), [(12, 24), (12, 6), (24, 8), (24, 18), (5, 20)])
def test_the_image_is_mirrored_at_its_edges(n_in: int, n_out: int) -> None:
    x = image(n_in, n_in)
    mirrored = torch.from_numpy(np.pad(x.numpy(), n_in, mode="symmetric"))
    whole = resize(mirrored, 3 * n_out, 3 * n_out)[n_out : 2 * n_out, n_out : 2 * n_out]
    torch.testing.assert_close(resize(x, n_out, n_out), whole, atol=1e-12, rtol=0)


def test_weights_of_halving_and_doubling() -> None:
    """By hand from Keys' kernel at 1/4, 3/4, 5/4 and 7/4; half of it where it is stretched to twice its width."""
    step = torch.zeros(1, 16, dtype=torch.float64)
    step[0, 7] = 1
    halved = [-0.03515625, 0.43359375, 0.11328125, -0.01171875]
    torch.testing.assert_close(resize(step, 1, 8)[0, 2:6].tolist(), halved, atol=1e-12, rtol=0)
    doubled = [-0.0703125, 0.2265625, 0.8671875, 0.8671875, 0.2265625, -0.0703125]
    got = resize(step, 1, 32)[0]
    torch.testing.assert_close(got[12:18].tolist(), doubled, atol=1e-12, rtol=0)
    assert int((got != 0).nonzero().max()) <= 2 * (7 + REACH) + 1


def test_a_flat_image_stays_flat_and_odd_sides_are_refused() -> None:
    torch.testing.assert_close(enlarge(torch.full((1, 3, 4), 0.7), 3), torch.full((1, 9, 12), 0.7))
    with pytest.raises(ValueError, match=r"9x12 pixels reduced by 2: crop"):
        reduce(torch.zeros(9, 12), 2)
