"""A first estimate of each coefficient without training: shrinkage of a sliding 8x8 DCT, two passes, two scales.

Whitened coefficients have noise of standard deviation 1, so one threshold holds for every scene. All 64 shifts of the
block grid are averaged, which makes the estimate the same function of the surroundings in every pixel.

    pass 1  hard threshold, weight of a block 1 / (coefficients kept)          Guleryuz, TIP 2007
    pass 2  Wiener gains p^2 / (p^2 + 1) from pass 1's coefficients p           BM3D's second step, Dabov et al., 2007
    scales  the means of 2x2 pixels are estimated in the same way and replace   Pierazzo & Facciolo, "Multi-scale DCT
            those of the fine estimate: blocks of 8 see no waves longer than 8  denoising", IPOL 2017

The 2x2 cells begin at the first pixel: a tile has to begin at an even pixel of its scene.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional

BLOCK = 8
THRESHOLD = ((2.0, 2.8), (1.3, 3.7))
"""(power, threshold) of a strong and of a weak coefficient, linear between: what is sparser takes a higher one."""
ONE_SCALE_HALO = 2 * (BLOCK - 1)
"""Pixels on each side that the estimate on one scale depends on: a block's reach in each pass."""
HALO = 2 * ONE_SCALE_HALO + 4
"""Pixels on each side that the estimate depends on: the coarse scale's reach, and the cells beside it."""
LONG = 4
"""Pixels of the cells from which the longest waves come."""
LONG_THRESHOLD = 2.5
"""Lower than of the finer scales: there is 1/16 of the noise to let through, and weak signal lives in long waves."""
CACHED_PX, GPU_PX = 2**14, 2**20
"""Pixels of the images worked on at once, if there are several: 64 numbers each on a GPU, 8 on a CPU."""
STRIP = 8
"""Rows of blocks that a CPU works on at once: their spectra, 64 numbers a pixel, stay in its cache."""


def _dct() -> torch.Tensor:
    """(8, 8) orthonormal: rows are frequencies, columns the pixels of a line."""
    k = torch.arange(BLOCK, dtype=torch.float64)
    c = math.sqrt(2 / BLOCK) * torch.cos(math.pi * (2 * k[None] + 1) * k[:, None] / (2 * BLOCK))
    c[0] /= math.sqrt(2)
    return c.float()


DCT = _dct()


