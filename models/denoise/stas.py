"""STAS: the denoising network found by spectrum-aware architecture search, built from a genotype.

He et al., "Spectrum-aware and transferable architecture search for hyperspectral image restoration", ECCV 2022.
There is no public code; where the paper is silent the choice is said below. With c bands, E = 8c, M = 2c:

    Conv1   1x1  c -> E, ReLU, BN
    cell    four times, one architecture, own weights:
              x_0 = BN(ReLU(1x1  E -> M))
              x_k = sum_{j<k} MRB_jk(x_j),   k = 1..4             (ten edges, eq. of the modular residual block)
              out = concat(x_1..x_4) + cell input                 (4M = E channels, local skip)
              Conv2 on concat(out, cell input): depthwise 3x3, pointwise 2E -> E, ReLU, BN
    Conv3   1x1  E -> c;   output = input + Conv3(.)              (global skip)

    MRB(x) = x + BN(o(x)), o one of eight operations M -> M (`OPS`).

With groups 2, conv biases, affine BN after each edge's operation and a genotype of eight `conv3_dil_grouped` and two
`conv3` this has 1,430,991 parameters at c = 31; the paper says 1.43 M. Its genotypes are printed as pictures only.

Departures, all off by default: `width` replaces c in E and M, so that cost does not grow with the square of the bands;
`extra` input channels (noise level, local contrast) enter Conv1 and not the global skip; `activate` puts a ReLU before
each edge's operation (DARTS' habit; the table's letter is a plain convolution); `cells` other than four.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

SPACE = 1
"""Version of the search space that a genotype's names belong to."""
CELLS, NODES = 4, 4
EDGES = tuple((j, k) for k in range(1, NODES + 1) for j in range(k))
"""(from node, to node), in the order of a genotype."""
# name -> (kernel, dilation, grouped, separable)
OPS: dict[str, tuple[int, int, bool, bool]] = {
    "conv3": (3, 1, False, False),
    "conv5": (5, 1, False, False),
    "conv3_dil": (3, 2, False, False),
    "conv3_dil_grouped": (3, 2, True, False),
    "conv1": (1, 1, False, False),
    "conv1_grouped": (1, 1, True, False),
    "sep3_dil": (3, 2, False, True),
    "sep3_dil_grouped": (3, 2, True, True),
}
GROUPS = 2


