"""Super-net of the search: edges that mix the eight operations of `stas.OPS` by eight weights.

He et al., "Spectrum-aware and transferable architecture search for hyperspectral image restoration", ECCV 2022, mix
them as x + sum_l a_l o_l(x). Where the paper is silent, three forms (`FORMS`):

    plain          x + sum_l a_l o_l(x)                          the paper's table: convolutions alone
    relu_conv_bn   x + sum_l a_l BN_l(o_l(ReLU(x)))              DARTS' habit; these BNs have no scale, as there
    relu_conv      x + BN(sum_l a_l o_l(ReLU(x)))                one ReLU and one BN: what a discrete edge has

Without a BN inside the sum every operation is linear with a 5x5 support, so the sum is ONE convolution with the kernel
sum_l a_l W_l (`merge`): the same value and the same gradients of alpha and of each W_l, for an eighth of the maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.nn import functional

from hypermend.models.denoise.stas import CELLS, EDGES, GROUPS, OPS, Cell, Genotype, Trunk, operation

Form = Literal["plain", "relu_conv_bn", "relu_conv"]
FORMS: tuple[Form, ...] = get_args(Form)
SUPPORT = 5
"""Edge of the square that every operation's kernel fits into."""


def merge(ops: Iterable[nn.Module], weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The operations' weighted sum as one convolution, differentiable in the weights and in every parameter.

    A separable operation is a matrix after a depthwise kernel, W[o, i, :, :] = P[o, i] D[i, :, :].

    Args:
        ops: the eight operations on M channels, in the order of `OPS`.
        weight: (8,).

    Returns:
        Kernel (M, M, 5, 5) for a padding of 2, and bias (M,).
    """
    sums: dict[tuple[int, int], torch.Tensor] = {}  # (size, dilation) -> (M, M, size, size)
    biases = []
    for (size, dilation, grouped, separable), op, a in zip(OPS.values(), ops, weight.unbind(), strict=True):
        assert isinstance(op, nn.Sequential)
        last: Any = op[-1]
        m, groups = last.out_channels, GROUPS if grouped else 1
        w, b = last.weight.view(groups, m // groups, m // groups, *last.kernel_size), last.bias  # (group, out, in, ...)
        if separable:
            depth: Any = op[0]
            b = b + (w[..., 0, 0] * depth.bias.view(groups, 1, -1)).sum(2).flatten()
            w = w * depth.weight.view(groups, 1, m // groups, size, size)
        w = a * w
        if grouped:  # zero between the groups
            eye = torch.eye(groups, dtype=w.dtype, device=w.device)
            w = w[:, :, None] * eye[:, None, :, None, None, None]  # (group, out, group, in, size, size)
        w = w.reshape(m, m, size, size)
        sums[size, dilation] = sums[size, dilation] + w if (size, dilation) in sums else w
        biases.append(a * b)
    kernel = w.new_zeros(m, m, SUPPORT, SUPPORT)
    for (size, dilation), w in sums.items():
        reach = dilation * (size // 2)
        taps = slice(SUPPORT // 2 - reach, SUPPORT // 2 + reach + 1, dilation)
        kernel[..., taps, taps] += w
    return kernel, torch.stack(biases).sum(0)


class MixedEdge(nn.Module):
    """The eight operations on one edge, mixed by eight weights or one of them alone."""

    def __init__(self, m: int, *, form: Form, merged: bool) -> None:
        """Build with default initialisation.

        Raises:
            ValueError: channels that do not divide into groups, an unknown form, or one that cannot be merged.
        """
        super().__init__()
        if m < 1 or m % GROUPS:
            raise ValueError(f"{m} channels do not divide into {GROUPS} groups; take a multiple of {GROUPS}")
        if form not in FORMS:
            raise ValueError(f"unknown form {form!r} of the edge; known: {', '.join(FORMS)}")
        if merged and form == "relu_conv_bn":
            raise ValueError("form 'relu_conv_bn' normalises each operation, so they cannot be merged; merged=False")
        self.form, self.merged = form, merged
        self.ops = nn.ModuleList(operation(name, m) for name in OPS)
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(m, affine=False) if form == "relu_conv_bn" else nn.Identity() for _ in OPS
        )
        self.norm = nn.BatchNorm2d(m) if form == "relu_conv" else nn.Identity()

    def forward(self, x: torch.Tensor, choice: torch.Tensor | int) -> torch.Tensor:
        """(B, M, H, W) -> the same; `choice` is eight weights, or the number of one operation."""
        y = x if self.form == "plain" else torch.relu(x)
        if isinstance(choice, int):
            mixed = self._one(choice, y)
        elif self.merged:
            kernel, bias = merge(self.ops, choice)
            mixed = functional.conv2d(y, kernel, bias, padding=SUPPORT // 2)
        else:
            mixed = choice[0] * self._one(0, y)
            for i in range(1, len(OPS)):
                mixed = mixed + choice[i] * self._one(i, y)
        out: torch.Tensor = x + self.norm(mixed)
        return out

    def _one(self, i: int, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norms[i](self.ops[i](x))
        return y


class SuperNet(Trunk):
    """STAS with mixed edges. `alpha` (10, 8) is the architecture, all other parameters are theta."""

    def __init__(
        self,
        channels: int,
        *,
        width: int | None = None,
        extra: int = 0,
        form: Form = "relu_conv",
        merged: bool | None = None,
        cells: int = CELLS,
        seed: int = 0,
    ) -> None:
        """Build, with weights drawn from `seed` alone; alpha begins near zero, as in DARTS.

        Args:
            channels: c, in and out.
            width: replaces c in E = 8c and M = 2c; None is the paper's.
            extra: further input channels, after the first c.
            form: form of the edge, see the head of this file.
            merged: one convolution for each edge; None: where the form allows it.
            cells: the paper's four, or fewer to compare architectures cheaply.
            seed: seed of the initial weights.

        Raises:
            ValueError: as for `MixedEdge`.
        """
        w = channels if width is None else width
        merged = form != "relu_conv_bn" if merged is None else merged
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            own = (Cell((MixedEdge(2 * w, form=form, merged=merged) for _ in EDGES), w) for _ in range(cells))
            super().__init__(own, channels, width=w, extra=extra)
            self.alpha = nn.Parameter(1e-3 * torch.randn(len(EDGES), len(OPS)))

    def forward(self, x: torch.Tensor, choices: Sequence[Any] | None = None) -> torch.Tensor:
        """(B, c + extra, H, W) -> (B, c, H, W), mixed by alpha, or along the path of ten operation numbers."""
        return super().forward(x, self.weights().unbind() if choices is None else choices)

    def weights(self) -> torch.Tensor:
        """(10, 8), rows sum to 1."""
        return self.alpha.softmax(dim=1)

    def theta(self) -> list[nn.Parameter]:
        """All parameters but alpha."""
        return [p for p in self.parameters() if p is not self.alpha]

    def derive(self) -> Genotype:
        """Return the genotype of the strongest operation of each edge."""
        return decode_genotype(self.alpha.detach().argmax(dim=1).tolist())


def path(genotype: Genotype) -> list[int]:
    """Return a genotype as choices of a super-net, one operation number for each edge."""
    names = list(OPS)
    return [names.index(op) for op in genotype.ops]


def decode_genotype(numbers: Iterable[int]) -> Genotype:
    """Return the genotype of operation numbers, one for each edge; the inverse of `path`."""
    names = list(OPS)
    return Genotype(tuple(names[int(i)] for i in numbers))
