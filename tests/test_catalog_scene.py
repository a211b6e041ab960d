"""STAC items to Scenes and back: every real item, every version's way to say the same thing, and refused hrefs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pystac
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from hypermend.catalog.errors import BadItem
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.stac.item import from_item, items_in, search_fields, to_item
from hypermend.catalog.storage.hrefs import resolve_href, shown

GRID = GeoBox((20, 30), Affine(30, 0, 366000, 0, -30, 5810000), "EPSG:32633")
POLYGON = {"type": "Polygon", "coordinates": [[[13, 52], [14, 52], [14, 53], [13, 53], [13, 52]]]}


def item(**changes: Any) -> dict[str, Any]:
    """A small valid item; a dotted key changes an inner field."""
    out: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": "one",
        "collection": "c",
        "geometry": deepcopy(POLYGON),
        "bbox": [13, 52, 14, 53],
        "properties": {"datetime": "2022-07-24T10:45:26Z", "platform": "EnMAP", "eo:cloud_cover": 3},
        "links": [],
        "assets": {"data": {"href": "https://h.org/a.tif", "roles": ["data"], "type": "image/tiff"}},
    }
    for key, value in changes.items():
        target, names = out, key.split("__")
        for name in names[:-1]:
            target = target[name]
        target[names[-1]] = value
    return out


def test_the_plain_fields() -> None:
    s = from_item(item())
    assert (s.id, s.collection, s.sensor, s.stage) == ("one", "c", "enmap", "raw")
    assert s.datetime == datetime(2022, 7, 24, 10, 45, 26, tzinfo=UTC)
    assert s.bbox == (13, 52, 14, 53) and s.grid is None
    assert s.properties["eo:cloud_cover"] == 3


@pytest.mark.parametrize(
    "crs",
    [{"proj:epsg": 32633}, {"proj:code": "EPSG:32633"}, {"proj:wkt2": GRID.crs.to_wkt()}],
    ids=["epsg", "code", "wkt2"],
)
@pytest.mark.parametrize("nine", [False, True])
def test_every_way_to_give_a_grid(crs: dict[str, Any], nine: bool) -> None:
    transform = [*GRID.affine[:6]] + ([0, 0, 1] if nine else [])
    s = from_item(item(properties={**item()["properties"], **crs, "proj:shape": [20, 30], "proj:transform": transform}))
    assert s.grid is not None and s.grid == GRID
    assert not [k for k in s.properties if k.startswith("proj:")]


@pytest.mark.parametrize(
    ("field", "bands"),
    [
        ("eo:bands", [{"name": "B04"}, {"name": "B03"}]),
        ("bands", [{"name": "B04"}, {"name": "B03"}]),
        ("eo:bands", [{"name": "B4"}, {"name": "b3"}]),
        ("eo:bands", [{"name": "red", "center_wavelength": 0.665}, {"name": "green", "center_wavelength": 0.56}]),
        ("bands", [{"name": "red", "eo:center_wavelength": 0.665}, {"name": "green", "eo:center_wavelength": 0.56}]),
        ("eo:bands", [1, 0]),
        ("eo:bands", ["B04", "B03"]),
    ],
)
def test_every_way_to_name_bands(field: str, bands: list[Any]) -> None:
    raw = item(properties__platform="sentinel-2a", assets__data={"href": "/a.tif", field: bands})
    raw["properties"]["eo:bands"] = [{"name": "B03"}, {"name": "B04"}]
    assert from_item(raw).assets["data"].bands == ("B04", "B03")


@pytest.mark.parametrize(
    "fields",
    [
        {"raster:bands": [{"nodata": 0, "scale": 1e-4, "offset": -0.1}]},
        {"bands": [{"name": "B04", "nodata": 0, "raster:scale": 1e-4, "raster:offset": -0.1}]},
        {"nodata": 0, "raster:scale": 1e-4, "raster:offset": -0.1},
    ],
)
def test_every_way_to_give_a_scale(fields: dict[str, Any]) -> None:
    asset = from_item(item(assets__data={"href": "/a.tif", **fields})).assets["data"]
    assert (asset.nodata, asset.scale, asset.offset) == (0, 1e-4, -0.1)


@pytest.mark.parametrize(
    ("platform", "instruments", "sensor"),
    [
        ("Sentinel-2A", ["msi"], "sentinel2a"),
        ("sentinel-2b", None, "sentinel2b"),
        ("EnMAP", ["HSI"], "enmap"),
        ("PRISMA", ["HYC"], "prisma"),
        ("ISS", ["EMIT"], "emit"),
        ("ISS", ["DESIS"], "desis"),
        ("EO-1", ["Hyperion"], "hyperion"),
        ("eo1", ["ALI"], "ali"),
        ("landsat-5", ["tm"], "landsat5-tm"),
    ],
)
def test_the_sensor_is_inferred(platform: str, instruments: list[str] | None, sensor: str) -> None:
    assert from_item(item(properties__platform=platform, properties__instruments=instruments)).sensor == sensor


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"properties__platform": "sputnik"}, "sputnik.*give --sensor"),
        ({"type": "Catalog"}, "no STAC item"),
        ({"stac_version": "0.9.0"}, "0.9.0"),
        ({"properties__datetime": "yesterday"}, "yesterday"),
        ({"properties__datetime": None}, "neither datetime nor start_datetime"),
        ({"assets": {}}, "no asset"),
        ({"assets__data": {"roles": ["data"]}}, "no href"),
        ({"assets__data__href": "ftp://h/a.tif"}, "scheme 'ftp'"),
        ({"assets__data__href": "zip+https://h/a.zip"}, "scheme"),
        ({"assets__data__href": "https://h/a.zip/b.tif"}, "archive file"),
        ({"assets__data__href": "/vsizip/a.zip/b.tif"}, "virtual file system"),
        ({"assets__data__href": "https://h/a/../../b.tif"}, r"climbs with '\.\.'"),
        ({"assets__data__href": "https://h/a/%2e%2e/b.tif"}, r"climbs with '\.\.'"),
        ({"assets__data__href": "a.tif"}, "relative"),
        ({"properties__proj:epsg": "x"}, "proj:epsg"),
        ({"assets__data__nodata": "all"}, "asset 'data': nodata is no number: 'all'"),
        ({"assets__data__roles": "data"}, "asset 'data': roles is no list"),
        ({"assets": [1]}, "assets is no object"),
        ({"bbox": [13.0, 52.0, None, 53.0]}, "a coordinate is null"),
        ({"geometry": {"type": "Polygon", "coordinates": "abc"}}, "geometry is none of GeoJSON's"),
        (
            {"properties__proj:code": "EPSG:32633", "properties__proj:shape": [1], "properties__proj:transform": [1]},
            "give no grid",
        ),
    ],
)
def test_a_bad_item_says_why(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadItem, match=reason) as caught:
        from_item(item(**changes))
    assert caught.value.id == "one"


JUNK: list[Any] = [
    None, True, -1, 1.5, float("nan"), float("inf"), 10**400, "", "abc", "1e999", "0001-01-01T00:00:00+14:00",
    [], [1], ["a"], [None], [[1]], [{}], [{"a": None}], {}, {"a": 1}, {"coordinates": "abc"}, {"geometries": [7]},
]  # fmt: skip


def places_in(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of a document."""
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document if isinstance(document, list) else ())
    )
    for key, value in inner:
        yield (*path, key)
        yield from places_in(value, (*path, key))


