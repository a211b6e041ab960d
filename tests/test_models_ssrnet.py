"""SSRNet: counted as in the paper; the fast order of computing gives what the plain one gives, everywhere."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hypermend.models.sharpen.ssrnet import SSRNet, fold, plain
from hypermend.models.signal.bicubic import enlarge


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small(scale: int, *, filters: int = 4, separable: bool = True, residual: bool = False) -> SSRNet:
    """One module, weights large enough for every path to count, norms apart from the directions' own."""
    torch.manual_seed(scale)
    net = SSRNet(scale, filters=filters, modules=1, separable=separable, residual=residual)
    for p in net.parameters():
        nn.init.uniform_(p, 0.2, 0.6) if p.ndim == 5 and p.shape[1:] == (1, 1, 1, 1) else nn.init.normal_(p, std=0.3)
    return net


@pytest.mark.parametrize(
    ("scale", "modules", "separable", "count"),
    [
        (2, 3, True, 1_275_138),
        (2, 3, False, 2_562_690),
        (3, 3, True, 1_385_730),
        (4, 3, True, 1_520_898),
        (2, 2, True, 916_866),
        (2, 4, True, 1_633_410),
        (2, 5, True, 1_991_682),
    ],
)
def test_the_papers_parameter_counts(scale: int, modules: int, separable: bool, count: int) -> None:
    net = SSRNet(scale, modules=modules, separable=separable)
    assert sum(p.numel() for p in net.parameters()) == count
    folded = sum(p.numel() for p in fold(net).parameters())
    assert folded < count and not any("original" in name for name, _ in net.named_parameters())


@settings(max_examples=40)
@given(
    scale=st.integers(2, 5),
    batch=st.integers(1, 2),
    bands=st.integers(1, 7),
    h=st.integers(1, 6),
    w=st.integers(1, 6),
    separable=st.booleans(),
    residual=st.booleans(),
)
def test_fast_is_plain_everywhere(
    scale: int, batch: int, bands: int, h: int, w: int, separable: bool, residual: bool
) -> None:
    net = small(scale, separable=separable, residual=residual)
    x = randn(batch, bands, h, w)
    with torch.no_grad():
        expected = plain(net, x)
        assert expected.shape == (batch, bands, scale * h, scale * w)
        size = float(expected.abs().max())
        torch.testing.assert_close(net(x), expected, atol=1e-5 * max(1.0, size), rtol=0)
        torch.testing.assert_close(fold(net)(x), expected, atol=1e-5 * max(1.0, size), rtol=0)


def test_fast_is_plain_at_the_papers_width() -> None:
    torch.manual_seed(0)
    net = SSRNet(2, modules=1)
    x = randn(1, 5, 9, 8)
    with torch.no_grad():
        torch.testing.assert_close(net(x), plain(net, x), atol=1e-5, rtol=0)


def test_gradients_are_those_of_the_plain_order() -> None:
    net, x = small(3).double(), randn(1, 4, 3, 5).double()
    found = []
    for forward in (net, lambda x: plain(net, x)):
        net.zero_grad()
        forward(x).square().sum().backward()  # type: ignore[no-untyped-call]
        found.append([p.grad for p in net.parameters() if p.grad is not None])
    assert len(found[0]) == len(list(net.parameters()))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_reach(scale: int) -> None:
    net = small(scale).double()
    at, n, bands = net.halo + 1, 2 * net.halo + 3, 2 * net.reach_bands + 3
    x = randn(1, bands, n, n).double()
    moved = x.clone()
    moved[0, bands // 2, at, at] += 1
    with torch.no_grad():
        changed = ((net(moved) - net(x)).abs()[0] > 0).nonzero()
    far_bands = int((changed[:, 0] - bands // 2).abs().max())
    far = int((changed[:, 1:] // scale - at).abs().max())
    assert far <= net.halo == 9 and far_bands <= net.reach_bands == 10
    assert far >= net.halo - 2 and far_bands >= net.reach_bands - 2  # no idle bound; random ReLUs may cut the last


def test_an_untrained_residual_network_is_bicubic() -> None:
    net, x = SSRNet(2, filters=4, modules=1, residual=True), randn(1, 3, 6, 7)
    torch.testing.assert_close(net(x), enlarge(x, 2))
    net(x).square().sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in net.parameters())


def test_impossible_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="x1"):
        SSRNet(1)
    with pytest.raises(ValueError, match="0 filters"):
        SSRNet(2, filters=0)
