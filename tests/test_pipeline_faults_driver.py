"""Drivers that die at any write, meet each other, fill the disk or are told to stop; readers who look all the while."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hypermend
from hypermend.catalog.errors import ArchiveError
from hypermend.catalog.keys import cube_key
from hypermend.catalog.stac import publish
from hypermend.catalog.storage import leases as lease_module
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.config import IngestJob, RestoreJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.ingest import catalog_folder, ingest
from hypermend.pipeline.maintenance.failures import failures
from hypermend.pipeline.maintenance.verify import verify
from hypermend.pipeline.restore import make_plan as plan_module
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.runs.report import RunReport
from tests.faults import IN_CHILD, ON_RAY, Killed, end, marks, restored_bytes, start, wait_for, writes_that_fail
from tests.synthetic import enmap_folder

pytestmark = pytest.mark.fault
SIX_TILES = 6


@pytest.fixture(scope="module")
def clean(ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    archive = str(shutil.copytree(ingested, tmp_path_factory.mktemp("clean") / "archive"))
    assert restored(archive).exit_code == 0
    return restored_bytes(archive)


def job_of(archive: str, **changes: Any) -> RestoreJob:
    return RestoreJob(archive=archive, **({"model": "identity", "tile_px": 32} | changes))


def restored(archive: str, **changes: Any) -> RunReport:
    return restore(job_of(archive, **changes), engine=serial).wait()


def test_f03_a_driver_that_dies_at_any_write_loses_one_tile_at_most(
    ingested: Path, tmp_path: Path, clean: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tenth write of a whole restoration, and each of the last twelve: marks are folded, the item is put.

    A driver that lives longer never leaves more to do.
    """
    with writes_that_fail(monkeypatch, 10**9) as count:
        restored(str(shutil.copytree(ingested, tmp_path / "count")))
    total = count[0]
    assert total > 40
    monkeypatch.setattr(lease_module, "_has_ended", lambda claim: True)  # its process would be
    left = SIX_TILES
    for after in (*range(0, total - 12, 10), *range(total - 12, total)):
        archive = str(shutil.copytree(ingested, tmp_path / f"{after}"))
        with writes_that_fail(monkeypatch, after), pytest.raises(Killed):
            restored(archive)
        found = hypermend.open(archive).search(stage="restored")
        if found:  # published is whole
            assert verify(archive).torn == ()
        left = min(left, SIX_TILES - marks(archive))
        report = restored(archive)
        assert report.exit_code == 0, after
        assert report.tiles_written <= left, after
        left = report.tiles_written
        assert restored_bytes(archive) == clean, after
        assert len(hypermend.open(archive).search(stage="restored")) == 1
        shutil.rmtree(archive)


