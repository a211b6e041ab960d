"""Zarr by value: CF stores of both versions, local and remote; Sentinel-2 of EOPF with one scale and its classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from pyproj import CRS

from hypermend.catalog.cube.spec import CLOUD, NODATA, VALID
from hypermend.catalog.errors import BadAsset, NotFound
from hypermend.catalog.readers.folder import from_folder
from hypermend.catalog.readers.scene_reader import open_scene
from hypermend.catalog.scene import Asset, Scene
from tests.hierarchical import ALL, BANDS, CENTRES, SIZE, eopf_store, opened, scene_of

TRUTH = np.arange(BANDS * 30).reshape(BANDS, *SIZE).astype("uint16")


def cf_store(
    path: Path, zarr_format: int, *, dtype: str = "uint16", fill: float = 7, consolidated: bool = True
) -> Path:
    h, w = SIZE
    attrs = {"scale_factor": 1e-4, "add_offset": -0.1, "units": "1", "grid_mapping": "spatial_ref"}
    data = xr.Dataset(
        {"reflectance": (("band", "y", "x"), TRUTH.astype(dtype), {**attrs, "_FillValue": np.dtype(dtype).type(7)})},
        coords={
            "wavelength": ("band", CENTRES / 1000, {"units": "um"}),
            "x": 500015.0 + 30 * np.arange(w),
            "y": 5799985.0 - 30 * np.arange(h),
            "time": np.datetime64("2024-05-01T10:00:00", "ns"),
            "spatial_ref": ((), 0, {"crs_wkt": CRS(32633).to_wkt()}),
        },
    )
    data.to_zarr(path, zarr_format=zarr_format, consolidated=consolidated)
    return path


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_a_store_of_either_version(
    tmp_path: Path, zarr_format: int, dtype: str, http_server: Callable[[Path], str]
) -> None:
    path = cf_store(tmp_path / "a b.zarr", zarr_format, dtype=dtype)
    for href in (path, f"{http_server(tmp_path)}/a%20b.zarr"):
        source = opened(href)
        spec = source.spec
        assert (spec.quantity, spec.scale_factor, spec.add_offset, spec.fill) == ("reflectance", 1e-4, -0.1, 7)
        assert spec.crs == "EPSG:32633" and spec.transform == (30, 0, 500000, 0, -30, 5800000)
        np.testing.assert_allclose(spec.wavelength_nm, CENTRES)
        assert source.meaning.get("datetime") == datetime(2024, 5, 1, 10, tzinfo=UTC)
        stored, flags = source.read(slice(1, 4), ALL)
        np.testing.assert_array_equal(stored, TRUTH[:, 1:4])
        assert flags[0, 2] == NODATA and (flags == VALID).sum() == 14


def test_identity_changes_with_a_chunk(tmp_path: Path) -> None:
    path = cf_store(tmp_path / "a.zarr", 3)
    before = opened(path).identity
    assert opened(path).identity == before
    zarr.open_array(path / "reflectance", mode="a")[0, 5, 4] = 9
    assert opened(path).identity != before


def test_what_is_no_store_is_said(tmp_path: Path, http_server: Callable[[Path], str]) -> None:
    cf_store(tmp_path / "a.zarr", 3, consolidated=False)
    assert opened(tmp_path / "a.zarr").spec.bands == BANDS
    with pytest.raises(BadAsset, match=r"has no consolidated metadata, .*zarr.consolidate_metadata"):
        opened(f"{http_server(tmp_path)}/a.zarr")
    with pytest.raises(NotFound, match="no such Zarr store"):
        opened(tmp_path / "b.zarr")
    (tmp_path / "c.zarr").mkdir()
    with pytest.raises(BadAsset, match="is no Zarr store that can be read"):
        opened(tmp_path / "c.zarr")
    with pytest.raises(BadAsset, match="its store has no 'measurements/nothing'"):
        opened(tmp_path / "a.zarr" / "measurements" / "nothing")


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_eopf_scales_once_and_repeats_coarse_bands(tmp_path: Path, zarr_format: int) -> None:
    path = eopf_store(tmp_path, zarr_format=zarr_format)
    home = path / "measurements" / "reflectance"
    assets = {
        "SR_10m": Asset(key="SR_10m", href=str(home / "r10m"), roles=("data",), media_type="application/vnd.zarr"),
        "B02_10m": Asset(key="B02_10m", href=str(home / "r10m/b02"), roles=("data",), scale=1e-4, offset=-0.1),
        "B05_20m": Asset(key="B05_20m", href=str(home / "r20m/b05"), roles=("data",), scale=1e-4, offset=-0.1),
        "AOT_10m": Asset(key="AOT_10m", href=str(path / "quality/aot"), roles=("data",), scale=1e-3, offset=0.0),
        "product": Asset(key="product", href=str(path), roles=("data", "metadata")),
        "zipped_product": Asset(key="zipped_product", href="https://h.org/a.zip", media_type="application/zip"),
        "product_metadata": Asset(key="product_metadata", href=str(path / ".zmetadata"), media_type="application/json"),
    }
    scene = replace(scene_of(path), assets=assets)
    source = open_scene(scene)
    spec = source.spec
    assert (spec.sensor, spec.quantity, spec.scale_factor, spec.add_offset) == ("sentinel2b", "reflectance", 1e-4, -0.1)
    assert spec.band_name == ("B01", "B02", "B03", "B04", "B05", "B08", "B8A", "B09", "B11")
    assert spec.crs == "EPSG:32632" and spec.transform == (10, 0, 600000, 0, -10, 5000000)
    stored, flags = source.read(slice(5, 12), slice(3, 11))
    assert stored[:, 1, 0].tolist() == [3001, 3002, 3003, 3004, 3005, 3008, 3088, 3009, 3011]
    assert (flags[0] == NODATA).all()  # the first row of 60 m is empty
    assert flags[3, 5] == CLOUD and flags[2, 5] == VALID
    assert source.meaning.get("datetime") == datetime(2025, 11, 13, 10, 23, 11, 24000, UTC)
    with pytest.raises(BadAsset, match=r"its scale is .*0.001.*decide with --scale-factor"):
        open_scene(replace(scene, assets={**assets, "B02_10m": replace(assets["B02_10m"], scale=1e-3)}))


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_eopf_in_the_pixels_of_one_group(tmp_path: Path, http_server: Callable[[Path], str]) -> None:
    path = eopf_store(tmp_path)
    source = opened(f"{http_server(tmp_path)}/{path.name}/measurements/reflectance/r20m")
    assert source.spec.transform == (20, 0, 600000, 0, -20, 5000000)
    stored, flags = source.read(ALL, ALL)
    names = source.spec.band_name
    assert stored.shape == (9, 6, 6) and flags[4, 4] == CLOUD
    assert stored[names.index("B03"), 3, 3] == 3003 and stored[names.index("B03"), 0, 3] == 0  # averaged from 10 m
    assert stored[names.index("B02"), 1, 1] == 3002 and stored[names.index("B09"), 5, 5] == 3009
    assert source.spec.attrs["hypermend:resampling"]["B08"] == "averaged 2 x"
    whole = open_scene(scene_of(path), gsd_m=60)
    assert whole.spec.shape == (9, 2, 2)
    with pytest.raises(BadAsset, match="no group of 30 m; it has 10 m, 20 m, 60 m"):
        open_scene(scene_of(path), gsd_m=30)
    picked = open_scene(scene_of(path), bands=["B8A", "B02"])
    assert picked.read(slice(7, 8), slice(7, 8))[0].ravel().tolist() == [3002, 3088]


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_a_store_in_a_folder_is_one_scene(tmp_path: Path) -> None:
    eopf_store(tmp_path)
    (scene,) = from_folder(tmp_path)
    assert isinstance(scene, Scene) and scene.sensor == "sentinel2b" and scene.grid is not None


@pytest.mark.parametrize("victim", ["zarr.json", "wavelength/zarr.json", "reflectance/zarr.json"])
def test_a_damaged_store_is_an_error_of_ours(tmp_path: Path, victim: str) -> None:
    path = cf_store(tmp_path / "a.zarr", 3, consolidated=False)
    document: dict[str, Any] = json.loads((path / victim).read_text())
    wrong = ({"shape": [-1]}, {"data_type": "banana"}, {"node_type": "banana"}, {"codecs": []})
    for broken in ("{", "[]", *(json.dumps({**document, **change}) for change in wrong)):
        (path / victim).write_text(broken)
        try:
            opened(path).read(ALL, ALL)
        except BadAsset as e:
            assert "a.zarr" in str(e) or "wavelength" in str(e)
