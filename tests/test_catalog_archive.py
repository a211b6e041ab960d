"""Opened cubes: written as NetCDF or Zarr and concatenated without a step of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rioxarray  # noqa: F401 (ds.rio)
import xarray as xr

import hypermend
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import create
from hypermend.catalog.cube.spec import VALID
from hypermend.catalog.stac.publish import put_item, source_item
from hypermend.catalog.storage.archive_store import ArchiveStore
from tests.small_cubes import make_pixels, make_scene, make_spec, write_tiles

KINDS: dict[str, dict[str, Any]] = {
    "int16": {},
    "offset": {"dtype": "uint16", "fill": 0, "scale_factor": 2.75e-5, "add_offset": -0.2},
    "float32": {"dtype": "float32", "fill": -9999.0, "scale_factor": 1.0},
    "counts": {"dtype": "uint16", "fill": None, "scale_factor": 1.0, "quantity": "counts"},
    "defects": {"defects": True, "attrs": {"sources": {"scale": ["asset", 1]}, "nothing": None}},
}


def make_items(folder: Path, days: tuple[int, ...] = (24,), **changes: Any) -> list[hypermend.Item]:
    """An archive of one scene a day, each with overviews and a time."""
    root = ArchiveStore(folder)
    for day in days:
        scene = make_scene(f"S{day}", day=day)
        spec = make_spec((5, 300, 290), tile_px=128, time=f"2022-07-{day}T10:45:26.123457Z", **changes)
        spec = spec.with_overviews()
        key = f"source/S{day}/i.zarr"
        create(root, key, spec)
        cube = Cube(root, key)
        write_tiles(cube, *make_pixels(spec, seed=day))
        put_item(root, source_item(scene, spec, key=key, ingest_id="i", valid_fraction=1.0), run="r")
    return hypermend.open(folder).search(stage="source")


def same(a: xr.Dataset, b: xr.Dataset) -> None:
    np.testing.assert_allclose(a.reflectance.values, b.reflectance.values, rtol=1e-6, atol=1e-9)
    assert np.array_equal(np.isnan(a.reflectance), np.isnan(b.reflectance))
    assert np.array_equal(a.valid.values, b.valid.values) and a.time.values == b.time.values
    assert np.array_equal(a.wavelength.values, b.wavelength.values) and np.array_equal(a.good.values, b.good.values)
    assert a.reflectance.dims == b.reflectance.dims


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["netcdf", "zarr2", "zarr3"])
def test_an_opened_cube_is_written_and_read_back(tmp_path: Path, kind: str, how: str) -> None:
    (item,) = make_items(tmp_path / "archive", **KINDS[kind])
    ds = item.dataset()
    if how == "netcdf":
        ds.to_netcdf(tmp_path / "out.nc")
        back = xr.open_dataset(tmp_path / "out.nc", decode_coords="all")
    else:
        ds.to_zarr(tmp_path / "out.zarr", zarr_format=int(how[-1]))
        back = xr.open_zarr(tmp_path / "out.zarr", decode_coords="all")
    same(ds.load(), back.load())
    assert back.reflectance.encoding["dtype"] == item_spec(item)["dtype"]
    assert back.rio.crs.to_epsg() == 32632 and "zarr_conventions" not in ds.attrs


@pytest.mark.parametrize("how", ["netcdf", "zarr2", "zarr3"])
def test_plain_xarray_writes_a_cube_as_the_document_says(tmp_path: Path, how: str) -> None:
    (item,) = make_items(tmp_path / "archive", **KINDS["defects"])
    ds = xr.open_zarr(item.scene.assets["cube"].href, chunks={}).drop_encoding().drop_attrs(deep=False)
    if how == "netcdf":
        ds.to_netcdf(tmp_path / "out.nc")
        back = xr.open_dataset(tmp_path / "out.nc", decode_coords="all")
    else:
        ds.to_zarr(tmp_path / "out.zarr", zarr_format=int(how[-1]))
        back = xr.open_zarr(tmp_path / "out.zarr", decode_coords="all")
    same(ds.load(), back.load())


def item_spec(item: hypermend.Item) -> dict[str, Any]:
    return Cube(item.root, item.scene.properties["hypermend:cube"]).spec.to_dict()


@pytest.mark.parametrize(
    ("kind", "decoded"), [("int16", "float32"), ("offset", "float32"), ("float32", "float32"), ("counts", "uint16")]
)
def test_an_opened_cube_is_float32_and_lazy(tmp_path: Path, kind: str, decoded: str) -> None:
    (item,) = make_items(tmp_path, **KINDS[kind])
    ds = item.dataset()
    assert ds.reflectance.dtype == decoded and ds.reflectance.chunks is not None
    plain = xr.open_zarr(tmp_path / "source" / "S24" / "i.zarr")
    np.testing.assert_allclose(ds.reflectance.values, plain.reflectance.values, rtol=1e-7)
    assert ds.reflectance.attrs["quantity"] == plain.reflectance.attrs["quantity"]


@pytest.mark.parametrize("plain", [False, True])
def test_scenes_are_concatenated_along_their_time(tmp_path: Path, plain: bool) -> None:
    items = make_items(tmp_path, days=(24, 26, 25))
    cubes = [xr.open_zarr(item.scene.assets["cube"].href) if plain else item.dataset() for item in items]
    stack = xr.concat(cubes, "time", data_vars="all").sortby("time")
    assert stack.reflectance.dims == ("time", "band", "y", "x") and stack.sizes["time"] == 3
    assert str(stack.time.values[1]) == "2022-07-25T10:45:26.123457000"
    assert int((stack.valid.isel(time=0) & VALID).sum()) > 0
    if not plain:
        stack.to_netcdf(tmp_path / "stack.nc")
        stack.to_zarr(tmp_path / "stack.zarr")


def test_a_cube_of_no_known_time_has_none(tmp_path: Path) -> None:
    spec = make_spec()
    create(ArchiveStore(tmp_path), "cube.zarr", spec)
    assert "time" not in xr.open_zarr(tmp_path / "cube.zarr").coords and "time" not in spec.to_dict()
