"""Documents of real catalogs, read where they lie: the right sensor, time and place, or a refusal by name.

Some are proprietary metadata and none is copied: only hrefs are replaced, in memory, where files are generated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import pytest

import hypermend
from hypermend.catalog.cube.spec import CLOUD, NODATA
from hypermend.catalog.errors import BadAsset, BadItem
from hypermend.catalog.scene import AUTO, Scene
from hypermend.catalog.stac.discover import Skipped, discover
from hypermend.catalog.stac.item import from_item, items_in, to_item
from hypermend.catalog.stac.platforms import identify_sensor
from hypermend.pipeline.config import IngestJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.ingest import ingest
from tests.conftest import TrapServer
from tests.deliveries import desis_folder, enmap_folder
from tests.hierarchical import emit_file, emit_mask, eopf_store
from tests.test_catalog_readers_products_hdf import tanager


@pytest.fixture(scope="module")
def real(shared_data: Path) -> Path:
    folder = shared_data / "stac_real"
    if not folder.is_dir():
        pytest.skip("the real documents (../shared/data/stac_real) are not on this machine")
    return folder


def items_of(path: Path) -> list[dict[str, Any]]:
    return [dict(item) for item in items_in(json.loads(path.read_text()))]


RIGHT = [
    ("dlr_enmap_desis/enmap_l2a.json", "enmap", 3, "image"),
    ("dlr_enmap_desis/desis_l2a.json", "desis", 3, "image"),
    ("planet_tanager/20250514_115302_15_4001.json", "tanager", 1, "basic_radiance_hdf5"),
    ("planet_tanager/open-canada_20250809_191957_01_4001.json", "tanager", 1, "radiance"),
    ("eopf_sentinel2/S2A_MSIL2A_20251113T102311_N0511_R065_T32TNQ_20251113T142515.json", "sentinel2a", 1, "SR_10m"),
    (
        "eopf_sentinel2/S2A_MSIL2A_20250831T103701_N0511_R008_T31TFL_20250831T145420.json",
        "sentinel2a",
        1,
        "reflectance",
    ),
    (
        "eopf_sentinel2/S2A_MSIL2A_20251008T100041_N0511_R122_T32TQM_20251008T122613.szeopf.json",
        "sentinel2a",
        1,
        "reflectance",
    ),
    (
        "stac_zarr_best_practices/S2A_MSIL2A_20251008T100041_N0511_R122_T32TQM_20251008T122613.json",
        "sentinel2a",
        1,
        "SR_60m",
    ),
    (
        "stac_zarr_best_practices/S2A_MSIL2A_20251008T100041_N0511_R122_T32TQM_20251008T122613_single_asset.json",
        "sentinel2a",
        1,
        "reflectance",
    ),
]


@pytest.mark.parametrize(("name", "sensor", "count", "asset"), RIGHT, ids=[name[-40:-5] for name, *_ in RIGHT])
def test_a_real_item_is_a_scene_of_the_right_sensor_time_and_place(
    real: Path, name: str, sensor: str, count: int, asset: str
) -> None:
    found = items_of(real / name)
    assert len(found) == count
    for raw in found:
        scene = from_item(raw, href="https://h.org/item.json", sensor=AUTO)
        assert scene.sensor == sensor and scene.assets[asset].problem is None
        written = raw["properties"]["datetime"]
        assert scene.datetime == datetime.fromisoformat(written)
        assert scene.bbox == tuple(raw["bbox"]) and scene.geometry == raw["geometry"]
        assert set(scene.assets) == set(raw["assets"])  # nothing is lost, whatever a reader needs
        assert from_item(json.loads(json.dumps(to_item(scene))), sensor=AUTO) == scene


def test_what_real_items_say_oddly(real: Path) -> None:
    """DLR writes nodata "null"; an asset inside a zip cannot be read, and must not cost the others."""
    for raw in items_of(real / "dlr_enmap_desis" / "enmap_l2a.json"):
        assert raw["properties"]["raster:nodata"] == "null"
        scene = from_item(raw)
        assert not [a for a in scene.assets.values() if a.problem is not None]
        assert scene.assets["image"].grid is not None and scene.assets["image"].nodata is None
    for raw in items_of(real / "dlr_enmap_desis" / "desis_l2a.json"):
        assert raw["properties"]["platform"] == "ISS" and raw["properties"]["proj:epsg"] is None
        grid = from_item(raw).assets["image"].grid
        assert grid is not None and grid.crs.to_epsg() == raw["assets"]["image"]["proj:epsg"]
    name = "S2A_MSIL2A_20251113T102311_N0511_R065_T32TNQ_20251113T142515.json"
    (raw,) = items_of(real / "eopf_sentinel2" / name)
    problems = {key: a.problem for key, a in from_item(raw).assets.items() if a.problem is not None}
    assert set(problems) <= {"zipped_product"}


def test_a_sensor_that_is_not_named_is_asked_for(real: Path) -> None:
    (unnamed,) = items_of(real / "eopf_sentinel2" / "stac_item_with_v2_zarr.json")
    with pytest.raises(BadItem, match="is no known sensor; give --sensor"):
        from_item(unnamed)
    assert from_item(unnamed, sensor=AUTO).sensor == AUTO
    assert from_item(unnamed, sensor="sentinel2a").sensor == "sentinel2a"


def test_what_is_no_stac_is_refused_by_name(real: Path) -> None:
    for file in sorted((real / "nasa_cmr").glob("*.json")):
        with pytest.raises(BadAsset, match=r"is no STAC.*a record of NASA's CMR in UMM; its STAC is at https://cmr"):
            discover(file)
    for file in sorted((real / "zarr_conventions").glob("*.json")):
        with pytest.raises(BadAsset, match="is no STAC catalog, collection, item or item collection"):
            discover(file)


def test_a_real_static_catalog_with_holes(real: Path) -> None:
    """Its children were not recorded: each is skipped by name, and nothing is silent."""
    for name in ("root_catalog.json", "stac_tanager-core-imagery_catalog.json"):
        found = list(discover(real / "planet_tanager" / name))
        assert found and all(isinstance(one, Skipped) and "no such file" in one.reason for one in found)


def test_real_items_through_a_real_api(real: Path, stac_api: Callable[[Sequence[Any]], str]) -> None:
    """What `rustac serve` gives back of them is the same scenes, found by place, time and cloud."""
    raws = [item for name, *_ in RIGHT[:2] for item in items_of(real / name)]
    url = stac_api(raws)
    found = {one.id: one for one in discover(url) if isinstance(one, Scene)}
    assert found.keys() == {raw["id"] for raw in raws}
    for raw in raws:
        there = from_item(raw)
        got = found[raw["id"]]
        assert (got.sensor, got.datetime, got.bbox) == (there.sensor, there.datetime, there.bbox)
        w, s, e, n = raw["bbox"]
        cloud = raw["properties"]["eo:cloud_cover"]
        again = discover(
            url, bbox=(w, s, e, n), datetime=raw["properties"]["datetime"], query=[f"eo:cloud_cover<={cloud}"]
        )
        assert [one.id for one in again] == [raw["id"]]


@pytest.mark.parametrize(
    ("properties", "product", "sensor"),
    [
        ({"platform": "ISS", "mission": "DESIS"}, "x", "desis"),
        ({"platform": "ISS", "instruments": ["EMIT"]}, "x", "emit"),
        ({"platform": "ISS", "instruments": ["ECOSTRESS"]}, "x", None),
        ({"platform": "Planet", "constellation": "Tanager", "instruments": ["4001"]}, "x", "tanager"),
        ({"constellation": "tanager"}, "x", "tanager"),
        ({"platform": "enmap", "eo:instrument": "HSI"}, "x", "enmap"),
        ({"platform": "Dragonette-003", "constellation": "Wyvern"}, "x", "wyvern"),
        ({"platform": "landsat-4", "instruments": ["tm"]}, "x", "landsat4-tm"),
        ({"platform": "LANDSAT_5", "instruments": ["TM"]}, "x", "landsat5-tm"),
        ({"platform": "landsat-5", "instruments": ["mss"]}, "x", None),
        ({"platform": "landsat-7", "instruments": ["etm+"]}, "x", "landsat7-etm"),
        ({"platform": "landsat-8", "instruments": ["oli", "tirs"]}, "x", "landsat8-oli"),
        ({"platform": "LANDSAT_9"}, "x", "landsat9-oli"),
        ({"platform": "sentinel-2c", "instruments": ["msi"]}, "x", "sentinel2c"),
        ({"platform": "Sentinel-2B"}, "HLS.S30.T13TDE.2024001T174731.v2.0", "hls-s30"),
        ({"platform": "landsat-8", "instruments": ["oli"]}, "HLS.L30.T13TDE.2024001T174731.v2.0", "hls-l30"),
        ({"constellation": "sentinel-2"}, "S2C_MSIL2A_20250831T103701", "sentinel2c"),
        ({}, "EMIT_L2A_RFL_001_20240724T200145_2420613_013", "emit"),
        ({}, "PRS_L2D_STD_20210101", "prisma"),
        ({}, "EO1H0380342005105110KF", "hyperion"),
        ({}, "LC08_L2SP_042034_20240101", "landsat8-oli"),
        ({"platform": "sputnik"}, "x", None),
        ({"instruments": "EMIT"}, "x", "emit"),
        ({"platform": 7, "instruments": [None]}, "x", None),
    ],
)
def test_a_sensor_is_identified(properties: dict[str, Any], product: str, sensor: str | None) -> None:
    assert identify_sensor(product, "", properties) == sensor


def test_a_collection_of_cmr_names_its_sensor_and_keeps_assets_without_roles() -> None:
    """CMR-STAC gives neither platform nor roles nor types: `data`, `data1`, ... are the readers' to choose."""
    hrefs = {
        "data": "https://h.org/EMIT_L2A_RFL_001.nc", "data1": "https://h.org/EMIT_L2A_RFLUNCERT_001.nc",
        "data2": "https://h.org/EMIT_L2A_MASK_001.nc", "browse": "https://h.org/EMIT.png",
        "opendap": "https://opendap.h.org/collections/C1/granules/EMIT_L2A",
    }  # fmt: skip
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": "G1", "collection": "EMITL2ARFL_001", "geometry": None,
        "properties": {"datetime": "2024-07-24T20:01:45.000Z"}, "links": [],
        "assets": {key: {"href": href} for key, href in hrefs.items()},
    }  # fmt: skip
    scene = from_item(item)
    assert scene.sensor == "emit" and {key: a.href for key, a in scene.assets.items()} == hrefs


