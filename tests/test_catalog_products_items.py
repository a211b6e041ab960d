"""Raster products as STAC items, in the shapes of their catalogs: the same scenes as from folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hypermend.catalog.cube.spec import CLOUD, NODATA, SHADOW, SNOW, VALID
from hypermend.catalog.readers.scene_reader import Source, open_scene
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac.item import from_item, to_item
from tests.deliveries import SAFE, desis_folder, enmap_folder, landsat_folder, layer, numbers, safe_folder, write_raster

COG = "image/tiff; application=geotiff; profile=cloud-optimized"


def item(id: str, assets: Mapping[str, Any], **properties: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": id,
        "collection": "c",
        "geometry": None,
        "links": [],
        "assets": dict(assets),
        "properties": {"datetime": "2022-07-24T10:45:28Z", **properties},
    }


def asset(path: Path, *roles: str, media: str = COG, **fields: Any) -> dict[str, Any]:
    return {"href": str(path), "type": media, "roles": list(roles), **fields}


def opened(raw: Mapping[str, Any]) -> tuple[Scene, Source]:
    scene = from_item(raw, own=True)
    assert from_item(to_item(scene), own=True) == scene
    return scene, open_scene(scene)


def known(source: Source) -> np.ndarray:
    stored, _ = source.read(slice(2, 3), slice(3, 4))
    return stored[:, 0, 0] * source.spec.scale_factor + source.spec.add_offset


def flags(source: Source) -> np.ndarray:
    return source.read(slice(None), slice(None))[1]


def test_an_enmap_item_of_dlr(tmp_path: Path) -> None:
    """Thirteen assets, of which three are pictures; the files of its layers may be missing without harm to none."""
    stem = enmap_folder(tmp_path, "L2A", suffix="_COG")
    layers = {
        "quality_classes": "CLASSES", "quality_cloud": "CLOUD", "quality_cloud_shadow": "CLOUDSHADOW",
        "quality_haze": "HAZE", "quality_cirrus": "CIRRUS", "quality_snow": "SNOW", "quality_testflags": "TESTFLAGS",
    }  # fmt: skip
    assets = {
        "metadata": asset(tmp_path / f"{stem}-METADATA.XML", "metadata", media="application/xml"),
        "image": asset(tmp_path / f"{stem}-SPECTRAL_IMAGE_COG.TIF", "data", title="Spectral Image"),
        "vnir": asset(tmp_path / f"{stem}-QL_VNIR_COG.TIF", "overview", "visual"),
        "swir": asset(tmp_path / f"{stem}-QL_SWIR_COG.TIF", "overview"),
        "thumbnail": asset(tmp_path / f"{stem}-QL_VNIR_COG_thumbnail.png", "thumbnail", media="image/png"),
        "defective_pixel_mask": asset(tmp_path / f"{stem}-QL_PIXELMASK_COG.TIF", "quality", "data-mask"),
        **{k: asset(tmp_path / f"{stem}-QL_QUALITY_{n}_COG.TIF", "quality") for k, n in layers.items()},
    }
    raw = item(stem, assets, platform="enmap", **{"raster:nodata": "null", "eo:instrument": "HSI"})
    scene, source = opened(raw)
    assert scene.sensor == "enmap" and source.spec.quantity == "reflectance" and source.spec.scale_factor == 1e-4
    found = flags(source)
    assert (found[1, 1], found[1, 2], found[1, 3], found[1, 6], found[4, 4]) == (CLOUD, SHADOW, SNOW, NODATA, VALID)
    defects = source.defects(slice(None), slice(None))
    assert defects is not None and defects.sum() == 1


def test_a_desis_item_on_the_space_station(tmp_path: Path) -> None:
    stem = desis_folder(tmp_path, "L2A")
    assets = {
        "metadata": asset(tmp_path / f"{stem}-METADATA.xml", "metadata", media="application/xml"),
        "image": asset(tmp_path / f"{stem}-SPECTRAL_IMAGE.tif", "data"),
        "quality": asset(tmp_path / f"{stem}-QL_QUALITY.tif", "data"),
        "quality2": asset(tmp_path / f"{stem}-QL_QUALITY-2.tif", "data"),
    }
    raw = item(stem, assets, platform="ISS", mission="DESIS", datetime="2020-08-01T23:45:22Z")
    scene, source = opened(raw)
    assert source.spec.sensor == "desis" and source.spec.bands == 235 and source.spec.scale_factor == 1e-4
    assert flags(source)[1, 1] == CLOUD
    assert scene.sensor in ("desis", "auto")


def wyvern(folder: Path, level: str, **band: Any) -> dict[str, Any]:
    name = "wyvern_dragonette-001_20240531T043922_7f6b9b1c"
    array = numbers(3, "uint16", 65535) if level == "L2A" else numbers(3, "float32") / 100
    write_raster(folder / f"{name}.tiff", array)
    write_raster(folder / f"{name}_data_mask.tiff", layer({(1, 1): 0}, base=1))
    write_raster(folder / f"{name}_pixel_quality_mask.tiff", layer({(1, 2): 3}))
    bands = [
        {"name": f"Band_{nm}", "center_wavelength": nm / 1000, "full_width_half_max": 0.02} for nm in (503, 570, 700)
    ]
    assets = {
        "Cloud optimized GeoTiff": asset(
            folder / f"{name}.tiff", "data", **{"eo:bands": bands, "raster:bands": [dict(band) for _ in bands]}
        ),
        "Data Mask": asset(folder / f"{name}_data_mask.tiff", "data-mask"),
        "Pixel Quality Mask": asset(folder / f"{name}_pixel_quality_mask.tiff", "data-mask"),
        "Preview": asset(folder / f"{name}_preview.png", "overview", media="image/png"),
    }
    properties = {"datetime": "2024-05-31T04:39:22Z", "platform": "Dragonette-001", "processing:level": level}
    return item(name, assets, **properties)


def test_a_wyvern_item_has_the_scale_that_the_file_has_not(tmp_path: Path) -> None:
    raw = wyvern(tmp_path, "L2A", scale=1e-4, nodata=65535)
    _, source = opened(raw)
    spec = source.spec
    assert spec.wavelength_nm == pytest.approx((503, 570, 700)) and spec.fwhm_nm == pytest.approx((20, 20, 20))
    assert (spec.quantity, spec.scale_factor, spec.fill, spec.sensor) == (
        "reflectance",
        1e-4,
        65535,
        "wyvern",
    )
    assert known(source) == pytest.approx([0.2001, 0.2002, 0.2003])
    found = flags(source)
    assert (found[0, 0], found[1, 1], found[1, 2]) == (NODATA, NODATA, VALID)


def test_a_wyvern_item_of_radiance(tmp_path: Path) -> None:
    spec = opened(wyvern(tmp_path, "L1B"))[1].spec
    assert (spec.quantity, spec.units) == ("radiance", "W m-2 sr-1 um-1") and np.isnan(spec.fill)


STEM = "LT05_L2SP_010067_19860424_20200918_02_T2"


@pytest.mark.parametrize("told", [True, False], ids=["planetary-computer", "usgs"])
def test_a_landsat_item(tmp_path: Path, told: bool) -> None:
    """The item of one catalog has the scale, that of the other has none; the MTL file repeats the Level-1 factors."""
    landsat_folder(tmp_path, STEM, "LANDSAT_5", "TM")
    text = (tmp_path / f"{STEM}_MTL.txt").read_text()
    (tmp_path / f"{STEM}_MTL.txt").write_text(text.replace("2021-11-05", "1986-04-24"))
    names = {1: "blue", 2: "green", 3: "red", 4: "nir08", 5: "swir16", 7: "swir22"}
    scale = {"raster:bands": [{"scale": 2.75e-05, "offset": -0.2, "nodata": 0}]} if told else {}
    assets = {
        name: asset(
            tmp_path / f"{STEM}_SR_B{n}.TIF", "data", **scale,
            **{"eo:bands": [{"name": f"TM_B{n}" if told else f"B{n}", "common_name": name, "center_wavelength": 0.5}]},
        )
        for n, name in names.items()
    }  # fmt: skip
    assets["lwir"] = asset(
        tmp_path / f"{STEM}_ST_B6.TIF",
        "data",
        "temperature",
        **{"raster:bands": [{"scale": 0.00341802, "offset": 149.0}]},
    )
    assets["atmos_opacity"] = asset(tmp_path / f"{STEM}_SR_ATMOS_OPACITY.TIF", "data")
    assets["qa_pixel"] = asset(tmp_path / f"{STEM}_QA_PIXEL.TIF", "cloud", "cloud-shadow")
    assets["mtl.txt"] = asset(tmp_path / f"{STEM}_MTL.txt", "metadata", media="text/plain")
    raw = item(STEM, assets, platform="landsat-5", instruments=["tm"], datetime="1986-04-24T14:54:18Z")
    _, source = opened(raw)
    spec = source.spec
    assert (spec.quantity, spec.scale_factor, spec.add_offset, spec.bands) == ("reflectance", 2.75e-5, -0.2, 6)
    assert known(source)[:3] == pytest.approx([0.07775, 0.0805, 0.08325])
    assert not [k for k in spec.attrs if "radiance" in k] and flags(source)[1, 1] == CLOUD
    assert spec.wavelength_nm[0] == 485.0  # of the table: the item's is rounded, or wrong


@pytest.mark.parametrize("craft", ["A", "C"])
def test_a_sentinel2_level_1c_item_has_no_data_where_its_numbers_are_0(tmp_path: Path, craft: str) -> None:
    home = safe_folder(tmp_path, "1C", craft=craft)
    files = {p.stem.split("_")[-1]: p for p in home.rglob("IMG_DATA/*.jp2")}
    assets = {b: asset(p, "data", media="image/jp2", **{"eo:bands": [{"name": b}]}) for b, p in files.items()}
    raw = item(SAFE.format(craft, "1C", "0510")[:-5], assets, platform=f"Sentinel-2{craft}", instruments=["msi"],
               datetime="2024-06-07T10:15:59Z")  # fmt: skip
    _, source = opened(raw)
    assert source.spec.fill == 0 and source.spec.add_offset == -0.1 and source.spec.bands == 13
    found = flags(source)
    assert (found[:6, :6] == NODATA).all() and (found[6:, 6:] == VALID).all()
