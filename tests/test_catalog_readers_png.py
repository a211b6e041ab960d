"""PNG stacks: band numbers from the names, 16-bit gray and nothing else among them."""

from __future__ import annotations

import re
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from hypermend.catalog.errors import BadAsset, Refused
from hypermend.catalog.readers.scene_reader import open_scene
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac.discover import Skipped, from_folder
from hypermend.catalog.stac.item import from_item, to_item


def stack(folder: Path, size: tuple[int, int] = (6, 8)) -> tuple[Path, np.ndarray]:
    """A CAVE-style scene folder of 31 bands."""
    values = np.random.default_rng(0).integers(0, 65535, (31, *size)).astype("uint16")
    home = folder / "toy_ms"
    home.mkdir(parents=True)
    for i in range(31):
        iio.imwrite(home / f"toy_ms_{i + 1:02d}.png", values[i])
    return home, values


def scene_of(folder: Path) -> Scene:
    (scene,) = from_folder(folder, sensor="cave", collection="cave")
    assert isinstance(scene, Scene)
    return scene


def test_a_stack_is_one_scene_of_counts(tmp_path: Path) -> None:
    _, values = stack(tmp_path)
    scene = scene_of(tmp_path)
    assert scene.id == "toy_ms" and scene.geometry is None and scene.grid is None
    assert scene.properties["hypermend:datetime_from"] == "unknown" and scene.datetime is None
    assert from_item(to_item(scene)) == scene
    source = open_scene(scene)
    spec = source.spec
    assert (spec.dtype, spec.quantity, spec.units, spec.crs, spec.fill) == ("uint16", "counts", "1", None, None)
    assert spec.scale_factor == 1 / 65535 and spec.wavelength_nm == tuple(range(400, 701, 10))
    assert spec.transform is None and not source.windowed
    stored, flags = source.read(slice(1, 5), slice(2, 8))
    np.testing.assert_array_equal(stored, values[:, 1:5, 2:8])
    assert stored.dtype == np.uint16 and (flags == 1).all()


def said(folder: Path) -> str:
    """Why the folder is no scene."""
    (found,) = from_folder(folder, sensor="cave", collection="cave")
    assert isinstance(found, Skipped)
    return found.reason


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (np.zeros((6, 8), "uint8"), "8-bit gray"),
        (np.zeros((6, 8, 4), "uint8"), "8-bit RGBA"),
        (np.zeros((6, 8, 3), "uint8"), "8-bit RGB"),
        (np.zeros((6, 8, 4), "uint16"), "16-bit RGBA"),
    ],
)
def test_another_kind_of_png_names_the_file_and_both_modes(tmp_path: Path, array: np.ndarray, what: str) -> None:
    home, _ = stack(tmp_path)
    try:
        iio.imwrite(home / "toy_ms_07.png", array)
    except (TypeError, OSError):  # Pillow writes no 16-bit RGBA: change depth and colour in the header instead
        body = bytearray((home / "toy_ms_07.png").read_bytes())
        body[24:26] = bytes([16, 6])
        (home / "toy_ms_07.png").write_bytes(body)
    assert re.search(rf"toy_ms_07\.png: is {what}, expected 16-bit gray", said(tmp_path))


def test_missing_bands_are_named(tmp_path: Path) -> None:
    home, _ = stack(tmp_path)
    (home / "toy_ms_03.png").unlink()
    (home / "toy_ms_30.png").unlink()
    assert "bands 3, 30 of 31 (cave) have no PNG" in said(tmp_path)


def test_another_size_names_both(tmp_path: Path) -> None:
    home, _ = stack(tmp_path)
    iio.imwrite(home / "toy_ms_09.png", np.zeros((5, 8), "uint16"))
    assert re.search(r"toy_ms_09\.png is 5 x 8 pixels, .*toy_ms_01\.png is 6 x 8", said(tmp_path))


def test_no_png_and_a_broken_one(tmp_path: Path) -> None:
    home, _ = stack(tmp_path)
    body = (home / "toy_ms_02.png").read_bytes()
    (home / "toy_ms_02.png").write_bytes(body[:60])
    source = open_scene(scene_of(tmp_path))
    with pytest.raises(BadAsset, match=r"toy_ms_02\.png: cannot be decoded"):
        source.read(slice(None), slice(None))
    (home / "toy_ms_02.png").write_bytes(b"GIF89a" * 9)
    assert "toy_ms_02.png: is no PNG" in said(tmp_path)


def test_a_declared_size_over_the_limit_is_refused_before_decoding(tmp_path: Path) -> None:
    home, _ = stack(tmp_path)
    scene = scene_of(tmp_path)
    for path in home.iterdir():
        body = bytearray(path.read_bytes())
        body[16:24] = (100_000).to_bytes(4, "big") * 2
        path.write_bytes(body)
    with pytest.raises(Refused, match=r"\(31, 100000, 100000\) = 620000000000 bytes.*limit is 1000000"):
        open_scene(scene, max_bytes=1_000_000)


def test_cave_scenes_equal_their_pngs(shared_data: Path) -> None:
    scenes = list(from_folder(shared_data / "cave", sensor="cave", collection="cave"))
    assert len(scenes) == 15 and all(isinstance(s, Scene) for s in scenes)
    first = scenes[0]
    assert isinstance(first, Scene)
    stored, _ = open_scene(first).read(slice(None), slice(None))
    assert stored.shape == (31, 512, 512)
    for n in (1, 16, 31):
        np.testing.assert_array_equal(
            stored[n - 1], iio.imread(shared_data / "cave" / first.id / f"{first.id}_{n:02d}.png")
        )
