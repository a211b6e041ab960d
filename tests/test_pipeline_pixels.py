"""What surrounds the model: holes are filled the same in every tiling, rounding never makes nodata."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypermend.catalog.cube.spec import NEAR_FILL, NODATA, VALID
from hypermend.pipeline.tiling.pixels import (
    FILL_REACH_PX,
    count_saturated,
    data_mask,
    fill_holes,
    mark_near_fill,
    physical,
    to_stored,
)
from tests.test_pipeline_restore_plan import make_spec

RNG = np.random.default_rng(7)


def test_filling_a_crop_equals_cropping_the_filled_scene() -> None:
    scene = RNG.random((3, 60, 70), np.float32)
    known = RNG.random((60, 70)) > 0.4
    known[20:50, 30:60] = False  # a hole deeper than the reach
    mean = np.float32([0.1, 0.2, 0.3])
    whole = scene.copy()
    fill_holes(whole, known, mean)
    y, x, m = slice(22, 41), slice(25, 50), FILL_REACH_PX
    wide = (slice(y.start - m, y.stop + m), slice(x.start - m, x.stop + m))
    crop = scene[(..., *wide)].copy()
    fill_holes(crop, known[wide], mean)
    np.testing.assert_array_equal(crop[:, m:-m, m:-m], whole[:, y, x])
    assert (whole[:, 35, 45] == mean).all()
    assert (whole[:, known] == scene[:, known]).all()


def test_a_hole_of_one_pixel_gets_the_mean_of_its_neighbours() -> None:
    values = np.arange(9, dtype=np.float32).reshape(1, 3, 3)
    values[0, 1, 1] = np.nan
    known = np.isfinite(values[0])
    fill_holes(values, known, np.zeros(1, np.float32))
    assert values[0, 1, 1] == pytest.approx((0 + 1 + 2 + 3 + 5 + 6 + 7 + 8) / 8)


def test_a_scene_without_data_becomes_its_mean() -> None:
    values = np.full((2, 4, 4), np.nan, np.float32)
    fill_holes(values, np.zeros((4, 4), bool), np.float32([1, 2]))
    assert (values[0] == 1).all()
    assert (values[1] == 2).all()


def test_near_fill_reaches_exactly_as_far_as_the_halo() -> None:
    flags = np.full((21, 21), VALID, np.uint8)
    known = np.ones((21, 21), bool)
    known[10, 10] = False
    flags[10, 10] = NODATA
    marked = mark_near_fill(flags, known, 3)
    ys, xs = np.nonzero(marked & NEAR_FILL)
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (7, 13, 7, 13)
    assert marked[10, 10] == NODATA
    assert mark_near_fill(flags, known, 0) is flags


def test_rounding_never_lands_on_the_fill() -> None:
    spec = make_spec(bands=1, size=16)
    values = np.float64([-32768.2, -40000.0, 1.5, 2.5, 40000.0])
    assert to_stored(values, spec).tolist() == [-32767, -32767, 2, 2, 32767]


INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")


@given(
    dtype=st.sampled_from(INTEGERS),
    kind=st.sampled_from(("float32", "float64")),
    exponent=st.integers(0, 70),
    share=st.floats(-1, 1),
    fill=st.sampled_from((None, "low", "high", 7)),
)
def test_g7_no_number_ever_wraps(dtype: str, kind: str, exponent: int, share: float, fill: str | int | None) -> None:
    info = np.iinfo(dtype)
    value = np.array([[[share * 2.0**exponent]]], dtype=kind)
    fills = {None: None, "low": int(info.min), "high": int(info.max), 7: 7}
    spec = replace(make_spec(bands=1, size=16), dtype=dtype, fill=fills[fill])
    stored = int(to_stored(value, spec)[0, 0, 0])
    exact = min(max(round(float(value[0, 0, 0])), int(info.min)), int(info.max))
    if exact == fills[fill]:
        assert stored in (exact + 1, exact - 1)
    else:
        assert stored == exact
    beyond = not info.min <= round(float(value[0, 0, 0])) <= info.max
    assert count_saturated(value, np.ones((1, 1), bool), spec) in ((1,) if beyond else (0, 1))


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_g7_the_numbers_about_the_ends_of_a_type_do_not_wrap(dtype: str, kind: str) -> None:
    """2**31 is no int32, but is what float32 makes of the largest one."""
    info = np.iinfo(dtype)
    ends = np.array([info.min, info.max], kind)
    near = np.concatenate([ends, np.nextafter(ends, np.inf, dtype=kind), np.nextafter(ends, -np.inf, dtype=kind)])
    spec = replace(make_spec(bands=1, size=16), dtype=dtype, fill=None)
    exact = [min(max(round(float(number)), int(info.min)), int(info.max)) for number in near]
    assert to_stored(near, spec).tolist() == exact


def test_g7_what_is_cut_is_counted_where_there_is_data() -> None:
    spec = make_spec(bands=1, size=16)
    values = np.array([[[40000.0, -40000.0], [5.0, 40000.0]]], np.float32)
    assert count_saturated(values, np.array([[True, True], [True, False]]), spec) == 2


def test_decoding_and_the_mask() -> None:
    spec = make_spec(bands=2, size=16)
    stored = np.int16([[[100, -32768, 300]], [[1, 2, 3]]])
    values = physical(stored, spec)
    np.testing.assert_allclose(values[:, 0, 0], [0.01, 0.0001], rtol=1e-6)
    assert np.isnan(values[0, 0, 1])
    flags = np.uint8([[VALID, VALID, NODATA]])
    assert data_mask(values, flags).tolist() == [[True, False, False]]
