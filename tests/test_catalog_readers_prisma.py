"""PRISMA by value: levels, scale of each detector, grid, error matrices."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pytest

from hypermend.catalog.cube.spec import CLOUD, NODATA, VALID
from hypermend.catalog.errors import BadAsset
from tests.hierarchical import ALL, SIZE, opened, prisma_file


def test_l2d_lies_on_its_utm_grid(tmp_path: Path) -> None:
    cubes = prisma_file(tmp_path / "a.he5")
    source = opened(tmp_path / "a.he5")
    spec = source.spec
    assert (spec.sensor, spec.quantity, spec.crs) == ("prisma", "reflectance", "EPSG:32633")
    assert spec.transform == (30, 0, 500000 - 15, 0, -30, 5800000 + 15)  # the corners are centres of pixels
    assert source.lonlat is None and source.meaning.get("datetime") == datetime(2021, 6, 1, 10, 11, 12, 345000, UTC)
    assert spec.wavelength_nm == (500, 700, 900, 1000, 1900, 2400)
    assert spec.band == (4, 3, 2, 7, 6, 5) and spec.detector == ("VNIR",) * 3 + ("SWIR",) * 3
    stored, _ = source.read(ALL, ALL)
    np.testing.assert_array_equal(stored[0], cubes["VNIR"][:, 3])
    np.testing.assert_array_equal(stored[5], cubes["SWIR"][:, 0])
    assert spec.scale_factor == pytest.approx(1 / 65535)


def test_corners_that_are_edges_are_taken_as_edges(tmp_path: Path) -> None:
    prisma_file(tmp_path / "a.he5", corners="edges")
    assert opened(tmp_path / "a.he5").spec.transform == (30, 0, 500000, 0, -30, 5800000)


def test_corners_that_span_no_pixels_of_30_m_are_refused(tmp_path: Path) -> None:
    prisma_file(tmp_path / "a.he5")
    with h5py.File(tmp_path / "a.he5", "a") as file:
        file.attrs["Product_LRcorner_easting"] = 501000.0
    with pytest.raises(BadAsset, match=r"corners are 1000 m and 150 m apart, 5 x 6 pixels of 30 m are not"):
        opened(tmp_path / "a.he5")


def test_two_scales_give_reflectance_in_both_detectors(tmp_path: Path) -> None:
    cubes = prisma_file(tmp_path / "a.he5", scale=(1.2, 0.9))
    source = opened(tmp_path / "a.he5")
    stored, _ = source.read(ALL, ALL)
    assert (source.spec.quantity, source.spec.dtype) == ("reflectance", "float32")
    np.testing.assert_allclose(stored[0, 1:], cubes["VNIR"][1:, 3] * (1.2 / 65535), rtol=1e-6)
    np.testing.assert_allclose(stored[5, 1:], cubes["SWIR"][1:, 0] * (0.9 / 65535), rtol=1e-6)
    assert np.isnan(stored[:, 0]).all()


def test_a_marked_pixel_is_not_valid_and_its_band_is_a_defect(tmp_path: Path) -> None:
    prisma_file(tmp_path / "a.he5")
    source = opened(tmp_path / "a.he5")
    stored, flags = source.read(ALL, ALL)
    expected = np.full(SIZE, VALID)
    expected[0] = NODATA
    expected[3, 2] = NODATA
    np.testing.assert_array_equal(flags, expected)
    defects = source.defects(ALL, ALL)
    assert defects is not None and stored[2, 3, 2] > 0  # the number stays, so that restoration may repair it
    assert np.argwhere(defects[:3]).tolist() == [[2, 3, 2]]
    assert source.spec.good == (True, True, True, True, False, True)  # its matrix rejects 1900 nm in all rows
    np.testing.assert_array_equal(source.defects(slice(3, 5), slice(1, 4)), defects[:, 3:5, 1:4])  # type: ignore[arg-type]


def test_l1_is_radiance_by_the_factors_of_each_detector(tmp_path: Path) -> None:
    cubes = prisma_file(tmp_path / "a.he5", "L1", scale=(1.0, 2.0))
    source = opened(tmp_path / "a.he5")
    assert (source.spec.quantity, source.spec.units) == ("radiance", "W m-2 sr-1 um-1")
    assert source.spec.crs is None and source.lonlat is not None
    stored, flags = source.read(ALL, ALL)
    np.testing.assert_allclose(stored[0], cubes["VNIR"][:, 3] / 100, rtol=1e-6)
    np.testing.assert_allclose(stored[5], cubes["SWIR"][:, 0] / 50 - 0.5, rtol=1e-6)
    assert (flags[1] == VALID).all()


def test_zero_in_one_band_of_l1_is_a_measurement_in_all_bands_it_is_none(tmp_path: Path) -> None:
    prisma_file(tmp_path / "a.he5", "L1", scale=(1.0, 1.0))
    with h5py.File(tmp_path / "a.he5", "a") as file:
        home = file["HDFEOS/SWATHS/PRS_L1_HCO/Data Fields"]
        home["SWIR_Cube"][4, 0, 1] = 0
        home["Cloud_Mask"] = np.zeros(SIZE, "u1")
        home["Cloud_Mask"][5, 0] = 1
        file.attrs["Offset_Swir"] = np.float32(0)
    stored, flags = opened(tmp_path / "a.he5").read(ALL, ALL)
    assert stored[5, 4, 1] == 0 and flags[4, 1] == VALID
    assert (flags[0] == NODATA).all() and flags[5, 0] == CLOUD


@pytest.mark.parametrize(("level", "quantity"), [("L2B", "radiance"), ("L2C", "reflectance")])
def test_l2b_and_l2c_stay_in_sensor_geometry(tmp_path: Path, level: str, quantity: str) -> None:
    prisma_file(tmp_path / "a.he5", level)
    source = opened(tmp_path / "a.he5")
    assert source.spec.quantity == quantity and source.spec.transform is None and source.lonlat is not None
    assert source.lonlat[0][0, 0] == 15


def test_missing_factors_are_named(tmp_path: Path) -> None:
    prisma_file(tmp_path / "a.he5", "L1")
    with h5py.File(tmp_path / "a.he5", "a") as file:
        del file.attrs["ScaleFactor_Swir"]
    with pytest.raises(BadAsset, match=r"a\.he5: no attribute 'ScaleFactor_Swir'"):
        opened(tmp_path / "a.he5")
