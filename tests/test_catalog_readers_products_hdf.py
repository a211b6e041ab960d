"""Tanager, NEON, AVIRIS and PACE by value: what each layout says beside its numbers."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hypermend.catalog.cube.spec import CLOUD, NODATA, VALID
from hypermend.catalog.errors import BadAsset
from tests.hierarchical import ALL, BANDS, CENTRES, SIZE, opened

TRUTH = (np.arange(BANDS * 30).reshape(BANDS, *SIZE) / 100).astype("f4")


def tanager(path: Path, *, ortho: bool, cube: str = "toa_radiance", unit: str = "W/(m^2 sr um)") -> Path:
    home = f"HDFEOS/{'GRIDS' if ortho else 'SWATHS'}/HYP"
    with h5py.File(path, "w") as file:
        data = file.create_dataset(f"{home}/Data Fields/{cube}", data=TRUTH)
        data.attrs["wavelengths"], data.attrs["fwhm"], data.attrs["Unit"] = (
            CENTRES,
            np.full(BANDS, 5.5),
            np.bytes_(unit),
        )
        if cube == "surface_reflectance":
            data.attrs["good_wavelengths"] = (np.arange(BANDS) != 4).astype("u1")
        for name, at in (("beta_cloud_mask", (1, 1)), ("nodata_pixels", (2, 2)), ("beta_cirrus_mask", (3, 3))):
            mask = np.zeros(SIZE, "u1")
            mask[at] = 1
            file[f"{home}/Data Fields/{name}"] = mask
        if ortho:
            file[home].attrs["epsg_code"] = 32618
            file["HDFEOS INFORMATION/StructMetadata.0"] = np.bytes_(
                "GROUP=GRID_1\n\t\tUpperLeftPointMtrs=(400000.000000,4100000.000000)\n"
                "\t\tLowerRightMtrs=(400150.000000,4099820.000000)\n\t\tPixelRegistration=HE5_HDFE_CORNER\n"
            )
        else:
            lon, lat = np.meshgrid(np.linspace(-75, -74.9, SIZE[1]), np.linspace(37, 36.9, SIZE[0]))
            file[f"{home}/Geolocation Fields/Longitude"], file[f"{home}/Geolocation Fields/Latitude"] = lon, lat
    return path


def test_tanager_basic_radiance(tmp_path: Path) -> None:
    source = opened(tanager(tmp_path / "20250608_074757_58_4001_basic_radiance.h5", ortho=False))
    assert (source.spec.sensor, source.spec.quantity, source.spec.units) == ("tanager", "radiance", "W m-2 sr-1 um-1")
    assert source.lonlat is not None and source.spec.crs is None
    assert source.meaning.get("datetime") == datetime(2025, 6, 8, 7, 47, 57, tzinfo=UTC)
    stored, flags = source.read(ALL, ALL)
    np.testing.assert_array_equal(stored, TRUTH)
    assert (flags[1, 1], flags[2, 2], flags[3, 3], flags[4, 4]) == (CLOUD, NODATA, CLOUD, VALID)


def test_tanager_ortho_is_preferred_and_on_its_grid(tmp_path: Path) -> None:
    basic = tanager(tmp_path / "basic.h5", ortho=False)
    ortho = tanager(tmp_path / "ortho.h5", ortho=True, cube="surface_reflectance", unit="")
    source = opened(basic, ortho)
    assert (source.spec.quantity, source.spec.crs) == ("reflectance", "EPSG:32618")
    assert source.spec.transform == (30, 0, 400000, 0, -30, 4100000) and source.spec.good.index(False) == 4


def test_tanager_without_its_grid_is_refused(tmp_path: Path) -> None:
    path = tanager(tmp_path / "a.h5", ortho=True)
    with h5py.File(path, "a") as file:
        del file["HDFEOS INFORMATION/StructMetadata.0"]
        file["HDFEOS INFORMATION/StructMetadata.0"] = np.bytes_("END")
    with pytest.raises(BadAsset, match="has no UpperLeftPointMtrs"):
        opened(path)


def neon(
    path: Path, info: str = "UTM, 1.000, 1.000, 368000.0, 4307000.0, 1.0e+000, 1.0e+000, 18, North, WGS-84"
) -> Path:
    with h5py.File(path, "w") as file:
        cube = np.full((*SIZE, BANDS), 1500, "i2")
        cube[0, 0] = -9999
        home = file.create_group("SERC/Reflectance")
        data = home.create_dataset("Reflectance_Data", data=cube)
        data.attrs["Scale_Factor"], data.attrs["Data_Ignore_Value"] = 10000.0, -9999.0
        home.attrs["Band_Window_1_Nanometers"] = np.array([1340.0, 1445.0])
        home["Metadata/Spectral_Data/Wavelength"] = CENTRES
        home["Metadata/Spectral_Data/FWHM"] = np.full(BANDS, 5.0)
        home["Metadata/Coordinate_System/EPSG Code"] = np.bytes_("32618")
        home["Metadata/Coordinate_System/Map_Info"] = np.bytes_(info)
    return path


def test_neon(tmp_path: Path) -> None:
    source = opened(neon(tmp_path / "NEON_D01_SERC_DP1_20190825_145110_reflectance.h5"))
    spec = source.spec
    assert (spec.sensor, spec.quantity, spec.scale_factor, spec.fill) == ("neon", "reflectance", 1e-4, -9999)
    assert spec.crs == "EPSG:32618" and spec.transform == (1, 0, 368000, 0, -1, 4307000)
    assert source.meaning.get("datetime") == datetime(2019, 8, 25, 14, 51, 10, tzinfo=UTC)
    stored, flags = source.read(ALL, ALL)
    assert stored[3, 2, 2] == 1500 and flags[0, 0] == NODATA and flags[1, 1] == VALID
    assert [nm for nm, good in zip(spec.wavelength_nm, spec.good, strict=True) if not good] == []
    tile = opened(neon(tmp_path / "NEON_D02_SERC_DP3_368000_4306000_reflectance.h5"))
    assert tile.meaning.get("datetime") is None  # a tile of a mosaic has no time, and its file name's digits are none


def test_neon_reference_pixel_and_rotation(tmp_path: Path) -> None:
    spec = opened(neon(tmp_path / "a.h5", "UTM, 3, 2, 368000, 4307000, 2, 2, 18, North, WGS-84")).spec
    assert spec.transform == (2, 0, 367996, 0, -2, 4307002)
    with pytest.raises(BadAsset, match="is rotated"):
        opened(neon(tmp_path / "b.h5", "UTM, 1, 1, 368000, 4307000, 2, 2, 18, North, WGS-84, rotation=12.5"))
    with pytest.raises(BadAsset, match="has no place and pixel size"):
        opened(neon(tmp_path / "c.h5", "UTM, 1"))


@pytest.mark.parametrize(
    ("name", "group", "sensor", "unit"),
    [
        ("AV320230920t175432_005_L2A_OE_RFL_ORT.nc", "reflectance", "aviris-3", None),
        ("ang20220224t210144_rdn.nc", "radiance", "aviris-ng", "uW nm-1 cm-2 sr-1"),
    ],
)
def test_aviris(tmp_path: Path, name: str, group: str, sensor: str, unit: str | None) -> None:
    with h5py.File(tmp_path / name, "w") as file:
        data = file.create_dataset(f"{group}/{group}", data=TRUTH)
        data.attrs["_FillValue"] = np.float32(-9999)
        if unit is not None:
            data.attrs["units"] = unit
        file[f"{group}/wavelength"], file[f"{group}/fwhm"] = CENTRES, np.full(BANDS, 7.4)
        file["easting"], file["northing"] = 370000.0 + 4 * np.arange(SIZE[1]), 5810000.0 - 4 * np.arange(SIZE[0])
        file.create_dataset("transverse_mercator", data=np.bytes_("")).attrs["spatial_ref"] = "EPSG:32633"
    source = opened(tmp_path / name)
    assert (source.spec.sensor, source.spec.quantity) == (sensor, group)
    assert source.spec.units == ("1" if unit is None else "uW cm-2 sr-1 nm-1")
    assert source.spec.crs == "EPSG:32633" and source.spec.transform == (4, 0, 369998, 0, -4, 5810002)
    assert source.spec.fwhm_nm[0] == pytest.approx(7.4) and source.meaning.get("datetime") is not None
    np.testing.assert_array_equal(source.read(ALL, ALL)[0], TRUTH)


def pace(path: Path, **facts: Any) -> None:
    lon, lat = np.meshgrid(np.linspace(-75, -70, SIZE[1]), np.linspace(37, 32, SIZE[0]))
    with h5py.File(path, "w") as file:
        file.attrs["time_coverage_start"] = "2024-05-01T17:00:00.000Z"
        for name, data in facts.items():
            file[name.replace("__", "/")] = data
        for home in ("geolocation_data", "navigation_data"):
            file[f"{home}/longitude"], file[f"{home}/latitude"] = lon, lat


def test_pace_l1b_joins_its_detectors(tmp_path: Path) -> None:
    parts = {"blue": [400.0, 600.0], "red": [598.0, 800.0], "SWIR": [940.0, 1250.0]}
    facts: dict[str, Any] = {f"sensor_band_parameters__{p}_wavelength": nm for p, nm in parts.items()}
    facts["sensor_band_parameters__SWIR_bandpass"] = [45.0, 30.0]
    facts |= {f"observation_data__rhot_{p}": np.full((2, *SIZE), i + 0.5, "f4") for i, p in enumerate(parts)}
    pace(tmp_path / "a.nc", **facts)
    source = opened(tmp_path / "a.nc")
    assert source.spec.wavelength_nm == (400, 598, 600, 800, 940, 1250)
    assert source.spec.detector == ("blue", "red", "blue", "red", "SWIR", "SWIR")
    assert source.read(ALL, ALL)[0][:, 2, 2].tolist() == [0.5, 1.5, 0.5, 1.5, 2.5, 2.5]
    assert source.spec.fwhm_nm[-1] == 30 and np.isnan(source.spec.fwhm_nm[0]) and source.lonlat is not None


def test_pace_l2_flags(tmp_path: Path) -> None:
    flags = np.zeros(SIZE, "i4")
    flags[1, 1], flags[2, 2] = 1 << 2, 1 << 1
    pace(
        tmp_path / "a.nc",
        geophysical_data__rhos=np.full((*SIZE, BANDS), 0.2, "f4"),
        geophysical_data__l2_flags=flags,
        sensor_band_parameters__wavelength_3d=CENTRES,
    )
    with h5py.File(tmp_path / "a.nc", "a") as file:
        file["geophysical_data/l2_flags"].attrs["flag_meanings"] = "ATMFAIL LAND CLDICE"
    source = opened(tmp_path / "a.nc")
    found = source.read(ALL, ALL)[1]
    assert (found[1, 1], found[2, 2]) == (CLOUD, VALID) and source.spec.quantity == "reflectance"
