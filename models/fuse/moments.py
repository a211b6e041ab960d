"""Second moments of a pair of images on the coarse grid: all that a map from guide to image is computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from hypermend.models.arrays import F64
from hypermend.models.fuse.protocol import BadPair, Pair
from hypermend.models.signal.degrade import blur_down

GAP = 1e-3
"""Share of a kernel that may lie on invalid guide pixels."""


def pair_moments(pairs: Callable[[], Iterable[Pair]], kernel: F64, scale: int) -> F64:
    """Mean of v v^T, v = (X blurred and decimated, 1, Y) of each valid LR pixel: (m + 1 + b, m + 1 + b).

    LR pixels whose kernel sees invalid guide pixels are left out; windows' edges are replicated.

    Raises:
        BadPair: none is left.
    """
    k = torch.from_numpy(kernel.astype(np.float32))
    total: F64 | None = None
    count = 0
    for pair in pairs():
        x = np.concatenate((pair.x, ~pair.x_valid[None]), dtype=np.float32)
        low = blur_down(torch.from_numpy(x)[None], k, scale)[0].numpy().astype(np.float64)
        ok = pair.y_valid & (low[-1] < GAP)
        v = np.concatenate((low[:-1, ok], np.ones((1, int(ok.sum()))), pair.y[:, ok])).astype(np.float64)
        total = v @ v.T if total is None else total + v @ v.T
        count += v.shape[1]
    if total is None or count == 0:
        raise BadPair("no valid pixel of the image is seen by valid pixels of the guide")
    return total / count
