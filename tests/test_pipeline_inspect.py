"""`inspect` says what files are taken for, by which source, and what is missing; a file that names no sensor asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from typer.testing import CliRunner, Result

import hypermend as api
from hypermend.catalog.cube.quicklook import colour_bands
from hypermend.catalog.cube.spec import NODATA, VALID
from hypermend.catalog.readers.scene_reader import open_scene
from hypermend.catalog.scene import Asset, Scene
from hypermend.pipeline.cli.main import app
from hypermend.pipeline.config import IngestJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.ingest import ingest
from hypermend.pipeline.inspect.sample import look, spectrum
from tests.hierarchical import emit_file, emit_mask
from tests.synthetic import enmap_folder, hyperion_folder


def hypermend(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=False)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def envi_file(path: Path, *, nm: bool = True, height: int = 40, width: int = 48, **fields: str) -> Path:
    """An ENVI image of five bands, 450 to 850 nm: 1000 and 100 more in each band, 0 in the first 10 rows."""
    pixels = np.empty((5, height, width), np.uint16)
    pixels[:] = 1000 + 100 * np.arange(5)[:, None, None]
    pixels[:, :10] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pixels.tobytes())
    facts = {"samples": width, "lines": height, "bands": 5, "header offset": 0, "data type": 12, "interleave": "bsq"}
    facts |= {"byte order": 0, **({"wavelength": "{450, 550, 650, 750, 850}"} if nm else {})}
    facts |= {key.replace("_", " "): text for key, text in fields.items()}
    path.with_suffix(".hdr").write_text("ENVI\n" + "".join(f"{key} = {value}\n" for key, value in facts.items()))
    return path


def seen(*words: object) -> list[dict[str, Any]]:
    """What `inspect --json` says."""
    scenes: list[dict[str, Any]] = json.loads(hypermend("inspect", *words, "--json").stdout)["scenes"]
    return scenes


def test_every_value_has_its_source_and_what_is_missing_its_option(tmp_path: Path) -> None:
    file = envi_file(tmp_path / "flight.img", data_ignore_value="0", wavelength_units="nm")
    result = hypermend("inspect", file)
    assert result.exit_code == 0, result.output
    (scene,) = seen(file, "--no-picture")
    assert scene["size"] == {"bands": 5, "y": 40, "x": 48} and scene["sensor"] == "unknown" and scene["ingested"]
    fields = scene["fields"]
    assert fields["wavelength"]["value"] == "450 to 850 nm, 5 bands"
    assert fields["wavelength"]["source"].startswith("file header (flight.hdr")
    assert fields["nodata"]["value"] == "0" and fields["nodata"]["source"].startswith("file header (flight.hdr")
    assert fields["quantity"]["value"] == "counts" and fields["quantity"]["guessed"]
    assert scene["masks"] == {"valid": 0.75, "nodata": 0.25} and scene["masks_of"] == "all pixels"
    assert set(scene["missing"]) == {"time", "sensor", "quantity", "scale", "fwhm"}
    for option in ("--datetime", "--allow-mtime", "--quantity", "--scale-factor", "--wavelengths"):
        assert option in " ".join(scene["missing"].values()) and option in hypermend("inspect", "--help").output
    assert "masks: valid 75 %, nodata 25 %" in result.stdout and "wavelength: 450 to 850 nm" in result.stdout
    with Image.open("flight-inspect.png") as picture:
        assert picture.width > 1000 and picture.convert("RGB").getcolors(1 << 24) is not None
    assert [p.name for p in Path().iterdir()] == ["flight-inspect.png"]


def test_a_scene_without_the_mask_of_its_product_says_so(tmp_path: Path) -> None:
    """A mask of EMIT's version 002 is a product of its own, and its items do not list it."""
    emit_file(tmp_path / "EMIT_L2A_RFL_002_20240724T200145.nc")
    (scene,) = seen(tmp_path, "--no-picture")
    assert "until then clouds count as pixels" in scene["missing"]["mask"]
    emit_mask(tmp_path / "EMIT_L2A_MASK_002_20240724T200145_2420613_013.nc")
    (scene,) = seen(tmp_path, "--no-picture")
    assert "mask" not in scene["missing"] and scene["masks"]["cloud"] > 0