@dataclass(frozen=True)
class Genotype:
    """An architecture as data: one operation for each of the ten edges of `EDGES`."""

    ops: tuple[str, ...]
    space: int = SPACE

    def __post_init__(self) -> None:
        """Check names and length.

        Raises:
            ValueError: another space version, not ten operations, or an unknown one.
        """
        if self.space != SPACE:
            raise ValueError(f"genotype of search space {self.space}; this code builds space {SPACE}")
        if len(self.ops) != len(EDGES):
            raise ValueError(f"genotype with {len(self.ops)} operations; a cell has {len(EDGES)} edges")
        for edge, op in zip(EDGES, self.ops, strict=True):
            if op not in OPS:
                raise ValueError(f"genotype edge {edge}: unknown operation {op!r}; known: {', '.join(OPS)}")

    def to_dict(self) -> dict[str, Any]:
        """JSON types; `from_dict` is the inverse."""
        return {"space": self.space, "ops": list(self.ops)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Genotype:
        """Parse JSON types."""
        return cls(ops=tuple(data["ops"]), space=int(data["space"]))

    @property
    def halo(self) -> int:
        """Pixels on each side that one output pixel depends on: the longest path through the cells.

        An operation reaches dilation * (kernel // 2); Conv2 of each cell one more.
        """
        reach = [0] * (NODES + 1)
        for (j, k), op in zip(EDGES, self.ops, strict=True):
            kernel, dilation, _, _ = OPS[op]
            reach[k] = max(reach[k], reach[j] + dilation * (kernel // 2))
        return CELLS * (max(reach) + 1)


def operation(name: str, m: int) -> nn.Sequential:
    """One of the eight operations, (B, m, H, W) -> (B, m, H, W), zero padded. The last layer is a convolution."""
    kernel, dilation, grouped, separable = OPS[name]
    groups = GROUPS if grouped else 1
    reach = dilation * (kernel // 2)
    if separable:
        return nn.Sequential(
            nn.Conv2d(m, m, kernel, padding=reach, dilation=dilation, groups=m),
            nn.Conv2d(m, m, 1, groups=groups),
        )
    return nn.Sequential(nn.Conv2d(m, m, kernel, padding=reach, dilation=dilation, groups=groups))


class Edge(nn.Module):
    """MRB(x) = x + BN(o(x)) with one operation; after `fold` the BN lives in the operation's last convolution."""

    def __init__(self, name: str, m: int, *, activate: bool) -> None:
        super().__init__()
        self.activate = activate
        self.op = operation(name, m)
        self.norm: nn.Module = nn.BatchNorm2d(m)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, M, H, W) -> the same."""
        y: torch.Tensor = self.norm(self.op(torch.relu(x) if self.activate else x))
        return x + y


class Cell(nn.Module):
    """Four nodes, ten edges, local skip, Conv2."""

    def __init__(self, edges: Iterable[nn.Module], width: int) -> None:
        super().__init__()
        e, m = 8 * width, 2 * width
        self.squeeze = nn.Sequential(nn.Conv2d(e, m, 1), nn.ReLU(), nn.BatchNorm2d(m))
        self.edges = nn.ModuleList(edges)
        self.conv2 = nn.Sequential(
            nn.Conv2d(2 * e, 2 * e, 3, padding=1, groups=2 * e),
            nn.Conv2d(2 * e, e, 1),
            nn.ReLU(),
            nn.BatchNorm2d(e),
        )

    def forward(self, x: torch.Tensor, choices: Sequence[Any] | None = None) -> torch.Tensor:
        """(B, E, H, W) -> the same. `choices`, one for each edge, go to the edges of a super-net."""
        nodes: list[torch.Tensor] = [self.squeeze(x)]  # (B, M, H, W)
        incoming: dict[int, torch.Tensor] = {}
        for i, ((j, k), edge) in enumerate(zip(EDGES, self.edges, strict=True)):
            y = edge(nodes[j]) if choices is None else edge(nodes[j], choices[i])
            incoming[k] = incoming[k] + y if k in incoming else y
            if j == k - 1:
                nodes.append(incoming[k])
        out = torch.cat(nodes[1:], dim=1) + x  # (B, 4M = E, H, W)
        mixed: torch.Tensor = self.conv2(torch.cat((out, x), dim=1))  # (B, 2E, H, W) -> (B, E, H, W)
        return mixed


class Trunk(nn.Module):
    """Conv1, the cells, Conv3 and the global skip: what the discrete network and the super-net share."""

    def __init__(self, cells: Iterable[Cell], channels: int, *, width: int, extra: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv1 = nn.Sequential(nn.Conv2d(channels + extra, 8 * width, 1), nn.ReLU(), nn.BatchNorm2d(8 * width))
        self.cells = nn.ModuleList(cells)
        self.conv3 = nn.Conv2d(8 * width, channels, 1)

    def forward(self, x: torch.Tensor, choices: Sequence[Any] | None = None) -> torch.Tensor:
        """(B, c + extra, H, W) -> (B, c, H, W)."""
        y: torch.Tensor = self.conv1(x)
        for cell in self.cells:
            y = cell(y, choices)
        y = self.conv3(y)
        return x[:, : self.channels] + y


class Stas(Trunk):
    """The discrete network. `halo` pixels at the border of the output are wrong by its zero padding: crop them."""

    def __init__(
        self,
        genotype: Genotype,
        channels: int,
        *,
        width: int | None = None,
        extra: int = 0,
        activate: bool = False,
        cells: int = CELLS,
    ) -> None:
        """Build with default initialisation.

        Args:
            genotype: the operation of each edge.
            channels: c, in and out.
            width: replaces c in E = 8c and M = 2c; None is the paper's.
            extra: further input channels, after the first c.
            activate: ReLU before each edge's operation.
            cells: the paper's four, or fewer to compare architectures cheaply.
        """
        w = channels if width is None else width
        own = (Cell((Edge(op, 2 * w, activate=activate) for op in genotype.ops), w) for _ in range(cells))
        super().__init__(own, channels, width=w, extra=extra)
        self.halo = genotype.halo // CELLS * cells


def fold(net: Stas) -> Stas:
    """Fold the BN of every edge into its convolution, in place, for inference. BNs after a ReLU stay.

    The output is the same to rounding; the network must not be trained afterwards.
    """
    net.eval()
    for module in net.modules():
        if isinstance(module, Edge) and isinstance(module.norm, nn.BatchNorm2d):
            last = module.op[-1]
            assert isinstance(last, nn.Conv2d)
            module.op[-1] = fuse_conv_bn_eval(last, module.norm)
            module.norm = nn.Identity()
    return net
