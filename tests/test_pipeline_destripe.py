"""`--destripe on` and defects through a whole run: tiled as whole, serial as Ray, in a chain; off changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hypermend
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.spec import NODATA, VALID
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.config import BadJob, RestoreJob, parse
from hypermend.pipeline.engine.ray_actors import on_ray
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.restore.plan import Plan, read_plan
from hypermend.pipeline.tiling.pixels import Stored
from tests.test_models_denoise import SUBSPACE
from tests.test_pipeline_repair import NEVER, put_stas
from tests.test_pipeline_restore import put_model
from tests.test_pipeline_restore_fuse import cube_spec, put_source, snapshot
from tests.test_pipeline_restore_plan import plan_of
from tests.test_pipeline_restore_sharpen import sharpener

BANDS, HEIGHT, WIDTH = 13, 96, 72
OFFSETS = {3: {10: 900.0, 41: -700.0}, 8: {30: 600.0, 70: -800.0}}
"""band: column: stripe, in stored numbers"""
CHAIN = {"task": "denoise,sharpen", "model": "small,up", "tile_px": 64}
DEAD = (5, 20)
"""Band and column that measure nothing."""


def make_archive(archive: Path, *, striped: bool = True) -> Path:
    """A noisy scene with a corner without data, a dead column and stripes; small models."""
    rng = np.random.default_rng(4)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / 12
    materials = np.stack([np.sin(y) + 1.2, np.cos(1.3 * x) + 1.2, np.sin(x + 2 * y) + 1.2])
    stored = np.einsum("bk,kyx->byx", rng.random((BANDS, 3)), materials) * 1000
    stored = (stored + rng.normal(0, 100, stored.shape)).astype(np.float32)
    for band, columns in OFFSETS.items() if striped else ():
        for column, offset in columns.items():
            stored[band, :, column] += offset
    stored[DEAD[0], :, DEAD[1]] = 0
    flags = np.full((HEIGHT, WIDTH), VALID, np.uint8)
    flags[:6, :4] = NODATA
    stored[:, flags == NODATA] = -32768
    archive.mkdir()
    put_source(archive, "s", "hs", stored, flags, cube_spec(stored.shape, px=30.0, guide=False, lab=True))
    root = ArchiveStore(archive)
    torch.manual_seed(0)
    put_stas(root, "small", SUBSPACE)
    put_stas(root, "never", NEVER)
    put_model(root, *sharpener("up", 2))
    return archive


def run(archive: Path, engine: Any = serial, **changes: Any) -> tuple[Stored, Plan, dict[str, Any]]:
    """Restored numbers, plan and figures of the scene."""
    job = RestoreJob(archive=str(archive), **{"model": "small", "destripe": "on", **changes})
    report = restore(job, engine=engine).wait()
    assert report.exit_code == 0, report.scenes
    (scene,) = report.scenes
    (item,) = hypermend.open(str(archive)).search(stage="restored", collection=f"hs-{job.task.replace(',', '-')}")
    root = ArchiveStore(archive)
    cube = Cube(root, item.scene.properties["hypermend:cube"])
    plan = read_plan(root, cube.path.removesuffix(".zarr") + ".plan.json")
    return cube.read(slice(0, plan.spec.height), slice(0, plan.spec.width))[0], plan, dict(scene.figures)


def test_stripes_are_subtracted_before_a_scene_is_denoised(tmp_path: Path) -> None:
    archive, clean = make_archive(tmp_path / "a"), make_archive(tmp_path / "b", striped=False)
    expected, _, none = run(clean, destripe="off")
    got, plan, figures = run(archive)
    assert "stripes" not in none
    assert figures["stripes"]["bands"] == [b + 1 for b in OFFSETS]
    assert figures["stripes"]["columns"] == 4
    assert figures["defects"]["dead_columns"] == 1
    known = expected[0] != -32768
    rest = np.abs(got - expected)[:, known]
    assert np.sqrt(np.square(rest).mean()) < 15  # of stripes of 600 to 900, under noise of 100
    left, _, _ = run(archive, destripe="off")
    assert np.sqrt(np.square((left - expected)[:, known]).mean()) > 40
    tiled, small, _ = run(archive, tile_px=32)
    assert len(small.grid) > len(plan.grid)
    assert np.abs(tiled - got).max() * plan.spec.scale_factor <= 1e-5


def test_a_scene_that_is_left_as_it_is_loses_its_stripes_and_nothing_else(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a")
    (source,) = hypermend.open(str(archive)).sources()
    stored, _ = Cube(ArchiveStore(archive), source.properties["hypermend:cube"]).read(slice(None), slice(None))
    got, _, _ = run(archive, model="never")
    changed = (got != stored).any(axis=1)
    expected = np.zeros((BANDS, WIDTH), bool)
    expected[DEAD] = True
    for band, columns in OFFSETS.items():
        expected[band, list(columns)] = True
        for column, offset in columns.items():
            there = stored[band, :, column] != -32768
            assert abs(float((stored - got)[band, there, column].mean()) - offset) < 60
    np.testing.assert_array_equal(changed, expected)


@pytest.mark.long
def test_ray_gives_what_serial_gives(tmp_path: Path, ray_session: None) -> None:
    run(make_archive(tmp_path / "serial"), **CHAIN)
    run(make_archive(tmp_path / "ray"), on_ray, workers=2, **CHAIN)
    assert snapshot(tmp_path / "ray") == snapshot(tmp_path / "serial")


def test_a_chain_takes_the_scene_without_defects(tmp_path: Path) -> None:
    fine, plan, figures = run(make_archive(tmp_path / "a"), **CHAIN)
    assert (plan.scale, figures["stripes"]["columns"], figures["repaired"]) == (2, 4, 4 * HEIGHT)
    clean, _, _ = run(make_archive(tmp_path / "clean", striped=False), **{**CHAIN, "destripe": "off"})
    column = fine[DEAD[0], 20:, 2 * DEAD[1] : 2 * DEAD[1] + 2]
    beside = fine[DEAD[0], 20:, 2 * DEAD[1] + 2 : 2 * DEAD[1] + 4]
    assert np.abs(column - beside).mean() < 300 < column.mean()  # not 0, as the dead column was
    known = clean[0] != -32768
    assert np.sqrt(np.square((fine - clean)[:, known]).mean()) < 30


def test_a_plan_from_before_there_was_the_option_is_still_read() -> None:
    before, after = plan_of(), Plan.from_dict({k: v for k, v in plan_of().to_dict().items() if k != "destripe"})
    assert before == after and before.destripe == "off"


def test_a_model_that_cannot_subtract_stripes_is_refused(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a")
    report = restore(RestoreJob(archive=str(archive), model="identity", destripe="on"), engine=serial).wait()
    assert report.exit_code == 1 and "identity cannot subtract stripes" in report.scenes[0].reason
    with pytest.raises(BadJob, match="destripe belongs to task 'denoise'"):
        parse(RestoreJob, {"archive": str(archive), "task": "sharpen", "destripe": "on"}, where="x")
    assert RestoreJob(archive=str(archive), task="sharpen", destripe="off").destripe == "off"
