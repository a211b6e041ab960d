"""Small cubes and scenes for the tests of the catalog: the answer is made first, then stored."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import SPEC_ATTR, create
from hypermend.catalog.cube.spec import CLOUD, NODATA, VALID, CubeSpec
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.sensors import sensor
from hypermend.catalog.storage.archive_store import ArchiveStore

FILL = -32768


def make_spec(shape: tuple[int, int, int] = (5, 100, 70), *, tile_px: int = 48, **changes: Any) -> CubeSpec:
    """An EnMAP-like cube of int16 reflectance; any field can be changed."""
    bands = shape[0]
    chunk, shard = CubeSpec.layout(shape, "int16", tile_px)
    fields: dict[str, Any] = {
        "shape": shape,
        "dtype": "int16",
        "scale_factor": 1e-4,
        "fill": FILL,
        "band": range(1, bands + 1),
        "band_name": [str(i) for i in range(1, bands + 1)],
        "wavelength_nm": np.linspace(400, 2500, bands),
        "fwhm_nm": [10.0] * bands,
        "detector": ["vnir"] * (bands // 2) + ["swir"] * (bands - bands // 2),
        "good": [True] * bands,
        "gsd_m": [30.0] * bands,
        "crs": "EPSG:32632",
        "transform": (30.0, 0.0, 500000.0, 0.0, -30.0, 5000000.0),
        "quantity": "reflectance",
        "units": "1",
        "sensor": "enmap",
        "stage": "source",
        "chunk": chunk,
        "shard": shard,
        "attrs": {"hypermend:ingest": "abc"},
    }
    return CubeSpec(**(fields | changes))


def make_pixels(spec: CubeSpec, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Stored numbers and flags: the second tile of the first row is nodata, a corner is cloud."""
    rng = np.random.default_rng(seed)
    stored = rng.integers(0, 10000, spec.shape).astype(spec.dtype)
    flags = np.full(spec.shape[1:], VALID, np.uint8)
    flags[:10, :10] = CLOUD
    if spec.fill is not None and spec.tiles[1] > 1:
        y, x = spec.window(0, 1)
        flags[y, x] = NODATA
        stored[:, y, x] = spec.fill
    return stored, flags


def write_tiles(cube: Cube, stored: np.ndarray[Any, Any], flags: np.ndarray[Any, Any], *, mark: bool = True) -> None:
    for iy in range(cube.spec.tiles[0]):
        for ix in range(cube.spec.tiles[1]):
            y, x = cube.spec.window(iy, ix)
            shards = cube.write(y, x, stored[:, y, x], flags[y, x])
            if mark:
                cube.mark(iy, ix, shards)


def make_cube(root: ArchiveStore, path: str, spec: CubeSpec) -> tuple[Cube, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A written, marked cube and the numbers in it."""
    create(root, path, spec)
    cube = Cube(root, path)
    stored, flags = make_pixels(spec)
    write_tiles(cube, stored, flags)
    return cube, stored, flags


def make_scene(id: str = "S1", *, day: int = 24, **changes: Any) -> Scene:
    """A raw scene of EnMAP with one file."""
    fields: dict[str, Any] = {
        "id": id,
        "collection": "enmap",
        "datetime": datetime(2022, 7, day, 10, 45, 26, tzinfo=UTC),
        "sensor": "enmap",
        "grid": make_spec().grid,
        "assets": {"image": Asset(key="image", href=f"https://example.org/{id}.tif", roles=("data",))},
        "properties": {"eo:cloud_cover": 3},
    }
    return Scene(**(fields | changes))


def assert_cube(ds: xr.Dataset) -> None:
    """What everybody who opens a cube with xarray relies on."""
    spec = CubeSpec.from_json(ds.attrs[SPEC_ATTR])
    assert ds["reflectance"].dims == ("band", "y", "x") and ds["reflectance"].shape == spec.shape
    assert ds["valid"].dims == ("y", "x")
    assert all(ds.coords[name].dims == ("band",) for name in ("wavelength", "fwhm", "good", "detector", "gsd"))
    assert np.array_equal(ds["wavelength"].values, spec.wavelength_nm)


def emit_file(path: Path, *, west: float, north: float, shape: tuple[int, int] = (20, 24)) -> None:
    """An EMIT L2A granule whose swath begins at these degrees, longitudes -180 to 180; its reflectance is 0.1."""
    table = sensor("emit")
    path.parent.mkdir(parents=True, exist_ok=True)
    row, column = np.mgrid[: shape[0], : shape[1]]
    with h5py.File(path, "w") as file:
        file.attrs["time_coverage_start"] = "2024-07-24T20:01:45+0000"
        file.attrs["title"] = "EMIT L2A Estimated Surface Reflectance 60 m V001"
        cube = file.create_dataset("reflectance", data=np.full((*shape, table.bands), 0.1, "f4"), fillvalue=-9999.0)
        cube.attrs["_FillValue"] = np.float32(-9999)
        facts = file.create_group("sensor_band_parameters")
        facts["wavelengths"] = np.array(table.wavelength_nm, "f4")
        facts["fwhm"] = np.array(table.fwhm_nm, "f4")
        facts["good_wavelengths"] = np.ones(table.bands, "f4")
        place = file.create_group("location")
        place["lon"] = (west + 0.0006 * column + 0.0002 * row + 180) % 360 - 180
        place["lat"] = north - 0.0005 * row