def test_the_users_word_wins_and_is_shown(tmp_path: Path) -> None:
    file = envi_file(tmp_path / "flight.img")
    options = (
        "--quantity",
        "reflectance",
        "--scale-factor",
        "1e-4",
        "--nodata",
        "0",
        "--datetime",
        "2024-05-01T10:00:00Z",
    )
    (scene,) = seen(file, *options, "--wavelengths", "460,560,660,760,860", "--no-picture")
    assert {name: (f["value"], f["source"]) for name, f in scene["fields"].items() if "user" in f["source"]} == {
        "datetime": ("2024-05-01T10:00:00Z", "user (--datetime)"),
        "quantity": ("reflectance", "user (--quantity)"),
        "scale": ("0.0001", "user (--scale-factor)"),
        "nodata": ("0", "user (--nodata)"),
        "wavelength": ("460 to 860 nm, 5 bands", "user (--wavelengths)"),
    }
    assert set(scene["missing"]) == {"sensor", "fwhm"} and scene["masks"]["nodata"] == 0.25


def test_tiles_without_platform_ask_with_the_likely_answer(tmp_path: Path) -> None:
    enmap_folder(tmp_path / "tiles")
    (scene,) = seen(tmp_path / "tiles")
    assert "give --sensor enmap" in scene["refused"] and not list(Path().iterdir())
    assert hypermend("inspect", tmp_path / "tiles").exit_code == 1
    (scene,) = seen(tmp_path / "tiles", "--sensor", "enmap", "--no-picture")
    assert scene["fields"]["sensor"]["source"] == "user (--sensor)" and scene["size"]["bands"] == 224
    made = hypermend("catalog", tmp_path / "tiles", "--archive", tmp_path / "a")
    assert made.exit_code == 1 and "give --sensor enmap" in made.stderr


def test_a_wrong_sensor_is_refused_by_the_file(tmp_path: Path) -> None:
    file = envi_file(tmp_path / "flight.img")
    (scene,) = seen(file, "--sensor", "emit", "--wavelengths", "2600,2700,2800,2900,3000", "--no-picture")
    assert "sensor emit" in scene["refused"]


def test_a_hyperion_delivery_needs_no_sensor(tmp_path: Path) -> None:
    hyperion_folder(tmp_path / "files")
    (scene,) = seen(tmp_path / "files", "--no-picture")
    assert (scene["sensor"], scene["ingested"]) == ("hyperion", True), scene["refused"]
    made = hypermend("catalog", tmp_path / "files", "--archive", tmp_path / "a", "--json")
    assert made.exit_code == 0, made.output
    (item,) = api.open(tmp_path / "a").search(stage="raw", sensor="hyperion")
    assert item.scene.collection == "hyperion" and item.scene.properties["hypermend:sensor_from"] == "files"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--crs", "EPSG:0"), "crs: Value error, PROJ knows no such system"),
        (("--datetime", "yesterday"), "write a time as 2022-07-24T10:45:26Z"),
        (("--datetime", "2099-01-01"), "has not come yet"),
        (("--quantity", "light"), "'reflectance', 'radiance' or 'counts'"),
        (("--scale-factor", "0"), "a scale factor of 0 leaves no image"),
        (("--scale-factor", "1,x"), "write a number, or one for each band"),
        (("--nodata", "nan"), "finite number"),
        (("--wavelengths", "0.45,0.55"), "for micrometres write the unit"),
        (("--wavelengths", "no-such-file.csv"), "there is no such file"),
        (("--sensors", "no-such-folder"), "no such folder"),
        (("--sensor", "enmpa"), "did you mean 'enmap'?"),
    ],
)
def test_a_wrong_word_of_the_user_is_refused_before_any_work(
    tmp_path: Path, options: tuple[str, str], told: str
) -> None:
    file = envi_file(tmp_path / "flight.img")
    for verb in (("inspect", file), ("catalog", file, "--archive", tmp_path / "a")):
        result = hypermend(*verb, *options)
        assert result.exit_code == 2 and told in result.stderr, result.output
        assert result.stdout == ""
    assert not list((tmp_path / "a").glob("items/**/*.json"))


