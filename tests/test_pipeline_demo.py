"""The demo: its synthetic scenes are what they say, and its walk ends where it should, twice."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rich.console import Console

from hypermend.catalog.sensors import sensor
from hypermend.pipeline.demo.scenes import MATERIALS, DemoSize, abundances, spectra, sunlight
from tests.synthetic import SMALL_DEMO, enmap_folder, hyperion_folder, small_scene

WHOLE_RANGE_NM = np.arange(400, 2500, 5).tolist()


def at(nm: float) -> int:
    return int(np.argmin(np.abs(np.array(WHOLE_RANGE_NM) - nm)))


def test_spectra_have_the_shapes_of_their_materials() -> None:
    names = list(MATERIALS)
    table = dict(zip(names, spectra(names, WHOLE_RANGE_NM), strict=True))
    assert all(s.min() > 0 and s.max() < 1 for s in table.values())
    assert table["crop"][at(850)] > 8 * table["crop"][at(670)]  # the red edge
    assert table["crop"][at(550)] > table["crop"][at(670)]  # green
    assert table["crop"][at(1450)] < 0.6 * table["crop"][at(1650)]  # water in leaves
    assert table["water"][at(2200)] < 0.01
    assert table["soil"][at(2200)] < table["soil"][at(2130)]  # clay


def test_sunlight_is_bright_in_the_visible_and_gone_where_water_vapour_absorbs() -> None:
    light = sunlight(WHOLE_RANGE_NM)
    assert 450 < WHOLE_RANGE_NM[int(light.argmax())] < 700
    assert light[at(1380)] < 0.01 * light.max()
    assert light[at(2200)] < 0.1 * light.max()


def test_every_pixel_is_made_of_materials_that_sum_to_one() -> None:
    names, fractions = abundances(40, 60, seed=3)
    assert fractions.shape == (len(names), 40, 60)
    assert fractions.min() >= 0
    np.testing.assert_allclose(fractions.sum(axis=0), 1, atol=1e-5)


def test_the_flaws_are_as_large_as_asked_and_the_truth_stays_clean() -> None:
    clean, noisy = small_scene(noise=0.0), small_scene(noise=0.02, stripes=0.05, bad_bands=(3,))
    np.testing.assert_array_equal(clean.truth, noisy.truth)
    np.testing.assert_array_equal(clean.truth, clean.observed)
    added = (noisy.observed - noisy.truth)[np.array(noisy.good)]
    columns = added.mean(axis=1)
    assert columns.std() == pytest.approx(0.05, rel=0.1)
    assert (added - columns[:, None, :]).std() == pytest.approx(0.02, rel=0.05)
    assert noisy.good.count(False) == 1
    assert not noisy.good[3]


def test_the_same_arguments_make_the_same_scene() -> None:
    np.testing.assert_array_equal(small_scene().observed, small_scene().observed)
    assert np.abs(small_scene().truth - small_scene(seed=2).truth).max() > 0.1


def test_the_tiles_of_an_enmap_delivery_hold_the_scene(tmp_path: Path) -> None:
    scene, files = enmap_folder(tmp_path)
    assert len(files) == 5  # two rows of three, one not delivered
    for path in files:
        y, x = (int(n) for n in path.stem.split("_")[-2:])
        with rasterio.open(path) as file:
            stored, tags = file.read(), file.tags(100)
            assert (file.crs.to_epsg(), file.transform.c, file.nodata) == (32633, 366000 + 30 * x, -32768)
        window = (slice(y, y + 32), slice(x, x + 32))
        expected = np.where(scene.valid[window], np.rint(scene.observed[(..., *window)] / 1e-4), -32768)
        np.testing.assert_array_equal(stored, expected.astype(np.float32))
        assert float(tags["wavelength"]) == pytest.approx(sensor("enmap").wavelength_nm[99], abs=1e-2)


def test_the_files_of_a_hyperion_delivery_hold_scaled_radiance(tmp_path: Path) -> None:
    scene, files = hyperion_folder(tmp_path)
    assert len(files) == 243
    for band, factor in ((30, 40), (150, 80)):  # VNIR, SWIR
        with rasterio.open(tmp_path / f"{scene.name}_B{band:03d}_L1T.TIF") as file:
            stored = file.read(1)
        asked = np.clip(scene.observed[band - 1] * factor, 1, None)
        assert np.abs(stored - asked)[scene.valid].max() <= 0.5
        assert (stored[~scene.valid] == 0).all()
    before = {path: path.stat().st_mtime_ns for path in files}
    hyperion_folder(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in files} == before


@pytest.mark.slow
def test_the_walk_ends_nearer_to_the_truth_or_where_it_began(demo_archive: tuple[Path, dict[str, Any], str]) -> None:
    _, result, printed = demo_archive
    assert result["exit_code"] == 0
    for score in result["scores"]:
        assert score["psnr_after_db"] >= score["psnr_before_db"]
        assert score["sam_after_deg"] <= score["sam_before_deg"]
    strong = next(score for score in result["scores"] if score["sensor"] == "hyperion")
    assert strong["psnr_after_db"] > strong["psnr_before_db"] + 3
    assert "synthetic" in printed.splitlines()[0]
    with Image.open(result["picture"]) as picture:
        assert picture.width > 1000


@pytest.mark.slow
def test_a_second_run_writes_nothing_and_ends_the_same(demo_archive: tuple[Path, dict[str, Any], str]) -> None:
    archive, first, _ = demo_archive
    from hypermend.pipeline.demo.driver import run

    before = {path: path.stat().st_mtime_ns for path in archive.rglob("*") if path.is_file()}
    again = run(archive, Console(file=io.StringIO(), width=80), demo_size=SMALL_DEMO)
    assert again["bytes_written"] == 0
    assert {path: path.stat().st_mtime_ns for path in archive.rglob("*") if path.is_file()} == before
    assert again["scores"] == first["scores"]


@pytest.mark.slow
def test_the_three_lines_open_the_result_with_nothing_of_ours(
    demo_archive: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    code = "\n".join(demo_archive[1]["python"])
    assert code.count("\n") == 2
    answer = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "reflectance" in answer.stdout


def test_the_demo_is_large_enough_to_have_several_tiles() -> None:
    usual = DemoSize()
    assert all(max(px) > usual.tile_px for px in (usual.enmap_px, usual.hyperion_px))
