"""Which guide a scene gets, at which scale, and the guide's pixels on the refined grid."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import create
from hypermend.catalog.cube.spec import CLOUD, VALID, CubeSpec
from hypermend.catalog.errors import BadSensor, Refused
from hypermend.catalog.pairs.guide import SQUARE_PX, GuideOnGrid
from hypermend.catalog.pairs.pairing import MIN_COVERAGE, GuideScenes, finer_spec, offset_on, scale_between, stem
from hypermend.catalog.scene import Scene
from hypermend.catalog.sensors import band_coverage, sensor, srf
from hypermend.catalog.storage.archive_store import ArchiveStore
from tests.small_cubes import make_scene, make_spec, write_tiles

UTM32 = "EPSG:32632"


def placed(
    id: str, *, west: float = 500000, north: float = 5000000, px: float = 30.0, size: int = 100, **changes: Any
) -> Scene:
    grid = GeoBox((size, size), Affine(px, 0, west, 0, -px, north), changes.pop("crs", UTM32))
    box = grid.footprint("EPSG:4326").boundingbox
    return make_scene(id, grid=grid, bbox=(box.left, box.bottom, box.right, box.top), stage="source", **changes)


def guides(*scenes: Scene) -> GuideScenes:
    return GuideScenes(scenes, collection="s2")


def lab(id: str, **changes: Any) -> Scene:
    return make_scene(id, grid=None, stage="source", **changes)


# --------------------------------------------------------------------------------------------------------- pairing


def test_the_guide_that_covers_most_is_taken() -> None:
    scene = placed("H")
    half, most = placed("half", west=500000 + 1200), placed("most", west=500000 + 300)
    paired = guides(half, most, placed("far", west=600000)).find(scene)
    assert (paired.guide, round(paired.overlap, 3), paired.others) == (most, 0.9, 0)


def test_of_equal_overlaps_the_nearest_in_time_is_taken_whatever_the_order() -> None:
    scene = placed("H", day=20)
    near, far = placed("near", day=21), placed("far", day=10)
    for order in ((near, far), (far, near)):
        paired = guides(*order).find(scene)
        assert (paired.guide.id, paired.days_apart, paired.others) == ("near", 1.0, 1)
    before = placed("before", day=19)
    assert guides(near, before).find(scene).guide.id == "before"  # as near: the earlier one


def test_too_little_overlap_is_refused_with_both_numbers() -> None:
    with pytest.raises(Refused, match="the best guide of s2 covers 20% of it, at least 50% are needed"):
        guides(placed("G", west=500000 + 2400)).find(placed("H"))
    with pytest.raises(Refused, match="has no guide that meets its footprint"):
        guides(placed("G", west=600000), lab("H")).find(placed("H"))


def test_footprints_meet_across_reference_systems() -> None:
    scene = placed("H")
    assert scene.grid is not None
    other = scene.grid.to_crs("EPSG:32633")
    there = replace(scene, id="G", grid=other)
    assert guides(there).find(scene).overlap > 0.99


def test_laboratory_images_are_paired_by_id_then_by_stem() -> None:
    scene = lab("paints_ms", collection="cave-source", sensor="cave")
    guide = lab("paints_ms", collection="rgb-source", sensor="nikon-d700")
    assert guides(guide, lab("toys_ms", collection="rgb-source")).find(scene).guide == guide
    hyper, ali = lab("paris-hyperion", sensor="hyperion"), lab("paris-ali", sensor="ali")
    assert stem(hyper) == stem(ali) == "paris"
    assert guides(ali, hyper).find(hyper).guide == ali
    with pytest.raises(Refused, match="no guide of this id"):
        guides(guide, placed("toys_ms")).find(lab("toys_ms"))


def test_of_two_images_of_one_id_the_nearer_in_time_is_taken() -> None:
    scene = lab("a", collection="c", day=24)
    pair = [lab("a", collection="g", day=d) for d in (1, 25)]
    paired = guides(*pair).find(scene)
    assert (paired.guide.datetime - scene.datetime, paired.others) == (timedelta(days=1), 1)


# ----------------------------------------------------------------------------------------------------------- scale


def grid_spec(px: float, size: int = 60, west: float = 500000.0, **changes: Any) -> CubeSpec:
    return make_spec((3, size, size), transform=(px, 0.0, west, 0.0, -px, 5000000.0), **changes)


@pytest.mark.parametrize(("px", "scale"), [(30.0, 1), (10.0, 3), (9.95, 3), (30 / 32, 32)])
def test_scale_from_pixel_sizes(px: float, scale: int) -> None:
    assert scale_between(grid_spec(30.0), grid_spec(px)) == scale


@pytest.mark.parametrize("px", [20.0, 9.8, 60.0])
def test_a_ratio_that_is_no_whole_number_is_refused(px: float) -> None:
    with pytest.raises(Refused, match=rf"pixels of 30, the guide of {px:g} .*ratio of {30 / px:.3f}"):
        scale_between(grid_spec(30.0), grid_spec(px))


def test_scale_across_reference_systems() -> None:
    guide = GeoBox((300, 300), Affine(10, 0, 500000, 0, -10, 5000000), UTM32).to_crs("EPSG:32633", resolution=10)
    spec = make_spec((3, *guide.shape), crs="EPSG:32633", transform=tuple(guide.affine[:6]))
    assert scale_between(grid_spec(30.0), spec) == 3


def test_scale_from_shapes_in_the_laboratory() -> None:
    bare = {"crs": None, "transform": None}
    small = make_spec((3, 16, 20), **bare)
    assert scale_between(small, make_spec((3, 128, 160), **bare)) == 8
    for shape in ((128, 150), (128, 161), (15, 20)):
        with pytest.raises(Refused, match="finer by one whole number along both axes"):
            scale_between(small, make_spec((3, *shape), **bare))
    with pytest.raises(Refused, match="the guide has a place on the ground and the scene has none"):
        scale_between(small, grid_spec(10.0))


def test_the_refined_spec_is_the_same_place() -> None:
    spec = make_spec((3, 40, 60))
    fine = finer_spec(spec, 3)
    assert fine.shape == (3, 120, 180)
    assert fine.transform == (10.0, 0.0, 500000.0, 0.0, -10.0, 5000000.0)
    assert fine.gsd_m == (10.0,) * 3
    assert spec.grid is not None
    assert fine.grid is not None
    assert fine.grid.extent.boundingbox == spec.grid.extent.boundingbox
    assert finer_spec(make_spec((3, 40, 60), crs=None, transform=None), 8).transform is None


# ------------------------------------------------------------------------------------------------ the guide's pixels


def put_guide(tmp_path: Path, spec: CubeSpec, stored: Any, flags: Any) -> Cube:
    create(ArchiveStore(tmp_path), "source/g/1.zarr", spec)
    cube = Cube(ArchiveStore(tmp_path), "source/g/1.zarr")
    write_tiles(cube, stored, flags)
    return cube


def smooth(spec: CubeSpec) -> Any:
    """A ramp that any reference system shows the same: metres east and north of a point, in stored numbers."""
    assert spec.grid is not None
    y, x = np.mgrid[: spec.height, : spec.width] + 0.5
    east, north = spec.grid.affine * (x, y)
    return np.stack([east - 500000, 5000000 - north, east - north + 4500000])


def test_on_the_grid_the_guide_is_read_as_it_is(tmp_path: Path) -> None:
    target = grid_spec(10.0, 90)
    spec = grid_spec(10.0, 60, west=500100.0)
    stored = smooth(spec).astype(np.int16)
    flags = np.full(spec.shape[1:], VALID, np.uint8)
    flags[3, 4] = CLOUD
    guide = GuideOnGrid(put_guide(tmp_path, spec, stored, flags), [2, 0], target)
    assert not guide.reprojected
    got, trusted = guide.read(slice(0, 50), slice(5, 90))
    np.testing.assert_array_equal(got[:, :, 5:65], stored[[2, 0], :50, :])
    assert not trusted[:, :5].any()
    assert not trusted[:, 65:].any()
    assert (trusted[:, 5:65] == (flags[:50] == VALID)).all()


@pytest.mark.parametrize("crs", [pytest.param(UTM32, marks=pytest.mark.long), "EPSG:32633"])
def test_off_the_grid_it_is_reprojected_alike_in_every_window(tmp_path: Path, crs: str) -> None:
    size = 2 * SQUARE_PX + 40
    target = grid_spec(10.0, size)
    assert target.grid is not None
    own = GeoBox((size + 60, size + 60), Affine(10, 0, 499683, 0, -10, 5000321), UTM32)
    if crs != UTM32:
        own = own.to_crs(crs, resolution=10)
    spec = make_spec((3, *own.shape), dtype="float32", fill=None, crs=crs, transform=tuple(own.affine[:6]), tile_px=256)
    y, x = np.mgrid[: spec.height, : spec.width] + 0.5
    east, north = own.affine * (x, y)
    if crs != UTM32:
        assert own.crs is not None
        east, north = own.crs.transformer_to_crs(target.grid.crs)(east, north)
    stored = np.stack([east - 500000, 5000000 - north, np.sin(east / 70) * np.cos(north / 50)]).astype(np.float32)
    flags = np.full(spec.shape[1:], VALID, np.uint8)
    flags[100:110, 100:120] = CLOUD
    guide = GuideOnGrid(put_guide(tmp_path, spec, stored, flags), [0, 1, 2], target)
    assert guide.reprojected
    whole, trusted = guide.read(slice(0, size), slice(0, size))
    np.testing.assert_allclose(
        whole[:2, trusted], smooth(target)[:2, trusted], atol=0.1
    )  # metres: a hundredth of a pixel
    assert 200 < (~trusted).sum() < 24 * 34
    for y0, x0, edge in ((0, 0, 64), (200, 230, 90), (SQUARE_PX, 7, 33), (size - 50, size - 20, 20)):
        window = slice(y0, y0 + edge), slice(x0, x0 + edge)
        again = GuideOnGrid(guide._cube, [0, 1, 2], target)
        part, known = again.read(*window)
        np.testing.assert_array_equal(part, whole[(slice(None), *window)])
        np.testing.assert_array_equal(known, trusted[window])


def test_whole_pixel_offsets_only() -> None:
    grid = GeoBox((10, 10), Affine(10, 0, 0, 0, -10, 0), UTM32)
    assert offset_on(grid, grid.pad(2)) == (-2, -2)
    assert offset_on(grid, GeoBox((10, 10), Affine(10, 0, 30.05, 0, -10, -20), UTM32)) == (2, 3)
    assert offset_on(grid, GeoBox((10, 10), Affine(10, 0, 35, 0, -10, -20), UTM32)) is None
    assert offset_on(grid, GeoBox((300, 300), Affine(10.01, 0, 0, 0, -10.01, 0), UTM32)) is None


# ---------------------------------------------------------------------------------------------- what the scene sees


def test_a_guide_band_beyond_the_cube_is_not_seen() -> None:
    ali = sensor("ali").band_name
    share = dict(zip(ali, band_coverage(range(400, 701, 10), "ali", ali), strict=True))
    assert share["MS-2"] > 0.99
    assert share["MS-4"] < 1e-6
    with_gap = [nm for nm in range(400, 2500, 10) if not 1500 < nm < 1800]
    assert band_coverage(with_gap, "ali", ["MS-5"])[0] < 0.2
    assert band_coverage([550.0], "ali", ["MS-2"])[0] < 0.05
    with pytest.raises(BadSensor, match="ali has no band"):
        band_coverage([550.0], "ali", ["B02"])


def test_a_guide_band_between_sparse_bands_is_left_out_and_the_others_stay() -> None:
    # Sentinel-2's B02 is 458 to 523 nm: no centre meets it, or only its tail
    for first in (430.0, 445.0):
        sparse = [first, 560.0, 665.0, 850.0, 1610.0, 2200.0]
        b02, b03 = band_coverage(sparse, "sentinel2a", ["B02", "B03"])
        assert b02 < MIN_COVERAGE
        assert b03 > 0.9
    sparse[0] = 430.0
    assert band_coverage(sparse, "sentinel2a", ["B02"]) == (0.0,)
    with pytest.raises(BadSensor, match="B02"):
        srf(sparse, "sentinel2a", bands=["B02"])
