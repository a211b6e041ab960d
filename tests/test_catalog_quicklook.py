"""Quicklooks: the colours of a cube as pictures beside it, on one stretch before and after."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hypermend
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import create
from hypermend.catalog.cube.quicklook import picture_of, stretch_of, write_quicklooks
from hypermend.catalog.cube.spec import NODATA, VALID
from hypermend.catalog.keys import quicklook_keys
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.config import RestoreJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.maintenance.prune import prune
from hypermend.pipeline.maintenance.verify import verify
from hypermend.pipeline.restore.driver import restore
from tests.small_cubes import make_spec, write_tiles

RGB_NM = (450.0, 550.0, 650.0)
PICTURES = ("overview", "thumbnail", "false_colour")


def cube_of(folder: Path, size: tuple[int, int], *, name: str = "a", **changes: object) -> Cube:
    """A cube of three bands whose numbers rise along x, with its first column nodata."""
    spec = make_spec((3, *size), wavelength_nm=RGB_NM, dtype="int16", fill=-1, scale_factor=1e-3, **changes)  # type: ignore[arg-type]
    root, key = ArchiveStore(folder), f"restored/s/{name}.zarr"
    create(root, key, spec)
    x = np.broadcast_to(np.arange(size[1], dtype=np.int16), (3, *size)).copy()
    x[1] *= 2
    x[:, :, 0] = -1
    flags = np.full(size, VALID, np.uint8)
    flags[:, 0] = NODATA
    cube = Cube(root, key)
    write_tiles(cube, x, flags)
    return cube


def png(cube: Cube, name: str) -> Image.Image:
    return Image.open(io.BytesIO(cube.root.get(quicklook_keys(cube.path)[name])))


def test_red_is_the_longest_wave_and_nodata_is_transparent(tmp_path: Path) -> None:
    cube = cube_of(tmp_path, (32, 48))
    assert write_quicklooks(cube)
    overview = np.asarray(png(cube, "overview"))
    assert overview.shape == (32, 48, 4)
    assert (overview[:, 0, 3] == 0).all() and (overview[:, 1:, 3] == 255).all()
    image = picture_of(cube)
    assert image is not None
    np.testing.assert_allclose(image[:, 3, 10], [0.010, 0.020, 0.010])  # red, green, blue
    low, high = np.percentile(image[np.isfinite(image)], (2, 98))
    expected = np.rint(np.clip((image[:, 3, 10] - low) / (high - low), 0, 1) * 255)
    np.testing.assert_array_equal(overview[3, 10, :3], expected)
    assert png(cube, "thumbnail").size == (48, 32)


@pytest.mark.parametrize(
    ("size", "overviews", "expected"),
    [((150, 750), True, (188, 38)), ((300, 500), True, (500, 300)), ((300, 500), False, (500, 300))],
)
def test_a_picture_has_129_to_512_pixels(
    tmp_path: Path, size: tuple[int, int], overviews: bool, expected: tuple[int, int]
) -> None:
    cube = cube_of(tmp_path, size, overviews=overviews)
    assert write_quicklooks(cube)
    assert png(cube, "overview").size == expected
    assert max(png(cube, "thumbnail").size) == min(256, max(expected))


def test_a_large_cube_without_overviews_has_no_picture(tmp_path: Path) -> None:
    cube = cube_of(tmp_path, (64, 528))
    assert not write_quicklooks(cube)
    assert not any(cube.root.exists(key) for key in quicklook_keys(cube.path).values())


def test_bands_of_radiance_are_stretched_apart() -> None:
    image = np.stack([np.linspace(0, 1, 101), np.linspace(0, 10, 101)])[:, None].astype(np.float32)
    apart = stretch_of(image, "radiance")
    assert (*apart.low, *apart.high) == pytest.approx((0.02, 0.2, 0.98, 9.8))
    assert len(set(stretch_of(image, "reflectance").high)) == 1


def test_a_restored_cube_is_shown_on_the_stretch_of_its_source(tmp_path: Path) -> None:
    source = cube_of(tmp_path, (32, 48))
    dark = cube_of(tmp_path, (32, 48), name="b", add_offset=-0.005)
    write_quicklooks(dark, source=source)
    image, reference = picture_of(dark), picture_of(source)
    assert image is not None and reference is not None
    unit = stretch_of(reference, "reflectance").to_unit(image)
    np.testing.assert_array_equal(np.asarray(png(dark, "overview"))[:, 1:, 0], np.rint(unit[0, :, 1:] * 255))


def test_false_colours_are_infrared_red_and_green_each_on_its_own_stretch(tmp_path: Path) -> None:
    root, key = ArchiveStore(tmp_path), "source/s/a.zarr"
    create(root, key, make_spec((4, 8, 101), wavelength_nm=(450.0, 550.0, 650.0, 845.0), dtype="int16", fill=-1))
    ramp = np.arange(101, dtype=np.int16)
    stored = np.stack([ramp, 2 * ramp, ramp[::-1], 9 * ramp])[:, None].repeat(8, axis=1)
    write_tiles(cube := Cube(root, key), stored, np.full((8, 101), VALID, np.uint8))
    assert write_quicklooks(cube) == PICTURES
    false = np.asarray(png(cube, "false_colour"))[3].astype(int)
    np.testing.assert_allclose(false[:, 0], false[::-1, 1], atol=1)  # infrared rises as red falls, whatever their range
    np.testing.assert_allclose(false[:, 0], false[:, 2], atol=1)
    assert (false[0, 0], false[-1, 0]) == (0, 255)
    assert write_quicklooks(cube_of(tmp_path, (32, 48))) == PICTURES[:2]


def test_what_was_removed_is_grey_where_nothing_was(tmp_path: Path) -> None:
    source, result = cube_of(tmp_path, (32, 48)), cube_of(tmp_path, (32, 48), name="b")
    stored, flags = result.read(slice(0, 32), slice(0, 48))
    stored[:, 3:5, 8:32] += np.array([[5], [-5]], np.int16)
    write_tiles(result, stored, flags)
    assert write_quicklooks(result, source=source) == ("overview", "thumbnail", "removed")
    picture = png(result, "removed")
    pixels = np.asarray(picture)
    assert (np.abs(pixels[5:, 1:, :3].astype(int) - 127) <= 1).all() and (pixels[:, 0, 3] == 0).all()
    assert (pixels[3, 10, :3] == 0).all() and (pixels[4, 10, :3] == 255).all()
    assert float(picture.info["largest change"]) > 0


def test_pictures_are_assets_of_both_items_and_go_with_their_cube(archive: str) -> None:
    for tile_px in (16, 32):
        job = RestoreJob(archive=archive, model="identity", tile_px=tile_px)
        assert restore(job, engine=serial).wait().exit_code == 0
    found = hypermend.open(archive)
    for stage in ("source", "restored"):
        (item,) = found.search(stage=stage)
        for name in PICTURES:
            asset = item.scene.assets[name]
            role = "thumbnail" if name == "thumbnail" else "overview"
            assert (asset.roles, asset.media_type) == ((role,), "image/png")
            assert Image.open(asset.href).size == (96, 64)
    (document,) = (p for p in Path(archive, "items").rglob("*-denoise/*/*.json") if p.name != "catalog.json")
    assert json.loads(document.read_text())["assets"]["thumbnail"]["href"].startswith("../../../restored/")
    assert "removed" not in item.scene.assets  # the identity removes nothing
    assert len(list(Path(archive, "restored").rglob("*.png"))) == 2 * len(PICTURES)
    assert verify(archive).torn == ()
    prune(archive, older_than_hours=0)
    left = {p.name for p in Path(archive, "restored").rglob("*.png")}
    assert left == {f"{item.scene.properties['hypermend:plan']}.{name}.png" for name in PICTURES}


def test_a_rerun_writes_no_picture_again(archive: str) -> None:
    job = RestoreJob(archive=archive, model="identity", tile_px=16)
    restore(job, engine=serial).wait()
    before = {p: p.stat().st_mtime_ns for p in Path(archive).rglob("*.png")}
    assert len(before) == 2 * len(PICTURES)
    assert restore(job, engine=serial).wait().bytes_written == 0
    assert {p: p.stat().st_mtime_ns for p in Path(archive).rglob("*.png")} == before
