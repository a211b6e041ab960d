"""`--uncertainty on`: `reflectance_std` of a restored cube covers its errors, whole or tiled, or is unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hypermend
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import open_cube
from hypermend.catalog.cube.spec import NODATA, VALID
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.config import BadJob, RestoreJob, parse
from hypermend.pipeline.engine.ray_actors import on_ray
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.restore.plan import Plan
from tests.test_models_denoise import scene
from tests.test_pipeline_repair import NEVER, put_stas
from tests.test_pipeline_restore import put_model
from tests.test_pipeline_restore_fuse import cube_spec, put_source, snapshot
from tests.test_pipeline_restore_plan import plan_of
from tests.test_pipeline_restore_sharpen import sharpener

BANDS, HEIGHT, WIDTH, BAD = 24, 112, 96, 5
NOISE = 500.0
SHIPPED = "stas-subspace"


def make_archive(archive: Path, noise: float = NOISE) -> tuple[Path, np.ndarray]:
    """A noisy scene with a bad band, a dead column and a corner without data; returns the truth."""
    truth = scene(BANDS, HEIGHT, WIDTH) * 10000
    stored = (truth + np.random.default_rng(1).normal(0, noise, truth.shape)).astype(np.float32)
    stored[8, :, 30] = 0
    flags = np.full((HEIGHT, WIDTH), VALID, np.uint8)
    flags[:6, :4] = NODATA
    stored[:, flags == NODATA] = -32768
    good, nm = [i != BAD for i in range(BANDS)], np.linspace(500, 900, BANDS)
    archive.mkdir()
    put_source(archive, "s", "hs", stored, flags, cube_spec(
        stored.shape, px=30.0, guide=False, lab=True, good=good, wavelength_nm=nm
    ))  # fmt: skip
    return archive, truth


def run(archive: Path, engine: Any = serial, **changes: Any) -> tuple[np.ndarray, np.ndarray, Cube]:
    """Restored stored numbers, their standard deviations in the same unit, and the cube."""
    job = RestoreJob(archive=str(archive), **{"model": SHIPPED, "uncertainty": "on", **changes})
    report = restore(job, engine=engine).wait()
    assert report.exit_code == 0, report.scenes
    (item,) = hypermend.open(str(archive)).search(stage="restored", collection="hs-denoise")
    cube = Cube(ArchiveStore(archive), item.scene.properties["hypermend:cube"])
    std = open_cube(cube.root, cube.path)["reflectance_std"].values / cube.spec.scale_factor
    return cube.read(slice(0, HEIGHT), slice(0, WIDTH))[0], std, cube


def test_it_covers_the_errors_tiled_as_whole(tmp_path: Path) -> None:
    archive, truth = make_archive(tmp_path / "a")
    got, std, cube = run(archive)
    known = got[0] != -32768
    some = np.arange(BANDS) != BAD
    assert np.isnan(std[BAD]).all() and np.isnan(std[:, ~known]).all() and np.isfinite(std[some][:, known]).all()
    error = np.abs(got - truth)[some][:, known]
    told = std[some][:, known]
    assert 0.6 < (error < told).mean() < 0.85 and 0.9 < (error < 2 * told).mean() < 0.99
    assert told.max() < 1.2 * NOISE and np.median(told) < NOISE / 2
    dead = np.abs(got - truth)[8, 6:, 30]
    assert (dead < std[8, 6:, 30]).mean() > 0.3
    attrs = open_cube(cube.root, cube.path)["reflectance_std"].attrs
    assert "as the restoration estimates it" in attrs["long_name"]
    tiled, small, _ = run(archive, tile_px=48)
    np.testing.assert_allclose(tiled, got, atol=0.2)
    ratio = small[some][:, known] / told
    assert np.abs(ratio - 1).max() < 0.07 and (ratio != 1).mean() < 0.01  # a step of the code, at its edges


def test_pixels_are_those_without_it(tmp_path: Path) -> None:
    archive, _ = make_archive(tmp_path / "a")
    got, _, _ = run(archive)
    job = RestoreJob(archive=str(archive), model=SHIPPED)
    assert restore(job, engine=serial).wait().exit_code == 0
    (item,) = hypermend.open(str(archive)).search(stage="restored", collection="hs-denoise")
    cube = Cube(ArchiveStore(archive), item.scene.properties["hypermend:cube"])
    np.testing.assert_array_equal(cube.read(slice(0, HEIGHT), slice(0, WIDTH))[0], got)
    assert not cube.spec.uncertainty


@pytest.mark.parametrize(("noise", "kind"), [(40.0, "conservative"), (6.0, "untouched")])
def test_scenes_with_little_noise(tmp_path: Path, noise: float, kind: str) -> None:
    archive, truth = make_archive(tmp_path / "a", noise)
    got, std, _ = run(archive)
    known = got[0] != -32768
    some = np.arange(BANDS) != BAD
    error = np.abs(got - truth)[some][:, known]
    told = std[some][:, known]
    assert 0.6 < (error < told).mean() < 0.85 and 0.88 < (error < 2 * told).mean() < 0.99, kind
    assert 0.2 * noise < np.median(told) < 1.3 * noise


def test_where_noise_is_not_known_nothing_is_stated(tmp_path: Path) -> None:
    archive = tmp_path / "a"
    archive.mkdir()
    stored = np.random.default_rng(0).random((4, 32, 32)).astype(np.float32)
    spec = cube_spec(
        stored.shape, px=30.0, guide=False, lab=True, wavelength_nm=(500, 510, 520, 530), detector=["V"] * 4
    )
    put_source(archive, "s", "hs", stored, np.full((32, 32), VALID, np.uint8), spec)
    job = RestoreJob(archive=str(archive), model=SHIPPED, uncertainty="on")
    assert restore(job, engine=serial).wait().exit_code == 0
    (item,) = hypermend.open(str(archive)).search(stage="restored", collection="hs-denoise")
    cube = Cube(ArchiveStore(archive), item.scene.properties["hypermend:cube"])
    assert np.isnan(open_cube(cube.root, cube.path)["reflectance_std"].values).all()


@pytest.mark.long
def test_ray_gives_what_serial_gives(tmp_path: Path, ray_session: None) -> None:
    run(make_archive(tmp_path / "serial")[0], tile_px=48)
    run(make_archive(tmp_path / "ray")[0], on_ray, tile_px=48, workers=2)
    assert snapshot(tmp_path / "ray") == snapshot(tmp_path / "serial")


def test_what_has_no_uncertainty_says_so(tmp_path: Path) -> None:
    archive, _ = make_archive(tmp_path / "a")
    root = ArchiveStore(archive)
    put_stas(root, "never", NEVER)
    put_model(root, *sharpener("up", 2))
    for task, model, told in (
        ("denoise", "identity", "identity cannot state the uncertainty"),
        ("denoise,sharpen", "never,up", "no uncertainty is known of the chain denoise, sharpen"),
    ):
        job = RestoreJob(archive=str(archive), task=task, model=model, uncertainty="on")
        report = restore(job, engine=serial).wait()
        assert report.exit_code == 1 and told in report.scenes[0].reason
    for task in ("sharpen", "fuse"):
        values = {"archive": str(archive), "task": task, "uncertainty": "on", "guide_collection": "g"}
        with pytest.raises(BadJob, match="uncertainty belongs to task 'denoise'"):
            parse(RestoreJob, values if task == "fuse" else {**values, "guide_collection": None}, where="x")
    before, after = plan_of(), Plan.from_dict({k: v for k, v in plan_of().to_dict().items() if k != "uncertainty"})
    assert before == after and before.uncertainty == "off"
