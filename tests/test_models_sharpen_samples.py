"""Samples of the sharpener: drawn from (seed, index) alone, coarse and fine of one place, borders left out."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from hypermend.models.fit import FitSettings, fit
from hypermend.models.sharpen.samples import BORDER, PatchSettings, batches, loss, pairs
from hypermend.models.sharpen.ssrnet import SSRNet
from hypermend.models.signal.bicubic import enlarge, reduce


def scene(bands: int = 3, h: int = 64, w: int = 72, seed: int = 0) -> np.ndarray:
    coarse = torch.from_numpy(np.random.default_rng(seed).random((bands, h // 4, w // 4)))
    return (300 * enlarge(coarse, 4)).float().numpy()


@pytest.mark.parametrize("scale", [2, 3])
def test_coarse_and_fine_are_of_one_place(scale: int) -> None:
    s = PatchSettings(scale=scale, patch_px=16, patches=6, zooms=(1.0, 0.75))
    coarse, fine = next(batches([pairs(scene(), s)], s, seed=0))
    assert coarse.shape == (6, 3, 16, 16) and fine.shape[2] == scale * (16 - 2 * BORDER)
    again = reduce(fine, scale)
    inner = (..., slice(2, -2), slice(2, -2))  # the reduction of a part mirrors what is around it
    torch.testing.assert_close(again[inner], coarse[..., BORDER:-BORDER, BORDER:-BORDER][inner], atol=1e-4, rtol=0)


def test_a_sample_depends_on_seed_and_index_alone() -> None:
    one, three = (PatchSettings(scale=2, patch_px=12, patches=n) for n in (1, 3))
    scenes = [pairs(scene(seed=i), one) for i in range(2)]
    single = [x[0] for x, _ in islice(batches(scenes, one, seed=5), 6)]
    grouped = [x for batch, _ in islice(batches(scenes, three, seed=5), 2) for x in batch]
    assert all(torch.equal(a, b) for a, b in zip(single, grouped, strict=True))
    assert not torch.equal(single[0], next(batches(scenes, one, seed=6))[0][0])


def test_scenes_are_in_the_units_of_the_network() -> None:
    for pair in pairs(scene(), PatchSettings(scale=2, patch_px=12)):
        assert float(pair.coarse.mean((1, 2)).abs().max()) < 1e-5
        assert 0.2 < float(pair.coarse.max()) < 1


def test_scenes_that_do_not_fit_are_refused() -> None:
    s = PatchSettings(scale=2, patch_px=40)
    with pytest.raises(ValueError, match=r"\(64, 72\) pixels: a patch needs 80"):
        pairs(scene(), s)
    s = PatchSettings(scale=2, patch_px=12)
    with pytest.raises(ValueError, match=r"\[3, 5\] bands"):
        next(batches([pairs(scene(3), s), pairs(scene(5), s)], s, seed=0))


def test_the_border_does_not_count() -> None:
    y, target = torch.zeros(1, 2, 24, 24), torch.zeros(1, 2, 8, 8)
    y[..., :8, :] = 9
    assert float(loss(y, target)) == 0
    y[..., 8, 8] = 64
    assert float(loss(y, target)) == 1


def test_training_beats_bicubic_on_its_own_scene() -> None:
    s = PatchSettings(scale=2, patch_px=16, patches=2, zooms=(1.0,))
    scenes = [pairs(scene(), s)]
    torch.manual_seed(0)
    net = SSRNet(2, filters=4, modules=1, residual=True)
    settings = FitSettings(steps=30, learning_rate=5e-3, warmup_steps=5, ema_decay=0.8, report_every=30)
    (end,) = fit(net, batches(scenes, s, seed=0), loss, settings)
    x, target = next(batches(scenes, s, seed=1))
    with torch.no_grad():
        assert float(loss(end.ema(x), target)) < 0.9 * float(loss(enlarge(x, 2), target))
