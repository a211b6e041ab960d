"""Overviews: a pixel is the mean of the usable pixels under it, and every object of them is marked as a tile's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import create
from hypermend.catalog.cube.overviews import overview_parts
from hypermend.catalog.cube.spec import CLOUD, NODATA, VALID, CubeSpec
from hypermend.catalog.storage.archive_store import ArchiveStore
from tests.small_cubes import FILL, make_spec

PATH = "source/scene/i.zarr"
SHAPE = (3, 300, 1100)


def spec_of(**changes: Any) -> CubeSpec:
    spec = make_spec(SHAPE, tile_px=128, **changes)
    return spec.with_overviews()


def pixels_of(spec: CubeSpec, seed: int = 0) -> tuple[Any, Any]:
    """Noise with clouds, holes and one whole tile without data."""
    rng = np.random.default_rng(seed)
    stored = rng.integers(1, 9999, spec.shape).astype(spec.dtype)
    flags = rng.choice([VALID, VALID, VALID, CLOUD], spec.shape[1:]).astype("u1")
    flags[40:60, 200:230] = NODATA
    flags[spec.window(0, 1)] = NODATA
    if spec.fill is not None:
        stored[:, flags == NODATA] = spec.fill
    return stored, flags


def write(cube: Cube, stored: Any, flags: Any, defects: Any = None) -> None:
    for iy in range(cube.spec.tiles[0]):
        for ix in range(cube.spec.tiles[1]):
            y, x = cube.spec.window(iy, ix)
            some = None if defects is None else defects[:, y, x]
            cube.mark(iy, ix, cube.write(y, x, stored[:, y, x], flags[y, x], some))


def expected(stored: Any, usable: Any, level: int) -> tuple[Any, Any]:
    """(mean, number) of the usable pixels of every block, one after the other. usable: (band, y, x)."""
    bands, height, width = stored.shape
    shape = bands, -(-height // level), -(-width // level)
    means, counts = np.zeros(shape), np.zeros(shape, int)
    for b, iy, ix in np.ndindex(*shape):
        block = b, slice(iy * level, (iy + 1) * level), slice(ix * level, (ix + 1) * level)
        kept = stored[block][usable[block]].astype("f8")
        counts[b, iy, ix] = len(kept)
        means[b, iy, ix] = kept.mean() if len(kept) else 0
    return means, counts


def level_of(root: Path, level: int) -> xr.Dataset:
    return xr.open_zarr(root / PATH / f"ovr_{level}x", mask_and_scale=False, chunks=None, consolidated=False)


@pytest.mark.parametrize(("dtype", "fill"), [("int16", FILL), ("uint16", None), ("float32", None), ("int32", 0)])
def test_a_pixel_is_the_mean_of_the_usable_pixels_under_it(tmp_path: Path, dtype: str, fill: int | None) -> None:
    spec = spec_of(dtype=dtype, fill=fill)
    assert spec.levels == (4, 16) and CubeSpec.from_json(spec.to_json()) == spec
    root = ArchiveStore(tmp_path)
    create(root, PATH, spec)
    cube = Cube(root, PATH)
    stored, flags = pixels_of(spec)
    write(cube, stored, flags)
    for level in spec.levels:
        ds = level_of(tmp_path, level)
        means, counts = expected(stored, np.broadcast_to(flags == VALID, spec.shape), level)
        got, known = ds.reflectance.values, counts > 0
        assert got.shape == means.shape and got.dtype == stored.dtype
        if dtype == "float32":
            np.testing.assert_allclose(got[known], means[known], rtol=1e-6)
            assert np.isnan(got[~known]).all()
        else:
            assert np.array_equal(got[known], np.rint(means[known]))  # halves to even
            assert (got[~known] == (0 if fill is None else fill)).all()
        assert ("valid" in ds) == (dtype == "uint16")
        if "valid" in ds:
            assert np.array_equal(ds.valid.values, np.where(known[0], VALID, NODATA))
        assert ds.x.values[0] == 500000 + 30 * level / 2 and ds.y.values[1] == 5000000 - 30 * level * 1.5
        assert ds.reflectance.coords["wavelength"].values.tolist() == list(spec.wavelength_nm)


@pytest.mark.parametrize("dtype", ["int16", "uint16", "int8"])
@pytest.mark.parametrize(("low", "high"), [(0, 2**14 - 1), (0, 2**14), (-1, 100), (0, 2**15 - 1)])
@pytest.mark.parametrize("shape", [(9, 32, 64), (9, 30, 63)])
def test_the_fast_way_gives_the_same_means(dtype: str, low: int, high: int, shape: tuple[int, int, int]) -> None:
    """Numbers of 14 bits are added four at a time; one that is larger or negative must not."""
    limits = np.iinfo(dtype)
    stored = np.random.default_rng(5).integers(max(low, limits.min), min(high, limits.max) + 1, shape).astype(dtype)
    stored[8, 3, 3], stored[0, 0, 0] = max(low, limits.min), min(high, limits.max)
    flags = np.full(shape[1:], VALID, "u1")
    orders = (stored, np.asfortranarray(stored), np.ascontiguousarray(stored.transpose(1, 2, 0)).transpose(2, 0, 1))
    for tile in orders:  # in memory as readers and models hand them on
        for part in overview_parts(tile, flags, None, levels=(4, 16), fill=None):
            means, _ = expected(stored, np.ones(shape, bool), part.level)
            assert np.array_equal(part.stored, np.rint(means)) and part.stored.dtype == dtype


def test_a_defective_band_does_not_count(tmp_path: Path) -> None:
    spec = spec_of(defects=True)
    root = ArchiveStore(tmp_path)
    create(root, PATH, spec)
    stored, flags = pixels_of(spec)
    defects = np.zeros(spec.shape, bool)
    defects[1, :, 700:720] = True
    stored[defects] = 32000
    write(Cube(root, PATH), stored, flags, defects)
    for level in spec.levels:
        means, counts = expected(stored, (flags == VALID) & ~defects, level)
        got = level_of(tmp_path, level).reflectance.values
        assert np.array_equal(got, np.where(counts > 0, np.rint(means), FILL))


def test_the_group_says_how_its_levels_lie(tmp_path: Path) -> None:
    spec = spec_of()
    create(ArchiveStore(tmp_path), PATH, spec)
    attrs = json.loads((tmp_path / PATH / "zarr.json").read_text())["attributes"]
    assert [c["name"] for c in attrs["zarr_conventions"]] == ["multiscales", "proj", "spatial"]
    assert "spatial:transform" not in attrs and "spatial:shape" not in attrs  # the levels say them
    layout = attrs["multiscales"]["layout"]
    assert [(one["asset"], one.get("derived_from"), one["transform"]["scale"]) for one in layout] == [
        ("reflectance", None, [1, 1]), ("ovr_4x", "reflectance", [4, 4]), ("ovr_16x", "ovr_4x", [4, 4]),
    ]  # fmt: skip
    assert layout[2]["spatial:shape"] == [19, 69]
    assert layout[2]["spatial:transform"] == [480.0, 0.0, 500000.0, 0.0, -480.0, 5000000.0]
    level = json.loads((tmp_path / PATH / "ovr_4x" / "zarr.json").read_text())["attributes"]
    assert level["spatial:shape"] == [75, 275] and level["proj:code"] == "EPSG:32632"
    ds = xr.open_zarr(tmp_path / PATH)
    assert ds.reflectance.shape == spec.shape
    assert xr.open_zarr(tmp_path / PATH, group="ovr_4x").reflectance.shape == (3, 75, 275)


def test_marks_hold_the_overviews_and_a_repair_writes_them_again(tmp_path: Path) -> None:
    root = ArchiveStore(tmp_path)
    spec = spec_of()
    create(root, PATH, spec)
    cube = Cube(root, PATH)
    stored, flags = pixels_of(spec)
    write(cube, stored, flags)
    keys = {index: [s.key for s in mark.shards] for index, mark in cube.marks.done().items()}
    assert keys[0, 0] == [
        "ovr_16x/reflectance/c/0/0/0", "ovr_4x/reflectance/c/0/0/0", "reflectance/c/0/0/0", "valid/c/0/0"
    ]  # fmt: skip
    assert keys[0, 1] == ["valid/c/0/1"]  # no data: no shard, of an overview neither
    clean = {e.key: root.get(e.key) for e in root.list(PATH)}
    for key in ("ovr_4x/reflectance/c/0/2/3", "ovr_16x/reflectance/c/0/1/0"):
        damaged = bytearray(root.get(f"{PATH}/{key}"))
        damaged[9] ^= 1
        root.put(f"{PATH}/{key}", bytes(damaged))
    assert cube.marks.verify() == [(1, 0), (2, 3)]
    for index in cube.marks.verify():
        cube.marks.unmark(index)
        y, x = spec.window(*index)
        cube.mark(*index, Cube(root, PATH).write(y, x, stored[:, y, x], flags[y, x]))
    assert cube.marks.verify() == [] and {e.key: root.get(e.key) for e in root.list(PATH)} == clean


def test_a_tile_that_lost_its_data_loses_its_overviews(tmp_path: Path) -> None:
    root, spec = ArchiveStore(tmp_path), spec_of()
    create(root, PATH, spec)
    cube = Cube(root, PATH)
    stored, flags = pixels_of(spec)
    write(cube, stored, flags)
    y, x = spec.window(0, 0)
    cube.write(y, x, np.full_like(stored[:, y, x], FILL), np.full_like(flags[y, x], NODATA))
    assert not [e.key for e in root.list(PATH) if e.key.endswith("reflectance/c/0/0/0")]


@pytest.mark.parametrize(
    ("edge", "tile_px", "levels"),
    [(256, 256, ()), (257, 256, (4,)), (1025, 256, (4, 16)), (20000, 256, (4, 16)), (2000, 16, ()), (2000, 48, (4,))],
)
def test_how_many_levels(edge: int, tile_px: int, levels: tuple[int, ...]) -> None:
    spec = make_spec((2, edge, 10), tile_px=tile_px).with_overviews()
    assert spec.levels == levels and spec.overviews == bool(levels)
    assert not make_spec((2, edge, 10), tile_px=tile_px).with_overviews(False).overviews


def test_a_cube_without_grid_has_overviews_too(tmp_path: Path) -> None:
    spec = spec_of(crs=None, transform=None)
    create(ArchiveStore(tmp_path), PATH, spec)
    assert level_of(tmp_path, 4).x.values[:2].tolist() == [2.0, 6.0]