@pytest.mark.parametrize(
    ("name", "make", "sensor"),
    [("enmap_l2a.json", enmap_folder, "enmap"), ("desis_l2a.json", desis_folder, "desis")],
)
def test_a_real_item_becomes_a_source_cube(
    real: Path,
    stac_api: Callable[[Sequence[Any]], str],
    traps: Callable[[Path], TrapServer],
    tmp_path: Path,
    name: str,
    make: Callable[[Path, str], str],
    sensor: str,
) -> None:
    """The item of the real catalog, through a real API; its files are generated, of the same names and layout."""
    raw = items_of(real / "dlr_enmap_desis" / name)[0]
    stem = make(tmp_path / "files", "L2A")
    when = datetime.fromisoformat(raw["properties"]["datetime"])
    for file in (tmp_path / "files").glob("*METADATA*"):
        file.write_text(re.sub(r"<startTime>[^<]*", f"<startTime>{when.isoformat()}", file.read_text()))
    url = traps(tmp_path / "files").url
    there = {file.name.removeprefix(stem).upper(): file.name for file in (tmp_path / "files").iterdir()}
    for asset in raw["assets"].values():
        end = re.search(r"-[A-Z_]+(-2)?(_COG)?\.\w+$", asset["href"], re.IGNORECASE)
        part = "" if end is None else end[0].upper().replace("_COG", "")
        asset["href"] = f"{url}/agent/{there.get(part, 'not-delivered' + part)}"
        for field in [field for field in asset if field.startswith("proj:")]:
            del asset[field]  # the generated files are smaller, and lie elsewhere
    del raw["properties"]["proj:" + ("epsg" if sensor == "enmap" else "code")]
    job = IngestJob(archive=str(tmp_path / "archive"), stac=stac_api([raw]), query=("eo:cloud_cover<=100",))
    report = ingest(job, engine=serial).wait()
    assert [(s.status, s.reason) for s in report.scenes] == [("published", "")]
    (item,) = hypermend.open(job.archive).search(stage="source")
    cube = item.dataset()
    assert item.scene.sensor == sensor and item.scene.datetime is not None
    assert abs((item.scene.datetime - when).total_seconds()) < 60
    assert cube.reflectance.attrs["quantity"] == "reflectance" and "EPSG:32633" in str(item.scene.grid.crs)
    assert float(cube.reflectance.max()) < 7 and int(cube.valid.values[1, 1]) != 1 and int(cube.valid.values[4, 3]) == 1


