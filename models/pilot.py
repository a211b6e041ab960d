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

import torch
from torch.nn import functional

BLOCK = 8
THRESHOLD = ((2.0, 2.8), (1.3, 3.7))
"""(power, threshold) of a strong and of a weak coefficient, linear between: what is sparser takes a higher one."""
_REACH = 2 * (BLOCK - 1)
"""Of one scale: a block's reach in each pass."""
HALO = 2 * _REACH + 4
"""Pixels on each side that the estimate depends on: the coarse scale's reach, and the cells beside it."""


def _dct() -> torch.Tensor:
    """(64, 64) orthonormal: rows are frequencies, columns the pixels of a block."""
    k = torch.arange(BLOCK, dtype=torch.float64)
    c = math.sqrt(2 / BLOCK) * torch.cos(math.pi * (2 * k[None] + 1) * k[:, None] / (2 * BLOCK))
    c[0] /= math.sqrt(2)
    return torch.kron(c, c).float()


DCT = _dct()


def pilot(z: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    """First estimate of coefficients with unit white noise.

    Args:
        z: (B, K, H, W); the outer `HALO` pixels of the answer depend on how the image goes on, here its edge repeated.
        power: (K,) second moment of each coefficient over the scene.

    Returns:
        (B, K, H, W).
    """
    fine = _one_scale(z, power)
    # A mean of 2x2 pixels has half the noise, so in units of its own noise it is twice as strong.
    coarse = _one_scale(2 * _cells(z), 1 + 4 * (power - 1)) / 2
    better = functional.interpolate(coarse - _cells(fine), scale_factor=2, mode="bilinear", align_corners=False)
    return fine + better[..., : z.shape[2], : z.shape[3]]


def _cells(z: torch.Tensor) -> torch.Tensor:
    """Means of 2x2 pixels, (B, K, H, W) -> (B, K, ceil(H / 2), ceil(W / 2)); an odd last line is repeated."""
    odd = (0, z.shape[3] % 2, 0, z.shape[2] % 2)
    return functional.avg_pool2d(functional.pad(z, odd, mode="replicate"), 2)


def _one_scale(z: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    """(B, K, H, W) -> the same."""
    (strong, low), (weak, high) = THRESHOLD
    threshold = low + (high - low) * ((strong - power) / (strong - weak)).clamp(0, 1)  # (K,)
    images = z.flatten(0, 1)  # (B K, H, W)
    levels = threshold.repeat(len(z)).tolist()
    return torch.stack([_two_passes(i, t) for i, t in zip(images, levels, strict=True)]).reshape(z.shape)


def _two_passes(image: torch.Tensor, threshold: float) -> torch.Tensor:
    """(H, W) -> (H, W)."""
    noisy = _blocks(image)  # (64, L)
    kept = (noisy.abs() > threshold).float()
    first = _aggregate(noisy * kept, kept.sum(0, keepdim=True), image.shape)
    power = _blocks(first).square()
    gain = power / (power + 1)
    return _aggregate(noisy * gain, gain.sum(0, keepdim=True), image.shape)


def _blocks(image: torch.Tensor) -> torch.Tensor:
    """DCT of every 8x8 block that touches the image, (H, W) -> (64, (H + 7)(W + 7))."""
    padded = functional.pad(image[None, None], (BLOCK - 1,) * 4, mode="replicate")
    return DCT.to(image.device) @ functional.unfold(padded, BLOCK)[0]


def _aggregate(spectra: torch.Tensor, count: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Weighted mean over the 64 blocks that hold a pixel, (64, L), (1, L) -> (H, W)."""
    size = (shape[0] + 2 * (BLOCK - 1), shape[1] + 2 * (BLOCK - 1))
    weight = 1 / count.clamp_min(1.0)
    total = functional.fold((DCT.T.to(spectra.device) @ (spectra * weight))[None], size, BLOCK)
    weights = functional.fold(weight.expand(BLOCK * BLOCK, -1)[None], size, BLOCK)
    inner = slice(BLOCK - 1, 1 - BLOCK)
    return (total / weights)[0, 0, inner, inner]
