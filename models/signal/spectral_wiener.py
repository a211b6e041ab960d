"""Local spectral Wiener filter: an estimate of coefficients, made plausible by how they vary together nearby.

In a window around a pixel the coefficients f of a first estimate have a mean m and a covariance S. What is left of the
noise, of about `LEFT` of its variance in every coefficient, spreads over all directions; the signal of a window lies in
the few of its materials:

    f' = m + S (S + LEFT I)^-1 (f - m)

The first estimate treats each coefficient on its own; this one couples them. Windows are measured for each cell of 4x4
pixels, and the results of the four nearest cells are mixed. Cells begin at the first pixel: a tile has to begin at a
multiple of 4 pixels of its scene.
"""

from __future__ import annotations

import torch
from torch.nn import functional

LEFT = 0.02
"""Variance of the error of the first estimate, in units of the noise."""
CELL_PX, WINDOW_CELLS = 4, 5
"""A window is 5x5 cells of 4x4 pixels."""
REACH_PX = CELL_PX // 2 - 1 + CELL_PX * (WINDOW_CELLS // 2 + 1)
"""Pixels on each side that the filter depends on."""


def spectral_wiener(first: torch.Tensor) -> torch.Tensor:
    """Filter coefficients whose noise was white, of standard deviation 1, (B, K, H, W) -> the same."""
    k, (h, w) = first.shape[1], first.shape[2:]
    f = functional.pad(first, (0, -w % CELL_PX, 0, -h % CELL_PX), mode="replicate")
    mean = _windows(f)  # (B, K, h, w), in cells
    second = mean.new_empty((*mean.shape[:1], k, k, *mean.shape[2:]))
    for i in range(k):
        row = _windows(f[:, i : i + 1] * f[:, i:])
        second[:, i, i:] = row
        second[:, i:, i] = row
    covariance = (second - mean[:, None] * mean[:, :, None]).permute(0, 3, 4, 1, 2)  # (B, h, w, K, K)
    eye = torch.eye(k, dtype=f.dtype, device=f.device)
    # 1 - LEFT (S + LEFT I)^-1 = S (S + LEFT I)^-1
    gain = eye - LEFT * torch.cholesky_inverse(torch.linalg.cholesky(covariance + LEFT * eye))
    offset = mean - torch.einsum("nhwij,njhw->nihw", gain, mean)
    return _mixed(f, gain, offset)[..., :h, :w]


def _windows(images: torch.Tensor) -> torch.Tensor:
    """Means of the windows, (B, N, H, W) -> (B, N, H / 4, W / 4); a window ends where the image does."""
    cells = functional.avg_pool2d(images, CELL_PX)
    return functional.avg_pool2d(cells, WINDOW_CELLS, stride=1, padding=WINDOW_CELLS // 2, count_include_pad=False)


def _mixed(f: torch.Tensor, gain: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """gain f + offset of the four cells around each pixel, mixed by their distances (bilinear)."""
    n, k, height, width = f.shape
    rows, columns = height // CELL_PX + 1, width // CELL_PX + 1
    half = CELL_PX // 2
    near = (torch.arange(CELL_PX, device=f.device, dtype=f.dtype) + 0.5) / CELL_PX
    # Pixels between the centres of four cells form a block; blocks are half a cell off the grid of the cells.
    blocks = functional.pad(f, (half,) * 4).reshape(n, k, rows, CELL_PX, columns, CELL_PX)
    gain = functional.pad(gain.flatten(3).permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate")
    gain = gain.reshape(n, k, k, rows + 1, columns + 1)
    offset = functional.pad(offset, (1, 1, 1, 1), mode="replicate")
    out = torch.zeros_like(blocks)
    for y, down in ((0, 1 - near), (1, near)):
        for x, across in ((0, 1 - near), (1, near)):
            corner = (..., slice(y, y + rows), slice(x, x + columns))
            part = torch.einsum("nijrc,njrpcq->nirpcq", gain[corner], blocks)
            part += offset[corner][:, :, :, None, :, None]
            out += part * down[:, None, None] * across
    return out.flatten(4, 5).flatten(2, 3)[..., half : half + height, half : half + width]
