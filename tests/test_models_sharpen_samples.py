"""Samples of the sharpener: drawn from seed, step and slot alone, coarse and fine of one place, borders left out."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from hypermend.models.fit import FitSettings, fit
from hypermend.models.sharpen.samples import BORDER, PatchSettings, any_of, loss, pairs, sample_stream
from hypermend.models.sharpen.ssrnet import SSRNet
from hypermend.models.signal.bicubic import enlarge, reduce


def scene(bands: int = 3, h: int = 64, w: int = 72, seed: int = 0) -> np.ndarray:
    coarse = torch.from_numpy(np.random.default_rng(seed).random((bands, h // 4, w // 4)))
    return (300 * enlarge(coarse, 4)).float().numpy()


@pytest.mark.parametrize("scale", [2, 3])
def test_coarse_and_fine_are_of_one_place(scale: int) -> None:
    s = PatchSettings(scale=scale, patch_px=16, zooms=(1.0, 0.75))
    coarse, fine = next(sample_stream(any_of([pairs(scene(), s)]), s, seed=0, batch=6).batches())
    assert coarse.shape == (6, 3, 16, 16) and fine.shape[2] == scale * (16 - 2 * BORDER)
    again = reduce(fine, scale)
    inner = (..., slice(2, -2), slice(2, -2))  # the reduction of a part mirrors what is around it
    torch.testing.assert_close(again[inner], coarse[..., BORDER:-BORDER, BORDER:-BORDER][inner], atol=1e-4, rtol=0)


def test_a_sample_depends_on_seed_step_and_slot_alone() -> None:
    s = PatchSettings(scale=2, patch_px=12)
    draw = any_of([pairs(scene(seed=i), s) for i in range(2)])
    whole = list(islice(sample_stream(draw, s, seed=5, batch=3).batches(), 4))
    again = sample_stream(draw, s, seed=5, batch=3)
    for step, slot in ((3, 2), (0, 1), (2, 0)):
        assert torch.equal(again.sample(step, slot)[0], whole[step][0][slot])
    assert not torch.equal(whole[0][0], next(sample_stream(draw, s, seed=6, batch=3).batches())[0])


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
        any_of([pairs(scene(3), s), pairs(scene(5), s)])


def test_the_border_does_not_count() -> None:
    y, target = torch.zeros(1, 2, 24, 24), torch.zeros(1, 2, 8, 8)
    y[..., :8, :] = 9
    assert float(loss(y, target)) == 0
    y[..., 8, 8] = 64
    assert float(loss(y, target)) == 1


def test_training_beats_bicubic_on_its_own_scene() -> None:
    s = PatchSettings(scale=2, patch_px=16, zooms=(1.0,))
    draw = any_of([pairs(scene(), s)])
    torch.manual_seed(0)
    net = SSRNet(2, filters=4, modules=1, residual=True)
    settings = FitSettings(steps=30, learning_rate=5e-3, warmup_steps=5, ema_decay=0.8, report_every=30)
    (end,) = fit(net, sample_stream(draw, s, seed=0, batch=2).batches(), loss, settings)
    x, target = next(sample_stream(draw, s, seed=1, batch=2).batches())
    with torch.no_grad():
        assert float(loss(end.ema(x), target)) < 0.9 * float(loss(enlarge(x, 2), target))
