"""SSRNet: super-resolution of a single hyperspectral image with separable 3-D convolutions (Wang, Li, Li).

    head     3x3x3  1 -> C
    module   D times, the head's output added after each:
               u_1 = unit(x), u_2 = unit(u_1), u_3 = unit(u_2);    unit(x) = x + f(f(x))
               out = f(ReLU(1x1x1 [u_1, u_2, u_3] -> C) + x)
    f        (1,3,3), ReLU, (3,1,1), ReLU; or, not separable, 3x3x3, ReLU
    tail     transposed (3, 2+r, 2+r), stride (1, r, r), C -> C; nothing between; 3x3x3 C -> 1

Axes of a kernel are (band, row, column). Every convolution has a bias and weight norm. With C = 64 and D = 3 this has
the paper's 1,275,138 parameters at r = 2 (2,562,690 not separable).

It is computed in another order than it is written, with the same result (`plain` is the letter, and the tests'
reference). Features are (B, L, H, W, C), L bands, so that (1,3,3) and (3,1,1) are 2-D convolutions of views, which are
faster than 3-D ones; the tail is one linear map from features to sub-pixels (see `Tail`).

Departure, off by default: `residual` adds the bicubic enlargement to the output and starts from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from hypermend.models.signal.bicubic import enlarge

UNITS = 3
"""Convolutions of a module, chained."""


class Factor(nn.Module):
    """f: a 3x3x3 convolution, or its two factors, a ReLU after each."""

    def __init__(self, filters: int, *, separable: bool) -> None:
        super().__init__()
        kernels = ((1, 3, 3), (3, 1, 1)) if separable else ((3, 3, 3),)
        self.convs = nn.ModuleList(_conv(filters, filters, kernel) for kernel in kernels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, L, H, W, C) -> the same."""
        for conv in self.convs:
            x = functional.relu(_convolve(x, conv), inplace=True)
        return x


