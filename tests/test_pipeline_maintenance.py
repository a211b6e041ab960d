"""Maintenance: failures are read without a cluster and retried by reason; superseded cubes are removed."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import hypermend
from hypermend.catalog.cube.marks import DoneMarks
from hypermend.catalog.keys import cube_key
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.catalog.storage.leases import Leases
from hypermend.pipeline.cli.main import app
from hypermend.pipeline.config import IngestJob, RestoreJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.ingest import catalog_folder, ingest
from hypermend.pipeline.maintenance.failures import failures, jobs_to_retry
from hypermend.pipeline.maintenance.prune import prune
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.restore.messages import Prepare
from tests.synthetic import cave_folder


def command(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=False)


@pytest.fixture(scope="module")
def two_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("care")
    for seed, name in enumerate(("one", "two")):
        cave_folder(folder / "files", name=name, seed=seed)
    archive = folder / "archive"
    catalog_folder(str(archive), folder / "files", sensor="cave")
    assert ingest(IngestJob(archive=str(archive)), engine=serial).wait().exit_code == 0
    return archive


@pytest.fixture
def archive(two_scenes: Path, tmp_path: Path) -> str:
    return str(shutil.copytree(two_scenes, tmp_path / "archive"))


def job_of(archive: str, **changes: Any) -> RestoreJob:
    return RestoreJob(archive=archive, **({"model": "identity", "tile_px": 32} | changes))


def failing(errors: dict[str, Exception]) -> Any:
    """The serial engine, except that the first tile of some scenes fails."""

    def engine(make: Any, tasks: Any, **options: Any) -> Any:
        def spoilt() -> Any:
            handle = make()

            def once(task: Any) -> Any:
                error = errors.get(task.unit.rpartition("/")[2])
                if error is not None and getattr(task, "index", None) == (0, 0):
                    raise error
                return handle(task)

            return once

        return serial(spoilt, tasks, **options)

    return engine


def failing_to_prepare(scene: str) -> Any:
    """The serial engine, except that one scene cannot be prepared."""

    def engine(make: Any, tasks: Any, **options: Any) -> Any:
        def spoilt() -> Any:
            handle = make()

            def once(task: Any) -> Any:
                if isinstance(task, Prepare) and task.request.scene.id == scene:
                    raise RuntimeError("no luck")
                return handle(task)

            return once

        return serial(spoilt, tasks, **options)

    return engine


def test_failures_are_read_with_no_cluster_and_retried_by_reason(archive: str, ray_session: None) -> None:
    errors: dict[str, Exception] = {"one_ms": ValueError("an odd tile"), "two_ms": MemoryError("too much")}
    report = restore(job_of(archive), engine=failing(errors)).wait()
    assert report.exit_code == 1
    said = json.loads(command("failures", "--archive", archive, "--json").stdout)["failures"]
    assert {(f["scene"], f["kind"], f["error"]) for f in said} == {
        ("one_ms", "error", "ValueError"),
        ("two_ms", "memory", "MemoryError"),
    }
    assert {(f["run"], f["step"], tuple(map(tuple, f["tiles"]))) for f in said} == {(report.run, "tile", ((0, 0),))}
    shown = command("failures", "--archive", archive, "--reason", "memory").stdout
    assert "cave/two_ms tile 0-0, tile: too much" in shown
    assert "one_ms" not in shown
    (job,) = jobs_to_retry(archive, failures(archive, reason="memory"))
    assert job == job_of(archive, scenes=("two_ms",))
    dry = command("retry", "--archive", archive, "--reason", "memory", "--dry-run")
    assert (dry.exit_code, len(failures(archive))) == (0, 2)
    again = command("retry", "--archive", archive, "--reason", "memory", "--workers", 1, "--json")
    assert again.exit_code == 0, again.output
    (run,) = json.loads(again.stdout)["runs"]
    assert (run["tiles_written"], [s["scene"] for s in run["scenes"]]) == (1, ["two_ms"])
    assert [f.scene for f in failures(archive)] == ["one_ms"]
    assert len(failures(archive, include_published=True)) == 2


def test_a_retry_that_finds_nothing_left_to_do_ends_the_failure(archive: str, ray_session: None) -> None:
    """As when a worker dies while it prepares a scene that was published before."""
    assert restore(job_of(archive)).wait().exit_code == 0
    time.sleep(1.1)  # the times of items and failures are whole seconds
    report = restore(job_of(archive), engine=failing_to_prepare("one_ms")).wait()
    assert (report.exit_code, [f.scene for f in failures(archive)]) == (1, ["one_ms"])
    again = command("retry", "--archive", archive, "--reason", "error", "--workers", 1)
    assert again.exit_code == 0 and "current cave/one_ms" in again.output
    assert failures(archive) == []
    assert [f.scene for f in failures(archive, include_published=True)] == ["one_ms"]


def test_a_damaged_line_of_a_ledger_does_not_hide_the_others(archive: str, caplog: pytest.LogCaptureFixture) -> None:
    report = restore(job_of(archive), engine=failing({"one_ms": ValueError("an odd tile")})).wait()
    (ledger,) = Path(archive, "runs", report.run, "failures").rglob("*.jsonl")
    ledger.write_bytes(b'{"run": "x"}\n[1]\n{"run": \n' + ledger.read_bytes())
    assert [f.scene for f in failures(archive)] == ["one_ms"]
    assert caplog.text.count("cannot be read") == 3


def test_a_scene_that_could_not_be_read_is_ingested_again(archive: str, tmp_path: Path) -> None:
    item = json.loads(next(Path(archive).rglob("items/cave/*/one_ms.json")).read_text())
    item["id"] = "three"
    item["assets"] = {"image": {"href": str(tmp_path / "later.tif"), "roles": ["data"]}}
    ArchiveStore(archive).put_json("items/cave/2003-01-01/three.json", item)
    assert ingest(IngestJob(archive=archive), engine=serial).wait().exit_code == 1
    (failure,) = failures(archive)
    assert (failure.scene, failure.step, failure.verb) == ("three", "prepare", "ingest")
    (job,) = jobs_to_retry(archive, [failure])
    assert isinstance(job, IngestJob)


def test_superseded_cubes_are_pruned_and_nothing_else(archive: str) -> None:
    restore(job_of(archive), engine=serial).wait()
    old = {cube_key(i.scene) for i in hypermend.open(archive).search(stage="restored")}
    restore(job_of(archive, tile_px=64), engine=serial).wait()
    new = {cube_key(i.scene) for i in hypermend.open(archive).search(stage="restored")}
    # A third plan was begun and not finished: it is not superseded.
    events = iter(restore(job_of(archive, tile_px=16, scenes=("one_ms",)), engine=serial))
    next(events), next(events)
    events.close()
    everything = {e.key for e in ArchiveStore(archive).list("")}
    assert prune(archive).removed == ()  # the newer cubes are minutes old
    dry = prune(archive, older_than_hours=0, dry_run=True)
    assert {one.cube for one in dry.removed} == old
    assert {e.key for e in ArchiveStore(archive).list("")} == everything
    driver = Leases(ArchiveStore(archive), what="a restoration")
    assert driver.take("leases/restore-denoise/one_ms.json") is None
    assert {one.scene for one in prune(archive, older_than_hours=0, dry_run=True).removed} == {"two_ms"}
    driver.close()
    answer = json.loads(command("prune", "--archive", archive, "--older-than", 0, "--json").stdout)
    assert {one["cube"] for one in answer["removed"]} == old
    left = {e.key for e in ArchiveStore(archive).list("")}
    stems = tuple(cube.removesuffix("zarr") for cube in old)
    assert everything - left == {key for key in everything if key.startswith(stems)}
    for cube in new:
        assert DoneMarks(ArchiveStore(archive), cube).verify() == []
    assert prune(archive, older_than_hours=0).removed == ()


def test_a_prune_that_was_killed_is_finished_later(archive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    restore(job_of(archive), engine=serial).wait()
    restore(job_of(archive, tile_px=64), engine=serial).wait()
    monkeypatch.setattr(ArchiveStore, "delete_prefix", lambda self, prefix: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prune(archive, older_than_hours=0)
    monkeypatch.undo()
    assert len(prune(archive, older_than_hours=0).removed) == 2
    assert len(list(Path(archive).glob("restored/*/*.zarr"))) == 2


def test_a_source_cube_that_a_current_plan_reads_stays(archive: str) -> None:
    restore(job_of(archive), engine=serial).wait()
    ingest(IngestJob(archive=archive, tile_px=32), engine=serial).wait()  # another cube of the same files
    assert len(list(Path(archive).glob("source/*/*.zarr"))) == 4
    assert prune(archive, older_than_hours=0, dry_run=True).removed == ()
    restore(job_of(archive), engine=serial).wait()
    removed = prune(archive, older_than_hours=0).removed
    assert len([one for one in removed if one.cube.startswith("source/")]) in (0, 2)
    again = prune(archive, older_than_hours=0).removed
    assert len(list(Path(archive).glob("source/*/*.zarr"))) == 2, again
    assert prune(archive, older_than_hours=0).removed == ()