def near(item: dict[str, Any]) -> dict[str, Any]:
    """The item with files beside it, and without the grids and bands of the real ones: generated files are smaller."""
    for asset in item["assets"].values():
        store = re.search(r"[^/]+\.zarr(/.*)?$", asset["href"])
        asset["href"] = "./" + (store[0] if store else asset["href"].rsplit("/", 1)[-1])
        for field in [field for field in asset if field.startswith("proj:")]:
            del asset[field]
    item["properties"] = {k: v for k, v in item["properties"].items() if not k.startswith("proj:")}
    return item


def ingested(item: dict[str, Any], folder: Path) -> Any:
    (folder / "item.json").write_text(json.dumps(item))
    job = IngestJob(archive=str(folder / "archive"), stac=str(folder / "item.json"))
    report = ingest(job, engine=serial).wait()
    assert [(s.status, s.reason) for s in report.scenes] == [("published", "")]
    (found,) = hypermend.open(job.archive).search(stage="source")
    return found


@pytest.mark.parametrize(
    ("name", "ortho", "place"),
    [("20250514_115302_15_4001", False, None), ("open-canada_20250809_191957_01_4001", True, "EPSG:32618")],
)
def test_a_real_tanager_item_becomes_a_source_cube(
    real: Path, tmp_path: Path, name: str, ortho: bool, place: str | None
) -> None:
    (item,) = items_of(real / "planet_tanager" / f"{name}.json")
    when = datetime.fromisoformat(item["properties"]["datetime"])
    for asset in near(item)["assets"].values():
        if asset["href"].endswith(".h5"):
            tanager(tmp_path / asset["href"], ortho=ortho)
            asset.pop("bands", None)
            asset.pop("eo:bands", None)
    found = ingested(item, tmp_path)
    cube = found.dataset()
    assert (found.scene.sensor, found.scene.datetime) == ("tanager", when)
    assert (cube.reflectance.attrs["quantity"], cube.reflectance.attrs["units"]) == ("radiance", "W m-2 sr-1 um-1")
    assert (None if found.scene.grid is None else f"EPSG:{found.scene.grid.crs.to_epsg()}") == place
    assert int(cube.valid.values[1, 1]) & CLOUD and int(cube.valid.values[2, 2]) & NODATA


