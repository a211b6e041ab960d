"""Raster products from folders as they are delivered: values, masks, time, place, and nothing but the path given."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hypermend.catalog.cube.spec import CLOUD, NODATA, SATURATED, SHADOW, SNOW, VALID, CubeSpec
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.readers.folder import Skipped, from_folder
from hypermend.catalog.readers.scene_reader import Source, open_scene
from hypermend.catalog.scene import Scene
from hypermend.catalog.sensors import sensor
from tests.deliveries import (
    KNOWN,
    desis_folder,
    enmap_folder,
    hls_folder,
    hyperion_folder,
    landsat_folder,
    safe_folder,
)


def only(folder: Path) -> Scene:
    """The one scene of a folder, found without any option."""
    (scene,) = from_folder(folder)
    assert isinstance(scene, Scene), scene
    return scene


def opened(folder: Path) -> tuple[Scene, Source]:
    scene = only(folder)
    return scene, open_scene(scene)


def physical(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """(band, y, x) physical values, (y, x) flags."""
    stored, flags = source.read(slice(None), slice(None))
    return stored * source.spec.scale_factor + source.spec.add_offset, flags


def in_product_order(values: np.ndarray, spec: CubeSpec) -> np.ndarray:
    return values[np.argsort(spec.band)]


FLAGGED = {(1, 1): CLOUD, (1, 2): SHADOW, (1, 3): SNOW, (1, 4): CLOUD, (1, 5): CLOUD, (1, 6): NODATA, (0, 0): NODATA}


@pytest.mark.parametrize(
    "how",
    [{}, {"xml": "METADATA.xml"}, {"sorted_bands": True, "xml": "metadata.xml"}, {"suffix": "_COG"}],
    ids=["XML", "xml", "sorted", "COG"],
)
def test_enmap_l2a(tmp_path: Path, how: dict[str, Any]) -> None:
    stem = enmap_folder(tmp_path, "L2A", **how)
    scene, source = opened(tmp_path)
    spec = source.spec
    assert (scene.id, scene.sensor) == (stem, "enmap")
    assert scene.datetime == datetime(2022, 7, 24, 10, 45, 26, 123000, tzinfo=UTC)
    assert (spec.quantity, spec.units, spec.scale_factor, spec.fill, spec.dtype) == (
        "reflectance",
        "1",
        1e-4,
        -32768,
        "int16",
    )
    assert spec.crs == "EPSG:32633" and spec.transform == (30, 0, 370000, 0, -30, 5810000)
    values, flags = physical(source)
    np.testing.assert_allclose(in_product_order(values, spec)[:3, 2, 3], [0.2001, 0.2002, 0.2003])
    table = sorted(sensor("enmap").wavelength_nm)
    assert spec.wavelength_nm == pytest.approx([nm + 0.25 for nm in table])  # the delivery's own, not the table's
    for pixel, flag in FLAGGED.items():
        assert flags[pixel] & flag and not flags[pixel] & VALID
    assert flags[4, 4] == VALID and (flags == VALID).sum() == flags.size - len(FLAGGED)
    defects = source.defects(slice(2, 5), slice(1, 6))
    assert defects is not None and defects.sum() == 1
    assert defects[spec.band.index(5), 1, 2]


def test_enmap_l1c_has_a_factor_for_each_band(tmp_path: Path) -> None:
    gains = [4e-5 + 1e-7 * k for k in range(224)]
    enmap_folder(tmp_path, "L1C", gains=gains)
    scene, source = opened(tmp_path)
    spec = source.spec
    assert (spec.quantity, spec.units, spec.dtype) == ("radiance", "W m-2 sr-1 nm-1", "float32")
    assert spec.crs == "EPSG:32633" and scene.bbox is not None
    values, flags = physical(source)
    expected = (KNOWN + 1 + np.arange(224)) * np.array(gains)
    np.testing.assert_allclose(in_product_order(values, spec)[:, 2, 3], expected, rtol=1e-6)
    assert flags[0, 0] == NODATA and np.isnan(values[:, 0, 0]).all()  # 0 is nodata in Level 1


def test_enmap_l1b_is_one_scene_of_two_detectors_in_sensor_geometry(tmp_path: Path) -> None:
    gains = [4e-5 + 1e-7 * k for k in range(224)]
    enmap_folder(tmp_path, "L1B", gains=gains)
    scene, source = opened(tmp_path)
    spec = source.spec
    assert (spec.shape[0], spec.quantity, spec.crs, scene.grid) == (224, "radiance", None, None)
    assert {d for b, d in zip(spec.band, spec.detector, strict=True) if b <= 91} == {"VNIR"}
    assert spec.detector.count("SWIR") == 133 and "not registered" in spec.attrs["hypermend:registration"]
    values, _ = physical(source)
    expected = (KNOWN + 1 + np.arange(224)) * np.array(gains)
    np.testing.assert_allclose(in_product_order(values, spec)[:, 2, 3], expected, rtol=1e-6)
    defects = source.defects(slice(None), slice(None))
    assert defects is not None and defects.sum() == 1 and defects[spec.band.index(5), 3, 3]


def test_enmap_metadata_of_another_band_count_is_refused(tmp_path: Path) -> None:
    stem = enmap_folder(tmp_path, "L2A")
    xml = tmp_path / f"{stem}-METADATA.XML"
    xml.write_text(xml.read_text().replace('<bandID number="224">', '<other number="224">').replace(
        "</bandID></bandCharacterisation>", "</other></bandCharacterisation>"))  # fmt: skip
    (found,) = from_folder(tmp_path)
    assert isinstance(found, Skipped) and "223" in found.reason and "224 bands" in found.reason


LANDSAT_L2 = "LC09_L2SP_042034_20211105_20230505_02_T1"


@pytest.mark.parametrize(
    ("stem", "craft", "instrument", "name"),
    [
        (LANDSAT_L2, "LANDSAT_9", "OLI_TIRS", "landsat9-oli"),
        (LANDSAT_L2.replace("LC09", "LC08"), "LANDSAT_8", "OLI_TIRS", "landsat8-oli"),
        (LANDSAT_L2.replace("LC09", "LE07"), "LANDSAT_7", "ETM", "landsat7-etm"),
        (LANDSAT_L2.replace("LC09", "LT05"), "LANDSAT_5", "TM", "landsat5-tm"),
    ],
)
@pytest.mark.parametrize("mtl", [True, False], ids=["MTL", "names"])
def test_landsat_level_2(tmp_path: Path, stem: str, craft: str, instrument: str, name: str, mtl: bool) -> None:
    landsat_folder(tmp_path, stem, craft, instrument, mtl=mtl)
    scene, source = opened(tmp_path)
    spec = source.spec
    assert (scene.id, scene.sensor, spec.quantity, spec.fill) == (stem, name, "reflectance", 0)
    assert (spec.scale_factor, spec.add_offset) == (2.75e-5, -0.2)
    assert spec.band_name[:3] == ("B1", "B2", "B3") and "B10" not in spec.band_name and spec.bands in (6, 7)
    values, flags = physical(source)
    np.testing.assert_allclose(values[:3, 2, 3], [0.07775, 0.0805, 0.08325])
    expected = {(1, 1): CLOUD, (1, 2): SHADOW, (1, 3): SNOW, (1, 4): CLOUD, (1, 5): SATURATED, (0, 0): NODATA}
    assert {p: int(flags[p]) for p in expected} == expected and (flags == VALID).sum() == flags.size - 6
    if mtl:
        assert scene.trusted_datetime == datetime(2021, 11, 5, 18, 36, 31, 123456, tzinfo=UTC)
    else:  # the name gives the day alone
        assert scene.datetime == datetime(2021, 11, 5, tzinfo=UTC) and scene.trusted_datetime is None


def test_landsat_level_1_is_radiance_with_factors_of_each_band(tmp_path: Path) -> None:
    landsat_folder(tmp_path, "LC08_L1TP_042034_20211105_20211117_02_T1", "LANDSAT_8", "OLI_TIRS")
    scene, source = opened(tmp_path)
    spec = source.spec
    assert (scene.sensor, spec.quantity, spec.units, spec.dtype) == (
        "landsat8-oli", "radiance", "W m-2 sr-1 um-1", "float32"
    )  # fmt: skip
    assert spec.attrs["hypermend:left_out"] == ["B10"]
    values, _ = physical(source)
    expected = [(10000 + 100 * n) * 0.01 * (1 + n) - 5.0 * (1 + n) for n in range(1, 8)]
    np.testing.assert_allclose(values[:, 2, 3], expected, rtol=1e-6)


def test_a_landsat_level_1_without_metadata_is_counts(tmp_path: Path) -> None:
    landsat_folder(tmp_path, "LC08_L1TP_042034_20211105_20211117_02_T1", "LANDSAT_8", "OLI_TIRS", mtl=False)
    spec = opened(tmp_path)[1].spec
    assert spec.quantity == "counts" and "no source has a scale" in spec.attrs["sources"]["quantity"]


def test_a_metadata_file_without_its_bands_says_so(tmp_path: Path) -> None:
    landsat_folder(tmp_path, LANDSAT_L2, "LANDSAT_9", "OLI_TIRS")
    for file in tmp_path.glob("*_SR_B*.TIF"):
        file.unlink()
    found = [f for f in from_folder(tmp_path) if isinstance(f, Skipped)]
    assert any("none of its band files is here" in f.reason for f in found)


def test_hyperion_l1t(tmp_path: Path) -> None:
    inside = hyperion_folder(tmp_path)
    scene, source = opened(tmp_path)
    spec = source.spec
    assert scene.datetime == datetime(2005, 4, 15, 17, 53, 20, tzinfo=UTC) and scene.sensor == "hyperion"
    assert (spec.quantity, spec.units, spec.bands) == ("radiance", "W m-2 sr-1 um-1", 242) and sum(spec.good) == 198
    values, flags = physical(source)
    assert ((flags == VALID) == inside).all() and (flags[~inside] == NODATA).all()
    at = {n: i for i, n in enumerate(spec.band)}
    np.testing.assert_allclose(values[at[20], 2, 3], (KNOWN + 20) / 40, rtol=1e-6)
    np.testing.assert_allclose(values[at[100], 2, 3], (KNOWN + 100) / 80, rtol=1e-6)
    assert np.isnan(values[:, ~inside]).all() and values[at[120], 5, 4] == 0  # 0 in one band alone is a measurement


def test_hyperion_l1r_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "EO1H0380342005105110KF.L1R").write_bytes(b"\x0e\x03\x13\x01")
    (tmp_path / "EO1H0380342005105110KF.hdr").write_text("ENVI\nsamples = 256\nlines = 6\nbands = 242\n")
    (found,) = from_folder(tmp_path)
    assert isinstance(found, Skipped) and "HDF4" in found.reason and "L1T" in found.reason


def test_sentinel2_l2a_safe(tmp_path: Path) -> None:
    home = safe_folder(tmp_path, "2A")
    for path in (tmp_path, home, home / "MTD_MSIL2A.xml"):
        scene = only(path)
        assert scene.id == home.name.removesuffix(".SAFE") and scene.sensor == "sentinel2b"
    assert scene.datetime == datetime(2024, 6, 7, 10, 15, 59, tzinfo=UTC)
    source = open_scene(scene)
    spec = source.spec
    assert spec.shape == (12, 72, 72) and spec.transform == (10, 0, 370000, 0, -10, 5810000)
    assert (spec.quantity, spec.scale_factor, spec.add_offset, spec.fill) == ("reflectance", 1e-4, -0.1, 0)
    values, flags = physical(source)
    assert values[:4, 10, 10] == pytest.approx([0.0, 0.01, 0.02, 0.03])
    assert (flags[:6, :6] == NODATA).all() and (flags[6:9, 6:9] == VALID).any()
    assert (flags == CLOUD).sum() == 4 and (flags == NODATA).sum() == 36
    coarse = open_scene(scene, gsd_m=60)
    _, coarse_flags = coarse.read(slice(None), slice(None))
    # the finest classification counts at every size: one cloudy pixel of 20 m makes its pixel of 60 m cloudy
    assert coarse.spec.shape == (12, 12, 12) and (coarse_flags == CLOUD).sum() == 1


@pytest.mark.parametrize(("baseline", "offset"), [("0510", -0.1), ("0301", 0.0)])
@pytest.mark.parametrize("craft", ["A", "B", "C"])
def test_sentinel2_l1c_safe(tmp_path: Path, craft: str, baseline: str, offset: float) -> None:
    safe_folder(tmp_path, "1C", craft=craft, baseline=baseline)
    scene, source = opened(tmp_path)
    spec = source.spec
    assert scene.sensor == f"sentinel2{craft.lower()}" and spec.bands == 13 and spec.add_offset == offset
    _, flags = physical(source)
    assert (flags[:6, :6] == NODATA).all()  # 0 outside of the swath, although nothing declares it
    assert (flags[12:18, 12:24] == CLOUD).all() and (flags[12:18, 24:30] == SNOW).all()
    assert flags[40, 41] == SATURATED
    defects = source.defects(slice(None), slice(None))
    assert defects is not None and defects.sum() == 1 and defects[spec.band_name.index("B02"), 30, 31]


def test_the_metadata_of_a_safe_decide_before_its_name(tmp_path: Path) -> None:
    offsets = "".join(f'<BOA_ADD_OFFSET band_id="{i}">-1000</BOA_ADD_OFFSET>' for i in range(13))
    metadata = (
        '<n1:x xmlns:n1="https://psd"><General_Info><PRODUCT_START_TIME>2024-06-07T10:15:59.024Z</PRODUCT_START_TIME>'
        "<SPACECRAFT_NAME>Sentinel-2B</SPACECRAFT_NAME><BOA_QUANTIFICATION_VALUE>20000</BOA_QUANTIFICATION_VALUE>"
        f"{offsets}</General_Info></n1:x>"
    )
    safe_folder(tmp_path, "2A", metadata=metadata)
    spec = opened(tmp_path)[1].spec
    assert (spec.scale_factor, spec.add_offset) == (1 / 20000, -0.05)
    assert "QUANTIFICATION_VALUE" in spec.attrs["sources"]["scale"]


def test_a_safe_of_another_satellite_than_its_metadata_is_refused(tmp_path: Path) -> None:
    safe_folder(tmp_path, "2A", metadata="<x><SPACECRAFT_NAME>Sentinel-2A</SPACECRAFT_NAME></x>")
    (found,) = from_folder(tmp_path)
    assert isinstance(found, Skipped) and "sentinel2a" in found.reason and "sentinel2b" in found.reason


@pytest.mark.parametrize("kind", ["S30", "L30"])
def test_hls(tmp_path: Path, kind: str) -> None:
    hls_folder(tmp_path, kind)
    scene, source = opened(tmp_path)
    spec = source.spec
    assert scene.sensor == f"hls-{kind.lower()}" and scene.datetime == datetime(2023, 1, 1, 16, 12, 31, tzinfo=UTC)
    assert (spec.quantity, spec.scale_factor, spec.fill, spec.bands) == ("reflectance", 1e-4, -9999, 4)
    values, flags = physical(source)
    np.testing.assert_allclose(values[:, 2, 3], [0.2001, 0.2002, 0.2003, 0.2004])
    expected = {(1, 1): CLOUD, (1, 2): SHADOW, (1, 3): SNOW, (1, 4): VALID, (0, 0): NODATA}
    assert {p: int(flags[p]) for p in expected} == expected


@pytest.mark.parametrize("bands", [235, 60], ids=["full", "binned"])
def test_desis_l2a(tmp_path: Path, bands: int) -> None:
    stem = desis_folder(tmp_path, "L2A", bands=bands)
    scene, source = opened(tmp_path)
    spec = source.spec
    assert (scene.id, scene.sensor) == (stem, "desis")
    assert scene.datetime == datetime(2020, 8, 1, 23, 45, 20, 500000, tzinfo=UTC)
    assert (spec.bands, spec.quantity, spec.scale_factor, spec.fill) == (bands, "reflectance", 1e-4, -32768)
    assert spec.wavelength_nm[0] == 401.5 and set(spec.fwhm_nm) == {3.5}
    values, flags = physical(source)
    np.testing.assert_allclose(values[:2, 2, 3], [0.2001, 0.2002])
    expected = {(1, 1): CLOUD, (1, 2): SHADOW, (1, 3): SNOW, (0, 0): NODATA}
    assert {p: int(flags[p]) for p in expected} == expected and (flags == VALID).sum() == flags.size - 4


def test_desis_l1c_has_gain_and_offset_of_each_band(tmp_path: Path) -> None:
    desis_folder(tmp_path, "L1C")
    spec = (opened_ := opened(tmp_path))[1].spec
    assert (spec.quantity, spec.units, spec.dtype) == ("radiance", "mW cm-2 sr-1 um-1", "float32")
    values, _ = physical(opened_[1])
    i = np.arange(235)
    np.testing.assert_allclose(values[:, 2, 3], (KNOWN + 1 + i) * (1e-3 + 1e-6 * i) + 0.01 * i, rtol=1e-5)


def test_a_product_opened_as_another_sensor_is_refused(tmp_path: Path) -> None:
    desis_folder(tmp_path, "L2A")
    (found,) = from_folder(tmp_path, sensor="enmap")
    assert isinstance(found, Skipped) and "desis" in found.reason and "leave --sensor out" in found.reason


def test_an_l1r_item_is_refused_by_name(tmp_path: Path) -> None:
    from hypermend.catalog.scene import Asset

    path = tmp_path / "EO1H0380342005105110KF.L1R"
    path.write_bytes(b"\x0e\x03\x13\x01")
    asset = Asset(key="data", href=str(path), roles=("data",))
    scene = Scene(id="x", collection="c", datetime=None, sensor="hyperion", assets={"data": asset}, properties={})
    with pytest.raises(BadAsset, match="HDF4"):
        open_scene(scene)
