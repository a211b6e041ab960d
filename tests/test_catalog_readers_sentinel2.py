"""Sentinel-2: the offset as a truth table, the choice of files and grids, the scene classification as flags."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from hypermend.catalog.cube.spec import CLOUD, NODATA, SATURATED, SHADOW, SNOW, VALID
from hypermend.catalog.errors import BadAsset, Refused
from hypermend.catalog.meaning.of_scene import stac_statements
from hypermend.catalog.meaning.resolve import resolve
from hypermend.catalog.meaning.statement import Field
from hypermend.catalog.readers.masks import with_reasons
from hypermend.catalog.readers.products import sentinel2
from hypermend.catalog.readers.raster.choose import choose_files
from hypermend.catalog.readers.scene_reader import open_scene
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.sensors import sensor
from hypermend.catalog.stac.discover import from_folder
from hypermend.catalog.storage.fetch import AssetFetcher

ESA = "S2A_MSIL2A_20221106T155441_N{}_R054_T17SPR_20221106T204155"
V4, V3 = {"s2:processing_baseline": "05.09"}, {"s2:processing_baseline": "03.01"}
APPLIED, NOT_APPLIED = {"earthsearch:boa_offset_applied": True}, {"earthsearch:boa_offset_applied": False}


def scene(id: str = "x", properties: dict[str, Any] | None = None, assets: dict[str, Asset] | None = None) -> Scene:
    return Scene(
        id=id,
        collection="c",
        datetime=datetime(2022, 11, 6, tzinfo=UTC),
        sensor="sentinel2a",
        assets=assets or {},
        properties=properties or {},
    )


@pytest.mark.parametrize(
    ("id", "properties", "item_offset", "expected"),
    [
        # baseline alone
        ("x", V4, None, -0.1),
        ("x", {"s2:processing_baseline": "04.00"}, None, -0.1),
        ("x", V3, None, 0.0),
        ("x", {"sentinel:processing_baseline": "04.00"}, None, -0.1),
        (ESA.format("0400"), {}, None, -0.1),
        (ESA.format("0301"), {}, None, 0.0),
        ("x", {"s2:product_uri": ESA.format("0509") + ".SAFE"}, None, -0.1),
        # the item gives the offset: that one
        ("x", V4, -0.1, -0.1),
        ("x", V4, 0.0, 0.0),
        ("x", V3, 0.0, 0.0),
        ("x", {}, -0.1, -0.1),
        # the provider applied it: never again, whatever raster:bands says (Element84/earth-search #66, #71)
        ("x", {**V4, **APPLIED}, None, 0.0),
        ("x", {**V4, **APPLIED}, -0.1, 0.0),
        ("x", {**V4, "sentinel:boa_offset_applied": True}, None, 0.0),
        ("x", {**V3, **APPLIED}, None, 0.0),
        # not applied by the provider: the baseline says whether there is one
        ("x", {**V4, **NOT_APPLIED}, None, -0.1),
        ("x", {**V3, **NOT_APPLIED}, None, 0.0),
        # nobody says
        ("x", NOT_APPLIED, None, "refused"),
        ("S2A_17SPR_20221106_0_L2A", {}, None, "refused"),
        ("x", {"s2:datatake_id": "GS2A"}, None, "refused"),
        ("S2A_17SPR_20221106_0_L2A", {"hypermend:s2_offset": "-0.1"}, None, -0.1),
        ("S2A_17SPR_20221106_0_L2A", {"hypermend:s2_offset": 0}, None, 0.0),
        ("x", {**V4, "hypermend:s2_offset": 0}, None, 0.0),
        # a file that somebody derived has no baseline: nobody says how its integers are scaled
        ("bolzano", {}, None, None),
    ],
)
def test_the_offset_is_applied_exactly_once(
    id: str, properties: dict[str, Any], item_offset: float | None, expected: float | str | None
) -> None:
    asset = Asset(
        key="B02", href="/x.tif", bands=("B02",), scale=None if item_offset is None else 1e-4, offset=item_offset
    )
    made = scene(id, properties, {"B02": asset})
    told = sentinel2.describe(made, AssetFetcher())
    assert told is not None
    meaning = resolve([*told.statements, *stac_statements(made, told.images)], label="x")
    if expected in ("refused", None):
        assert Field.OFFSET not in meaning.resolved and (Field.OFFSET in told.required) is (expected == "refused")
        return
    assert (meaning.get(Field.SCALE), meaning.get(Field.OFFSET)) == (1e-4, expected)
    assert meaning.resolved[Field.OFFSET].where


def test_a_product_of_unknown_baseline_is_refused_and_its_floats_are_not(tmp_path: Path) -> None:
    for dtype in ("uint16", "float32"):
        path = tmp_path / f"S2A_17SPR_20221106_0_L2A_{dtype}_B02.tif"
        profile = {"driver": "GTiff", "count": 1, "height": 2, "width": 2, "dtype": dtype}
        with rasterio.open(path, "w", **profile) as out:
            out.write(np.ones((1, 2, 2), dtype))
        made = scene("S2A_17SPR_20221106_0_L2A", {}, {"B02": Asset(key="B02", href=str(path), bands=("B02",))})
        if dtype == "uint16":
            with pytest.raises(Refused, match="hypermend:s2_offset"):
                open_scene(made)
        else:
            spec = open_scene(made).spec
            assert (spec.scale_factor, spec.add_offset, spec.quantity) == (1.0, 0.0, "reflectance")


@pytest.mark.parametrize(
    ("value", "flag"),
    [
        (0, NODATA),
        (1, SATURATED),
        (2, VALID),
        (3, SHADOW),
        (4, VALID),
        (5, VALID),
        (6, VALID),
        (7, VALID),
        (8, CLOUD),
        (9, CLOUD),
        (10, CLOUD),
        (11, SNOW),
    ],
)
def test_classes_become_reasons(value: int, flag: int) -> None:
    flags = np.full((1, 1), VALID, np.uint8)
    assert with_reasons(flags, sentinel2.SCL.flags(np.full((1, 1), value, np.uint8)))[0, 0] == flag


def product(folder: Path, size_px: int = 12) -> tuple[Scene, dict[str, np.ndarray]]:
    """One file per band, at 10, 20 and 60 m, each with its own grid; SCL at 20 m."""
    rng = np.random.default_rng(0)
    table = sensor("sentinel2a")
    assets, arrays = {}, {}
    for name, gsd in [("B02", 10), ("B03", 10), ("B05", 20), ("B01", 60), ("SCL", 20)]:
        n = size_px * 10 // gsd
        array = rng.integers(1000, 9000, (n, n)).astype("uint16")
        if name == "SCL":
            array = np.full((n, n), 4, "uint8")
            array[0, 0], array[1, 1], array[0, 1] = 9, 3, 0
        path = folder / f"{name}.tif"
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=1,
            height=n,
            width=n,
            dtype=array.dtype,
            crs="EPSG:32632",
            transform=Affine(gsd, 0, 600000, 0, -gsd, 5000040),
            nodata=0,
        ) as out:
            out.write(array, 1)
        bands = (name,) if name in table.band_name else ()
        assets[name] = Asset(key=name, href=str(path), roles=("data",), bands=bands, gsd_m=gsd)
        arrays[name] = array
    return scene("x", V4, assets), arrays


def test_all_bands_on_the_finest_grid_are_repeated(tmp_path: Path) -> None:
    made, arrays = product(tmp_path)
    source = open_scene(made)
    spec = source.spec
    assert spec.band_name == ("B01", "B02", "B03", "B05") and spec.shape == (4, 12, 12)
    assert spec.gsd_m == (60, 10, 10, 20) and spec.transform == (10, 0, 600000, 0, -10, 5000040)
    assert spec.attrs["hypermend:resampling"] == {"B01": "nearest x6", "B05": "nearest x2"}
    assert (spec.scale_factor, spec.add_offset) == (1e-4, -0.1)
    assert "processing baseline 05.09" in spec.attrs["sources"]["offset"]
    stored, flags = source.read(slice(None), slice(None))
    np.testing.assert_array_equal(stored[1], arrays["B02"])
    np.testing.assert_array_equal(stored[3], arrays["B05"].repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(stored[0], arrays["B01"].repeat(6, 0).repeat(6, 1))
    assert (flags[:2, :2] == CLOUD).all() and (flags[2:4, 2:4] == SHADOW).all() and (flags[:2, 2:4] == NODATA).all()
    assert (flags[4:] == VALID).all()
    part, part_flags = source.read(slice(3, 8), slice(1, 7))
    np.testing.assert_array_equal(part, stored[:, 3:8, 1:7])
    np.testing.assert_array_equal(part_flags, flags[3:8, 1:7])


def test_a_coarser_grid_averages_the_finer_bands(tmp_path: Path) -> None:
    made, arrays = product(tmp_path)
    source = open_scene(made, bands=["B02", "B05"], gsd_m=20)
    assert source.spec.shape == (2, 6, 6) and source.spec.attrs["hypermend:resampling"] == {"B02": "average /2"}
    stored, flags = source.read(slice(None), slice(None))
    mean = arrays["B02"].reshape(6, 2, 6, 2).mean(axis=(1, 3))
    np.testing.assert_array_equal(stored[0], np.rint(mean).astype("uint16"))
    np.testing.assert_array_equal(stored[1], arrays["B05"])
    assert flags[0, 0] == CLOUD


def test_only_the_chosen_bands_are_opened(tmp_path: Path) -> None:
    made, _ = product(tmp_path)
    (tmp_path / "B01.tif").unlink()
    source = open_scene(made, bands=["B05", "b3"])
    assert source.spec.band_name == ("B03", "B05") and source.spec.shape == (2, 12, 12)
    assert open_scene(made, bands=["B05"]).spec.shape == (1, 6, 6)  # the finest of what was chosen


def test_an_unknown_band_names_what_there_is(tmp_path: Path) -> None:
    made, _ = product(tmp_path)
    with pytest.raises(BadAsset, match=r"'B12'.*it has B01, B02, B03, B05"):
        open_scene(made, bands=["B12"])


def test_of_several_resolutions_the_asked_one_is_taken() -> None:
    def band(key: str, gsd: float) -> Asset:
        return Asset(key=key, href=f"/{key}.tif", roles=("data",), bands=("B02",), gsd_m=gsd)

    offered = {a.key: a for a in (band("blue", 10), band("blue_20m", 20), band("blue_60m", 60), band("blue-jp2", 10))}
    told = sentinel2.describe(scene("x", V4, offered), AssetFetcher())
    assert told is not None
    for gsd, key in [(None, "blue"), (10, "blue"), (20, "blue_20m"), (60, "blue_60m"), (30, "blue_20m")]:
        assert [a.key for a in choose_files(told.images, None, gsd, sensor("sentinel2a"), "x")] == [key]


def test_bolzano_sample(shared_data: Path) -> None:
    path = shared_data / "sentinel2" / "S2_L2A_sample.tif"
    found = {s.id: s for s in from_folder(shared_data / "sentinel2", sensor="sentinel2a", collection="s2")}
    sample = found["S2_L2A_sample"]
    assert isinstance(sample, Scene)
    source = open_scene(sample)
    assert source.spec.band_name == ("B02", "B03", "B04", "B08")
    # derived from a product, with band names only: its scale is not known, so its integers are counts
    assert source.spec.crs == "EPSG:32632" and source.spec.quantity == "counts"
    stored, flags = source.read(slice(None), slice(None))
    with rasterio.open(path) as file:
        b04, b03, b02, b08, scl = file.read()
    for i, truth in enumerate([b02, b03, b04, b08]):
        np.testing.assert_array_equal(stored[i], truth)
    assert ((flags & CLOUD > 0) == np.isin(scl, [8, 9, 10])).all()
    assert ((flags & SHADOW > 0) == (scl == 3)).all() and ((flags & SNOW > 0) == (scl == 11)).all()
    assert not (flags & VALID)[np.isin(scl, [0, 1, 3, 8, 9, 10, 11])].any()
    assert (flags & VALID).mean() > 0.5


def test_amazon_in_degrees(shared_data: Path) -> None:
    found = {s.id: s for s in from_folder(shared_data / "sentinel2", sensor="sentinel2a", collection="s2")}
    amazon = found["s2_amazon_12band"]
    assert isinstance(amazon, Scene)
    source = open_scene(amazon)
    assert source.spec.crs == "EPSG:4326" and source.spec.bands == 12 and source.spec.scale_factor == 1.0
    assert source.spec.gsd_m[0] == 60  # the instrument's, not the file's degrees
    stored, _ = source.read(slice(0, 50), slice(0, 60))
    with rasterio.open(shared_data / "sentinel2" / "s2_amazon_12band.tif") as file:
        np.testing.assert_array_equal(stored[0], file.read(1)[0:50, 0:60])
