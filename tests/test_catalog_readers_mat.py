"""MATLAB files: which variable is the cube, v5 and v7.3, and errors that list what a file holds."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io

from hypermend.catalog.errors import BadAsset, Refused
from hypermend.catalog.readers.scene_reader import open_scene
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.sensors import sensor
from hypermend.catalog.stac.discover import from_folder

RNG = np.random.default_rng(0)


def scene_of(path: Path, name: str, **properties: Any) -> Scene:
    return Scene(
        id=path.stem,
        collection="c",
        datetime=datetime(2020, 1, 1, tzinfo=UTC),
        sensor=name,
        assets={"data": Asset(key="data", href=str(path), roles=("data",))},
        properties={k.replace("__", ":"): v for k, v in properties.items()},
    )


def save_v5(path: Path, **variables: Any) -> Path:
    scipy.io.savemat(path, variables, do_compression=True)
    return path


def save_v73(path: Path, **variables: Any) -> Path:
    """As MATLAB writes it: a 512-byte text header before the HDF5 signature, axes reversed."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            dataset = file.create_dataset(name, data=np.asarray(value).T)
            dataset.attrs["MATLAB_class"] = np.bytes_(
                {"float64": "double", "float32": "single"}.get(
                    str(np.asarray(value).dtype), str(np.asarray(value).dtype)
                )
            )
    with path.open("r+b") as file:
        file.write(
            b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: x HDF5 schema 1.00 .".ljust(124) + b"\x00\x02IM"
        )
    return path


@pytest.mark.parametrize("save", [save_v5, save_v73])
def test_the_one_cube_with_the_sensors_bands(tmp_path: Path, save: Any) -> None:
    cube = RNG.integers(0, 4000, (5, 7, 31)).astype("uint16")
    path = save(tmp_path / "a.mat", scene=cube, mask=np.ones((5, 7)), rgb=np.zeros((5, 7, 3)))
    source = open_scene(scene_of(path, "cave"))
    assert source.spec.shape == (31, 5, 7) and source.spec.dtype == "uint16"
    assert source.spec.attrs["hypermend:mat_key"] == "scene"
    assert source.windowed is (save is save_v73)
    stored, flags = source.read(slice(1, 4), slice(2, 7))
    np.testing.assert_array_equal(stored, cube.transpose(2, 0, 1)[:, 1:4, 2:7])
    assert (flags == 1).all()
    source.close()
    np.testing.assert_array_equal(source.read(slice(1, 4), slice(2, 7))[0], stored)


def test_a_missing_key_lists_keys_and_shapes(tmp_path: Path) -> None:
    path = save_v5(tmp_path / "a.mat", GT=np.ones((4, 198)), Y=np.ones((198, 100)))
    with pytest.raises(BadAsset, match=r"three-dimensional.*aviris.*GT 4 x 198 double, Y 198 x 100 double.*mat_key"):
        open_scene(scene_of(path, "aviris"))
    with pytest.raises(BadAsset, match=r"no variable 'X'.*Y 198 x 100"):
        open_scene(scene_of(path, "aviris", hypermend__mat_key="X"))


def test_ambiguous_cubes_are_an_error_and_a_key_settles_it(tmp_path: Path) -> None:
    a, b = np.ones((4, 5, 31)), np.full((4, 5, 31), 2.0)
    path = save_v5(tmp_path / "a.mat", first=a, second=b)
    with pytest.raises(BadAsset, match=r"several could be the cube.*first 4 x 5 x 31 double, second 4 x 5 x 31"):
        open_scene(scene_of(path, "cave"))
    source = open_scene(scene_of(path, "cave", hypermend__mat_key="second"))
    assert source.read(slice(0, 1), slice(0, 1))[0].max() == 2


def test_a_wrong_band_count_names_file_and_sensor(tmp_path: Path) -> None:
    path = save_v5(tmp_path / "a.mat", cube=np.ones((4, 5, 30)))
    with pytest.raises(BadAsset, match="30 bands, sensor cave has 31"):
        open_scene(scene_of(path, "cave"))


def test_no_matlab_file_and_truncated_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    path.write_bytes(b"hello" * 99)
    with pytest.raises(BadAsset, match="is no MATLAB file"):
        open_scene(scene_of(path, "cave"))
    whole = save_v5(tmp_path / "b.mat", cube=RNG.random((40, 50, 31)))
    whole.write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(BadAsset, match=r"b\.mat"):
        open_scene(scene_of(whole, "cave"))
    whole = save_v73(tmp_path / "c.mat", cube=RNG.random((40, 50, 31)))
    whole.write_bytes(whole.read_bytes()[:3000])
    with pytest.raises(BadAsset, match=r"c\.mat"):
        open_scene(scene_of(whole, "cave"))


def test_what_is_read_whole_is_limited_packed_and_unpacked(tmp_path: Path) -> None:
    path = save_v5(tmp_path / "a.mat", cube=np.zeros((100, 100, 31)))
    size = path.stat().st_size
    with pytest.raises(Refused, match=f"{size} bytes.*limit is 1000"):
        open_scene(scene_of(path, "cave"), max_bytes=1000)
    with pytest.raises(Refused, match=r"2480000 bytes.*limit is 100000"):
        open_scene(scene_of(path, "cave"), max_bytes=100_000)


