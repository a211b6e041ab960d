"""Training samples on bands, as He et al. (ECCV 2022) have them: clean patches, noise of 30, 50 or 70 of 255 anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from models.fit import Batch

F32 = npt.NDArray[np.float32]

SIGMAS = (30 / 255, 50 / 255, 70 / 255)


def band_batches(
    cubes: Sequence[F32], *, patch_px: int, patches: int, seed: int, sigmas: Sequence[float] = SIGMAS
) -> Iterator[Batch]:
    """Endless batches (noisy, clean), each (B, c, P, P); each sample with one of the sigmas, additive, unclipped.

    Args:
        cubes: (c, h, w) each, about 0 to 1, the same number of bands.
        patch_px: P.
        patches: B.
        seed: of places, turns and noise.
        sigmas: noise levels.

    Raises:
        ValueError: cubes with different bands, or smaller than a patch.
    """
    bands = {cube.shape[0] for cube in cubes}
    if len(bands) != 1:
        raise ValueError(f"cubes with {sorted(bands)} bands in one batch; take the same bands of each")
    for i, cube in enumerate(cubes):
        if min(cube.shape[1:]) < patch_px:
            raise ValueError(f"cube {i} has {cube.shape[1:]} pixels, a patch needs {patch_px}")
    rng = np.random.default_rng(seed)
    while True:
        clean = np.stack([patch(cubes[int(rng.integers(len(cubes)))], patch_px, rng) for _ in range(patches)])
        std = rng.choice(np.asarray(sigmas, dtype=np.float32), (patches, 1, 1, 1))
        noisy = clean + std * rng.standard_normal(clean.shape, dtype=np.float32)
        yield torch.from_numpy(noisy), torch.from_numpy(clean)


def patch(cube: F32, size: int, rng: np.random.Generator) -> F32:
    """A place at random, turned and mirrored at random."""
    y, x = (int(rng.integers(n - size + 1)) for n in cube.shape[1:])
    patch = np.rot90(cube[:, y : y + size, x : x + size], int(rng.integers(4)), (1, 2))
    return np.ascontiguousarray(patch[:, :, ::-1] if rng.random() < 0.5 else patch)
