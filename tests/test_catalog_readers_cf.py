"""Any NetCDF-4 or HDF5 file with bands and wavelengths, by value: spectrum, axes, scale, unit, place, time."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hypermend.catalog.cube.spec import NODATA, VALID
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.readers.hierarchical.units import radiance_unit
from tests.hierarchical import ALL, BANDS, CENTRES, SIZE, cf_file, opened

GRID = (30, 0, 500000, 0, -30, 5800000)


@pytest.mark.parametrize(
    "dims", [("band", "y", "x"), ("y", "x", "band"), ("y", "band", "x"), ("x", "y", "band"), ("time", "band", "y", "x")]
)
def test_axes_go_by_their_names(tmp_path: Path, dims: tuple[str, ...]) -> None:
    truth = cf_file(tmp_path / "a.nc", dims=dims)
    source = opened(tmp_path / "a.nc")
    assert source.spec.shape == (BANDS, *SIZE) and source.spec.crs == "EPSG:32633"
    assert source.spec.transform == GRID
    np.testing.assert_array_equal(source.read(ALL, ALL)[0], truth)
    np.testing.assert_array_equal(source.read(slice(1, 4), slice(2, 5))[0], truth[:, 1:4, 2:5])


@pytest.mark.parametrize(
    ("centres", "unit"),
    [(CENTRES, "nm"), (CENTRES / 1000, "um"), (CENTRES / 1000, "micrometers"), (CENTRES / 1000, None), (CENTRES, None),
     (CENTRES * 1e-9, "m"), (CENTRES / 1000, "µm")],
)  # fmt: skip
def test_wavelengths_are_read_in_their_unit(tmp_path: Path, centres: Any, unit: str | None) -> None:
    cf_file(tmp_path / "a.nc", centres=centres, unit=unit)
    source = opened(tmp_path / "a.nc")
    np.testing.assert_allclose(source.spec.wavelength_nm, CENTRES)
    assert source.spec.sensor == "unknown" and np.isnan(source.spec.fwhm_nm).all()


@pytest.mark.parametrize(("centres", "unit"), [(CENTRES, "banana"), (np.arange(BANDS), None)])
def test_wavelengths_in_no_unit_of_length_are_refused(tmp_path: Path, centres: Any, unit: str | None) -> None:
    cf_file(tmp_path / "a.nc", centres=centres, unit=unit)
    with pytest.raises(BadAsset, match=r"the unit of wavelength .* --wavelengths"):
        opened(tmp_path / "a.nc")


def test_without_wavelengths_the_options_are_named_and_help(tmp_path: Path) -> None:
    truth = cf_file(tmp_path / "a.nc", centres=None)
    with pytest.raises(BadAsset, match=r"wavelengths of its 8 bands; give them with --wavelengths, .*--sensor"):
        opened(tmp_path / "a.nc")
    source = opened(tmp_path / "a.nc", properties={"hypermend:wavelengths": CENTRES.tolist()})
    assert source.spec.wavelength_nm == tuple(CENTRES) and "user" in source.spec.attrs["sources"]["wavelength"]
    np.testing.assert_array_equal(source.read(ALL, ALL)[0], truth)


def test_nothing_tells_the_axis_of_the_bands(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["cube"] = np.zeros((BANDS, *SIZE), "f4")
    with pytest.raises(BadAsset, match=r"nothing tells which axis holds the bands of cube \(8, 6, 5\).*--wavelengths"):
        opened(tmp_path / "a.h5")
    source = opened(tmp_path / "a.h5", properties={"hypermend:wavelengths": CENTRES.tolist()})
    assert source.spec.shape == (BANDS, *SIZE) and source.spec.quantity == "counts"
    assert source.spec.attrs["sources"]["quantity"].startswith("guess")


def test_scale_offset_and_nodata_of_the_file(tmp_path: Path) -> None:
    attrs = {"scale_factor": 1e-4, "add_offset": -0.1, "_FillValue": np.int16(7), "units": "1"}
    cf_file(tmp_path / "a.nc", attrs=attrs)
    source = opened(tmp_path / "a.nc")
    assert (source.spec.quantity, source.spec.scale_factor, source.spec.add_offset) == ("reflectance", 1e-4, -0.1)
    flags = source.read(ALL, ALL)[1]
    assert source.spec.fill == 7 and flags[1, 2] == NODATA and (flags == VALID).sum() == 29


def test_integers_without_a_scale_are_counts_whatever_they_are_called(tmp_path: Path) -> None:
    cf_file(tmp_path / "a.nc")
    assert opened(tmp_path / "a.nc").spec.quantity == "counts"
    cf_file(tmp_path / "b.nc", dtype="float32", attrs={"units": "%"})
    spec = opened(tmp_path / "b.nc").spec
    assert (spec.quantity, spec.scale_factor) == ("reflectance", 0.01)


@pytest.mark.parametrize(
    ("name", "unit", "quantity", "stated"),
    [
        ("radiance", "uW cm-2 nm-1 sr-1", "radiance", "uW cm-2 sr-1 nm-1"),
        ("L", "W/(m^2 sr um)", "radiance", "W m-2 sr-1 um-1"),
        ("toa_radiance", "mW m-2 sr-1 nm-1", "radiance", "mW m-2 sr-1 nm-1"),
        ("radiance", None, "radiance", "unknown"),
        ("radiance", "furlongs", "radiance", "furlongs"),
        ("reflectance", "1", "reflectance", "1"),
        ("spectral_irradiance", "W m-2 um-1", "counts", "1"),
        ("cube", None, "counts", "1"),
    ],
)
def test_quantity_and_unit_are_those_of_the_file(
    tmp_path: Path, name: str, unit: str | None, quantity: str, stated: str
) -> None:
    cf_file(tmp_path / "a.nc", name=name, dtype="float32", attrs={} if unit is None else {"units": unit})
    spec = opened(tmp_path / "a.nc").spec
    assert (spec.quantity, spec.units) == (quantity, stated)


def test_rows_from_south_to_north_keep_their_order(tmp_path: Path) -> None:
    truth = cf_file(tmp_path / "a.nc", y=5799835.0 + 30 * np.arange(SIZE[0]))
    source = opened(tmp_path / "a.nc")
    assert source.spec.transform == (30, 0, 500000, 0, 30, 5799820)
    np.testing.assert_array_equal(source.read(ALL, ALL)[0], truth)


def test_degrees_and_longitudes_beyond_180(tmp_path: Path) -> None:
    lat, lon = 50 - 0.5 * np.arange(SIZE[0]), 350 + 0.5 * np.arange(SIZE[1])
    cf_file(tmp_path / "a.nc", dims=("band", "lat", "lon"), x=lon, y=lat, crs=None)
    spec = opened(tmp_path / "a.nc").spec
    assert spec.crs == "EPSG:4326" and spec.transform == pytest.approx((0.5, 0, -10.25, 0, -0.5, 50.25))


def test_longitude_and_latitude_of_each_pixel_are_sensor_geometry(tmp_path: Path) -> None:
    cf_file(tmp_path / "a.nc", crs=None)
    lon, lat = np.meshgrid(np.linspace(10, 11, SIZE[1]), np.linspace(50, 49, SIZE[0]))
    with h5py.File(tmp_path / "a.nc", "a") as file:
        file["longitude"], file["latitude"] = lon, lat
    source = opened(tmp_path / "a.nc")
    assert source.spec.crs is None and source.lonlat is not None
    np.testing.assert_array_equal(source.lonlat[0], lon)


@pytest.mark.parametrize("kind", ["cf", "epsg", "wkt"])
def test_reference_systems_in_their_spellings(tmp_path: Path, kind: str) -> None:
    cf_file(tmp_path / "a.nc", crs=None, attrs={"grid_mapping": "crs"})
    with h5py.File(tmp_path / "a.nc", "a") as file:
        attrs = file.create_dataset("crs", data=0).attrs
        if kind == "cf":
            facts = {"grid_mapping_name": "transverse_mercator", "longitude_of_central_meridian": 15.0,
                     "latitude_of_projection_origin": 0.0, "scale_factor_at_central_meridian": 0.9996,
                     "false_easting": 500000.0, "false_northing": 0.0, "semi_major_axis": 6378137.0,
                     "inverse_flattening": 298.257223563}  # fmt: skip
            for key, value in facts.items():
                attrs[key] = value
        else:
            attrs["epsg_code" if kind == "epsg" else "spatial_ref"] = "32633" if kind == "epsg" else "EPSG:32633"
    spec = opened(tmp_path / "a.nc").spec
    assert spec.transform == GRID and spec.grid is not None
    assert spec.crs == "EPSG:32633" or "ransverse" in str(spec.crs)


def test_a_grid_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    cf_file(tmp_path / "a.nc")
    with h5py.File(tmp_path / "a.nc", "a") as file:
        file["spatial_ref"].attrs["GeoTransform"] = "400000 30 0 5800000 0 -30"
    with pytest.raises(BadAsset, match=r"GeoTransform .*400000.* contradicts its coordinates"):
        opened(tmp_path / "a.nc")
    cf_file(tmp_path / "b.nc", x=[500015.0, 500045, 500080, 500105, 500135])
    with pytest.raises(BadAsset, match="map coordinates are not regular"):
        opened(tmp_path / "b.nc")


@pytest.mark.parametrize(
    ("attrs", "when"),
    [
        ({"time_coverage_start": "2024-07-24T20:01:45+0000"}, datetime(2024, 7, 24, 20, 1, 45, tzinfo=UTC)),
        ({"time_coverage_start": "2024-07-24T20:01:45.123456789Z"}, datetime(2024, 7, 24, 20, 1, 45, 123456, UTC)),
        ({"date_created": "2024-07-24T20:01:45Z"}, None),
        ({"time_coverage_start": "0001-01-01T00:00:00Z"}, None),
    ],
)
def test_the_time_is_that_of_the_acquisition(tmp_path: Path, attrs: dict[str, str], when: datetime | None) -> None:
    cf_file(tmp_path / "a.nc", **attrs)
    assert opened(tmp_path / "a.nc").meaning.get("datetime") == when


@pytest.mark.parametrize(
    ("unit", "value", "when"),
    [
        ("days since 2020-01-01", 1.5, datetime(2020, 1, 2, 12, tzinfo=UTC)),
        ("seconds since 1970-01-01 00:00:00 UTC", 1.7e9, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("fortnights since 2020-01-01", 1.0, None),
    ],
)
def test_a_time_coordinate_of_one_value(tmp_path: Path, unit: str, value: float, when: datetime | None) -> None:
    cf_file(tmp_path / "a.nc")
    with h5py.File(tmp_path / "a.nc", "a") as file:
        file["time"] = value
        file["time"].attrs["units"] = unit
    assert opened(tmp_path / "a.nc").meaning.get("datetime") == when


def test_the_instrument_by_its_attribute(tmp_path: Path) -> None:
    cf_file(tmp_path / "a.nc", instrument="Specim AFX-17")
    assert opened(tmp_path / "a.nc").spec.sensor == "specim-afx-17"
    cf_file(tmp_path / "b.nc", instrument="CAVE")
    with pytest.raises(BadAsset, match="outside sensor cave"):  # a table that the spectrum contradicts
        opened(tmp_path / "b.nc")


@pytest.mark.parametrize(
    ("unit", "attrs", "dtype", "factor"),
    [
        ("1", {}, "float32", 1.0),
        ("1", {"units": ""}, "float32", 1.0),
        ("%", {}, "float32", 0.01),
        ("%", {"units": "%"}, "float32", 0.01),
        ("1", {"units": "%"}, "float32", None),  # the cube says 1
        ("1", {"scale_factor": 1e-4, "_FillValue": np.int16(7)}, "int16", 1e-4),
        ("1", {}, "int16", None),
    ],
)
def test_standard_deviations_are_physical_or_left_out(
    tmp_path: Path, unit: str, attrs: dict[str, Any], dtype: str, factor: float | None
) -> None:
    cf_file(tmp_path / "a.nc", dtype="float32")
    numbers = np.arange(BANDS * SIZE[0] * SIZE[1]).astype(dtype)
    with h5py.File(tmp_path / "a.nc", "a") as file:
        shape = file["reflectance"].shape
        file["reflectance"].attrs["units"] = unit
        file["reflectance_uncertainty"] = numbers.reshape(shape)
        file["reflectance_uncertainty"].attrs.update(attrs)
    source = opened(tmp_path / "a.nc")
    assert source.spec.uncertainty is (factor is not None)
    found = source.uncertainty(ALL, slice(0, 2))
    if factor is None or found is None:
        assert found is None and factor is None
        return
    assert found.dtype == np.float32
    expected = np.sort(numbers * factor)
    if "_FillValue" in attrs:
        expected = np.setdiff1d(expected, [7 * factor])
    every = source.uncertainty(ALL, ALL)
    assert every is not None and np.array_equal(every[:, :, :2], found, equal_nan=True)
    np.testing.assert_allclose(np.sort(every[~np.isnan(every)]), expected, rtol=1e-6)


def test_two_cubes_in_one_file_are_refused(tmp_path: Path) -> None:
    cf_file(tmp_path / "a.nc", dtype="float32")
    with h5py.File(tmp_path / "a.nc", "a") as file:
        file["radiance"] = file["reflectance"][()]
    with pytest.raises(BadAsset, match=r"several of its arrays could be the cube: .*radiance"):
        opened(tmp_path / "a.nc")


@pytest.mark.parametrize(
    ("magic", "words"),
    [
        (b"CDF\x01", r"is NetCDF-3; convert it .*nccopy"),
        (b"CDF\x05", "is NetCDF-3"),
        (b"\x0e\x03\x13\x01", r"is HDF4, .*h4toh5"),
    ],
)
def test_older_formats_are_refused_by_name(tmp_path: Path, magic: bytes, words: str) -> None:
    (tmp_path / "a.nc").write_bytes(magic + bytes(200))
    with pytest.raises(BadAsset, match=words):
        opened(tmp_path / "a.nc")


def test_numbers_that_need_another_type_are_refused(tmp_path: Path) -> None:
    cf_file(tmp_path / "a.nc", dtype="int8", attrs={"_Unsigned": "true"})
    with pytest.raises(BadAsset, match="_Unsigned"):
        opened(tmp_path / "a.nc")


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("W m^-2 um^-1 sr^-1", "W m-2 sr-1 um-1"),
        ("µW/(cm² nm sr)", "uW cm-2 sr-1 nm-1"),
        ("microwatts per centimeter_squared per nanometer per steradian", "uW cm-2 sr-1 nm-1"),
        ("W*m**-2*sr**-1*um**-1", "W m-2 sr-1 um-1"),
        ("W m-2 um-1", None),
        ("W/m^2 sr um", None),  # only the square metre is below the slash
        (")(", None),
    ],
)
def test_spellings_of_radiance(text: str, unit: str | None) -> None:
    assert radiance_unit(text) == unit