def test_paris_hyperion_and_ali(shared_data: Path) -> None:
    path = shared_data / "hyperion_paris" / "paris_data_hs_ms.mat"
    truth = scipy.io.loadmat(path)
    source = open_scene(scene_of(path, "hyperion"))
    spec = source.spec
    assert sorted(spec.band) == sorted(truth["non_del_bands"].ravel().tolist()) and spec.bands == 128
    assert all(spec.good) and list(spec.wavelength_nm) == sorted(spec.wavelength_nm)
    assert {d for b, d in zip(spec.band, spec.detector, strict=True) if b <= 70} == {"VNIR"}
    order = [truth["non_del_bands"].ravel().tolist().index(b) for b in spec.band]
    stored, _ = source.read(slice(None), slice(None))
    np.testing.assert_array_equal(stored, truth["HSim"].transpose(2, 0, 1)[order])
    ali = open_scene(scene_of(path, "ali"))
    assert ali.spec.shape == (9, 72, 72) and ali.spec.sensor == "ali"
    np.testing.assert_array_equal(ali.read(slice(None), slice(None))[0], truth["MSim"].transpose(2, 0, 1))


def test_pavia(shared_data: Path) -> None:
    scenes = {s.id: s for s in from_folder(shared_data / "pavia", sensor="rosis", collection="pavia")}
    centre = scenes["pavia_centre_crop"]
    assert isinstance(centre, Scene)
    source = open_scene(centre)
    assert source.spec.shape == (102, 105, 120) and source.spec.dtype == "uint16"
    stored, _ = source.read(slice(None), slice(None))
    assert (stored.min(), stored.max()) == (0, 6733)
    university = scenes["pavia_university_reduced"]
    assert isinstance(university, Scene)
    spec = open_scene(university).spec
    assert spec.shape == (103, 80, 50) and spec.wavelength_nm[0] == pytest.approx(430)
    assert spec.wavelength_nm[-1] == pytest.approx(860)


def test_muufl_is_v73_and_reversed(shared_data: Path) -> None:
    path = shared_data / "muufl" / "muufl_100x100x64.mat"
    source = open_scene(scene_of(path, "muufl"))
    assert source.windowed and source.spec.shape == (64, 100, 100) and source.spec.dtype == "float32"
    with h5py.File(path) as file:
        truth = file["data"][()].transpose(0, 2, 1)
    np.testing.assert_array_equal(source.read(slice(10, 30), slice(5, 60))[0], truth[:, 10:30, 5:60])
    assert source.spec.band[0] == 5 and sensor("muufl").usable[4]


def test_jasper_ridge_runs_down_the_columns(shared_data: Path) -> None:
    path = shared_data / "aviris" / "jasper_ridge_198.mat"
    source = open_scene(scene_of(path, "aviris"))
    assert source.spec.shape == (198, 100, 100) and source.spec.dtype == "uint16" and source.spec.band[0] == 4
    stored, _ = source.read(slice(None), slice(None))
    truth = scipy.io.loadmat(path)["Y"]
    for y, x in [(0, 0), (3, 7), (99, 1), (42, 99)]:
        np.testing.assert_array_equal(stored[:, y, x], truth[:, x * 100 + y])


def column(source: Any) -> np.ndarray:
    """Numbers of pixel (1, 2)."""
    return np.asarray(source.read(slice(1, 2), slice(2, 3))[0][:, 0, 0])


@pytest.mark.parametrize(
    ("variable", "bands", "name", "first", "gap"),
    [
        ("indian_pines_corrected", 200, "aviris", 5, (107, 113)),
        ("salinas_corrected", 204, "aviris", 1, (107, 113)),
        ("salinasA_corrected", 204, "aviris", 1, (153, 168)),
        ("Botswana", 145, "hyperion", 10, (55, 82)),
    ],
)
@pytest.mark.parametrize("save", [save_v5, save_v73])
def test_corrected_benchmarks_have_their_published_bands(
    tmp_path: Path, save: Any, variable: str, bands: int, name: str, first: int, gap: tuple[int, int]
) -> None:
    cube = RNG.integers(0, 9000, (5, 4, bands)).astype("uint16")
    source = open_scene(scene_of(save(tmp_path / "a.mat", **{variable: cube}), "auto"))
    table = sensor(name)
    assert source.spec.sensor == name and source.spec.bands == bands and all(source.spec.good)
    channels = sorted(source.spec.band)
    assert channels[0] == first and gap[1] in channels and channels[channels.index(gap[1]) - 1] == gap[0]
    assert source.spec.wavelength_nm[0] == table.wavelength_nm[source.spec.band[0] - 1]
    order = [channels.index(b) for b in source.spec.band]
    np.testing.assert_array_equal(column(source), cube[1, 2, order])
    assert "product rule" in source.spec.attrs["sources"]["wavelength"] and source.spec.quantity == "counts"