def test_no_value_of_an_item_makes_another_error_than_a_bad_item() -> None:
    whole = item()
    whole["properties"] |= {
        "instruments": ["hsi"],
        "start_datetime": None,
        "proj:epsg": 32633,
        "hypermend:sensor": "enmap",
    }
    whole["properties"] |= {"proj:shape": [9, 9], "proj:transform": [30, 0, 0, 0, -30, 0], "bands": [{"name": "1"}]}
    whole["links"] = [{"rel": "self", "href": "https://h.org/i.json"}]
    whole["assets"]["data"] |= {
        "eo:bands": [{"name": "x", "center_wavelength": 0.5}], "raster:bands": [{"nodata": 0, "scale": 2}], "gsd": 30,
        "type": "image/tiff", "file:checksum": "1220ab", "proj:shape": [9, 9], "proj:transform": [30, 0, 0, 0, -30, 0],
    }  # fmt: skip
    boxless = {key: value for key, value in whole.items() if key != "bbox"}
    refused = 0
    for base in (whole, boxless):
        for *path, last in places_in(base):
            for junk in JUNK:
                spoiled = deepcopy(base)
                inside: Any = spoiled
                for key in path:
                    inside = inside[key]
                inside[last] = junk
                for read in (from_item, search_fields):
                    try:
                        read(spoiled)
                    except BadItem:
                        refused += 1
    assert refused > 500


def test_what_python_writes_and_json_does_not_know_is_null() -> None:
    """A scene must not fail at its publication, with its pixels done."""
    assert from_item(item(**{"properties__eo:cloud_cover": float("nan")})).properties["eo:cloud_cover"] is None


def test_a_bad_thumbnail_does_not_cost_the_scene() -> None:
    raw = item()
    raw["assets"]["thumbnail"] = {"href": "ftp://h/t.png", "roles": ["thumbnail"]}
    scene = from_item(raw)
    assert scene.assets["data"].problem is None
    assert "scheme 'ftp'" in str(scene.assets["thumbnail"].problem)
    assert from_item(to_item(scene)) == scene


def test_a_given_sensor_is_for_items_that_name_none() -> None:
    assert from_item(item(), sensor="cave").sensor == "enmap"
    assert from_item(item(properties__platform=None), sensor="cave").sensor == "cave"


def test_null_geometry_and_no_crs_pass() -> None:
    raw = item(geometry=None, properties__platform=None)
    del raw["bbox"]
    s = from_item(raw, sensor="cave")
    assert (s.geometry, s.bbox, s.grid, s.sensor) == (None, None, None, "cave")
    back = to_item(s)
    assert back["geometry"] is None and "bbox" not in back
    assert from_item(back) == s
    pystac.Item.from_dict(back)