def test_usage_errors_leave_with_2(tmp_path: Path) -> None:
    file = envi_file(tmp_path / "flight.img")
    for words, told in (
        ((tmp_path / "nothing",), "no such file or folder; for the id of an item give --archive"),
        ((file, "--picture", tmp_path / "p.jpg"), "name a .png file"),
        ((file, "--picture", tmp_path / "no" / "p.png"), "in a folder that exists"),
        ((tmp_path / "here",), "no image file that a reader knows"),
        (("flight", "--archive", tmp_path / "no"), "no archive at"),
    ):
        result = hypermend("inspect", *words)
        assert result.exit_code == 2 and told in result.stderr, result.output


def test_one_picture_is_not_drawn_over_by_the_next_scene(tmp_path: Path) -> None:
    for name in ("a", "b"):
        envi_file(tmp_path / f"{name}.img")
    both, first = hypermend("inspect", tmp_path, "--picture", "p.png"), hypermend("inspect", tmp_path / "a.img")
    assert both.exit_code == 2 and "has several scenes" in both.stderr
    assert first.exit_code == 0, first.output
    assert Path("p.png").read_bytes() == Path("a-inspect.png").read_bytes()


def test_an_item_is_inspected_by_its_file_and_by_its_id(tmp_path: Path) -> None:
    file = envi_file(tmp_path / "flight.img")
    assert hypermend("catalog", file, "--archive", tmp_path / "a", "--nodata", 0, "--collection", "c").exit_code == 0
    (path,) = (tmp_path / "a" / "items").glob("c/undated/flight.json")
    for words in ((path,), ("flight", "--archive", tmp_path / "a")):
        (scene,) = seen(*words, "--no-picture")
        assert scene["fields"]["nodata"]["source"] == "user (--nodata)" and scene["masks"]["nodata"] == 0.25
        assert "time" in scene["missing"]


def test_a_file_that_is_none_is_refused_by_reason_and_others_are_shown(tmp_path: Path) -> None:
    envi_file(tmp_path / "files" / "good.img")
    envi_file(tmp_path / "files" / "short.img")
    (tmp_path / "files" / "short.img").write_bytes(b"\0" * 100)
    (tmp_path / "files" / "text.tif").write_text("no image")
    result = hypermend("inspect", tmp_path / "files", "--json")
    scenes = {scene["id"]: scene for scene in json.loads(result.stdout)["scenes"]}
    assert result.exit_code == 1 and scenes["good"]["ingested"] and len(scenes) == 3
    assert all(scene["refused"] for name, scene in scenes.items() if name != "good")
    assert [p.name for p in Path().iterdir()] == ["good-inspect.png"]


def test_a_scene_without_a_usable_pixel_would_be_refused(tmp_path: Path) -> None:
    file = envi_file(tmp_path / "flight.img", height=10, data_ignore_value="0")
    (scene,) = seen(file, "--no-picture")
    assert "every pixel is nodata" in scene["refused"] and not scene["ingested"]


def large_tiff(path: Path) -> Scene:
    """Four bands of 1000 x 1200 pixels; the left fifth is nodata."""
    pixels = np.full((4, 1000, 1200), 500, np.uint16)
    pixels[:, :, :240] = 0
    profile = {
        "driver": "GTiff",
        "width": 1200,
        "height": 1000,
        "count": 4,
        "dtype": "uint16",
        "nodata": 0,
        "tiled": True,
    }
    with rasterio.open(path, "w", **profile, crs="EPSG:32633", transform=Affine(10, 0, 5e5, 0, -10, 5.8e6)) as file:
        file.write(pixels)
        for band, name in enumerate(("B02", "B03", "B04", "B08"), 1):
            file.update_tags(band, DESCRIPTION=name)
    asset = Asset(key="data", href=str(path), roles=("data",), media_type="image/tiff")
    return Scene(id="s", collection="c", datetime=None, sensor="sentinel2a", assets={"data": asset}, properties={})