def dct_denoise(z: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    """First estimate of coefficients with unit white noise.

    Args:
        z: (B, K, H, W); the outer `HALO` pixels of the answer depend on how the image goes on, here its edge repeated.
        power: (K,) second moment of each coefficient over the scene.

    Returns:
        (B, K, H, W).
    """
    fine = dct_denoise_single_scale(z, power)
    # A mean of 2x2 pixels has half the noise, so in units of its own noise it is twice as strong.
    coarse = dct_denoise_single_scale(2 * _cells(z), 1 + 4 * (power - 1)) / 2
    better = functional.interpolate(coarse - _cells(fine), scale_factor=2, mode="bilinear", align_corners=False)
    return fine + better[..., : z.shape[2], : z.shape[3]]


def low_frequency_residual(z: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """Estimate the waves longer than 16 pixels that an estimate lacks: hard threshold, one pass, means of 4x4 pixels.

    Args:
        z: (B, K, H, W) coefficients with unit white noise.
        first: (B, K, H, W) their estimate.

    Returns:
        (B, K, H, W), to be added to the estimate; depends on 42 pixels around it, and on those of `first`.
    """
    h, w = z.shape[2:]
    edges = (0, -w % (2 * LONG), 0, -h % (2 * LONG))
    noisy, known = (
        functional.avg_pool2d(functional.pad(x, edges, mode="replicate"), LONG).flatten(0, 1) for x in (z, first)
    )

    def hard(spectra: torch.Tensor, _: slice) -> torch.Tensor:
        return (spectra.abs() > LONG_THRESHOLD).to(spectra.dtype)

    lacking = _shrunk(_lines(LONG * noisy), noisy.shape, hard) / LONG - known  # (B K, h / 4, w / 4)
    means = functional.avg_pool2d(lacking[None], 2)
    smooth = functional.interpolate(means, scale_factor=2 * LONG, mode="bilinear", align_corners=False)
    return smooth[..., :h, :w].reshape(z.shape)


def _cells(z: torch.Tensor) -> torch.Tensor:
    """Means of 2x2 pixels, (B, K, H, W) -> (B, K, ceil(H / 2), ceil(W / 2)); an odd last line is repeated."""
    odd = (0, z.shape[3] % 2, 0, z.shape[2] % 2)
    return functional.avg_pool2d(functional.pad(z, odd, mode="replicate"), 2)


def dct_denoise_single_scale(z: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    """The estimate from the pixels as they are, (B, K, H, W), (K,) -> (B, K, H, W): waves up to 8 pixels long."""
    (strong, low), (weak, high) = THRESHOLD
    threshold = low + (high - low) * ((strong - power) / (strong - weak)).clamp(0, 1)  # (K,)
    images = z.flatten(0, 1)  # (B K, H, W)
    levels = threshold.repeat(len(z))[:, None, None, None]
    # A few images at a time.
    at_once = max(1, (CACHED_PX if z.device.type == "cpu" else GPU_PX) // images[0].numel())
    parts = [_two_passes(i, t) for i, t in zip(torch.split(images, at_once), torch.split(levels, at_once), strict=True)]
    return torch.cat(parts).reshape(z.shape)


def _two_passes(images: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """(N, H, W), (N, 1, 1, 1) -> (N, H, W)."""

    def hard(spectra: torch.Tensor, _: slice) -> torch.Tensor:
        return (spectra.abs() > threshold).to(spectra.dtype)

    def wiener(_: torch.Tensor, rows: slice) -> torch.Tensor:
        power = _spectra(first, rows).square_()
        return power.div_(power + 1)

    lines = _lines(images)
    first = _lines(_shrunk(lines, images.shape, hard))
    return _shrunk(lines, images.shape, wiener)


def _lines(images: torch.Tensor) -> torch.Tensor:
    """DCT of 8 pixels to the right of every pixel, (N, H, W) -> (N, H + 14, 8, W + 7), the edges repeated."""
    padded = functional.pad(images[None], (BLOCK - 1,) * 4, mode="replicate")[0]
    return DCT.to(images.device) @ padded.unfold(2, BLOCK, 1).transpose(2, 3)


def _spectra(lines: torch.Tensor, rows: slice) -> torch.Tensor:
    """DCT of every 8x8 block that begins in ``rows``, (N, H + 14, 8, W + 7) -> (N, rows, 64, W + 7)."""
    n, _, _, width = lines.shape
    below = lines[:, rows.start : rows.stop + BLOCK - 1].flatten(2).unfold(1, BLOCK, 1)  # (N, rows, 8 (W + 7), 8)
    return (DCT.to(lines.device) @ below.transpose(2, 3)).view(n, -1, BLOCK * BLOCK, width)


def _shrunk(
    lines: torch.Tensor, shape: torch.Size, gain: Callable[[torch.Tensor, slice], torch.Tensor]
) -> torch.Tensor:
    """Every block's spectrum times its gains, back to pixels: the mean over the 64 blocks that hold a pixel.

    Args:
        lines: what `_lines` made of images of ``shape`` (N, H, W).
        gain: (spectra (N, rows, 64, W + 7), rows) -> factors of that shape, 0 to 1. The weight of a block is
            1 / their sum.
    """
    n, height, width = shape
    inverse = DCT.T.to(lines.device)
    strip = STRIP if lines.device.type == "cpu" else height + BLOCK - 1
    columns = torch.zeros_like(lines)  # (N, H + 14, 8, W + 7): inverted along y
    weights = lines.new_empty(n, height + BLOCK - 1, width + BLOCK - 1)
    for start in range(0, height + BLOCK - 1, strip):
        rows = slice(start, min(start + strip, height + BLOCK - 1))
        spectra = _spectra(lines, rows)  # (N, rows, 64, W + 7)
        gains = gain(spectra, rows)
        weights[:, rows] = gains.sum(2).clamp_min_(1.0).reciprocal_()
        spectra.mul_(gains).mul_(weights[:, rows, None])
        back = inverse @ spectra.view(n, -1, BLOCK, BLOCK * (width + BLOCK - 1))  # (N, rows, 8 y, 8 (W + 7))
        for y in range(rows.start, rows.stop):  # from above to below, so that a sum is the same in every tile
            columns[:, y : y + BLOCK] += back[:, y - rows.start].view(n, BLOCK, BLOCK, -1)
    across = inverse @ columns  # (N, H + 14, 8 x, W + 7)
    total = lines.new_zeros(n, height, width)
    for x in range(BLOCK):  # the pixels of the images alone, not their repeated edges
        total += across[:, BLOCK - 1 : 1 - BLOCK, x, BLOCK - 1 - x : BLOCK - 1 - x + width]
    of_eight = functional.avg_pool2d(weights, (BLOCK, 1), stride=1, divisor_override=1)
    return total / functional.avg_pool2d(of_eight, (1, BLOCK), stride=1, divisor_override=1)
