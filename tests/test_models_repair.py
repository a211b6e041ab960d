"""Defects: dead columns, repeated values and spikes are found and predicted; clean and awkward scenes have none."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.mixed_noise import spoil
from hypermend.models.signal.defects import Defects, find_defects
from hypermend.models.signal.masked_estimate import MaskedEstimate, MaskedWindow, estimate_masked, local_fill
from hypermend.models.signal.masked_fit import MaskedFit
from hypermend.models.signal.repair import Repair
from hypermend.models.signal.subspace import moments, signal_axes, subspace
from tests.test_models_denoise import noisy, scene

BANDS, H, W = 24, 96, 80
NOTHING = np.zeros((BANDS, H, W), dtype=bool)
KNOWN = np.ones((H, W), dtype=bool)
X = np.arange(W)


def found_in(cube: np.ndarray, known: np.ndarray = KNOWN, group: int = 32) -> Defects:
    """Look for defects in groups of columns and strips of 64 rows, as a scene is read."""

    def columns() -> Iterator[Iterator[MaskedWindow]]:
        for x in range(0, cube.shape[2], group):
            at = slice(x, x + group)
            yield ((cube[:, y : y + 64, at], known[y : y + 64, at], NOTHING[:, y : y + 64, at]) for y in (0, 64))

    return find_defects(columns)


def fitted(cube: np.ndarray, missing: np.ndarray) -> MaskedFit | None:
    return estimated(cube, missing).fit


def estimated(cube: np.ndarray, missing: np.ndarray, *, defective: bool = False) -> MaskedEstimate:
    found = estimate_masked(lambda: [(cube, KNOWN, missing)], defective=defective)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return noisy(scene(BANDS, H, W), 0.02)


def test_dead_and_hot_columns_are_found_in_their_bands(image: np.ndarray) -> None:
    cube = image.copy()
    cube[3][:, [0, 17, 18, 79]] = 0
    cube[8][:, 40] = 1.5  # hot
    columns = found_in(cube).columns
    assert set(zip(*np.nonzero(columns), strict=True)) == {(3, 0), (3, 17), (3, 18), (3, 79), (8, 40)}


def test_areas_without_data_are_no_dead_columns(image: np.ndarray) -> None:
    cube = image.copy()
    cube[:, :, :3] = 0  # every band: the edge of an image
    cube[5][:, 30:60] = 1.0  # a wide saturated area
    cube[6][:, 30:42] = 1.0  # a narrow one
    cube[7] = 0.25  # a band that does not vary
    assert not found_in(cube)


def test_a_calm_background_has_no_dead_columns(image: np.ndarray) -> None:
    """Such as the black around CAVE's `face`: it varies 100 times less than the rest."""
    cube = image.copy()
    calm = [*range(20), 50, 51, 52]
    cube[:4, :, calm] = 0.001 * noisy(np.zeros_like(cube), 0.2)[:4][:, :, calm]
    cube[6][:, :30] = 0  # dark to the last count
    assert not found_in(cube)


def test_numbers_of_few_steps_have_no_dead_columns(image: np.ndarray) -> None:
    cube = image.copy()
    cube[4] = np.random.default_rng(0).random((H, W)) > 0.97  # counts of 0 and 1
    assert not found_in(cube).columns.any()