def test_f12_a_full_disk_is_a_clean_stop(ingested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Full` is what keeps the run from going on from tile to tile."""
    undisturbed = str(shutil.copytree(ingested, tmp_path / "undisturbed"))
    restored(undisturbed, tile_px=16)
    clean = restored_bytes(undisturbed)
    for after in (3, 22, 40):
        archive = str(shutil.copytree(ingested, tmp_path / f"{after}"))
        full = OSError(errno.ENOSPC, "No space left on device")
        with writes_that_fail(monkeypatch, after, lambda full=full: full) as count:  # type: ignore[misc]
            try:
                report = restored(archive, tile_px=16)
            except ArchiveError as error:
                assert "No space left" in str(error)
            else:
                assert report.exit_code == 1
                assert "No space left" in report.notes.get("stopped", "") + report.scenes[0].reason
        assert count[0] <= after + 8  # it did not try every further tile of the 24
        assert hypermend.open(archive).search(stage="restored") == [] or restored_bytes(archive) == clean
        monkeypatch.setattr(lease_module, "_has_ended", lambda claim: True)
        assert restored(archive, tile_px=16).exit_code == 0
        assert restored_bytes(archive) == clean


def test_f06_of_two_drivers_on_one_scene_one_works_and_the_other_says_who(archive: str, clean: dict[str, str]) -> None:

    first = restore(job_of(archive), engine=serial)
    events = iter(first)
    assert [event.kind for event in islice(events, 3)] == ["opened", "tile", "tile"]
    second = restored(archive)
    (scene,) = second.scenes
    assert (scene.status, second.exit_code, second.tiles_written) == ("held", 1, 0)
    assert first.report.run in scene.reason
    list(events)
    assert (first.report.exit_code, first.report.tiles_written) == (0, SIX_TILES)
    assert restored_bytes(archive) == clean
    assert restored(archive).scenes[0].status == "current"


def test_f06_a_driver_whose_lease_was_taken_over_publishes_nothing(
    archive: str, clean: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was asleep; another has finished its scene meanwhile. Seen to fail without `lost` before the finish."""
    sleeper = restore(job_of(archive), engine=serial)
    events = iter(sleeper)
    list(islice(events, 3))
    with monkeypatch.context() as patch:
        patch.setattr(lease_module, "_has_ended", lambda claim: True)
        assert restored(archive).scenes[0].status == "published"
    items = {p: p.stat().st_mtime_ns for p in Path(archive).rglob("items/*denoise/**/*.json")}
    list(events)
    assert [scene.status for scene in sleeper.report.scenes] == ["held"]
    assert {p: p.stat().st_mtime_ns for p in items} == items
    restored(archive)
    assert restored_bytes(archive) == clean


def test_f09_a_reader_sees_the_old_cube_whole_or_the_new_one_whole(archive: str) -> None:
    restored(archive)
    truth = hypermend.open(archive).search(stage="source")[0].dataset()["reflectance"].values
    seen: set[str] = set()
    wrong: list[str] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            (item,) = hypermend.open(archive).search(stage="restored")
            cube = item.dataset()
            if cube.attrs["hypermend:plan"] != item.scene.properties["hypermend:plan"]:
                wrong.append("another cube than the item says")
            if not np.array_equal(cube["reflectance"].values, truth, equal_nan=True):
                wrong.append("half a cube")
            seen.add(cube.attrs["hypermend:plan"])

    reader = threading.Thread(target=look)
    reader.start()
    try:
        assert restored(archive, tile_px=16).exit_code == 0
        wait_for(lambda: len(seen) == 2)
    finally:
        ended.set()
        reader.join()
    assert wrong == []


def test_f15_results_version_or_input_changed_and_nothing_old_is_reused(
    archive: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail with `result_version` taken out of the plan's id."""
    restored(archive)
    with monkeypatch.context() as patch:
        patch.setattr(plan_module, "RESULT_VERSION", plan_module.RESULT_VERSION + 1)
        assert restored(archive).tiles_written == SIX_TILES
    first = _current(archive)
    enmap_folder(tmp_path / "again", seed=7)
    catalog_folder(archive, tmp_path / "again", sensor="enmap")
    assert ingest(IngestJob(archive=archive, tile_px=32), engine=serial).wait().tiles_written == SIX_TILES
    assert restored(archive).tiles_written == SIX_TILES
    assert _current(archive) != first


def test_f15_a_new_version_of_the_package_alone_redoes_nothing(archive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    restored(archive)
    monkeypatch.setattr(publish.metadata, "version", lambda name: "99.0")
    assert restored(archive).bytes_written == 0


def _current(archive: str) -> str:
    (item,) = hypermend.open(archive).search(stage="restored")
    return cube_key(item.scene)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "tell"),
    [
        pytest.param(ON_RAY, os.kill, id="ray", marks=pytest.mark.long),
        pytest.param(IN_CHILD, os.killpg, id="process-and-its-group"),
    ],
)
def test_f04_a_driver_that_is_told_to_stop_finishes_its_tiles_and_goes_on_later(
    ingested: Path, tmp_path: Path, engine: Sequence[str], tell: Callable[[int, int], None]
) -> None:
    """SIGTERM, as a scheduler or a leaving machine sends it: exit 130, a hint, no lease left behind."""
    archive = str(shutil.copytree(ingested, tmp_path / "archive"))
    process = start(archive, engine)
    try:
        wait_for(lambda: marks(archive) >= 2)
        tell(process.pid, signal.SIGTERM)
        out, error = process.communicate(timeout=120)
    finally:
        end(process)
    assert process.returncode == 130, error.decode()
    assert b"no scene ended; " in error and b"run the same command again" in error
    report = json.loads(out)
    assert report["stopped"]
    assert report["tiles_written"] == marks(archive)
    assert [e.key for e in ArchiveStore(archive).list("leases") if e.key.endswith(".json")] == []
    assert failures(archive) == []
    assert restored(archive, tile_px=16).tiles_written == 24 - report["tiles_written"]


def without_ray(verb: str, archive: str) -> Any:
    """What a verb prints in a process in which `import ray` is an error."""
    code = "import sys; sys.modules['ray'] = None; from hypermend.pipeline.cli.main import main; main()"
    options = ["--stage", "restored"] if verb == "query" else []
    command = [sys.executable, "-c", code, verb, "--archive", archive, "--json", *options]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.mark.slow
def test_f05_the_whole_cluster_is_lost_and_its_state_is_readable_without_one(ingested: Path, tmp_path: Path) -> None:
    """Driver, raylet, object store and workers are killed at once. What reads the state cannot even import Ray."""
    archive = str(shutil.copytree(ingested, tmp_path / "archive"))
    process: subprocess.Popen[bytes] = start(archive)
    try:
        wait_for(lambda: marks(archive) >= 3)
    finally:
        end(process)
    done = marks(archive)
    assert without_ray("query", archive)["features"] == []
    assert without_ray("failures", archive) == {"failures": []}
    again = restored(archive, tile_px=16)
    assert (again.exit_code, again.tiles_written <= 24 - done) == (0, True)
    assert verify(archive).torn == ()
