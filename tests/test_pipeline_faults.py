"""Killed anywhere, the same command gives the same bytes; poison is put aside alone; torn shards are repaired."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

import hypermend
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.errors import BadCube, NotFound
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.config import RestoreJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.maintenance.verify import verify
from hypermend.pipeline.restore.driver import restore
from tests.faults import (
    IN_CHILD,
    MODEL,
    ON_RAY,
    TILES,
    command,
    end,
    marks,
    restore_here,
    restored_bytes,
    start,
    wait_for,
    workers_of,
)


def engines(*, usual: Sequence[str], long: Sequence[str]) -> pytest.MarkDecorator:
    """One engine on disk in each run of the tests, the other one on S3 in the long ones."""
    return pytest.mark.parametrize(
        ("anywhere", "engine"),
        [pytest.param("disk", usual, id="disk"), pytest.param("s3", long, id="s3", marks=pytest.mark.long)],
        indirect=["anywhere"],
    )


@pytest.fixture
def anywhere(request: pytest.FixtureRequest, ingested: Path) -> str:
    """The same archive on disk and on S3."""
    if request.param == "disk":
        return str(request.getfixturevalue("archive"))
    place = f"s3://{request.getfixturevalue('s3_bucket')}/archive"
    here, there = ArchiveStore(ingested), ArchiveStore(place)
    for entry in here.list(""):
        there.put(entry.key, here.get(entry.key))
    return place


@pytest.mark.fault
@pytest.mark.slow
@engines(usual=IN_CHILD, long=ON_RAY)
def test_f01_a_killed_worker_is_replaced_and_the_bytes_are_the_same(
    anywhere: str, engine: Sequence[str], clean: dict[str, str]
) -> None:
    archive = anywhere
    process = start(archive, engine)
    try:
        wait_for(lambda: marks(archive) >= 2)
        victims = workers_of(process)
        assert victims
        os.kill(victims[0], signal.SIGKILL)
        out, error = process.communicate(timeout=120)
    finally:
        end(process)
    assert process.returncode == 0, error.decode()
    assert json.loads(out)["scenes"][0]["status"] == "published"
    assert restored_bytes(archive) == clean


@pytest.mark.fault
@pytest.mark.slow
@engines(usual=IN_CHILD, long=ON_RAY)
def test_f03_a_killed_driver_resumes_with_the_same_command(
    anywhere: str, engine: Sequence[str], clean: dict[str, str]
) -> None:
    archive = anywhere
    process = start(archive, engine)
    try:
        wait_for(lambda: marks(archive) >= 3)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        end(process)
    done = marks(archive)
    assert 3 <= done < TILES
    assert hypermend.open(archive).search(stage="restored") == []
    again = subprocess.run(command(archive, engine), capture_output=True, check=False)
    assert again.returncode == 0, again.stderr.decode()
    assert json.loads(again.stdout)["tiles_written"] <= TILES - done
    assert restored_bytes(archive) == clean


@pytest.mark.fault
def test_f11_a_flipped_shard_is_found_and_it_alone_is_repaired(archive: str, clean: dict[str, str]) -> None:
    restore_here(archive)
    root = Path(archive) / "restored"
    shard = sorted(root.rglob("reflectance/c/0/*/*"))[5]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(data)
    times = {p: p.stat().st_mtime_ns for p in root.rglob("c/*/*/*") if p.is_file()}
    for _ in range(2):  # what is torn is said until it is repaired
        report = verify(archive)
        assert [torn.repair_with for torn in report.torn] == ["restore"]
    repaired = restore_here(archive)
    assert (repaired.exit_code, repaired.tiles_written) == (0, 1)
    assert restored_bytes(archive) == clean
    assert {p.name for p, then in times.items() if p.stat().st_mtime_ns != then} <= {shard.name}
    assert verify(archive).torn == ()


@pytest.mark.fault
def test_f11_damaged_marks_are_found_and_their_tiles_done_again(archive: str, clean: dict[str, str]) -> None:
    restore_here(archive)
    (folded,) = Path(archive, "restored").rglob("*.done.json")
    folded.write_bytes(folded.read_bytes().replace(b'"index"', b'"xedni"', 1))
    assert restore_here(archive).exit_code == 1  # nothing is made up
    for _ in range(2):  # it parses: it may be another version's, and is only named
        report = verify(archive)
        assert (report.torn, [Path(u.key).name for u in report.unread]) == ((), [folded.name])
    assert len(verify(archive, repair=True).torn) == TILES
    repaired = restore_here(archive)
    assert (repaired.exit_code, repaired.tiles_written) == (0, TILES)
    assert restored_bytes(archive) == clean


@pytest.mark.fault
def test_f11_a_damaged_plan_is_found_and_made_anew(archive: str, clean: dict[str, str]) -> None:
    restore_here(archive)
    (plan,) = Path(archive, "restored").rglob("*.plan.json")
    plan.write_bytes(plan.read_bytes().replace(b'"steps"', b'"pests"'))
    told = restore_here(archive).scenes[0].reason
    assert told is not None and "plan.json is damaged; `hypermend verify --repair` sets it aside" in told
    assert [Path(unread.key).name for unread in verify(archive).unread] == [plan.name]
    assert [Path(torn.cube).name for torn in verify(archive, repair=True).torn] == [plan.name]
    repaired = restore_here(archive)
    assert (repaired.exit_code, repaired.tiles_written) == (0, 0)
    assert restored_bytes(archive) == clean


@pytest.mark.fault
@pytest.mark.parametrize("name", ["zarr.json", "reflectance/zarr.json", "valid/zarr.json"])
@pytest.mark.parametrize("how", [None, b"", b'{"zarr_format": 3, "node_type"'], ids=["lost", "empty", "cut"])
def test_f11_damaged_metadata_are_found_and_written_anew(
    archive: str, clean: dict[str, str], name: str, how: bytes | None
) -> None:
    restore_here(archive)
    (item,) = hypermend.open(archive).search(stage="restored")
    key = str(item.scene.properties["hypermend:cube"])
    victim = Path(archive) / key / name
    victim.unlink() if how is None else victim.write_bytes(how)
    with pytest.raises((BadCube, NotFound)):
        item.dataset()
        Cube(ArchiveStore(archive), key)
    for _ in range(2):
        assert [str(t) for t in verify(archive).torn] == [f"{key} metadata: run `hypermend restore` again"]
    repaired = restore_here(archive)
    assert (repaired.exit_code, repaired.tiles_written) == (0, 0)
    assert restored_bytes(archive) == clean
    assert verify(archive).torn == ()


@pytest.mark.fault
def test_f15_an_unchanged_rerun_writes_nothing(archive: str, clean: dict[str, str]) -> None:
    restore_here(archive)
    before = {p: p.stat().st_mtime_ns for p in Path(archive).rglob("*")}
    report = restore_here(archive)
    assert [s.status for s in report.scenes] == ["current"]
    assert report.bytes_written == 0
    assert {p: p.stat().st_mtime_ns for p in Path(archive).rglob("*")} == before


@pytest.mark.fault
def test_f15_a_changed_setting_never_resumes_into_the_old_cube(archive: str) -> None:
    restore_here(archive)
    first = hypermend.open(archive).search(stage="restored")[0].scene
    other = restore(RestoreJob(archive=archive, model=MODEL, tile_px=32), engine=serial).wait()
    assert other.tiles_written == 6
    (current,) = [item.scene for item in hypermend.open(archive).search(stage="restored")]
    assert current.properties["hypermend:plan"] != first.properties["hypermend:plan"]
    assert Path(first.assets["cube"].href).exists()  # superseded cubes stay until they are pruned
