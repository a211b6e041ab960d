"""Second moments of a pair on LR pixels, from which every linear map from guide to image is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from hypermend.models.arrays import F64
from hypermend.models.fuse.interface import BadPair, Pair
from hypermend.models.signal.degrade import blur_down

MOST_INVALID_SHARE = 1e-3
"""Largest share of a kernel that may lie on invalid guide pixels."""


def pair_moments(pairs: Callable[[], Iterable[Pair]], kernel: F64, scale: int) -> F64:
    """Return the mean of v v^T over valid LR pixels, v = (H X, 1, Y): (m + 1 + b, m + 1 + b).

    LR pixels whose kernel covers invalid guide pixels are left out. Edges of windows are replicated.

    Raises:
        BadPair: no LR pixel is left.
    """
    k = torch.from_numpy(kernel.astype(np.float32))
    total: F64 | None = None
    count = 0
    for pair in pairs():
        x = np.concatenate((pair.x, ~pair.x_valid[None]), dtype=np.float32)
        low = blur_down(torch.from_numpy(x)[None], k, scale)[0].numpy().astype(np.float64)
        ok = pair.y_valid & (low[-1] < MOST_INVALID_SHARE)
        v = np.concatenate((low[:-1, ok], np.ones((1, int(ok.sum()))), pair.y[:, ok])).astype(np.float64)
        total = v @ v.T if total is None else total + v @ v.T
        count += v.shape[1]
    if total is None or count == 0:
        raise BadPair("no valid pixel of the image is seen by valid pixels of the guide")
    return total / count