@pytest.mark.parametrize(
    ("href", "base", "expected"),
    [
        ("./a.tif", "/x/y/item.json", "/x/y/a.tif"),
        ("../a.tif", "/x/y/item.json", "/x/a.tif"),
        ("/z/a.tif", "/x/y/item.json", "/z/a.tif"),
        ("file:///z/a.tif", "/x/item.json", "/z/a.tif"),
        ("../a.tif", "https://h.org/x/y/item.json?sig=1", "https://h.org/x/a.tif"),
        ("../a.tif", "s3://bucket/x/y/item.json", "s3://bucket/x/a.tif"),
        ("https://o.org/a.tif?x=1", "https://h.org/i.json", "https://o.org/a.tif?x=1"),
    ],
)
def test_hrefs_become_absolute(href: str, base: str, expected: str) -> None:
    assert resolve_href(href, base) == expected


@pytest.mark.parametrize(
    ("href", "base"),
    [
        ("file:///etc/passwd", "https://h.org/i.json"),
        ("/etc/passwd", "https://h.org/i.json"),
        ("/etc/passwd", "s3://bucket/i.json"),
        ("../../../a.tif", "https://h.org/x/i.json"),
        ("..%2f..%2fa.tif", "https://h.org/x/i.json"),
        ("../../../../etc/passwd", "/x/y/i.json"),
        ("..\\..\\a.tif", "https://h.org/x/i.json"),
    ],
)
def test_hrefs_that_reach_out_are_refused(href: str, base: str) -> None:
    with pytest.raises(ValueError, match="href"):
        resolve_href(href, base)


def test_relative_hrefs_stay_within() -> None:
    assert resolve_href("../a.tif", "/x/y/i.json", within="/x") == "/x/a.tif"
    with pytest.raises(ValueError, match="leaves /x/y"):
        resolve_href("../a.tif", "/x/y/i.json", within="/x/y")


def test_no_signature_and_no_password_in_what_is_shown() -> None:
    assert shown("https://user:pw@h.org/a.tif?sig=secret#x") == "https://h.org/a.tif"


_numbers = st.none() | st.floats(-1e4, 1e4)


@given(
    bands=st.lists(st.sampled_from([f"{i}" for i in range(1, 225)]), unique=True, max_size=4),
    nodata=_numbers,
    scale=_numbers,
    offset=_numbers,
    gsd=st.none() | st.floats(0.1, 100),
    grid=st.sampled_from([None, GRID]),
    stage=st.sampled_from(["raw", "source", "restored"]),
    micros=st.integers(0, 10**15),
    geometry=st.sampled_from([None, POLYGON]),
)
def test_item_of_a_scene_is_the_scene(
    bands: list[str],
    nodata: float | None,
    scale: float | None,
    offset: float | None,
    gsd: float | None,
    grid: GeoBox | None,
    stage: str,
    micros: int,
    geometry: dict[str, Any] | None,
) -> None:
    asset = Asset(
        key="a",
        href="/x/a.tif",
        roles=("data",),
        media_type="image/tiff",
        bands=tuple(bands),
        nodata=nodata,
        scale=scale,
        offset=offset,
        gsd_m=gsd,
        grid=grid,
    )
    scene = Scene(
        id="s",
        collection="c",
        datetime=datetime.fromtimestamp(micros / 1e6, UTC),
        sensor="enmap",
        grid=grid,
        bbox=(13.0, 52.0, 14.0, 53.0) if geometry else None,
        geometry=geometry,
        assets={"a": asset},
        stage=stage,
        properties={"eo:cloud_cover": 1.5, "hypermend:cube": f"{stage}/s/p.zarr", "hypermend:ingest": "x"},
    )
    assert from_item(json.loads(json.dumps(to_item(scene))), own=True) == scene


def real_items(folder: Path) -> list[tuple[Path, Any]]:
    files = sorted(folder.rglob("*.json"))
    return [(f, one) for f in files for one in items_in(json.loads(f.read_text()))]


def test_all_real_items_become_scenes_and_come_back(shared_data: Path) -> None:
    found = real_items(shared_data / "stac")
    assert len(found) >= 15
    for file, raw in found:
        static = "recursive" in str(file)
        s = from_item(raw, href=str(file), sensor="sentinel2a" if static else None)
        assert s.sensor in ("sentinel2a", "sentinel2b")
        again = to_item(s)
        assert from_item(again) == s
        pystac.Item.from_dict(again)
        bands = {b for a in s.assets.values() for b in a.bands}
        assert bands >= {"B02", "B03", "B04"}, file


def test_payloads_lists_and_collections_hold_items(shared_data: Path) -> None:
    count = {f.name: 0 for f in (shared_data / "stac").glob("*.json")}
    for file, _ in real_items(shared_data / "stac"):
        if file.parent.name == "stac":
            count[file.name] += 1
    assert count["pc_sentinel-2-l2a_itemcollection.json"] == 4
    assert count["sentinel2-l2a-j2k-payload.json"] == 2
    assert count["pc_sentinel-2-l2a.collection.json"] == 0
