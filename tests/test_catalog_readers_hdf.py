"""HDF5: PRISMA L2D and EMIT L2A layouts made small, kept in sensor geometry."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pytest

from hypermend.catalog.cube.spec import NODATA, VALID
from hypermend.catalog.errors import BadAsset, NotFound
from hypermend.catalog.readers.scene_reader import open_scene
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.sensors import sensor

SIZE = (6, 5)


def scene_of(path: Path, name: str) -> Scene:
    return Scene(
        id=path.stem,
        collection="c",
        datetime=datetime(2022, 7, 24, tzinfo=UTC),
        sensor=name,
        assets={"data": Asset(key="data", href=str(path), roles=("data",))},
        properties={},
    )


def prisma(path: Path, *, same_scale: bool = True) -> dict[str, np.ndarray]:
    """A PRISMA L2D file: (y, band, x), wavelengths descending, 0 nm where the product leaves a band empty."""
    rng = np.random.default_rng(0)
    table = sensor("prisma")
    out = {}
    with h5py.File(path, "w") as file:
        home = file.create_group("HDFEOS/SWATHS/PRS_L2D_HCO")
        for part, empty in (("VNIR", 3), ("SWIR", 2)):
            centres = [w for w, d in zip(table.wavelength_nm, table.detector, strict=True) if d == part][::-1]
            widths = [w for w, d in zip(table.fwhm_nm, table.detector, strict=True) if d == part][::-1]
            if part == "VNIR":
                centres, widths = centres + [0.0] * empty, widths + [0.0] * empty
            else:
                centres, widths = [0.0] * empty + centres, [0.0] * empty + widths
            cube = rng.integers(1, 60000, (SIZE[0], len(centres), SIZE[1])).astype("uint16")
            cube[0, :, 0] = 0
            home.create_dataset(f"Data Fields/{part}_Cube", data=cube)
            file.attrs[f"List_Cw_{part.title()}"] = np.array(centres, "float32")
            file.attrs[f"List_Fwhm_{part.title()}"] = np.array(widths, "float32")
            file.attrs[f"L2Scale{part.title()}Min"] = np.float32(0.0)
            file.attrs[f"L2Scale{part.title()}Max"] = np.float32(1.0 if same_scale or part == "VNIR" else 0.5)
            out[part] = cube
        lon, lat = np.meshgrid(np.linspace(11, 11.1, SIZE[1]), np.linspace(47.1, 47, SIZE[0]))
        home.create_dataset("Geolocation Fields/Longitude", data=lon.astype("float32"))
        home.create_dataset("Geolocation Fields/Latitude", data=lat.astype("float32"))
    return out


def emit(path: Path) -> np.ndarray:
    """An EMIT L2A file: (downtrack, crosstrack, bands), fill -9999."""
    rng = np.random.default_rng(1)
    table = sensor("emit")
    cube = rng.random((*SIZE, 285)).astype("float32")
    cube[2, 3] = -9999
    with h5py.File(path, "w") as file:
        data = file.create_dataset("reflectance", data=cube, chunks=(3, 5, 40))
        data.attrs["_FillValue"] = np.array([-9999], "float32")
        facts = file.create_group("sensor_band_parameters")
        facts["wavelengths"] = np.array(table.wavelength_nm, "float32")
        facts["fwhm"] = np.array(table.fwhm_nm, "float32")
        good = np.ones(285, "uint8")
        good[127:143] = 0
        facts["good_wavelengths"] = good
        lon, lat = np.meshgrid(np.linspace(11, 11.1, SIZE[1]), np.linspace(47.1, 47, SIZE[0]))
        place = file.create_group("location")
        place["lon"], place["lat"] = lon, lat
        place["glt_x"] = np.zeros((9, 9), "int32")
        place["glt_y"] = np.zeros((9, 9), "int32")
    return cube


def test_prisma_is_sorted_and_keeps_its_geometry(tmp_path: Path) -> None:
    cubes = prisma(tmp_path / "a.he5")
    source = open_scene(scene_of(tmp_path / "a.he5", "prisma"))
    spec = source.spec
    assert source.windowed and spec.shape == (234, *SIZE) and spec.dtype == "uint16"
    assert spec.crs is None and spec.transform is None and spec.quantity == "reflectance"
    assert spec.scale_factor == pytest.approx(1 / 65535) and spec.fill == 0
    assert list(spec.wavelength_nm) == sorted(spec.wavelength_nm)
    assert (spec.detector.count("VNIR"), spec.detector.count("SWIR")) == (63, 171)
    assert spec.band[0] == 63 and set(spec.band) == {*range(1, 64), *range(69, 240)}
    assert source.lonlat is not None and source.lonlat[0].shape == SIZE and source.lonlat[1][0, 0] > 47.09
    stored, flags = source.read(slice(1, 5), slice(0, 4))
    both = np.concatenate([cubes["VNIR"], cubes["SWIR"]], axis=1).transpose(1, 0, 2)
    np.testing.assert_array_equal(stored, both[np.array(spec.band) - 1, 1:5, 0:4])
    assert (flags == VALID).all()
    assert source.read(slice(0, 1), slice(0, 1))[1][0, 0] == NODATA


def test_prisma_bands_can_be_chosen(tmp_path: Path) -> None:
    cubes = prisma(tmp_path / "a.he5")
    source = open_scene(scene_of(tmp_path / "a.he5", "prisma"), bands=["100", "1"])
    assert source.spec.band == (1, 100)
    stored, _ = source.read(slice(None), slice(None))
    np.testing.assert_array_equal(stored[0], cubes["VNIR"][:, 0])
    np.testing.assert_array_equal(stored[1], cubes["SWIR"][:, 100 - 67])


def test_prisma_with_two_scales_is_decoded(tmp_path: Path) -> None:
    cubes = prisma(tmp_path / "a.he5", same_scale=False)
    source = open_scene(scene_of(tmp_path / "a.he5", "prisma"))
    spec = source.spec
    assert (spec.quantity, spec.dtype, spec.scale_factor) == ("reflectance", "float32", 1.0)
    stored, flags = source.read(slice(None), slice(None))
    first, last = spec.band.index(1), spec.band.index(100)
    np.testing.assert_allclose(stored[first, 1:], cubes["VNIR"][1:, 0] / 65535, rtol=1e-6)
    np.testing.assert_allclose(stored[last, 1:], cubes["SWIR"][1:, 100 - 67] / 65535 * 0.5, rtol=1e-6)
    assert np.isnan(stored[:, 0, 0]).all() and flags[0, 0] == NODATA


def test_emit(tmp_path: Path) -> None:
    cube = emit(tmp_path / "a.nc")
    source = open_scene(scene_of(tmp_path / "a.nc", "emit"))
    spec = source.spec
    assert spec.shape == (285, *SIZE) and spec.fill == -9999 and spec.good.count(False) == 16
    assert spec.quantity == "reflectance" and source.lonlat is not None
    stored, flags = source.read(slice(1, 4), slice(2, 5))
    np.testing.assert_array_equal(stored, cube.transpose(2, 0, 1)[:, 1:4, 2:5])
    assert flags[1, 1] == NODATA and (flags == VALID).sum() == 8
    source.close()
    np.testing.assert_array_equal(source.read(slice(1, 4), slice(2, 5))[0], stored)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    emit(tmp_path / "a.nc")
    with h5py.File(tmp_path / "a.nc", "a") as file:
        del file["location/lat"]
    with pytest.raises(BadAsset, match=r"no 'location/lat'.*location/lon \(6, 5\)"):
        open_scene(scene_of(tmp_path / "a.nc", "emit"))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(BadAsset, match=r"none of its files holds a cube .*b.h5 is no cube: it holds x \(3,\)"):
        open_scene(scene_of(tmp_path / "b.h5", "emit"))
    (tmp_path / "c.h5").write_bytes(b"no hdf")
    with pytest.raises(BadAsset, match=r"c\.h5: is no HDF5 file"):
        open_scene(scene_of(tmp_path / "c.h5", "emit"))
    with pytest.raises(NotFound, match=r"d\.h5"):
        open_scene(scene_of(tmp_path / "d.h5", "emit"))


def test_the_wrong_sensor_is_noticed(tmp_path: Path) -> None:
    emit(tmp_path / "a.nc")
    with pytest.raises(BadAsset, match=r"its sensor is cave .*, but emit by file header"):
        open_scene(scene_of(tmp_path / "a.nc", "cave"))


@pytest.mark.parametrize("how", ["external", "link", "virtual"])
def test_pixels_in_another_file_are_refused(tmp_path: Path, how: str) -> None:
    emit(tmp_path / "a.nc")
    (tmp_path / "secret").write_bytes(bytes(4 * 6 * 5 * 285))
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["reflectance"] = np.zeros((*SIZE, 285), "float32")
    with h5py.File(tmp_path / "a.nc", "a") as file:
        del file["reflectance"]
        if how == "external":
            place = [(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)]
            file.create_dataset("reflectance", (*SIZE, 285), "float32", external=place)
        elif how == "link":
            file["reflectance"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/reflectance")
        else:
            layout = h5py.VirtualLayout((*SIZE, 285), "float32")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "reflectance", shape=(*SIZE, 285))
            file.create_virtual_dataset("reflectance", layout)
    with pytest.raises(BadAsset, match="'reflectance' lies in another file"):
        open_scene(scene_of(tmp_path / "a.nc", "emit"))
