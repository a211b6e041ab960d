"""Samples on bands: repeatable, the noise is what was asked for, the clean side is the cube's own."""

from __future__ import annotations

import numpy as np
import pytest

from hypermend.models.denoise.samples import band_batches


def test_noise_is_added_anew_to_patches_of_the_cubes() -> None:
    cubes = [np.full((3, 20, 24), level, np.float32) for level in (0.25, 0.75)]
    stream = band_batches(cubes, patch_px=16, patches=32, seed=1, sigmas=(0.1, 0.3))
    noisy, clean = next(stream)
    assert noisy.shape == clean.shape == (32, 3, 16, 16)
    assert set(clean.unique().tolist()) == {0.25, 0.75}
    std = (noisy - clean).std(dim=(1, 2, 3))
    assert set(np.round(std.numpy(), 1).tolist()) == {np.float32(0.1), np.float32(0.3)}
    assert not (next(stream)[0] - next(stream)[0]).eq(0).any()
    again, _ = next(band_batches(cubes, patch_px=16, patches=32, seed=1, sigmas=(0.1, 0.3)))
    assert again.equal(noisy)


def test_cubes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cubes with \[3, 4\] bands"):
        next(band_batches([np.zeros((b, 20, 20), np.float32) for b in (3, 4)], patch_px=8, patches=1, seed=0))
    with pytest.raises(ValueError, match=r"cube 0 has \(6, 20\) pixels, a patch needs 8"):
        next(band_batches([np.zeros((3, 6, 20), np.float32)], patch_px=8, patches=1, seed=0))
