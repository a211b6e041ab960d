"""Samples on bands: repeatable, the noise is what was asked for, the clean side is the cube's own."""

from __future__ import annotations

import numpy as np
import pytest

from hypermend.models.denoise.samples import SampleSettings, TrainingScene, any_of, band_stream, sample_stream, weighted


def test_noise_is_added_anew_to_patches_of_the_cubes() -> None:
    cubes = [np.full((3, 20, 24), level, np.float32) for level in (0.25, 0.75)]
    draw = any_of(cubes, 16)
    batches = band_stream(draw, patch_px=16, seed=1, batch=32, sigmas=(0.1, 0.3)).batches()
    noisy, clean = next(batches)
    assert noisy.shape == clean.shape == (32, 3, 16, 16)
    assert set(clean.unique().tolist()) == {0.25, 0.75}
    std = (noisy - clean).std(dim=(1, 2, 3))
    assert set(np.round(std.numpy(), 1).tolist()) == {np.float32(0.1), np.float32(0.3)}
    assert not (next(batches)[0] - next(batches)[0]).eq(0).any()
    again, _ = next(band_stream(draw, patch_px=16, seed=1, batch=32, sigmas=(0.1, 0.3)).batches())
    assert again.equal(noisy)


def test_cubes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cubes with \[3, 4\] bands"):
        any_of([np.zeros((b, 20, 20), np.float32) for b in (3, 4)], 8)
    with pytest.raises(ValueError, match=r"cube 0 has \(6, 20\) pixels, a patch needs 8"):
        any_of([np.zeros((3, 6, 20), np.float32)], 8)


def test_scenes_are_drawn_by_their_weight_and_each_has_room_for_a_patch() -> None:
    s = SampleSettings(channels=4, patch_px=16, scene_px=48)
    rng = np.random.default_rng(0)
    shape = (6, 64, 64)
    scenes = [
        TrainingScene(cube=rng.random(shape, dtype=np.float32), least_noise=0.01, weight=weight) for weight in (1, 3)
    ]
    draw = weighted(scenes, s)
    heavy = sum(draw(np.random.default_rng(i)) is scenes[1] for i in range(400))
    assert 260 < heavy < 340
    x, target = next(sample_stream(draw, s, seed=0, batch=3).batches())
    assert x.shape == (3, 16, 16, 16) and target.shape == (3, 2, 4, 16, 16)
    with pytest.raises(ValueError, match=r"scene 0 has \(64, 40\) pixels, a patch with its context needs 48"):
        weighted([TrainingScene(cube=np.zeros((6, 64, 40), np.float32), least_noise=0.01)], s)
