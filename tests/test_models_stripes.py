"""Stripes: offsets of single columns and bands are found and subtracted; edges that every band shares are not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from benchmarks.mixed import shipped
from benchmarks.mixed_noise import spoil
from hypermend.models.arrays import F32
from hypermend.models.signal.masked_estimate import MaskedWindow
from hypermend.models.signal.repair import masked
from hypermend.models.signal.stripes import Stripes, find_stripes
from hypermend.pipeline.evaluate.scores import repaired
from tests.test_models_denoise import noisy, scene

BANDS, H, W = 24, 128, 80
X = np.arange(W)


def found_in(cube: F32, known: np.ndarray | None = None, group: int = W) -> Stripes:
    """Look for stripes in groups of columns and strips of 64 rows, as a scene is read."""
    known = np.ones(cube.shape[1:], bool) if known is None else known
    nothing = np.zeros(cube.shape, bool)

    def columns() -> Iterator[Iterator[MaskedWindow]]:
        for x in range(0, cube.shape[2], group):
            at = slice(x, x + group)
            yield ((cube[:, y : y + 64, at], known[y : y + 64, at], nothing[:, y : y + 64, at]) for y in (0, 64))

    stripes = find_stripes(lambda: [(cube, known, nothing, np.arange(cube.shape[2]))], columns)
    assert stripes is not None
    return stripes


@pytest.fixture(scope="module")
def truth() -> F32:
    return scene(BANDS, H, W)


@pytest.mark.parametrize("case", [2, 5])
def test_sparse_stripes_are_found_and_little_else(truth: F32, case: int) -> None:
    """Among the dead columns and impulses of case 5, too."""
    spoilt = spoil(truth, case, 0)
    nothing, known = np.zeros(truth.shape, bool), np.ones((H, W), bool)
    _, stripes, _ = masked(
        lambda: [(spoilt.image, known, nothing, X)], lambda: [[(spoilt.image, known, nothing)]], destripe=True
    )
    assert stripes is not None
    injected = spoilt.stripes[:, 0]
    error = stripes.offsets - injected
    assert np.square(error).sum() < 0.1 * np.square(injected).sum()
    assert np.square(error[injected == 0]).sum() < 0.05 * np.square(injected).sum()


def test_groups_of_columns_and_invalid_pixels_change_nothing(truth: F32) -> None:
    spoilt = spoil(truth, 2, 1)
    whole = found_in(spoilt.image)
    assert whole
    np.testing.assert_allclose(found_in(spoilt.image, group=32).offsets, whole.offsets, atol=1e-6)
    known = np.random.default_rng(0).random((H, W)) > 0.2
    cube = np.where(known, spoilt.image, np.float32(0))
    error = found_in(cube, known).offsets - spoilt.stripes[:, 0]
    assert np.square(error).sum() < 0.1 * np.square(spoilt.stripes[:, 0]).sum()


def wall(cube: F32) -> F32:
    cube[:, :, 30:32] += np.linspace(0.1, 0.3, BANDS)[:, None, None]
    return cube


def river(cube: F32) -> F32:
    cube[:, :, 50:56] *= np.linspace(0.9, 0.3, BANDS)[:, None, None]
    return cube


def shadow(cube: F32) -> F32:
    cube[:, :, 40:] *= 0.4
    return cube


def furrows(cube: F32) -> F32:
    cube *= 1 + 0.2 * np.sin(X * 2.1)
    return cube


@pytest.mark.parametrize("make", [np.copy, river, shadow, furrows])
def test_edges_along_the_track_are_no_stripes(truth: F32, make: Callable[[F32], F32]) -> None:
    stripes = found_in(noisy(make(truth.copy()), 0.02))
    assert np.count_nonzero(stripes.offsets) <= 0.01 * stripes.offsets.size
    assert np.abs(stripes.offsets).max() < 0.02


def test_most_of_a_wall_of_a_material_of_its_own_stays(truth: F32) -> None:
    """It can look like a stripe in some bands: why stripes are subtracted on request alone."""
    built = wall(truth.copy())
    stripes = found_in(noisy(built, 0.02))
    assert np.square(stripes.offsets).sum() < 0.05 * np.square((built - truth)[:, 0]).sum()


def test_stripes_of_calm_bands_in_one_column_do_not_pull_the_others(truth: F32) -> None:
    sigma = np.where(np.isin(np.arange(BANDS), [4, 6, 11]), 0.01, 0.1)[:, None, None]
    cube = (truth + sigma * np.random.default_rng(0).standard_normal(truth.shape)).astype(np.float32)
    cube[[4, 6], :, 33] += 0.15
    cube[[4, 6, 11], :, 60] -= 0.12
    offsets = found_in(cube).offsets
    np.testing.assert_array_equal(np.flatnonzero(offsets[:, 33]), [4, 6])
    np.testing.assert_array_equal(np.flatnonzero(offsets[:, 60]), [4, 6, 11])
    np.testing.assert_allclose(offsets[[4, 6], 33], 0.15, atol=0.01)


def test_a_column_that_differs_in_many_bands_is_no_stripe(truth: F32) -> None:
    cube = noisy(truth, 0.02)
    cube[:8, :, 30] += np.array([0.3, -0.2] * 4, np.float32)[:, None]
    assert not found_in(cube).offsets[:, 30].any()


def test_a_scene_that_varies_across_the_track_alone_has_few(truth: F32) -> None:
    """Its axes are not seen in columns without their means."""
    offsets = found_in(noisy(np.repeat(truth[:, 64:65], H, axis=1), 0.05)).offsets
    assert np.count_nonzero(offsets) < 0.005 * offsets.size


def test_texture_of_single_bands_is_no_stripe(truth: F32) -> None:
    rng = np.random.default_rng(0)
    blobs = np.stack([gaussian_filter(rng.standard_normal((H, W)), 3) for _ in range(BANDS)])
    cube = noisy(truth + (0.05 * blobs / blobs.std()).astype(np.float32), 0.02)
    assert np.count_nonzero(found_in(cube).offsets) < 0.005 * BANDS * W


def test_a_scene_of_few_bands_has_no_stripes() -> None:
    cube = noisy(scene(3, H, W), 0.02)
    known, nothing = np.ones((H, W), bool), np.zeros((3, H, W), bool)
    assert find_stripes(lambda: [(cube, known, nothing, X)], lambda: [[(cube, known, nothing)]]) is None


def test_an_image_is_repaired_without_its_stripes_and_only_on_request(truth: F32) -> None:
    spoilt = spoil(truth, 2, 2)
    model = shipped()
    known, nothing = np.ones((H, W), bool), np.zeros(truth.shape, bool)
    _, kept = repaired(model, spoilt.image, known, nothing)
    np.testing.assert_array_equal(kept, spoilt.image)
    _, clean = repaired(model, spoilt.image, known, nothing, destripe=True)
    before, after = (np.square(v - (spoilt.image - spoilt.stripes)).sum() for v in (spoilt.image, clean))
    assert after < 0.1 * before


def test_stripes_survive_json_and_are_removed_by_column(truth: F32) -> None:
    offsets = np.zeros((BANDS, W), np.float32)
    offsets[[3, 7], [5, 70]] = 0.25, -0.125
    stripes = Stripes.from_json(json.loads(json.dumps(Stripes(offsets=offsets).to_json())))
    np.testing.assert_array_equal(stripes.offsets, offsets)
    part = stripes.remove(truth[:, :, 60:], X[60:])
    np.testing.assert_array_equal(np.argwhere((part != truth[:, :, 60:]).any(axis=1)), [[7, 10]])
    np.testing.assert_allclose(part[7, :, 10], truth[7, :, 70] + 0.125)
    assert not Stripes(offsets=0 * offsets)
