"""The scheduler: scenes are interleaved, committed when their last tile is done, and held back when one failed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.config import Job
from hypermend.pipeline.engine.outcome import WAIT
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.runs.run import Run
from hypermend.pipeline.runs.run_log import SkippedScene, TaskReceipt
from hypermend.pipeline.runs.unit import PreparedScene, SceneTotals


@dataclass(frozen=True, kw_only=True)
class Task:
    unit: str
    step: str
    tiles: tuple[tuple[int, int], ...] = ()


class Toy:
    """A scene of ``total`` tiles, of which tile ``bad`` fails."""

    reads: tuple[str, ...] = ()

    def __init__(
        self, scene: str, total: int, log: list[str], *, bad: int | None = None, done: int = 0, collection: str = "c"
    ) -> None:
        self.id, self.collection, self.scene = f"{collection}/{scene}", collection, scene
        self.total, self.log, self.bad, self.n_done = total, log, bad, done

    def prepare(self) -> Task:
        return Task(unit=self.id, step=f"prepare {self.total} {self.n_done}")

    def tiles(self, prepared: PreparedScene) -> Iterator[Task]:
        for i in range(len(prepared.done), self.total):
            yield Task(unit=self.id, step="fail" if i == self.bad else "tile", tiles=((0, i),))

    def finish(self, prepared: PreparedScene) -> Task:
        return Task(unit=self.id, step="finish")

    def is_published(self, prepared: PreparedScene) -> bool:
        return self.n_done == self.total

    def commit(self, prepared: PreparedScene, totals: Any) -> int:
        self.log.append(f"commit {self.scene}")
        return 0 if self.n_done == self.total else 100


def make_toy(log: list[str]) -> Callable[[Task], Any]:
    def handle(task: Task) -> Any:
        log.append(f"{task.step.split()[0]} {task.unit.split('/')[1]}")
        if task.step.startswith("prepare"):
            _, total, done = task.step.split()
            return PreparedScene(total=int(total), done=frozenset((0, i) for i in range(int(done))))
        if task.step == "fail":
            raise ValueError("this tile is bad")
        if task.step in ("tile", "block"):
            return TaskReceipt(
                tiles=task.tiles, block=(0, 0) if task.step == "block" else None, read_s=1, model_s=1, write_s=1,
                valid_fraction=1, samples=5, bytes_written=10, peak_bytes=1,
            )  # fmt: skip
        return SceneTotals(valid_fraction=1.0)

    return handle


def start(root: Path, units: list[Any], log: list[str], **options: Any) -> Run:
    return Run("r1", Job(archive=str(root)), units, partial(make_toy, log), serial, **options)


def test_scenes_are_interleaved_and_committed_once(tmp_path: Path) -> None:
    log: list[str] = []
    run = start(tmp_path, [Toy("a", 3, log), Toy("b", 3, log), Toy("c", 1, log)], log, open_scenes=2)
    report = run.wait()
    assert report.exit_code == 0
    assert sorted(s.scene for s in report.scenes if s.status == "published") == ["a", "b", "c"]
    tiles = [line for line in log if line.startswith("tile")]
    assert tiles[:4] in (["tile a", "tile b"] * 2, ["tile b", "tile a"] * 2)
    assert log.index("prepare c") > min(log.index("commit a"), log.index("commit b"))
    assert [log.count(f"commit {s}") for s in "abc"] == [1, 1, 1]
    assert (report.tiles_written, report.samples, report.worker_s) == (7, 35, 21)


def test_a_failed_tile_holds_back_its_scene_alone_and_is_logged(tmp_path: Path) -> None:
    log: list[str] = []
    run = start(tmp_path, [Toy("a", 3, log, bad=1), Toy("b", 1, log), SkippedScene(scene="x", reason="no asset")], log)
    report = run.wait()
    assert report.exit_code == 1
    ended = {s.scene: s for s in report.scenes}
    assert (ended["a"].status, ended["a"].tiles_written, ended["a"].tiles_failed) == ("failed", 2, 1)
    assert ended["a"].reason == "ValueError: this tile is bad"
    assert (ended["b"].status, ended["x"].status) == ("published", "skipped")
    assert "commit a" not in log
    lines = [
        json.loads(line)
        for entry in ArchiveStore(str(tmp_path)).list("runs/r1/failures")
        for line in ArchiveStore(str(tmp_path)).get(entry.key).decode().splitlines()
    ]
    named = {(line["collection"], line["scene"], line["step"]) for line in lines}
    assert named == {("c", "a", "tile"), (None, "x", "discover")}
    assert next(line for line in lines if line["scene"] == "a")["tiles"] == [[0, 1]]


def test_a_finished_scene_is_current_and_writes_nothing(tmp_path: Path) -> None:
    log: list[str] = []
    report = start(tmp_path, [Toy("a", 2, log, done=2)], log).wait()
    assert [s.status for s in report.scenes] == ["current"]
    assert (report.bytes_written, list(tmp_path.rglob("*.json*"))) == (0, [])


def test_a_scene_of_many_tiles_is_worked_on_by_one_worker(tmp_path: Path) -> None:
    """After each tile nothing is in flight, so that the next is looked at and put back."""
    log: list[str] = []
    report = start(tmp_path, [Toy("a", 3000, log)], log).wait()
    assert (report.exit_code, report.tiles_written) == (0, 3000)


def test_resume_does_only_what_is_missing(tmp_path: Path) -> None:
    log: list[str] = []
    report = start(tmp_path, [Toy("a", 5, log, done=3)], log).wait()
    assert report.tiles_written == 2
    assert report.scenes[0].status == "published"


def test_the_same_scene_twice_is_skipped_with_its_reason(tmp_path: Path) -> None:
    log: list[str] = []
    report = start(tmp_path, [Toy("a", 1, log), Toy("a", 1, log)], log).wait()
    assert sorted(s.status for s in report.scenes) == ["published", "skipped"]
    assert "collection c has it twice in this run" in report.scenes[0].reason + report.scenes[1].reason
    assert report.exit_code == 1


def test_one_scene_id_in_two_collections_is_two_units_one_after_the_other(tmp_path: Path) -> None:
    log: list[str] = []
    units = [Toy("a", 2, log), Toy("a", 2, log, collection="d"), Toy("b", 2, log), Toy("a", 2, log, collection="e")]
    report = start(tmp_path, units, log).wait()
    assert report.exit_code == 0
    assert {(s.collection, s.scene, s.status) for s in report.scenes} == {
        ("c", "a", "published"), ("d", "a", "published"), ("e", "a", "published"), ("c", "b", "published")
    }  # fmt: skip
    # They may share a cube, so none begins before the one before it is published; the other scene does not wait.
    assert [line for line in log if line.endswith(" a")] == [
        "prepare a", "tile a", "tile a", "finish a", "commit a"
    ] * 3  # fmt: skip
    assert log.index("prepare b") < log.index("commit a")


class Phased(Toy):
    """A scene whose tiles need its two blocks, of which ``bad_block`` fails."""

    bad_block: int | None = None

    def tiles(self, prepared: PreparedScene) -> Iterator[Any]:
        for i in range(2):
            yield Task(unit=self.id, step="fail" if i == self.bad_block else "block")
        yield WAIT
        yield from super().tiles(prepared)


def no_earlier_than_needed(factory: Any, tasks: Any, **_: Any) -> Iterator[Any]:
    """An engine that begins all it can before anything ends."""
    handle, waiting = factory(), []
    for task in tasks:
        if task is WAIT:
            for one in waiting:
                yield from serial(lambda: handle, iter([one]))
            waiting = []
        else:
            waiting.append(task)


def test_tiles_wait_for_the_blocks_of_their_scene_and_others_fill_the_gap(tmp_path: Path) -> None:
    log: list[str] = []
    run = Run(
        "r1", Job(archive=str(tmp_path)), [Phased("a", 2, log), Toy("b", 3, log)], partial(make_toy, log),
        no_earlier_than_needed,
    )  # fmt: skip
    assert run.wait().exit_code == 0
    assert log.index("tile a") > max(i for i, line in enumerate(log) if line == "block a")
    assert log.index("tile b") < log.index("tile a")


def test_a_failed_block_holds_back_its_scene_before_the_tiles(tmp_path: Path) -> None:
    log: list[str] = []
    bad = Phased("a", 2, log)
    bad.bad_block = 0
    report = start(tmp_path, [bad, Phased("b", 1, log)], log).wait()
    assert {s.scene: s.status for s in report.scenes} == {"a": "failed", "b": "published"}
    assert "tile a" not in log
    assert log.count("block a") == 1
