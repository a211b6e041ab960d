"""Training samples of the sharpener: patches of a scene made coarser, with the scene as it is.

The paper's way: the coarse image is the antialiased bicubic reduction; patches of 32x32 coarse pixels; the scene at
three sizes; turned and mirrored. Here each patch is drawn anew from (seed, index) alone, so that the samples do not
depend on who makes them, and both images are in the units that the network sees (`sharpener.measure`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from hypermend.models.arrays import F32
from hypermend.models.fit import Batch
from hypermend.models.restorer import SceneStatistics, array_from_json
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
    patches: int = 4
    """Of a batch."""
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

    `statistics` are the scene's (`sharpener.measure`); None measures each size.

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


def batches(scenes: Sequence[Sequence[Pair]], s: PatchSettings, *, seed: int) -> Iterator[Batch]:
    """Endless batches of coarse (B, bands, P, P) and fine (B, bands, Q, Q), Q = scale * (P - 2 BORDER).

    Args:
        scenes: the pairs of each scene; all of the same number of bands.
        s: see `PatchSettings`.
        seed: sample i is drawn from (seed, i).

    Raises:
        ValueError: scenes with different numbers of bands.
    """
    bands = {pair.coarse.shape[0] for sizes in scenes for pair in sizes}
    if len(bands) != 1:
        raise ValueError(f"scenes of {sorted(bands)} bands cannot share a batch: train on windows of as many bands")
    index = 0
    while True:
        drawn = []
        for i in range(index, index + s.patches):
            rng = np.random.default_rng([seed, i])
            drawn.append(patch(scenes[int(rng.integers(len(scenes)))], s, rng))
        index += s.patches
        yield torch.stack([coarse for coarse, _ in drawn]), torch.stack([fine for _, fine in drawn])


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
