"""Exported files: rasterio, spectral and xarray find the numbers, the spectrum, the mask and the place again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import spectral.io.envi
import xarray as xr
from typer.testing import CliRunner

from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import create
from hypermend.catalog.cube.spec import CLOUD, NODATA, VALID, CubeSpec
from hypermend.catalog.errors import NotFound, Refused
from hypermend.catalog.stac.publish import put_item, source_item
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.cli.main import app
from hypermend.pipeline.export.driver import export
from hypermend.pipeline.export.selection import band_positions, pixel_window
from tests.small_cubes import make_scene, make_spec, write_tiles

NAMES = {"cog": "out.tif", "envi": "out.img", "netcdf": "out.nc"}
CUBES: dict[str, dict[str, Any]] = {
    "reflectance": {},
    "radiance": {
        "dtype": "uint16", "fill": 0, "scale_factor": 0.02, "add_offset": -1.5, "quantity": "radiance",
        "units": "W m-2 sr-1 um-1",
    },
    "float32": {"dtype": "float32", "fill": math.nan, "scale_factor": 1.0},
    "counts": {"dtype": "uint16", "fill": None, "scale_factor": 1.0, "quantity": "counts"},
    "rotated": {"transform": (20.0, 5.0, 500000.0, 5.0, -20.0, 5000000.0)},
    "degrees": {"crs": "EPSG:4326", "transform": (0.001, 0, 8.5, 0, -0.001, 47.5)},
}  # fmt: skip


def make_archive(folder: Path, **changes: Any) -> tuple[CubeSpec, Any, Any]:
    """An archive of one source cube of six bands, with a cloud and a hole. Returns its spec, numbers and flags."""
    root = ArchiveStore(folder)
    spec = make_spec(
        (6, 150, 130), tile_px=64, time="2022-07-24T10:45:26Z", band_name=["B1", "B2", "B3", "B4", "B5", "B8A"],
        good=[True, True, False, True, True, True], **changes,
    )  # fmt: skip
    rng = np.random.default_rng(3)
    stored = rng.integers(1, 9000, spec.shape).astype(spec.dtype)
    flags = np.full(spec.shape[1:], VALID, "u1")
    flags[10:20, 30:50], flags[:, 120:] = CLOUD, NODATA
    if spec.fill is not None:
        stored[:, flags == NODATA] = spec.fill
    create(root, "source/S1/i.zarr", spec)
    write_tiles(Cube(root, "source/S1/i.zarr"), stored, flags)
    item = source_item(make_scene("S1"), spec, key="source/S1/i.zarr", ingest_id="i", valid_fraction=0.9)
    put_item(root, item, run="r")
    return spec, stored, flags


def physical(spec: CubeSpec, stored: Any, flags: Any) -> Any:
    """(band, y, x) in physical units, NaN where masked."""
    return np.where(flags == VALID, stored.astype("f8") * spec.scale_factor + spec.add_offset, np.nan)


def raster(path: Path | str) -> tuple[Any, Any]:
    """Physical values as GDAL decodes them, NaN where nodata, and the open file."""
    file = rasterio.open(path)
    stored = file.read()
    masked = np.isnan(stored) if file.nodata is not None and np.isnan(file.nodata) else stored == file.nodata
    scale, offset = (np.array(v)[:, None, None] for v in (file.scales, file.offsets))
    return np.where(masked, np.nan, stored * scale + offset), file


def same_place(file: Any, spec: CubeSpec) -> None:
    assert file.crs.to_epsg() == int(str(spec.crs).split(":")[1])
    np.testing.assert_allclose(file.transform[:6], spec.transform, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", CUBES)
def test_cog(tmp_path: Path, kind: str) -> None:
    spec, stored, flags = make_archive(tmp_path / "a", **CUBES[kind])
    export(str(tmp_path / "a"), "S1", format="cog", out=tmp_path / "out.tif")
    values, file = raster(tmp_path / "out.tif")
    np.testing.assert_allclose(values, physical(spec, stored, flags), rtol=1e-6)
    same_place(file, spec)
    assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and file.descriptions == spec.band_name
    for i in range(6):
        imagery = file.tags(i + 1, ns="IMAGERY")
        assert float(imagery["CENTRAL_WAVELENGTH_UM"]) * 1000 == pytest.approx(spec.wavelength_nm[i], abs=1e-6)
        assert float(imagery["FWHM_UM"]) == 0.01 and file.tags(i + 1)["bbl"] == str(int(spec.good[i]))
    assert file.tags()["quantity"] == spec.quantity and set(file.units) == {spec.units}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out.tif"]


def test_cog_of_a_large_scene_has_overviews_that_know_the_mask(tmp_path: Path) -> None:
    root, spec = ArchiveStore(tmp_path / "a"), make_spec((20, 400, 300), tile_px=128)
    stored, flags = np.full(spec.shape, 5000, "i2"), np.full(spec.shape[1:], VALID, "u1")
    flags[::2] = CLOUD
    create(root, "source/S1/i.zarr", spec)
    write_tiles(Cube(root, "source/S1/i.zarr"), stored, flags)
    put_item(
        root, source_item(make_scene("S1"), spec, key="source/S1/i.zarr", ingest_id="i", valid_fraction=1), run="r"
    )
    export(str(tmp_path / "a"), "S1", format="cog", out=tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.overviews(1) == [2, 4]
    with rasterio.open(tmp_path / "out.tif", overview_level=0) as file:
        assert (file.read(1) == 5000).all()


@pytest.mark.parametrize("kind", CUBES)
def test_envi(tmp_path: Path, kind: str) -> None:
    spec, stored, flags = make_archive(tmp_path / "a", **CUBES[kind])
    export(str(tmp_path / "a"), "S1", format="envi", out=tmp_path / "out.img")
    image = spectral.io.envi.open(tmp_path / "out.hdr", tmp_path / "out.img")
    numbers = np.moveaxis(np.asarray(image.open_memmap(interleave="bip")), 2, 0).astype("f8")
    ignore = float(image.metadata["data ignore value"])
    masked = np.isnan(numbers) if np.isnan(ignore) else numbers == ignore
    gain = [float(v) for v in image.metadata.get("data gain values", [1 / image.scale_factor])]
    offset = [float(v) for v in image.metadata.get("data offset values", [0])]
    assert not ("data gain values" in image.metadata and image.scale_factor != 1)  # no reader applies two scales
    values = np.where(masked, np.nan, numbers * gain[0] + offset[0])
    np.testing.assert_allclose(values, physical(spec, stored, flags), rtol=1e-6)
    np.testing.assert_allclose(image.bands.centers, spec.wavelength_nm, rtol=1e-9)
    assert image.bands.bandwidths == list(spec.fwhm_nm) and image.bands.band_unit == "Nanometers"
    assert [int(v) for v in image.metadata["bbl"]] == [1, 1, 0, 1, 1, 1]
    assert image.metadata["band names"] == list(spec.band_name)
    assert image.metadata["acquisition time"].upper() == "2022-07-24T10:45:26Z"
    with rasterio.open(tmp_path / "out.img") as file:
        same_place(file, spec)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out.hdr", "out.img"]


@pytest.mark.parametrize("kind", CUBES)
def test_netcdf(tmp_path: Path, kind: str) -> None:
    spec, stored, flags = make_archive(tmp_path / "a", **CUBES[kind])
    export(str(tmp_path / "a"), "S1", format="netcdf", out=tmp_path / "out.nc")
    ds = xr.open_dataset(tmp_path / "out.nc", decode_coords="all")
    np.testing.assert_allclose(ds.reflectance.values, physical(spec, stored, flags), rtol=1e-6)
    assert np.array_equal(ds.valid.values, flags) and ds.attrs["Conventions"] == "CF-1.11"
    assert ds.wavelength.values.tolist() == list(spec.wavelength_nm) and ds.fwhm.attrs["units"] == "nm"
    assert ds.good.values.tolist() == [1, 1, 0, 1, 1, 1] and list(ds.band.attrs["band_name"]) == list(spec.band_name)
    assert ds.reflectance.attrs["units"] == spec.units and str(ds.time.values)[:19] == "2022-07-24T10:45:26"
    if kind != "rotated":  # GDAL asks for axes along the rows and columns
        values, file = raster(f"netcdf:{tmp_path}/out.nc:reflectance")
        np.testing.assert_allclose(values, physical(spec, stored, flags), rtol=1e-6)
        same_place(file, spec)


@pytest.mark.parametrize("format", NAMES)
def test_a_box_and_some_bands(tmp_path: Path, format: str) -> None:
    spec, stored, flags = make_archive(tmp_path / "a")
    assert spec.grid is not None
    inner = spec.grid[40:100, 25:90].footprint("EPSG:4326").boundingbox
    out = tmp_path / NAMES[format]
    words = ["enmap-source/S1", "--archive", str(tmp_path / "a"), "--format", format, "--out", str(out), "--json"]
    chosen = ["--bands", "B8A,2-3", "--bbox", *map(str, inner)]
    made = CliRunner().invoke(app, ["export", *words, *chosen])
    assert made.exit_code == 0, made.output
    bands, height, width = json.loads(made.stdout)["shape"]
    assert bands == 3 and 60 <= height <= 63 and 65 <= width <= 68
    values, file = raster(f"netcdf:{out}:reflectance" if format == "netcdf" else out)
    (y0, x0) = file.transform[5], file.transform[2]
    row, col = round((5000000 - y0) / 30), round((x0 - 500000) / 30)
    window = [1, 2, 5], slice(row, row + height), slice(col, col + width)
    expected = physical(spec, stored, flags)[window[0]][:, window[1], window[2]]
    scale = 1e-4 if format == "envi" else 1.0
    np.testing.assert_allclose(values * scale, expected, rtol=1e-6)


@pytest.mark.parametrize("format", NAMES)
def test_a_file_that_exists_is_never_replaced(tmp_path: Path, format: str) -> None:
    make_archive(tmp_path / "a")
    out = tmp_path / NAMES[format]
    for taken in [out, *([out.with_suffix(".hdr")] if format == "envi" else [])]:
        taken.write_text("mine")
        with pytest.raises(Refused, match="exists"):
            export(str(tmp_path / "a"), "S1", format=format, out=out)  # type: ignore[arg-type]
        assert taken.read_text() == "mine"
        taken.unlink()


@pytest.mark.parametrize("format", NAMES)
def test_a_damaged_tile_leaves_no_file(tmp_path: Path, format: str) -> None:
    make_archive(tmp_path / "a")
    (tmp_path / "a/source/S1/i.zarr/reflectance/c/0/1/1").unlink()
    result = CliRunner().invoke(
        app, ["export", "S1", "--archive", str(tmp_path / "a"), "--format", format, "--out", str(tmp_path / "out.x")]
    )
    assert result.exit_code == 2 and "is lost" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    make_archive(tmp_path / "a")
    archive, out = str(tmp_path / "a"), tmp_path / "out.tif"
    for words, message in (
        ({"item": "S2"}, "no cube of an item 'S2'"),
        ({"bands": "B1,B77"}, "no band 'B77'; its bands are B1, B2, B3, B4, B5, B8A, numbered 1 to 6"),
        ({"bands": "7-9"}, "no band '7-9'"),
        ({"bbox": (0, 0, 1, 1)}, "lies outside the scene, which covers 9"),
        ({"out": tmp_path / "none" / "out.tif"}, "is no folder"),
        ({"out": tmp_path / "out.hdr", "format": "envi"}, "is the name of a header"),
    ):
        asked = {"item": "S1", "format": "cog", "out": out, **words}
        with pytest.raises((Refused, NotFound), match=message):
            export(archive, asked.pop("item"), **asked)  # type: ignore[arg-type]
    result = CliRunner().invoke(app, ["export", "S1", "--archive", archive, "--format", "jpeg", "--out", str(out)])
    assert result.exit_code == 2 and "'jpeg' is none of cog, envi, netcdf" in result.stderr


def test_an_item_of_two_collections_must_be_named(tmp_path: Path) -> None:
    spec, *_ = make_archive(tmp_path / "a")
    root = ArchiveStore(tmp_path / "a")
    scene = make_scene("S1", collection="other")
    put_item(root, source_item(scene, spec, key="source/S1/i.zarr", ingest_id="i", valid_fraction=1.0), run="r")
    with pytest.raises(Refused, match=r"name one of enmap-source/S1, other-source/S1"):
        export(str(tmp_path / "a"), "S1", format="cog", out=tmp_path / "out.tif")
    made = export(str(tmp_path / "a"), "other-source/S1", format="cog", out=tmp_path / "out.tif")
    assert made.cube == "source/S1/i.zarr"


@pytest.mark.parametrize("format", NAMES)
def test_a_scene_without_a_grid_is_exported_with_a_warning(tmp_path: Path, format: str) -> None:
    root, spec = ArchiveStore(tmp_path / "a"), make_spec(crs=None, transform=None)
    lat, lon = np.mgrid[50:40:100j, 8:10:70j]
    create(root, "source/S1/i.zarr", spec, lonlat=(lon, lat))
    stored, flags = np.full(spec.shape, 7, "i2"), np.full(spec.shape[1:], VALID, "u1")
    write_tiles(Cube(root, "source/S1/i.zarr"), stored, flags)
    item = source_item(make_scene("S1", grid=None), spec, key="source/S1/i.zarr", ingest_id="i", valid_fraction=1)
    put_item(root, item, run="r")
    out = tmp_path / NAMES[format]
    made = export(str(tmp_path / "a"), "S1", format=format, out=out)  # type: ignore[arg-type]
    assert made.warnings == ("the scene has no map coordinates: the file has none",)
    if format == "netcdf":
        assert np.array_equal(xr.open_dataset(out).lon.values, lon)
    with pytest.raises(Refused, match="has none; export it whole"):
        export(str(tmp_path / "a"), "S1", format=format, out=tmp_path / "b.x", bbox=(0, 0, 1, 1))  # type: ignore[arg-type]


def test_a_box_over_the_date_line() -> None:
    """Of a grid that begins at 179 degrees east and one that counts from 0 to 360."""
    for west in (179.0, -181.0):
        grid = make_spec(crs="EPSG:4326", transform=(0.02, 0, west, 0, -0.02, 10.0)).grid
        y, x = pixel_window(grid, (179.5, 9.0, -179.9, 9.5))
        assert (y, x) == (slice(25, 50), slice(25, 55))


def test_bands_are_named_or_numbered() -> None:
    spec = make_spec((4, 20, 20), band=[10, 11, 30, 31], band_name=["11", "red", "B30", "B31"])
    assert band_positions(spec, None) == (0, 1, 2, 3)
    assert band_positions(spec, "B31, red") == (1, 3)
    assert band_positions(spec, "11") == (0,)  # a name wins over a number
    assert band_positions(spec, "11-30,red") == (1, 2)