class SSRModule(nn.Module):
    """Three chained units, their outputs mixed, local skip."""

    def __init__(self, filters: int, *, separable: bool) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            nn.Sequential(Factor(filters, separable=separable), Factor(filters, separable=separable))
            for _ in range(UNITS)
        )
        self.mix = _conv(UNITS * filters, filters, (1, 1, 1))
        self.last = Factor(filters, separable=separable)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, L, H, W, C) -> the same."""
        first, second, third = self.units
        w1, w2, w3 = self.mix.weight.flatten(1).chunk(UNITS, dim=1)  # (C, C) each: mixes without the concat
        u: torch.Tensor = x + first(x)
        mixed = functional.linear(u, w1, self.mix.bias)
        u = u + second(u)
        mixed += functional.linear(u, w2)
        u = u + third(u)
        mixed += functional.linear(u, w3)
        y: torch.Tensor = self.last(functional.relu(mixed, inplace=True) + x)
        return y


class Tail(nn.Module):
    """Transposed convolution and convolution as one 5x3x3 convolution to r*r sub-pixels; no fine 64-channel image.

    With u the transposed convolution's output, y[q] = sum_t w2[t] u[q + t - 1] and u[p] = sum_i x[i] w1[p + 1 - r i]
    give y[r j + s] = sum_d x[j + d] sum_t w2[t] w1[s + t - r d], along every axis (r = 1 for bands). The sum over t is
    a kernel for each sub-pixel s. At the edges of u the convolution sees zeros and not what the transposed convolution
    would go on with: the first and last row, column and band have kernels of their own, without the t that reach out.
    """

    def __init__(self, filters: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        kernel = (3, 2 + scale, 2 + scale)
        self.spread = weight_norm(nn.ConvTranspose3d(filters, filters, kernel, stride=(1, scale, scale), padding=1))
        self.gather = _conv(filters, 1, (3, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, L, H, W, C) -> (B, L, r*H, r*W)."""
        assert self.spread.bias is not None and self.gather.bias is not None
        w1, w2 = self.spread.weight, self.gather.weight[0]  # (C, C, 3, 2+r, 2+r), (C, 3, 3, 3)
        each = torch.einsum("imzyx,mabc->abcizyx", w1, w2)
        # What tap t = (a, b, c) of w2 adds to the kernel sum_t w2[t] w1[k + t], k from -2: (3, 3, 3, C, 5, r+4, r+4).
        taps = torch.stack(
            [functional.pad(each[a, b, c], (2 - c, c, 2 - b, b, 2 - a, a)) for a, b, c in product(range(3), repeat=3)]
        ).view(3, 3, 3, *each.shape[3:4], 5, self.scale + 4, self.scale + 4)
        return self._along(x, taps, torch.einsum("m,mabc->abc", self.spread.bias, w2), axis=0) + self.gather.bias

    def _along(self, x: torch.Tensor, taps: torch.Tensor, bias: torch.Tensor, axis: int) -> torch.Tensor:
        """The output, with its first and last slice along `axis` and all further axes from kernels of their own.

        Args:
            x: (B, L, H, W, C).
            taps: (3 or fewer, ..., C, 5, r+4, r+4), those taps of `gather` that stay inside.
            bias: (3 or fewer, ...), what `spread`'s bias comes to through them.
            axis: 0 bands, 1 rows, 2 columns; 3 is none.
        """
        if axis == 3:
            return self._subpixels(x, taps.sum((0, 1, 2)), bias.sum())
        n, side = x.shape[axis + 1], axis + 1
        if axis == 0 and n == 1:  # one band is the first and the last
            return self._along(x, taps[1:2], bias[1:2], axis=1)
        reach = min(n, 3 if axis == 0 else 2)  # input slices that the outermost output slice depends on
        first = self._along(x.narrow(side, 0, reach), taps.narrow(axis, 1, 2), bias.narrow(axis, 1, 2), axis + 1)
        middle = self._along(x, taps, bias, axis + 1)
        last = self._along(x.narrow(side, n - reach, reach), taps.narrow(axis, 0, 2), bias.narrow(axis, 0, 2), axis + 1)
        size = middle.shape[side]
        parts = (first.narrow(side, 0, 1), middle.narrow(side, 1, size - 2), last.narrow(side, last.shape[side] - 1, 1))
        return torch.cat(parts, dim=side)

    def _subpixels(self, x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Convolve with kernel (C, 5, r+4, r+4) and lay the sub-pixels out: (B, L, r*H, r*W)."""
        (b, bands, h, w, c), r = x.shape, self.scale
        # Index k + r of (C, 5, 3r, 3r) is k = s - r d: blocks d = 1, 0, -1 of r sub-pixels s each.
        blocks = functional.pad(kernel, (r - 2,) * 4).view(c, 5, 3, r, 3, r).flip((1, 2, 4))
        weight = blocks.permute(1, 3, 5, 0, 2, 4).reshape(5 * r * r, c, 3, 3)
        z = _planes(x, weight, None).view(b, bands, h, w, 5, r, r)  # (B, L, H, W, 5, r, r)
        y = bias
        for d in range(max(0, 3 - bands), min(5, 2 + bands)):  # y[l] = sum_d z_d[l + d - 2]
            y = y + functional.pad(z[..., d, :, :], (0,) * 8 + (2 - d, d - 2))
        return y.permute(0, 1, 2, 4, 3, 5).reshape(b, bands, r * h, r * w)


class SSRNet(nn.Module):
    """The network. `halo` pixels at the border of its input are seen as zero beyond it: crop them."""

    def __init__(
        self, scale: int, *, filters: int = 64, modules: int = 3, separable: bool = True, residual: bool = False
    ) -> None:
        """Build with default initialisation.

        Args:
            scale: r, output pixels for each input pixel along rows and columns; 2 or more.
            filters: C.
            modules: D.
            separable: (1,3,3) and (3,1,1) for each f, or 3x3x3.
            residual: add the bicubic enlargement; the untrained network is then bicubic.

        Raises:
            ValueError: a scale below 2, or no filter or module.
        """
        super().__init__()
        if scale < 2 or filters < 1 or modules < 1:
            raise ValueError(f"SSRNet x{scale}, {filters} filters, {modules} modules: needs at least x2, 1 and 1")
        self.scale, self.filters, self.residual = scale, filters, residual
        self.halo = 2 + modules * (2 * UNITS + 1)
        """Input pixels around an output pixel that it depends on."""
        self.reach_bands = self.halo + 1
        """The same in bands: the tail looks two bands far."""
        self.head = _conv(1, filters, (3, 3, 3))
        self.modules_ = nn.ModuleList(SSRModule(filters, separable=separable) for _ in range(modules))
        self.tail = Tail(filters, scale)
        if residual:
            gather = dict(self.tail.gather.named_parameters())
            nn.init.zeros_(gather["parametrizations.weight.original0"])  # the norm: a direction cannot be zero
            nn.init.zeros_(gather["bias"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, L, H, W) -> (B, L, r*H, r*W)."""
        near = functional.pad(x, (0, 0, 0, 0, 1, 1))
        near = torch.stack((near[:, :-2], x, near[:, 2:]), dim=-1)  # (B, L, H, W, 3): bands as channels
        y = head = _planes(near, self.head.weight[:, 0], self.head.bias)
        for module in self.modules_:
            y = module(y) + head
        out: torch.Tensor = self.tail(y)
        return out + enlarge(x, self.scale) if self.residual else out


def fold(net: SSRNet) -> SSRNet:
    """Fold weight norm into the weights, in place, for inference. The output is the same; no training afterwards."""
    for module in net.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return net.eval()


def plain(net: SSRNet, x: torch.Tensor) -> torch.Tensor:
    """Compute `net(x)` in 3-D convolutions, as the paper has it: the reference for tests and timings."""

    def factor(f: nn.Module, x: torch.Tensor) -> torch.Tensor:
        for conv in f.convs:  # type: ignore[union-attr]
            x = functional.relu(conv(x))
        return x

    y = head = net.head(x[:, None])  # (B, C, L, H, W)
    for module in net.modules_:
        u, outputs = y, []
        for first, second in module.units:  # type: ignore[union-attr]
            u = u + factor(second, factor(first, u))
            outputs.append(u)
        y = factor(module.last, functional.relu(module.mix(torch.cat(outputs, dim=1))) + y) + head  # type: ignore
    out: torch.Tensor = net.tail.gather(net.tail.spread(y))[:, 0]
    return out + enlarge(x, net.scale) if net.residual else out


def _conv(inputs: int, outputs: int, kernel: Sequence[int]) -> nn.Conv3d:
    size = (kernel[0], kernel[1], kernel[2])
    conv = nn.Conv3d(inputs, outputs, size, padding=(size[0] // 2, size[1] // 2, size[2] // 2))
    weight_norm(conv)
    return conv


def _planes(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Convolve each band's plane: (B, L, H, W, C) with (C', C, 3, 3) -> (B, L, H, W, C')."""
    b, bands, h, w, _ = x.shape
    y = functional.conv2d(x.flatten(0, 1).permute(0, 3, 1, 2), weight, bias, padding=1)
    return y.permute(0, 2, 3, 1).reshape(b, bands, h, w, -1)


def _convolve(x: torch.Tensor, conv: nn.Module) -> torch.Tensor:
    """`conv` with a kernel of (1,3,3), (3,1,1) or (3,3,3), (B, L, H, W, C) -> (B, L, H, W, C')."""
    assert isinstance(conv, nn.Conv3d)
    weight, bias = conv.weight, conv.bias
    if weight.shape[2] == 1:
        return _planes(x, weight[:, :, 0], bias)
    if weight.shape[3:] == (1, 1):
        b, bands, h, w, _ = x.shape
        y = functional.conv2d(x.flatten(2, 3).permute(0, 3, 1, 2), weight[..., 0], bias, padding=(1, 0))
        return y.permute(0, 2, 3, 1).reshape(b, bands, h, w, -1)
    return functional.conv3d(x.permute(0, 4, 1, 2, 3), weight, bias, padding=1).permute(0, 2, 3, 4, 1)