def test_a_tanager_file_of_other_bands_than_its_item_is_refused(real: Path, tmp_path: Path) -> None:
    (item,) = items_of(real / "planet_tanager" / "20250514_115302_15_4001.json")
    tanager(tmp_path / near(item)["assets"]["basic_radiance_hdf5"]["href"], ortho=False)
    (tmp_path / "item.json").write_text(json.dumps(item))
    job = IngestJob(archive=str(tmp_path / "archive"), stac=str(tmp_path / "item.json"))
    (scene,) = ingest(job, engine=serial).wait().scenes
    assert scene.status == "failed" and "8 in all" in scene.reason and "426 in all" in scene.reason


def test_a_real_eopf_item_becomes_a_source_cube(real: Path, tmp_path: Path) -> None:
    name = "S2A_MSIL2A_20251113T102311_N0511_R065_T32TNQ_20251113T142515"
    (item,) = items_of(real / "eopf_sentinel2" / f"{name}.json")
    store = eopf_store(tmp_path).rename(tmp_path / f"{name}.zarr")
    for file in (store / ".zattrs", store / ".zmetadata"):
        file.write_text(file.read_text().replace("sentinel-2b", "sentinel-2a"))
    found = ingested(near(item), tmp_path)
    cube = found.dataset()
    assert found.scene.sensor == "sentinel2a" and found.scene.grid.crs.to_epsg() == 32632
    blue = cube.reflectance.sel(band=2)
    assert float(blue.values[6, 6]) == pytest.approx(0.2002) and int(cube.valid.values[0, 0]) & NODATA