def test_a_look_is_bounded_and_says_which_part_it_saw(tmp_path: Path) -> None:
    source = open_scene(large_tiff(tmp_path / "large.tif"))
    whole = look(source, colour_bands(source.spec))
    assert whole.part == "" and whole.shares == {"valid": 0.8, "nodata": 0.2}
    assert whole.image.shape == (3, 334, 400) and whole.bands_nm[0] > whole.bands_nm[1] > whole.bands_nm[2]
    part = look(source, colour_bands(source.spec), most_bytes=8 * 400 * 400)
    assert part.part == "of the 400 x 400 pixels in its centre" and part.shares == {"valid": 1.0}
    found = spectrum(source)
    assert found.pixels == 6 * 32 * 32  # the left three of nine windows lie outside the data
    assert found.mean.tolist() == [500.0] * 4 and found.defects is None


def test_a_scene_of_bands_beyond_the_visible_shows_one(tmp_path: Path) -> None:
    (scene,) = seen(envi_file(tmp_path / "swir.img"), "--wavelengths", "1500,1600,1700,1800,1900")
    assert scene["ingested"] and Path("swir-inspect.png").exists()


def test_catalog_and_a_dry_run_print_one_line_for_each_scene(tmp_path: Path) -> None:
    envi_file(tmp_path / "files" / "one.img", data_ignore_value="0")
    envi_file(tmp_path / "files" / "two.img", acquisition_time="2024-05-01T10:00:00Z", reflectance_scale_factor="10000")
    made = hypermend("catalog", tmp_path / "files", "--archive", tmp_path / "a")
    assert made.exit_code == 0, made.output
    one, two = made.stdout.splitlines()
    assert (
        one.startswith("one  ")
        and "unknown  5 bands 48 x 40  counts (guess)  time unknown  valid 75 %, nodata 25 %" in one
    )
    assert two.startswith("two  ") and "reflectance (file header)  2024-05-01T10:00:00Z" in two
    assert made.stderr.count("time unknown: 1 scene; give --datetime TIME or --allow-mtime") == 1
    dry = hypermend("ingest", "--archive", tmp_path / "a", "--dry-run")
    assert sorted(dry.stdout.splitlines()) == sorted([one, two]) and dry.exit_code == 0
    assert "time unknown: 1 scene; give --scene-datetime TIME or --allow-mtime" in dry.stderr
    (tmp_path / "files" / "one.img").unlink()
    dry = hypermend("ingest", "--archive", tmp_path / "a", "--dry-run")
    assert dry.exit_code == 1 and "one  refused: " in dry.stdout


