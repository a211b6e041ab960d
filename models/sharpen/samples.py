"""Training samples of the sharpener: patches of a scene made coarser, with the scene as it is.

The paper's way: the coarse image is the antialiased bicubic reduction; patches of 32x32 coarse pixels; the scene at
three sizes; turned and mirrored. Both images are in the units that the network sees (`model.measure`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from hypermend.models.arrays import F32
from hypermend.models.fit import Batch
from hypermend.models.restorer import SceneStatistics, array_from_json
from hypermend.models.sampling import SampleStream
from hypermend.models.sharpen.model import BandMeans, measure
from hypermend.models.signal.bicubic import reduce, resize

BORDER = 4
"""Outer coarse pixels of a patch that do not count: the network sees zeros beyond them, as it never does in a scene."""


@dataclass(frozen=True, kw_only=True)
class PatchSettings:
    """How patches are drawn."""

    scale: int
    patch_px: int = 32
    """Edge, in coarse pixels."""
    zooms: tuple[float, ...] = (1.0, 0.75, 0.5)
    """Sizes of the scene that patches are cut from; one that is smaller than a patch is left out."""


@dataclass(frozen=True)
class Pair:
    """One scene at one size, as the network sees it."""

    coarse: torch.Tensor
    """(bands, h, w)."""
    fine: torch.Tensor
    """(bands, scale*h, scale*w)."""


def pairs(cube: F32, s: PatchSettings, statistics: SceneStatistics | None = None) -> list[Pair]:
    """The scene (bands, h, w), or a part of it, at each of its sizes.

    `statistics` are the scene's (`model.measure`); None measures each size.

    Raises:
        ValueError: no size has room for a patch.
    """
    out = []
    for zoom in s.zooms:
        h, w = (int(zoom * n) // s.scale for n in cube.shape[1:])
        if min(h, w) < s.patch_px:
            continue
        whole = torch.from_numpy(cube)
        fine = whole if zoom == 1 else resize(whole, int(zoom * whole.shape[1]), int(zoom * whole.shape[2]))
        fine = fine[:, : s.scale * h, : s.scale * w]
        coarse = reduce(fine, s.scale)
        own = cast(BandMeans, statistics or measure([(coarse.numpy(), np.ones((h, w), dtype=bool))]))
        mean = torch.from_numpy(array_from_json(own["mean"]))[:, None, None]
        bright = own["input_scale"] or 1.0
        out.append(Pair((coarse - mean) / bright, (fine - mean) / bright))
    if not out:
        raise ValueError(f"scene of {cube.shape[1:]} pixels: a patch needs {s.scale * s.patch_px}")
    return out


def any_of(scenes: Sequence[Sequence[Pair]]) -> Callable[[np.random.Generator], Sequence[Pair]]:
    """Return a draw of the scenes, all with the same chance.

    Raises:
        ValueError: scenes with different numbers of bands.
    """
    bands = {pair.coarse.shape[0] for sizes in scenes for pair in sizes}
    if len(bands) != 1:
        raise ValueError(f"scenes of {sorted(bands)} bands cannot share a batch: train on windows of as many bands")
    return lambda rng: scenes[int(rng.integers(len(scenes)))]


def sample_stream(
    draw: Callable[[np.random.Generator], Sequence[Pair]],
    s: PatchSettings,
    *,
    seed: int,
    batch: int,
    every: int = 1,
    keep: int = 1,
) -> SampleStream[Sequence[Pair]]:
    """Stream coarse (bands, P, P) and fine (bands, Q, Q) patches, Q = scale * (P - 2 BORDER).

    Args:
        draw: returns the pairs of a scene.
        s: distribution of the samples.
        seed: seed of all randomness.
        batch: samples in a batch.
        every: steps between two scenes of a slot; more than 1 where a scene takes long to read.
        keep: scenes of a slot that patches are cut from.
    """
    return SampleStream(draw, lambda sizes, rng: patch(sizes, s, rng), seed=seed, batch=batch, every=every, keep=keep)


def patch(sizes: Sequence[Pair], s: PatchSettings, rng: np.random.Generator) -> Batch:
    """A place in one of the sizes, laid in one of eight ways: (bands, P, P) and (bands, Q, Q)."""
    pair = sizes[int(rng.integers(len(sizes)))]
    y, x = (int(rng.integers(n - s.patch_px + 1)) for n in pair.coarse.shape[1:])
    coarse = pair.coarse[:, y : y + s.patch_px, x : x + s.patch_px]
    top, left, size = s.scale * (y + BORDER), s.scale * (x + BORDER), s.scale * (s.patch_px - 2 * BORDER)
    fine = pair.fine[:, top : top + size, left : left + size]
    turns, mirror = int(rng.integers(4)), rng.random() < 0.5
    coarse, fine = torch.rot90(coarse, turns, (1, 2)), torch.rot90(fine, turns, (1, 2))
    return (coarse.flip(2), fine.flip(2)) if mirror else (coarse, fine)


def loss(y: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean absolute error where the target is: in the middle of the output."""
    margin = (y.shape[-1] - target.shape[-1]) // 2
    size = target.shape[-1]
    return (y[..., margin : margin + size, margin : margin + size] - target).abs().mean()
