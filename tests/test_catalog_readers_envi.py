"""ENVI: every interleave, the header's facts, and headers that do not fit their data."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from hypermend.catalog.cube.spec import NODATA
from hypermend.catalog.errors import BadAsset, NotFound
from hypermend.catalog.readers.envi import parse_header
from hypermend.catalog.readers.scene_reader import open_scene
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac.discover import Skipped, from_folder

BANDS = [2, 0, 1]  # wavelengths 500, 600, 450: not sorted


def write(folder: Path, interleave: str = "bsq", *, unit: str = "Nanometers", extra: str = "") -> np.ndarray:
    """A 3-band int16 image in EnMAP's range, big-endian, (band, y, x)."""
    cube = np.random.default_rng(0).integers(1, 9000, (3, 5, 7)).astype(">i2")
    cube[:, 0, 0] = -999
    axes = {"bsq": (0, 1, 2), "bil": (1, 0, 2), "bip": (1, 2, 0)}[interleave]
    (folder / "image.img").write_bytes(cube.transpose(axes).tobytes())
    factor = 1 if unit == "Nanometers" else 1e-3
    (folder / "image.hdr").write_text(
        "ENVI\ndescription = {\n  made = for a test }\nsamples = 7\nlines = 5\nbands = 3\nheader offset = 0\n"
        f"file type = ENVI Standard\ndata type = 2\ninterleave = {interleave}\nbyte order = 1\n"
        f"wavelength units = {unit}\nwavelength = {{\n {500 * factor}, {600 * factor},\n {450 * factor} }}\n"
        f"fwhm = {{ {7 * factor}, {8 * factor}, {9 * factor} }}\nbbl = {{ 1, 0, 1 }}\ndata ignore value = -999\n"
        "reflectance scale factor = 10000\n"
        "map info = {UTM, 1, 1, 366000, 5810000, 30, 30, 33, North, WGS-84, units=Meters}\n" + extra
    )
    return cube.astype("int16")


def test_a_local_image_is_read_by_windows_whatever_its_size(tmp_path: Path) -> None:
    cube = write(tmp_path)
    source = open_scene(scene_of(tmp_path), max_bytes=100)  # a line of all bands has 42 bytes, the file 210
    np.testing.assert_array_equal(source.read(slice(0, 5), slice(0, 7))[0], cube[BANDS])


def scene_of(folder: Path) -> Scene:
    (scene,) = from_folder(folder, sensor="enmap", collection="c")
    assert isinstance(scene, Scene), scene
    return scene


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
@pytest.mark.parametrize("unit", ["Nanometers", "Micrometers"])
def test_every_interleave(tmp_path: Path, interleave: str, unit: str) -> None:
    cube = write(tmp_path, interleave, unit=unit)
    source = open_scene(scene_of(tmp_path))
    spec = source.spec
    assert spec.wavelength_nm == pytest.approx((450, 500, 600)) and spec.fwhm_nm == pytest.approx((9, 7, 8))
    assert spec.band == (3, 1, 2) and spec.good == (True, True, False)
    assert (spec.dtype, spec.fill, spec.scale_factor, spec.quantity) == ("int16", -999, 1e-4, "reflectance")
    assert spec.crs == "EPSG:32633" and spec.transform == (30, 0, 366000, 0, -30, 5810000)
    stored, flags = source.read(slice(0, 4), slice(0, 6))
    np.testing.assert_array_equal(stored, cube[BANDS, 0:4, 0:6])
    assert flags[0, 0] == NODATA and (flags == 1).sum() == 23


def test_an_open_image_leaves_nothing_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed worker removes no folder: what it needs is gone as soon as GDAL has opened it."""
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    cube = write(tmp_path, "bil")
    source = open_scene(scene_of(tmp_path))
    for _ in range(2):
        stored, _ = source.read(slice(0, 4), slice(0, 6))
        np.testing.assert_array_equal(stored, cube[BANDS, 0:4, 0:6])
    assert not list(temporary.iterdir())
    source.close()


def test_without_map_info_there_is_no_grid(tmp_path: Path) -> None:
    write(tmp_path)
    header = tmp_path / "image.hdr"
    header.write_text("\n".join(s for s in header.read_text().splitlines() if "map info" not in s))
    spec = open_scene(scene_of(tmp_path)).spec
    assert spec.crs is None and spec.transform is None


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("lines = 5", "lines = 50", r"210.*2100|2100 bytes.*image\.img has 210"),
        ("bbl = { 1, 0, 1 }", "bbl = { 1, 0 }", "'bbl' has 2 values, the image has 3 bands"),
        ("data type = 2", "data type = 6", "data type 6"),
        ("samples = 7", "", "'samples' is 'missing'"),
    ],
)
def test_a_header_that_does_not_fit(tmp_path: Path, old: str, new: str, reason: str) -> None:
    write(tmp_path)
    scene = scene_of(tmp_path)
    header = tmp_path / "image.hdr"
    header.write_text(header.read_text().replace(old, new))
    with pytest.raises(BadAsset, match=reason):
        open_scene(scene)
    (found,) = from_folder(tmp_path, sensor="enmap", collection="c")
    assert isinstance(found, Skipped) and re.search(reason, found.reason)


def test_a_header_alone_is_skipped(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "image.img").unlink()
    (found,) = from_folder(tmp_path, sensor="enmap", collection="c")
    assert isinstance(found, Skipped) and "its data file is not beside it" in found.reason


def test_the_data_may_vanish(tmp_path: Path) -> None:
    write(tmp_path)
    scene = scene_of(tmp_path)
    (tmp_path / "image.img").unlink()
    with pytest.raises(NotFound, match=r"image\.img"):
        open_scene(scene)


def test_no_envi_header() -> None:
    with pytest.raises(BadAsset, match="begins with the word ENVI"):
        parse_header("samples = 3")