@pytest.mark.parametrize("version", ["001", "002"])
def test_a_real_emit_granule_becomes_a_source_cube(
    real: Path,
    stac_api: Callable[[Sequence[Any]], str],
    traps: Callable[[Path], TrapServer],
    tmp_path: Path,
    version: str,
) -> None:
    """A record of CMR as CMR's STAC lists it: assets data, data1, browse, without types or roles."""
    umm = json.loads((real / "nasa_cmr" / f"EMITL2ARFL_{version}.json").read_text())["umm"]
    urls = [u["URL"] for u in umm["RelatedUrls"] if u["Type"] == "GET DATA"]
    pictures = [u["URL"] for u in umm["RelatedUrls"] if u["Type"] == "GET RELATED VISUALIZATION"]
    for url in urls:
        name = url.rsplit("/", 1)[-1]
        if "MASK" in name:
            emit_mask(tmp_path / name)
        else:
            emit_file(tmp_path / name, "reflectance_uncertainty" if "UNCERT" in name else "reflectance")
    when = umm["TemporalExtent"]["RangeDateTime"]["BeginningDateTime"]
    for file in tmp_path.glob("*.nc"):
        with h5py.File(file, "a") as opened:
            opened.attrs["time_coverage_start"] = when.replace("Z", "+0000")
    points = umm["SpatialExtent"]["HorizontalSpatialDomain"]["Geometry"]["GPolygons"][0]["Boundary"]["Points"]
    ring = [[p["Longitude"], p["Latitude"]] for p in points]
    longitudes, latitudes = zip(*ring, strict=True)
    base = traps(tmp_path).url
    keys = ["data", *(f"data{i}" for i in range(1, len(urls)))]
    hrefs = dict(zip(keys, urls, strict=True)) | {"browse": pictures[0]}
    raw = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": umm["GranuleUR"],
        "collection": f"EMITL2ARFL_{version}",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [min(longitudes), min(latitudes), max(longitudes), max(latitudes)],
        "properties": {"datetime": when},
        "links": [],
        "assets": {key: {"href": f"{base}/agent/{href.rsplit('/', 1)[-1]}"} for key, href in hrefs.items()},
    }
    job = IngestJob(archive=str(tmp_path / "archive"), stac=stac_api([raw]))
    report = ingest(job, engine=serial).wait()
    assert [(s.status, s.reason) for s in report.scenes] == [("published", "")]
    (item,) = hypermend.open(job.archive).search(stage="source")
    cube = item.dataset()
    assert item.scene.sensor == "emit" and item.scene.datetime == datetime.fromisoformat(when)
    assert (
        cube.reflectance.attrs["quantity"] == "reflectance" and cube.sizes["band"] == cube.reflectance_std.sizes["band"]
    )
    assert float(cube.reflectance_std.values[3, 0, 2]) == pytest.approx(0.132)
    assert bool(int(cube.valid.values[0, 0]) & CLOUD) == any("MASK" in url for url in urls)
    assert cube.lon.shape == cube.valid.shape
