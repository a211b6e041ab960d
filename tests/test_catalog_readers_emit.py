"""EMIT by value: which asset is the cube, masks, uncertainty, radiance, places."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pytest

from hypermend.catalog.cube.spec import CLOUD, NODATA, VALID
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.readers.folder import from_folder
from hypermend.catalog.readers.scene_reader import open_scene
from hypermend.catalog.scene import Scene
from tests.hierarchical import ALL, BANDS, SIZE, emit_file, emit_mask, opened, prisma_file, scene_of

GRANULE = "001_20240724T200145_2420613_013"
GRANULE_V2 = "002_20240724T200145"  # without orbit and scene, which its mask has


def test_an_item_as_cmr_lists_it(tmp_path: Path) -> None:
    """Uncertainty first, no roles, a picture that is not even there."""
    cube = emit_file(tmp_path / "a.nc")
    emit_file(tmp_path / "b.nc", "reflectance_uncertainty")
    emit_mask(tmp_path / "c.nc")
    source = opened(tmp_path / "b.nc", tmp_path / "c.nc", tmp_path / "a.nc", tmp_path / "gone.png")
    stored, flags = source.read(ALL, ALL)
    np.testing.assert_array_equal(stored, cube.transpose(2, 0, 1))
    expected = np.full(SIZE, VALID)
    expected[0, :4] = CLOUD, CLOUD, VALID, NODATA  # cloud, cirrus, water, spacecraft; AOD and aggregate are no flags
    expected[2, 3] = NODATA
    np.testing.assert_array_equal(flags, expected)
    spread = source.uncertainty(slice(1, 3), ALL)
    assert spread is not None and spread.shape == (BANDS, 2, SIZE[1]) and np.isnan(spread[0, 1, 3])
    assert spread[3, 0, 2] == pytest.approx(0.132)
    assert source.spec.good.count(False) == 1 and source.meaning.get("sensor") == "emit"
    assert source.meaning.get("datetime") == datetime(2024, 7, 24, 20, 1, 45, tzinfo=UTC)
    assert source.spec.attrs["hypermend:glt"]["shape"] == [9, 8]


def test_what_is_not_needed_may_be_broken_but_not_the_mask(tmp_path: Path) -> None:
    emit_file(tmp_path / "EMIT_L2A_RFL_1.nc")
    (tmp_path / "EMIT_L2A_RFLUNCERT_1.nc").write_bytes(b"<html>login</html>")
    opened(tmp_path / "EMIT_L2A_RFL_1.nc", tmp_path / "EMIT_L2A_RFLUNCERT_1.nc")
    (tmp_path / "EMIT_L2A_MASK_1.nc").write_bytes(b"<html>login</html>")
    with pytest.raises(BadAsset, match="EMIT_L2A_MASK_1"):
        opened(tmp_path / "EMIT_L2A_RFL_1.nc", tmp_path / "EMIT_L2A_MASK_1.nc")


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    emit_file(tmp_path / "a.nc")
    emit_mask(tmp_path / "c.nc", size=(7, 5))
    with pytest.raises(BadAsset, match=r"c\.nc: mask is \(7, 5, 8\), the cube has 6 x 5 pixels"):
        opened(tmp_path / "a.nc", tmp_path / "c.nc")


def test_a_mask_alone_and_two_cubes_are_refused(tmp_path: Path) -> None:
    emit_mask(tmp_path / "c.nc")
    with pytest.raises(BadAsset, match=r"c\.nc is EMIT L2A mask, which belongs beside its cube"):
        opened(tmp_path / "c.nc")
    emit_file(tmp_path / "a.nc")
    prisma_file(tmp_path / "b.he5")
    with pytest.raises(BadAsset, match=r"several of its files hold a cube: .*PRISMA L2D.*EMIT L2A"):
        opened(tmp_path / "a.nc", tmp_path / "b.he5")


@pytest.mark.parametrize(
    ("unit", "stated"),
    [
        ("uW/cm^2/SR/nm", "uW cm-2 sr-1 nm-1"),
        (None, "uW cm-2 sr-1 nm-1"),
        ("W m-2 sr-1 um-1", "W m-2 sr-1 um-1"),
        ("banana", "banana"),
    ],
)
def test_radiance_keeps_the_unit_of_the_file(tmp_path: Path, unit: str | None, stated: str) -> None:
    cube = emit_file(tmp_path / "a.nc", "radiance", unit=unit)
    with h5py.File(tmp_path / "obs.nc", "w") as file:
        file["obs"] = np.zeros((*SIZE, 11), "f4")
    source = opened(tmp_path / "a.nc", tmp_path / "obs.nc")
    assert (source.spec.quantity, source.spec.units, source.spec.scale_factor) == ("radiance", stated, 1)
    np.testing.assert_array_equal(source.read(ALL, ALL)[0], cube.transpose(2, 0, 1))


@pytest.mark.parametrize(("granule", "mask"), [(GRANULE, GRANULE), (GRANULE_V2, f"{GRANULE_V2}_2420613_013")])
def test_a_granule_of_a_folder_is_one_scene(tmp_path: Path, granule: str, mask: str) -> None:
    emit_file(tmp_path / f"EMIT_L2A_RFL_{granule}.nc", lon0=179.998)
    emit_file(tmp_path / f"EMIT_L2A_RFLUNCERT_{granule}.nc", "reflectance_uncertainty")
    emit_mask(tmp_path / f"EMIT_L2A_MASK_{mask}.nc")
    (scene,) = from_folder(tmp_path)
    assert isinstance(scene, Scene) and set(scene.assets) == {"rfl", "rfluncert", "mask"}
    assert scene.sensor == "emit" and scene.datetime == datetime(2024, 7, 24, 20, 1, 45, tzinfo=UTC)
    assert scene.bbox is not None and scene.bbox[0] > 179 and scene.bbox[2] < -179  # across the date line
    assert (open_scene(scene).read(slice(0, 1), slice(0, 2))[1] == CLOUD).all()


def test_the_wrong_sensor_contradicts_the_file(tmp_path: Path) -> None:
    emit_file(tmp_path / "a.nc")
    with pytest.raises(BadAsset, match=r"its sensor is enmap .*, but emit by file header"):
        open_scene(scene_of(tmp_path / "a.nc", sensor="enmap"))
