"""Bicubic resizing in MATLAB's `imresize` convention, which is how the papers make a low-resolution image.

Keys' kernel (a = -0.5; IEEE TASSP 1981, eq. 15), stretched by the factor of a reduction (antialias), weights
normalised for each output pixel, the image mirrored about its edges. Pixel j of n_out has its centre at
(j + 0.5) n_in / n_out - 0.5 of the input. `functional.interpolate(antialias=True)` is the same inside, but near the
edges it drops what lies outside; without antialias it has another kernel (a = -0.75).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

from hypermend.models.arrays import F64, I64

REACH = 2
"""Input pixels around an output pixel that an enlargement looks at."""


def resize(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize the last two axes, (..., h, w) -> (..., height, width), in the type of `x`."""
    for axis, n in ((-2, height), (-1, width)):
        index, weight = _taps(x.shape[axis], n)  # (taps, n) each
        at = torch.from_numpy(index).to(x.device)
        w = torch.from_numpy(weight).to(x)
        if axis == -2:
            w = w[:, :, None]
        out = x.index_select(axis, at[0]) * w[0]
        for k in range(1, len(at)):
            out = torch.addcmul(out, x.index_select(axis, at[k]), w[k])
        x = out
    return x


def enlarge(x: torch.Tensor, scale: int) -> torch.Tensor:
    """(..., h, w) -> (..., scale*h, scale*w)."""
    return resize(x, scale * x.shape[-2], scale * x.shape[-1])


def reduce(x: torch.Tensor, scale: int) -> torch.Tensor:
    """(..., scale*h, scale*w) -> (..., h, w), antialiased.

    Raises:
        ValueError: a side that is no multiple of the scale.
    """
    h, w = x.shape[-2:]
    if h % scale or w % scale:
        raise ValueError(f"image of {h}x{w} pixels reduced by {scale}: crop its sides to multiples of {scale}")
    return resize(x, h // scale, w // scale)


@lru_cache(maxsize=64)
def _taps(n_in: int, n_out: int) -> tuple[I64, F64]:
    """Which input pixels make each output pixel, and how much each counts: (taps, n_out) twice."""
    stretch = max(1.0, n_in / n_out)
    centre = (np.arange(n_out) + 0.5) * n_in / n_out - 0.5  # (n_out,)
    first = np.floor(centre - 2 * stretch).astype(np.int64)
    index = first + np.arange(math.ceil(4 * stretch) + 2)[:, None]  # (taps, n_out)
    weight = _keys((centre - index) / stretch)
    weight /= weight.sum(axis=0)
    used = (weight != 0).any(axis=1)
    index = np.mod(index[used], 2 * n_in)
    return np.where(index < n_in, index, 2 * n_in - 1 - index), weight[used]


def _keys(t: F64) -> F64:
    """Keys' cubic kernel, a = -0.5, zero from 2 on."""
    t = np.abs(t)
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return np.where(t <= 1, near, np.where(t <= 2, far, 0.0))
