"""The user's word: read and checked at the door, in nm, UTC and known systems."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from hypermend.catalog.meaning.of_scene import USER_PROPERTIES
from hypermend.catalog.meaning.resolve import OPTIONS
from hypermend.catalog.meaning.statement import Field
from hypermend.pipeline import user_values
from hypermend.pipeline.config import BadJob, CatalogSettings, IngestJob, load_job, parse


@pytest.mark.parametrize(
    ("text", "centres", "widths"),
    [
        ("450,550,650", (450, 550, 650), None),
        ("450 550; 650 nm", (450, 550, 650), None),
        ("0.45,0.55um", (450, 550), None),
        ("450\n550\n", (450, 550), None),
        ("wavelength\n450\n550\n", (450, 550), None),
        ("# my camera\nwavelength,fwhm\n450,8\n550,9\n", (450, 550), (8, 9)),
        ("band,wavelength_um,fwhm_nm\n1,0.45,8\n2,0.55,9\n", (450, 550), (8, 9)),
        ("Wavelength (micrometers);FWHM [um]\n0.45;0.008\n", (450,), (8,)),
        ("\ufeffCenter wavelengths\n450\n", (450,), None),
    ],
)
def test_wavelengths_of_a_list_and_of_a_file(
    tmp_path: Path, text: str, centres: tuple[float, ...], widths: tuple[float, ...] | None
) -> None:
    if "\n" in text:
        (tmp_path / "bands.csv").write_text(text, encoding="utf-8")
        text = str(tmp_path / "bands.csv")
    assert user_values.wavelengths(text) == (centres, widths)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0.45,0.55", "number 1: 0.45 nm is no wavelength; for micrometres write the unit: 0.45um"),
        ("450,550 furlong", "unit 'furlong'"),
        ("450,,550x", "unit 'x'"),
        ("wavelength\n0.45\n", "line 2: 0.45 nm is no wavelength"),
        ("wavelength_wavenumber\n4500\n", "unit 'wavenumber'"),
        ("wavelength,fwhm\n450\n", "line 2 has no fwhm"),
        ("wavelength,fwhm\n450,-8\n", "line 2: -8 nm is no fwhm"),
        ("wavelength\nblue\n", "line 2: 'blue' is no number"),
        ("450,8\n550,9\n", "line 1 has 2 columns without names"),
        ("x,y\n1,2\n", "no column 'wavelength'; the first line names x, y"),
        ("\n", "the file has no number in it"),
        ("wavelength\n", "the file has no number in it"),
    ],
)
def test_wavelengths_that_are_none_are_refused(tmp_path: Path, text: str, told: str) -> None:
    if "\n" in text:
        (tmp_path / "bands.csv").write_text(text)
        text = str(tmp_path / "bands.csv")
    with pytest.raises(ValueError, match=r".") as error:
        user_values.wavelengths(text)
    assert told in str(error.value)


def test_a_binary_file_is_no_list_of_wavelengths(tmp_path: Path) -> None:
    (tmp_path / "bands.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be read"):
        user_values.wavelengths(str(tmp_path / "bands.csv"))


def test_times_are_utc_and_have_come() -> None:
    assert user_values.time("2022-07-24T10:45:26+02:00") == datetime(2022, 7, 24, 8, 45, 26, tzinfo=UTC)
    assert user_values.time("2022-07-24 10:45") == datetime(2022, 7, 24, 10, 45, tzinfo=UTC)
    for wrong in ("24.7.2022", "2022-13-01", "2999-01-01", ""):
        with pytest.raises(ValueError, match="2022-07-24T10:45:26Z"):
            user_values.time(wrong)


def test_systems_are_known() -> None:
    assert user_values.crs("32633") == user_values.crs("EPSG:32633") == "EPSG:32633"
    for wrong in ("EPSG:999999", "UTM 33", ""):
        with pytest.raises(ValueError, match="EPSG:32633"):
            user_values.crs(wrong)


def test_a_job_file_and_the_command_line_give_the_same(tmp_path: Path) -> None:
    (tmp_path / "bands.csv").write_text("wavelength,fwhm\n450,8\n550,9\n")
    file = tmp_path / "job.toml"
    file.write_text(
        f'archive = "a"\nquantity = "radiance"\nscale_factor = [0.1, 0.2]\nadd_offset = -0.5\nnodata = -9999\n'
        f'wavelengths = "{tmp_path}/bands.csv"\ncrs = "EPSG:32633"\nscene_datetime = 2022-07-24T10:45:26Z\n'
    )
    options = {
        "archive": "a",
        "quantity": "radiance",
        "scale_factor": "0.1,0.2",
        "add_offset": "-0.5",
        "nodata": -9999.0,
        "wavelengths": str(tmp_path / "bands.csv"),
        "crs": "32633",
        "scene_datetime": "2022-07-24T10:45:26Z",
    }
    job = load_job(file, IngestJob)
    assert job == parse(IngestJob, options, where="here")
    said = job.overrides
    assert said.values == {
        Field.QUANTITY: "radiance",
        Field.SCALE: [0.1, 0.2],
        Field.OFFSET: -0.5,
        Field.NODATA: -9999,
        Field.WAVELENGTH: [450, 550],
        Field.FWHM: [8, 9],
        Field.CRS: "EPSG:32633",
    }
    again = parse(IngestJob, {k: v for k, v in job.to_record().items() if k != "job"}, where="job.json")
    assert again == job  # `hypermend retry` reads it
    assert parse(IngestJob, {"archive": "a", "sensor": "auto"}, where="here").sensor is None


def test_a_wrong_key_is_one_line() -> None:
    with pytest.raises(BadJob, match=r"^here: crs: Value error, PROJ knows no such system.*'UTM'"):
        parse(CatalogSettings, {"archive": "a", "crs": "UTM"}, where="here")
    with pytest.raises(BadJob, match="fwhm needs as many wavelengths"):
        parse(IngestJob, {"archive": "a", "fwhm": [8.0]}, where="here")


def test_every_field_of_the_user_has_an_option() -> None:
    assert set(USER_PROPERTIES) | {Field.DATETIME} == set(OPTIONS)