@pytest.mark.parametrize(("variable", "bands"), [("KSC", 176), ("Houston", 144), ("dc", 191)])
def test_where_no_list_is_published_the_centres_are_a_guess(tmp_path: Path, variable: str, bands: int) -> None:
    path = save_v5(tmp_path / "a.mat", **{variable: np.ones((4, 3, bands))})
    spec = open_scene(scene_of(path, "auto")).spec
    assert spec.bands == bands and spec.attrs["sources"]["wavelength"].startswith("guess")
    spec = open_scene(scene_of(path, "auto", hypermend__wavelengths=np.linspace(410, 2400, bands).tolist())).spec
    assert spec.wavelength_nm[0] == 410


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("save", [save_v5, save_v73])
def test_wavelengths_in_the_file_win_over_the_table(tmp_path: Path, save: Any, scale: float) -> None:
    centres = np.linspace(405, 695, 31)
    path = save(tmp_path / "a.mat", cube=RNG.random((5, 4, 31)), wavelengths=scale * centres[:, None])
    for name in ("auto", "cave"):
        spec = open_scene(scene_of(path, name)).spec
        np.testing.assert_allclose(spec.wavelength_nm, centres)
        assert "file header (wavelengths" in spec.attrs["sources"]["wavelength"]


@pytest.mark.parametrize("save", [save_v5, save_v73])
def test_bands_first_is_decided_by_what_is_known(tmp_path: Path, save: Any) -> None:
    cube = RNG.integers(0, 9000, (31, 5, 4)).astype("uint16")
    known = save(tmp_path / "a.mat", cube=cube, wl=np.linspace(405, 695, 31)[None])
    for path, name in ((known, "auto"), (save(tmp_path / "b.mat", cube=cube), "cave")):
        source = open_scene(scene_of(path, name))
        assert source.spec.shape == (31, 5, 4)
        np.testing.assert_array_equal(column(source), cube[:, 1, 2])
    both = save(tmp_path / "c.mat", cube=np.ones((31, 5, 31)), wl=np.linspace(405, 695, 31)[None])
    with pytest.raises(BadAsset, match=r"can be read as byx .* or yxb .*permute it"):
        open_scene(scene_of(both, "auto"))


def test_a_cube_in_a_struct(tmp_path: Path) -> None:
    cube = RNG.integers(0, 9000, (5, 4, 31)).astype("uint16")
    scipy.io.savemat(tmp_path / "a.mat", {"hsi": {"Data": cube, "wavelength": np.linspace(405, 695, 31), "name": "x"}})
    with h5py.File(tmp_path / "b.mat", "w", userblock_size=512) as file:
        file["hsi/Data"], file["hsi/wavelength"] = cube.T, np.linspace(405, 695, 31)[:, None]
        file["hsi/Data"].attrs["MATLAB_class"] = np.bytes_("uint16")
        file["hsi/wavelength"].attrs["MATLAB_class"] = np.bytes_("double")
    with (tmp_path / "b.mat").open("r+b") as body:
        body.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    for name in ("a.mat", "b.mat"):
        source = open_scene(scene_of(tmp_path / name, "auto"))
        assert source.spec.attrs["hypermend:mat_key"] == "hsi.Data" and source.spec.wavelength_nm[0] == 405
        np.testing.assert_array_equal(column(source), cube[1, 2])


def test_without_a_spectrum_the_likely_sensors_are_named(tmp_path: Path) -> None:
    path = save_v5(tmp_path / "a.mat", X=np.ones((4, 5, 31)))
    with pytest.raises(BadAsset, match=r"wavelengths of the 31 bands of X; give them with --wavelengths, .*cave"):
        open_scene(scene_of(path, "auto"))


def test_ground_truth_and_v4_are_no_scenes(tmp_path: Path) -> None:
    save_v5(tmp_path / "Salinas_gt.mat", salinas_gt=np.zeros((5, 4), "uint8"))
    scipy.io.savemat(tmp_path / "old.mat", {"X": np.zeros((5, 4))}, format="4")
    reasons = {s.id: s.reason for s in from_folder(tmp_path) if not isinstance(s, Scene)}
    assert "holds class numbers of a ground truth" in reasons["Salinas_gt.mat"]
    assert "v4 holds matrices only" in reasons["old.mat"]
    (tmp_path / "one").mkdir()
    save_v5(tmp_path / "one" / "Salinas_corrected.mat", salinas_corrected=np.ones((5, 4, 204)))
    (scene,) = from_folder(tmp_path / "one")
    assert isinstance(scene, Scene) and scene.sensor == "aviris" and scene.datetime is None


def test_two_instruments_in_one_file_ask_for_the_sensor(tmp_path: Path) -> None:
    path = save_v5(
        tmp_path / "a.mat", HSim=np.ones((4, 5, 3)), MSim=np.ones((4, 5, 9)), non_del_bands=np.array([[9, 10, 11]])
    )
    with pytest.raises(BadAsset, match=r"images of 2 sensors; name one with --sensor: hyperion, ali"):
        open_scene(scene_of(path, "auto"))
    assert open_scene(scene_of(path, "hyperion")).spec.band == (9, 10, 11)