def test_sensors_lists_the_tables_and_those_of_the_user(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    rows = "".join(f"{i},{nm},9,VNIR,true,1\n" for i, nm in enumerate((450, 550, 650, 750, 850), 1))
    (folder / "my-camera.csv").write_text(
        f"# quantity: counts\n# source: my sheet\nband,wavelength_nm,fwhm_nm,detector,usable,gsd_m\n{rows}"
    )
    listed = {row["name"]: row for row in json.loads(hypermend("sensors", "--json").stdout)["sensors"]}
    assert listed["enmap"]["bands"] == 224 and "my-camera" not in listed
    own = hypermend("sensors", "--sensors", folder, "--json").stdout
    listed = {row["name"]: row for row in json.loads(own)["sensors"]}
    assert listed["my-camera"]["where"] == str(folder) and listed["my-camera"]["source"] == "my sheet"
    file = envi_file(tmp_path / "flight.img", nm=False)
    refused = seen(file, "--no-picture")[0]["refused"]
    assert "--wavelengths" in refused and "--sensor" in refused
    refused = seen(file, "--sensors", folder, "--no-picture")[0]["refused"]
    assert "my-camera" in refused
    (scene,) = seen(file, "--sensors", folder, "--sensor", "my-camera", "--no-picture")
    assert scene["ingested"] and scene["sensor"] == "my-camera"
    assert scene["fields"]["wavelength"]["source"].startswith("sensor table")
    text = hypermend("sensors", "--sensors", folder).stdout
    assert "my-camera" in text and max(map(len, text.splitlines())) <= 80


def test_masks_of_flags(tmp_path: Path) -> None:
    """The flags that a look counts are those of the cube."""
    source = open_scene(large_tiff(tmp_path / "large.tif"))
    _, flags = source.read(slice(0, 8), slice(236, 244))
    assert (flags[:, :4] & NODATA > 0).all() and (flags[:, 4:] & VALID > 0).all()


@pytest.mark.parametrize(
    ("folder", "told"),
    [
        ("enmap_potsdam", "give --sensor enmap"),
        ("sentinel2", "sentinel2a, sentinel2b, sentinel2c"),
        ("cave/balloons_ms", "cave"),
        ("hyperion_paris", "name one with --sensor: hyperion, ali"),
    ],
)
def test_a_real_delivery_without_its_instrument_asks_with_the_likely_answers(
    shared_data: Path, tmp_path: Path, folder: str, told: str
) -> None:
    result = hypermend("inspect", shared_data / folder, "--no-picture", "--json")
    scenes = json.loads(result.stdout)["scenes"]
    assert result.exit_code == 1 and all("--sensor" in s["refused"] and told in s["refused"] for s in scenes), scenes
    made = hypermend("catalog", shared_data / folder, "--archive", tmp_path / "a")
    assert made.exit_code == 1 and told in made.stderr and made.stdout == ""


@pytest.mark.parametrize(
    ("folder", "sensor", "quantity", "time"),
    [
        ("landsat5", "landsat5-tm", "radiance", "1988-08-14T13:00:47.375019Z"),
        ("pavia", "rosis", "counts", None),
        ("muufl", "muufl", "reflectance", None),
        ("aviris", "aviris", "counts", None),
    ],
)
def test_a_real_delivery_that_names_its_instrument_needs_no_option_but_its_path(
    shared_data: Path, tmp_path: Path, folder: str, sensor: str, quantity: str, time: str | None
) -> None:
    for scene in seen(shared_data / folder):
        assert (scene["sensor"], scene["quantity"], scene["datetime"]) == (sensor, quantity, time)
        assert scene["ingested"] and Path(scene["picture"]).exists()
        assert ("time" in scene["missing"]) == (time is None)
    made = hypermend("catalog", shared_data / folder, "--archive", tmp_path / "a")
    assert made.exit_code == 0 and ("time unknown" in made.stderr) == (time is None)
    report = ingest(IngestJob(archive=str(tmp_path / "a")), engine=serial).wait()
    assert report.exit_code == 0, report.scenes
    items = api.open(tmp_path / "a").search(stage="source", sensor=sensor)
    assert len(items) == len(report.scenes) and all((i.scene.datetime is None) == (time is None) for i in items)


def test_real_tiles_are_one_scene_with_the_answer_that_was_asked_for(shared_data: Path, tmp_path: Path) -> None:
    options = (shared_data / "enmap_potsdam", "--sensor", "enmap", "--quantity", "reflectance")
    (scene,) = seen(*options)
    assert scene["size"] == {"bands": 224, "y": 192, "x": 160} and scene["masks"] == {"valid": 0.6, "nodata": 0.4}
    assert scene["fields"]["scale"]["source"].startswith("file header")
    made = hypermend("catalog", *options, "--archive", tmp_path / "a")
    assert made.exit_code == 0 and made.stdout.count("\n") == 1
    assert made.stderr == f"next: hypermend ingest --archive {tmp_path / 'a'}\n"
