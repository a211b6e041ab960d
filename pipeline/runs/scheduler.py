"""The board of a run: a few scenes are open at a time, their tasks are dealt in turn, each is closed as it deserves.

A scene that another driver is at work on is left to that one (docs/decisions/0014).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from hypermend.catalog.errors import ArchiveError, Full
from hypermend.catalog.storage.leases import Claim
from hypermend.pipeline.engine.outcome import WAIT, Outcome, TaskFailure, TaskResult, Wait
from hypermend.pipeline.runs.report import Event, RunReport, SceneResult, Status
from hypermend.pipeline.runs.run_log import RunLog, SkippedScene, TaskReceipt
from hypermend.pipeline.runs.scene_leases import SceneLeases
from hypermend.pipeline.runs.unit import Finished, Opened, Unit


@dataclass(eq=False)
class SceneState:
    """One scene on the board."""

    unit: Unit
    tasks: Iterator[Any]
    opened: Opened | None = None
    in_flight: int = 0
    finishing: bool = False
    adapted: int = 0
    written: int = 0
    failed: int = 0
    reason: str = ""
    ours: bool = False
    """Its lease is ours."""
    held: bool = False
    """Another driver has it."""


class SceneScheduler:
    """The open scenes of a run: a few at a time, their tasks dealt in turn."""

    def __init__(
        self,
        units: Iterable[Unit | SkippedScene],
        report: RunReport,
        ledger: RunLog,
        *,
        open_scenes: int,
        hold: SceneLeases | None = None,
    ) -> None:
        self._hold = hold
        self._stopping = False
        self._units = iter(units)
        self._report = report
        self._ledger = ledger
        self._width = open_scenes
        self._open: deque[SceneState] = deque()
        self._by_id: dict[str, SceneState] = {}
        self._seen: set[str] = set()
        self._held: list[Unit] = []
        self._more = True
        self._events: deque[Event] = deque()

    def run(self, work: Callable[[Iterator[Any]], Iterator[Outcome[Any, Any]]]) -> Iterator[Event]:
        """Work until every scene is published, held back or skipped."""
        try:
            for outcome in work(self._stream()):
                self._settle(self._by_id[outcome.task.unit], outcome)
                yield from self._drain()
            for scene in [scene for scene in self._open if scene.failed]:  # stopped before their turn came again
                self._close(scene, "failed")
            yield from self._drain()
            left = bool(self._open) or bool(self._held) or self._more
            self._report.stopped = self._stopping and left and "stopped" not in self._report.notes
        finally:
            self._close_up()

    def _close_up(self) -> None:
        """Write what is still to be said, give the leases back; an archive that cannot be written spoils no report."""
        for last in (self._ledger.flush, *([self._hold.close] if self._hold is not None else [])):
            try:
                last()
            except ArchiveError as error:
                self._report.notes.setdefault("stopped", str(error))

    def stop(self) -> None:
        """Begin nothing more; what is in flight is finished."""
        self._stopping = True

    def _drain(self) -> Iterator[Event]:
        while self._events:
            yield self._events.popleft()

    def _stream(self) -> Iterator[Any | Wait]:
        while not self._stopping:
            self._fill()
            if not self._open:
                return
            for _ in range(len(self._open)):
                scene = self._open[0]
                self._open.rotate(-1)
                if (task := _next_task(scene)) is not None:
                    scene.in_flight += 1
                    yield task
                    break
            else:
                yield WAIT

    def _fill(self) -> None:
        while len(self._open) < self._width and (unit := self._next_unit()) is not None:
            if self._hold is not None and (claim := self._hold.other(unit)) is not None:
                self._refuse(unit, "held", _held_by(claim))
                continue
            scene = SceneState(unit, iter([unit.prepare()]))
            self._open.append(scene)
            self._by_id[unit.id] = scene

    def _next_unit(self) -> Unit | None:
        """The next unit that can be opened now.

        Units of one scene id follow each other: the same files in two collections make one cube, and its marks are
        folded once.
        """
        busy = {scene.unit.scene for scene in self._open}
        for unit in self._held:
            if unit.scene not in busy:
                self._held.remove(unit)
                return unit
        while self._more and len(self._held) < self._width:
            taken = self._take_unit()
            if taken is not None and taken.scene not in busy:
                return taken
            if taken is not None:
                self._held.append(taken)
        return None

    def _take_unit(self) -> Unit | None:
        """The next of the run's units, unless it is refused or there is none."""
        try:
            unit = next(self._units, None)
        except ArchiveError as error:  # the search died: what was found before it is still worked on
            self._more = False
            refusal = SkippedScene(scene="(search)", reason=f"no more scenes are looked for: {error}")
            self._ledger.skipped(refusal)
            self._end(SceneResult(scene=refusal.scene, status="failed", reason=refusal.reason))
            return None
        if unit is None:
            self._more = False
            return None
        if not isinstance(unit, SkippedScene) and unit.id not in self._seen:
            self._seen.add(unit.id)
            return unit
        twice = f"collection {unit.collection} has it twice in this run; give one of them another id"
        self._refuse(unit, "skipped", unit.reason if isinstance(unit, SkippedScene) else twice)
        return None

    def _refuse(self, unit: Unit | SkippedScene, status: Status, reason: str) -> None:
        """A scene that is not opened."""
        refusal = SkippedScene(scene=unit.scene, collection=unit.collection, reason=reason)
        self._ledger.skipped(refusal)
        self._end(SceneResult(scene=unit.scene, collection=unit.collection, status=status, reason=reason))

    def _settle(self, scene: SceneState, outcome: Outcome[Any, Any]) -> None:
        scene.in_flight -= 1
        if isinstance(outcome, TaskFailure):
            self._failed(scene, outcome)
        elif scene.opened is None:
            self._opened(scene, outcome.result)
        elif scene.finishing:
            self._commit(scene, outcome.result)
            return
        else:
            self._wrote(scene, outcome)
        self._advance(scene)

    def _opened(self, scene: SceneState, opened: Opened) -> None:
        scene.opened = opened
        if self._hold is not None and not opened.settled:
            claim = self._hold.take(scene.unit)
            scene.ours = claim is None
            if claim is not None:
                self._withdraw(scene, _held_by(claim))
                return
        scene.tasks = scene.unit.tiles(opened)
        self._report.bytes_written += opened.bytes_written
        self._say("opened", scene, "; ".join(opened.warnings))

    def _wrote(self, scene: SceneState, outcome: TaskResult[Any, TaskReceipt]) -> None:
        receipt = outcome.result
        scene.adapted += receipt.block is not None
        scene.written += len(receipt.tiles)
        self._report.tiles_written += len(receipt.tiles)
        self._report.bytes_written += receipt.bytes_written
        self._report.samples += receipt.samples
        self._report.worker_s += receipt.read_s + receipt.model_s + receipt.write_s
        self._report.peak_worker_bytes = max(self._report.peak_worker_bytes, receipt.peak_bytes)
        self._ledger.receipt(scene.unit, receipt, outcome)
        self._say("tile" if receipt.block is None else "block", scene)

    def _failed(self, scene: SceneState, outcome: TaskFailure[Any]) -> None:
        during = "tile" if getattr(outcome.task, "block", None) is None else "adapt"
        step = "prepare" if scene.opened is None else "finish" if scene.finishing else during
        tiles = getattr(outcome.task, "tiles", ())
        scene.failed += max(1, len(tiles))
        scene.reason = scene.reason or f"{outcome.error}: {outcome.message}"
        self._ledger.failure(scene.unit, step=step, tiles=tiles, outcome=outcome)
        if outcome.error == Full.__name__:  # every further tile would fail in the same way
            self._report.notes["stopped"] = outcome.message
            self.stop()

    def _advance(self, scene: SceneState) -> None:
        """Close the scene if nothing of it is left to do, else leave it on the board."""
        if scene.in_flight:
            return
        task = _next_task(scene)
        if task is not None:
            scene.tasks = _put_back(task, scene.tasks)
        elif scene.held:
            self._close(scene, "held")
        elif scene.failed:
            self._close(scene, "failed")
        elif scene.ours and not scene.finishing and self._hold is not None and self._hold.lost(scene.unit):
            self._withdraw(scene, "its lease was taken over: this driver was cut off from the archive for too long")
            self._close(scene, "held")
        elif scene.opened is not None and not scene.finishing:
            scene.finishing = True
            scene.tasks = iter([scene.unit.finish(scene.opened)])

    def _withdraw(self, scene: SceneState, reason: str) -> None:
        """Leave the scene to the other driver that has it."""
        scene.held, scene.ours, scene.reason, scene.tasks = True, False, reason, iter(())
        self._ledger.skipped(SkippedScene(scene=scene.unit.scene, collection=scene.unit.collection, reason=reason))

    def _commit(self, scene: SceneState, finished: Finished) -> None:
        assert scene.opened is not None
        try:
            wrote = scene.unit.commit(scene.opened, finished)
        except ArchiveError as error:  # every tile is there; the same command will publish them
            scene.reason = f"{type(error).__name__}: {error}"
            refusal = SkippedScene(scene=scene.unit.scene, collection=scene.unit.collection, reason=scene.reason)
            self._ledger.skipped(refusal)
            self._close(scene, "failed")
            return
        self._report.bytes_written += wrote
        self._close(scene, "published" if wrote or scene.written else "current", finished.figures)

    def _close(
        self,
        scene: SceneState,
        status: Status,
        figures: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._open.remove(scene)
        del self._by_id[scene.unit.id]
        if scene.ours and self._hold is not None:
            self._hold.release(scene.unit)
        self._end(
            SceneResult(
                scene=scene.unit.scene,
                collection=scene.unit.collection,
                status=status,
                tiles_written=scene.written,
                tiles_failed=scene.failed if scene.opened is not None else 0,
                reason=scene.reason,
                warnings=scene.opened.warnings if scene.opened else (),
                figures=dict(figures),
            )
        )

    def _end(self, result: SceneResult) -> None:
        self._report.scenes.append(result)
        self._events.append(Event(kind=result.status, scene=result.unit, message=result.reason))

    def _say(self, kind: Literal["opened", "block", "tile"], scene: SceneState, message: str = "") -> None:
        assert scene.opened is not None
        done, total = len(scene.opened.done) + scene.written, scene.opened.total
        if kind == "block":
            done, total = scene.adapted, scene.opened.blocks
        self._events.append(Event(kind=kind, scene=scene.unit.id, done=done, total=total, message=message))


def _next_task(scene: SceneState) -> Any | None:
    """The scene's next task that can be begun now; past a ``WAIT`` only when all before it has ended well."""
    task = next(scene.tasks, None)
    while task is WAIT:
        if scene.in_flight:
            scene.tasks = _put_back(task, scene.tasks)
            return None
        if scene.failed:
            scene.tasks = iter(())
        task = next(scene.tasks, None)
    return task


def _held_by(claim: Claim) -> str:
    return f"another driver is at work on it: {claim}; the same command does what is left when that one has ended"


def _put_back(task: Any, tasks: Iterator[Any]) -> Iterator[Any]:
    yield task
    yield from tasks
