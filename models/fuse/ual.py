"""UAL: the networks of unsupervised adaptation learning, as the paper defines them. `correction_net.py` uses `Fusion`.

Zhang, Nie, Wei, Zhang, Liao, Shao, "Unsupervised adaptation learning for hyperspectral imagery super-resolution",
CVPR 2020. The public code is a different network; this follows the paper's text. With C = width (64), D = depth (3):

    mapping block   D times (3x3 convolution, ReLU), first to C channels
    Fusion          F_x = map(X), F_y = map(Y up), F_c = map(concat(Y up, X))
                    mutual guidance, for each branch i:  G = concat(F_i, the two others)      (3 C channels, own first)
                                                         F_i' = F_i * A(G) + B(G)             A, B mapping blocks
                    Z~ = 3x3 convolution of concat(F_x', F_y', F_c')
    Adaptation      F = map(Z~), self-guiding F' = F * A(F) + B(F), Z^ = Z~ + 3x3 convolution of F', zero at first
    Degradation     one 32x32 kernel for all bands, stride s (convention of `signal/degrade.py`)

Parameters at b = 31 bands and m = 3 guide bands: Fusion 683,551 with one pair A, B for the three branches (blocks
260,928 + 2 x 184,512 + head 53,599), 1,421,599 with a pair for each; Adaptation 331,231 (91,776 + 2 x 110,784 +
17,887). The last layer of A and of B has no ReLU, so F' can have any sign.
"""

from __future__ import annotations

import torch
from torch import nn

from hypermend.models.signal.degrade import blur_down, gaussian_kernel

KERNEL_PX = 32
"""Edge of the kernel that the paper learns, in HR pixels."""


def mapping(channels: int, width: int, depth: int, *, open_end: bool = False) -> nn.Sequential:
    """Return a mapping block, `depth` times (3x3 convolution, ReLU), channels -> width; `open_end`: no last ReLU."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Conv2d(channels if i == 0 else width, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*(layers[:-1] if open_end else layers))


class Guidance(nn.Module):
    """Mutual guidance or self-guidance, F' = F * A(G) + B(G)."""

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.a = mapping(channels, width, depth, open_end=True)
        self.b = mapping(channels, width, depth, open_end=True)

    def forward(self, f: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """(B, width, H, W) and (B, channels, H, W) -> as the first."""
        y: torch.Tensor = f * self.a(g) + self.b(g)
        return y


class Fusion(nn.Module):
    """The paper's fusion network. `halo` pixels at the border of its output depend on the zero padding: crop them."""

    def __init__(
        self,
        bands: int,
        guide_bands: int,
        *,
        out: int | None = None,
        width: int = 64,
        depth: int = 3,
        stages: int = 1,
        shared: bool = True,
    ) -> None:
        """Build with default initialisation.

        Args:
            bands: bands of the upsampled image.
            guide_bands: bands of the guide.
            out: output channels; None: `bands`.
            width: C.
            depth: D.
            stages: number of mutual guidances; 1 in the paper.
            shared: one pair A, B for all three branches of a stage, not one each.
        """
        super().__init__()
        self.halo = depth * (1 + stages) + 1
        self.branches = nn.ModuleList(mapping(c, width, depth) for c in (guide_bands, bands, bands + guide_bands))
        self.stages = nn.ModuleList(
            nn.ModuleList(Guidance(3 * width, width, depth) for _ in range(1 if shared else 3)) for _ in range(stages)
        )
        self.head = nn.Conv2d(3 * width, bands if out is None else out, 3, padding=1)

    def forward(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """(B, bands, H, W), (B, guide_bands, H, W) -> (B, out, H, W)."""
        f = [branch(i) for branch, i in zip(self.branches, (x, y, torch.cat((y, x), dim=1)), strict=True)]
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleList)
            own_first = [torch.cat((f[i], *(f[j] for j in range(3) if j != i)), dim=1) for i in range(3)]
            f = [stage[i % len(stage)](f[i], own_first[i]) for i in range(3)]
        out: torch.Tensor = self.head(torch.cat(f, dim=1))
        return out


class Adaptation(nn.Module):
    """The paper's adaptation network: adds a correction to a fused image. The correction is zero at first."""

    def __init__(self, bands: int, *, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.halo = 2 * depth + 1
        self.map = mapping(bands, width, depth)
        self.guide = Guidance(width, width, depth)
        self.head = nn.Conv2d(width, bands, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """(B, bands, H, W) -> the same."""
        f = self.map(z)
        out: torch.Tensor = z + self.head(self.guide(f, f))
        return out


class Degradation(nn.Module):
    """The paper's learned blur. `kernel_estimate.py` estimates it in closed form instead."""

    def __init__(self, scale: int, *, size: int = KERNEL_PX, sigma_px: float = 2.0) -> None:
        """Start from a Gaussian."""
        super().__init__()
        self.scale = scale
        self.kernel = nn.Parameter(torch.from_numpy(gaussian_kernel(size, sigma_px)).float())

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """(B, b, s*h, s*w) -> (B, b, h, w)."""
        return blur_down(z, self.kernel, self.scale)
