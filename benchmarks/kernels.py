"""Blur kernels of a file, to test fusion on in place of the built-in ones (`pipeline/kernels.py`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hypermend.models.arrays import F64


def read(path: Path) -> dict[str, F64]:
    """Kernels of a .npy file, (K, n, n) or (n, n), by name `<file>-<number from 1>`.

    Raises:
        SystemExit: no such file, or one that does not hold finite square kernels that sum to 1 each.
    """
    try:
        kernels = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as e:
        raise SystemExit(f"{path}: {e}") from e
    if kernels.ndim == 2:
        kernels = kernels[None]
    if kernels.ndim != 3 or kernels.shape[1] != kernels.shape[2] or kernels.dtype.kind not in "fiu":
        raise SystemExit(f"{path}: {kernels.dtype} {kernels.shape}; kernels must be numbers of shape (K, n, n)")
    sums = kernels.astype(np.float64).sum(axis=(1, 2))
    if not np.allclose(sums, 1, atol=1e-3):
        raise SystemExit(f"{path}: the kernels sum to {np.round(sums, 4).tolist()}; each must sum to 1")
    return {f"{path.stem}-{i}": k.astype(np.float64) for i, k in enumerate(kernels, 1)}
