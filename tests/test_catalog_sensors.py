"""Sensor tables: every one is sound, and responses are what the published tables say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io

from hypermend.catalog import sensors
from hypermend.catalog.errors import BadSensor, NotFound
from hypermend.catalog.sensor_tables import archive_tables, folder_tables, keep_table, tables_of
from hypermend.catalog.storage.archive_store import ArchiveStore

NAMES = [
    "ali",
    "aviris",
    "cave",
    "desis",
    "emit",
    "enmap",
    "hls-l30",
    "hls-s30",
    "hyperion",
    "landsat4-tm",
    "landsat5-tm",
    "landsat7-etm",
    "landsat8-oli",
    "landsat9-oli",
    "muufl",
    "nikon-d700",
    "prisma",
    "rosis",
    "sentinel2a",
    "sentinel2b",
    "sentinel2c",
]


def test_every_sensor_of_the_plan_has_a_table() -> None:
    assert sensors.names() == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_table_is_whole(name: str) -> None:
    s = sensors.sensor(name)
    assert s.bands == len(s.wavelength_nm) == len(s.fwhm_nm) == len(s.detector) == len(s.usable) == len(s.gsd_m)
    assert len(set(s.band_name)) == s.bands
    assert len(set(zip(s.wavelength_nm, s.detector, strict=True))) == s.bands
    assert min(s.wavelength_nm) > 300 and min(s.fwhm_nm) > 0
    assert s.quantity in ("reflectance", "radiance", "counts")
    assert len(s.source) > 20


@pytest.mark.parametrize(
    ("name", "bands", "unusable"),
    [
        ("hyperion", 242, 44),
        ("enmap", 224, 6),
        ("ali", 9, 0),
        ("prisma", 234, 0),
        ("emit", 285, 0),
        ("aviris", 224, 26),
    ],
)
def test_known_counts(name: str, bands: int, unusable: int) -> None:
    s = sensors.sensor(name)
    assert (s.bands, s.usable.count(False)) == (bands, unusable)


def test_hyperion_has_two_detectors_that_overlap() -> None:
    s = sensors.sensor("hyperion")
    assert s.detector[69] == "VNIR" and s.detector[70] == "SWIR"
    assert s.wavelength_nm[69] > s.wavelength_nm[70]


def test_enmap_is_in_product_order() -> None:
    s = sensors.sensor("enmap")
    assert s.wavelength_nm[90] == 993.083 and s.wavelength_nm[91] == 902.257
    assert [i + 1 for i, u in enumerate(s.usable) if not u] == [130, 131, 132, 133, 134, 135]


def test_an_unknown_sensor_names_the_nearest_and_all() -> None:
    with pytest.raises(BadSensor, match=r"'enmapp'.*did you mean 'enmap'\?.*sentinel2b"):
        sensors.sensor("enmapp")


@pytest.mark.parametrize("hyper", ["hyperion", "enmap", "prisma"])
@pytest.mark.parametrize("multi", ["sentinel2a", "sentinel2b"])
def test_response_rows_sum_to_one_and_see_their_own_wavelength(hyper: str, multi: str) -> None:
    table = sensors.sensor(multi)
    bands = [b for b in table.band_name if b != "B10"]
    rows = sensors.srf(hyper, multi, bands=bands)
    assert rows.shape == (12, sensors.sensor(hyper).bands)
    assert np.allclose(rows.sum(axis=1), 1) and rows.min() >= 0
    seen = rows @ np.array(sensors.sensor(hyper).wavelength_nm)
    centres = [table.wavelength_nm[table.band_name.index(b)] for b in bands]
    assert np.abs(seen - centres).max() < 3  # a 30 nm band sampled every 10 nm


def test_unusable_bands_get_no_weight() -> None:
    rows = sensors.srf("hyperion", "sentinel2a", bands=["B08"])
    assert not rows[:, ~np.array(sensors.sensor("hyperion").usable)].any()


def test_a_gaussian_where_there_is_no_table() -> None:
    nm = np.arange(400.0, 2400.0, 5.0)
    rows = sensors.srf(nm, "ali", bands=["MS-3"])
    half = nm[rows[0] >= rows[0].max() / 2]
    assert abs(rows[0] @ nm - 660) < 0.1 and half[-1] - half[0] == pytest.approx(60, abs=5)


def test_a_band_that_is_not_seen_is_an_error() -> None:
    with pytest.raises(BadSensor, match=r"\['B11', 'B12'\].*400-700 nm"):
        sensors.srf("cave", "sentinel2a", bands=["B03", "B11", "B12"])


def test_two_detectors_over_one_interval_do_not_count_it_twice() -> None:
    once = np.arange(500.0, 1500.0, 10.0)
    twice = np.sort(np.concatenate([once, once[(once > 900) & (once < 1000)] + 0.5]))
    flat = sensors.Sensor(
        name="flat",
        band_name=("wide",),
        wavelength_nm=(950.0,),
        fwhm_nm=(400.0,),
        detector=("D",),
        usable=(True,),
        gsd_m=(1.0,),
        quantity="radiance",
        source="made for this test",
    )
    a = sensors.srf(once, flat)[0] @ once
    b = sensors.srf(twice, flat)[0] @ twice
    assert abs(a - b) < 0.2


def test_nikon_is_the_matrix_of_the_paper(shared_data: Path) -> None:
    p = scipy.io.loadmat(shared_data / "srf" / "UAL_P_N_V2.mat")["P"]
    np.testing.assert_allclose(sensors.srf("cave", "nikon-d700"), p, atol=1e-12)


def test_tables_equal_their_sources(shared_data: Path) -> None:
    lines = (shared_data / "srf" / "enmapbox_prisma.csv").read_text().split()[1:]
    rows = [tuple(map(float, line.split(","))) for line in lines]
    s = sensors.sensor("prisma")
    assert list(zip(s.wavelength_nm, s.fwhm_nm, strict=True)) == rows
    usgs = (shared_data / "srf" / "Hyperion_Spectral_Coverage.tab").read_text().splitlines()[2:]
    s = sensors.sensor("hyperion")
    for line in usgs:
        band, nm, fwhm, _, *x = line.split("\t")
        i = s.band_name.index(band)
        assert (s.wavelength_nm[i], s.fwhm_nm[i], s.usable[i]) == (float(nm), float(fwhm), x != ["X"])


CAMERA = """# quantity: radiance
# source: calibration sheet of 2024-03-01
band,wavelength_nm,fwhm_nm,detector,usable,gsd_m
1,450,8.5,VNIR,true,nan
2,550,nan,VNIR,true,0.5
3,650,8.5,VNIR,false,0.5
"""


def folder_of(path: Path, **files: str) -> Path:
    """A folder of tables, by name without .csv."""
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (path / f"{name.replace('__', '-')}.csv").write_text(text)
    return path


def test_a_users_table_stands_beside_those_that_are_shipped(tmp_path: Path) -> None:
    tables = folder_tables(folder_of(tmp_path, my__camera=CAMERA))
    camera = tables.sensor("my-camera")
    assert camera.band_name == ("1", "2", "3") and camera.usable == (True, True, False)
    assert np.isnan(camera.fwhm_nm[1]) and np.isnan(camera.gsd_m[0])
    assert tables.names() == sorted([*NAMES, "my-camera"]) and tables.sensor("enmap") == sensors.sensor("enmap")
    rows = sensors.srf(np.array([440.0, 450.0, 455.0, 470.0]), camera, bands=["1"])
    assert rows[0, 1] > rows[0, 0] > 0 and rows[0, 3] < 1e-6
    assert tables.of_count(3) == ["my-camera", "nikon-d700"] and tables.of_count(2) == ["my-camera"]
    with pytest.raises(BadSensor, match="my-camera band 2 has no width"):
        sensors.srf(np.array([540.0, 550.0]), camera, bands=["2"])
    assert "my-camera" not in sensors.names()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (CAMERA.replace("2,550,nan", "2,550 nm,nan"), "line 5, column 'wavelength_nm': '550 nm' is no number"),
        (CAMERA.replace("3,650,8.5", "3,650,-1"), "line 6, column 'fwhm_nm': '-1' is no positive number"),
        (CAMERA.replace("VNIR,false", "VNIR,0"), "line 6, column 'usable': '0' is neither true nor false"),
        (CAMERA.replace("\n2,550", "\n1,550"), "line 5, column 'band': the same as in line 4"),
        (CAMERA.replace("3,650", "3,450"), "line 6, column 'wavelength_nm': the same as in line 4"),
        (CAMERA.replace("fwhm_nm", "fwhm"), "line 3, column 'fwhm_nm': it is missing"),
        (CAMERA.replace("VNIR,true,0.5", "VNIR,true"), "line 5: 5 cells, the header has 6"),
        (CAMERA.replace("# source: calibration sheet of 2024-03-01\n", ""), "'# source: ...' is missing"),
        (CAMERA.replace("radiance", "light"), "quantity 'light' is none of"),
        ("# quantity: radiance\n# source: x\nband,wavelength_nm\n", "no band in it"),
        ("", "no band in it"),
    ],
)
def test_a_bad_table_is_refused_by_file_line_and_column(tmp_path: Path, wrong: str, told: str) -> None:
    with pytest.raises(BadSensor) as error:
        folder_tables(folder_of(tmp_path, camera=wrong))
    assert str(error.value).startswith(f"{tmp_path / 'camera.csv'}") and told in str(error.value)


def test_a_name_that_is_taken_and_a_measured_response_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSensor, match=r"enmap.csv: Hypermend ships a table of this name"):
        folder_tables(folder_of(tmp_path / "a", enmap=CAMERA))
    with pytest.raises(BadSensor, match=r"camera_srf.csv: measured responses are not read here"):
        folder_tables(folder_of(tmp_path / "b", camera=CAMERA, camera_srf="wavelength_nm,1\n450,1\n"))
    (tmp_path / "c").mkdir()
    with pytest.raises(NotFound, match="no table in it"):
        folder_tables(tmp_path / "c")
    (tmp_path / "c" / "camera.csv").write_bytes(b"\xff\xfe# quantity")
    with pytest.raises(BadSensor, match=r"camera.csv: no UTF-8 text"):
        folder_tables(tmp_path / "c")
    with pytest.raises(NotFound, match="no such folder"):
        folder_tables(tmp_path / "d")


def kept_and_read_again(root: ArchiveStore, folder: Path) -> None:
    """The archive keeps the table that was used, and never replaces it."""
    tables = tables_of(root, folder_of(folder / "one", camera=CAMERA, other=CAMERA))
    assert keep_table(root, tables, "enmap") == 0
    assert keep_table(root, tables, "camera") == len(CAMERA)
    assert keep_table(root, tables, "camera") == 0
    again = archive_tables(root)
    assert sorted(again.own) == ["camera"] and again.sensor("camera") == tables.sensor("camera")
    changed = CAMERA.replace("8.5", "9.5")
    with pytest.raises(BadSensor, match=r"its tables in .*sensors and .*two differ"):
        tables_of(root, folder_of(folder / "two", camera=changed))
    with pytest.raises(BadSensor, match=r"camera\.csv differs from the table in .*two"):
        keep_table(root, folder_tables(folder / "two"), "camera")
    assert root.get("sensors/camera.csv").decode() == CAMERA


def test_an_archive_keeps_the_tables_that_were_used(tmp_path: Path) -> None:
    kept_and_read_again(ArchiveStore(tmp_path / "archive"), tmp_path)


def test_an_archive_on_s3_keeps_them_too(tmp_path: Path, s3_bucket: str) -> None:
    kept_and_read_again(ArchiveStore(f"s3://{s3_bucket}/archive"), tmp_path)


def test_a_broken_table_of_an_archive_is_named(tmp_path: Path) -> None:
    root = ArchiveStore(tmp_path / "archive")
    root.put("sensors/camera.csv", CAMERA.replace("450", "blue").encode())
    with pytest.raises(BadSensor, match=r"sensors/camera\.csv, line 4, column 'wavelength_nm': 'blue'"):
        archive_tables(root).sensor("camera")