def test_repeated_values_are_found_and_floors_are_not(image: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    cube = image.copy()
    struck = rng.random((H, W)) < 0.1
    cube[2][struck] = rng.random(int(struck.sum())) < 0.5  # impulses of 0 and 1
    cube[9] = np.maximum(cube[9], np.quantile(cube[9], 0.2))  # a floor strikes the dark half alone
    cube[11] = np.round(cube[11], 2)  # steps: every value is repeated, and has neighbours
    cube[13][20:40, 20:40] = 0.7  # a patch is not scattered
    assert [set(v) for v in found_in(cube).values] == [{0.0, 1.0} if b == 2 else set() for b in range(BANDS)]


def test_a_column_is_compared_with_those_around_it(image: np.ndarray) -> None:
    """Beside a scene that varies 1000 times more, columns somewhat calmer than their neighbours are no faults."""
    cube = image.copy()
    level = float(cube[3].std(axis=0).mean())
    calm = np.where(np.arange(30) % 2, 5e-4, 2e-3) * level
    cube[3, :, :30] = 0.5 + calm * np.random.default_rng(0).standard_normal((H, 30))
    assert not found_in(cube).columns.any()


def test_a_scattered_floor_in_dark_places_is_no_repeated_value(image: np.ndarray) -> None:
    cube = image.copy()
    halves = np.where(X % 16 < 8, 0.2, 0.8)
    cube[9] = np.maximum(0.12, halves + 0.1 * np.random.default_rng(0).standard_normal((H, W)))
    assert not any(found_in(cube).values)


def test_a_scattered_floor_where_a_whole_window_is_dark_is_no_repeated_value(image: np.ndarray) -> None:
    cube = image.copy()
    halves = np.where(X < W // 2, 0.2, 0.8)  # wider than a group of columns
    cube[9] = np.maximum(0.12, halves + 0.1 * np.random.default_rng(0).standard_normal((H, W)))
    assert not any(found_in(cube).values)


def test_invalid_pixels_are_no_defects(image: np.ndarray) -> None:
    cube, known = image.copy(), KNOWN.copy()
    known[np.random.default_rng(0).random((H, W)) < 0.3] = False
    cube[:, ~known] = 0
    assert not found_in(cube, known)


def test_a_missing_number_is_predicted_to_its_noise(image: np.ndarray) -> None:
    truth = scene(BANDS, H, W)
    missing = np.random.default_rng(0).random(image.shape) < 0.1
    missing[::2] = False
    cube = np.where(missing, np.float32(7), image)
    fit = fitted(cube, missing)
    assert fit is not None and abs(float(np.median(fit.noise)) / 0.02 - 1) < 0.15
    assert np.allclose(fit.space.noise_std, fit.noise / np.sqrt(1 - fit.missing)) and not fit.spiky.any()
    filled, repaired = Repair(defects=found_in(image), fit=fit)(cube, KNOWN, missing, X)
    assert (repaired == missing).mean() > 0.999
    np.testing.assert_array_equal(filled[~repaired], cube[~repaired])
    assert np.sqrt(np.square(filled - truth)[repaired].mean()) < 0.02


def test_a_pixel_with_few_bands_left_and_a_band_that_does_not_vary_stay(image: np.ndarray) -> None:
    cube, missing = image.copy(), NOTHING.copy()
    missing[:13, 5, 5] = True
    missing[2, 9, 9] = missing[7, 9, 9] = True
    cube[7] = 0.25
    cube[missing] = 3.0
    fit = fitted(cube, missing)
    assert fit is not None
    filled, repaired = Repair(defects=found_in(image), fit=fit)(cube, KNOWN, missing, X)
    assert repaired[:, 9, 9].nonzero()[0].tolist() == [2] and not repaired[:, 5, 5].any()
    assert filled[7, 9, 9] == filled[0, 5, 5] == 3.0


def test_spikes_at_no_exact_value_are_found_and_lines_and_clean_scenes_have_none(image: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    cube = image.copy()
    struck = np.zeros_like(NOTHING)
    struck[[4, 12]] = rng.random((2, H, W)) < 0.05
    cube[struck] = rng.random(int(struck.sum()))
    fit = fitted(cube, NOTHING)
    assert fit is not None and fit.spiky.nonzero()[0].tolist() == [4, 12]
    _, repaired = Repair(defects=found_in(image), fit=fit)(cube, KNOWN, NOTHING, X)
    assert (repaired & struck).sum() > 0.75 * struck.sum()
    assert (repaired & ~struck).sum() < 0.01 * struck.sum()
    lines = image.copy()
    lines[4][:, ::9] += 0.4  # stripes are not spikes
    assert fitted(lines, NOTHING) is None
    glints = image.copy()
    bright = (rng.random((H, W)) < 0.02) & (image[4] > np.median(image[4]))
    glints[4][bright] += 0.5  # in the bright half alone
    assert fitted(glints, NOTHING) is None


def test_without_defects_the_statistics_are_those_of_the_plain_estimate(image: np.ndarray) -> None:
    m = moments([(image, KNOWN)])
    assert m is not None
    found, plain = estimated(image, NOTHING), subspace(m)
    assert found.fit is None and found.space is not None and found.signal is not None and plain is not None
    assert found.space.to_json() == plain.to_json()
    assert found.signal.to_json() == signal_axes(m, plain).to_json()
    always = estimated(image, NOTHING, defective=True).fit
    assert always is not None and not always.spiky.any()  # a defect may lie outside the sample


def test_a_window_is_repaired_as_the_scene_is() -> None:
    spoilt = spoil(scene(BANDS, H, W), 5, 0)
    defects = found_in(spoilt.image)
    assert defects.columns.any() and any(defects.values)
    missing = NOTHING | defects.missing(spoilt.image, X)
    rng = np.random.default_rng(2)
    spoilt.image[1][rng.random((H, W)) < 0.1] = 0.9321  # and spikes
    fit = estimated(spoilt.image, missing, defective=True).fit
    assert fit is not None
    first = Repair(defects=defects, fit=fit)
    repair = Repair.from_json(json.loads(json.dumps(first.to_json())))
    whole, marked = repair(spoilt.image, KNOWN, NOTHING, X)
    assert marked.any()
    y0, y1, x0, x1, r = 30, 62, 24, 56, repair.reach_px
    wide = (slice(None), slice(y0 - r, y1 + r), slice(x0 - r, x1 + r))
    part, part_marked = repair(spoilt.image[wide], KNOWN[wide[1:]], NOTHING[wide], X[wide[2]])
    inner = (slice(None), slice(r, -r), slice(r, -r))
    np.testing.assert_array_equal(part_marked[inner], marked[:, y0:y1, x0:x1])
    np.testing.assert_allclose(part[inner], whole[:, y0:y1, x0:x1], atol=1e-6)


def test_local_fill_takes_the_nearest() -> None:
    ramp = np.broadcast_to(np.arange(20, dtype=np.float32), (1, 12, 20)).copy()
    missing = np.zeros(ramp.shape, bool)
    missing[0, 3, 7] = True
    broken = np.where(missing, np.float32(99), ramp)
    assert abs(local_fill(broken, missing)[0, 3, 7] - 7) < 0.1
