"""Scheduler of a run: keeps a few scenes open and interleaves their tasks round-robin.

It closes each scene as published, current, failed or held, and leaves a scene on which another driver is at work to
that driver (docs/decisions/0014).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from hypermend.catalog.documents import MALFORMED
from hypermend.catalog.errors import ArchiveError, Full, ReadOnly
from hypermend.catalog.storage.leases import Claim
from hypermend.pipeline.engine.outcome import WAIT, Outcome, TaskFailure, TaskResult, Wait
from hypermend.pipeline.runs.report import Event, RunReport, SceneResult, Status
from hypermend.pipeline.runs.run_log import SEARCH, RunLog, SkippedScene, TaskReceipt
from hypermend.pipeline.runs.scene_leases import SceneLeases
from hypermend.pipeline.runs.unit import PreparedScene, SceneTotals, Unit

_NO_ROOM = (Full.__name__, ReadOnly.__name__)
"""Errors after which every further tile would fail in the same way."""


@dataclass(eq=False)
class SceneState:
    """State of one open scene."""

    unit: Unit
    tasks: Iterator[Any]
    prepared: PreparedScene | None = None
    in_flight: int = 0
    finishing: bool = False
    adapted: int = 0
    """Number of adaptation blocks done by this run."""
    written: int = 0
    failed: int = 0
    reason: str = ""
    leased: bool = False
    """True while this driver has the scene's lease."""
    held: bool = False
    """True where another driver has it."""


class SceneScheduler:
    """The open scenes of a run, and the tasks they have left."""

    def __init__(
        self,
        units: Iterable[Unit | SkippedScene],
        report: RunReport,
        run_log: RunLog,
        *,
        open_scenes: int,
        leases: SceneLeases | None = None,
    ) -> None:
        """Make a scheduler that has opened nothing yet.

        Args:
            units: the scenes of the run, drawn as places become free.
            report: updated as tasks and scenes end.
            run_log: gets the receipts and the failures.
            open_scenes: how many scenes may be open at a time.
            leases: None where no lease is needed.
        """
        self._leases = leases
        self._stopping = False
        self._units = iter(units)
        self._units_left = True
        self._report = report
        self._run_log = run_log
        self._max_open = open_scenes
        self._open: deque[SceneState] = deque()
        self._by_id: dict[str, SceneState] = {}
        self._ids: set[str] = set()
        self._postponed: list[Unit] = []
        self._events: deque[Event] = deque()

    def run(self, work: Callable[[Iterator[Any]], Iterator[Outcome[Any, Any]]]) -> Iterator[Event]:
        """Work until every scene is published, held or skipped."""
        try:
            for outcome in work(self._tasks()):
                self._record(self._by_id[outcome.task.unit], outcome)
                self._check_leases()
                yield from self._new_events()
            for scene in [scene for scene in self._open if scene.failed]:  # stopped before their turn came again
                self._close(scene, "failed")
            yield from self._new_events()
            work_left = bool(self._open) or bool(self._postponed) or self._units_left
            self._report.stopped = self._stopping and work_left and "stopped" not in self._report.notes
        finally:
            self._shut_down()

    def _check_leases(self) -> None:
        """Stop the run where its leases are no longer renewed: another driver may take its scenes."""
        try:
            if self._leases is not None:
                self._leases.check_alive()
        except ArchiveError as error:
            self._report.notes.setdefault("stopped", str(error))
            self.stop()

    def _shut_down(self) -> None:
        """Flush the log and release the leases; an archive that cannot be written to must not cost the report."""
        for step in (self._run_log.flush, *([self._leases.close] if self._leases is not None else [])):
            try:
                step()
            except ArchiveError as error:
                self._report.notes.setdefault("stopped", str(error))

    def stop(self) -> None:
        """Start no further task; those in flight are finished."""
        self._stopping = True

    def _new_events(self) -> Iterator[Event]:
        while self._events:
            yield self._events.popleft()

    def _tasks(self) -> Iterator[Any | Wait]:
        while not self._stopping:
            self._open_scenes()
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

    def _open_scenes(self) -> None:
        while len(self._open) < self._max_open and (unit := self._next_unit()) is not None:
            if self._leases is not None and (claim := self._leases.other_driver(unit)) is not None:
                self._skip(unit, "held", _held_by(claim))
                continue
            scene = SceneState(unit, iter([unit.prepare()]))
            self._open.append(scene)
            self._by_id[unit.id] = scene

    def _next_unit(self) -> Unit | None:
        """Return the next unit that can be opened now.

        Units with the same scene id are opened one after the other: the same files in two collections make one cube,
        whose marks are folded once.
        """
        open_ids = {scene.unit.scene for scene in self._open}
        for unit in self._postponed:
            if unit.scene not in open_ids:
                self._postponed.remove(unit)
                return unit
        while self._units_left and len(self._postponed) < self._max_open:
            drawn = self._draw_unit()
            if drawn is not None and drawn.scene not in open_ids:
                return drawn
            if drawn is not None:
                self._postponed.append(drawn)
        return None

    def _draw_unit(self) -> Unit | None:
        """Draw the next of the run's units; None where it is skipped or there is none."""
        try:
            unit = next(self._units, None)
        except ArchiveError as error:  # the search died: the scenes before it are still worked on
            self._units_left = False
            skipped = SkippedScene(scene=SEARCH, reason=f"no more scenes are looked for: {error}")
            self._run_log.skipped(skipped)
            self._add_result(SceneResult(scene=skipped.scene, status="failed", reason=skipped.reason))
            return None
        if unit is None:
            self._units_left = False
            return None
        if not isinstance(unit, SkippedScene) and unit.id not in self._ids:
            self._ids.add(unit.id)
            return unit
        duplicate = f"collection {unit.collection} has it twice in this run; give one of them another id"
        self._skip(unit, "skipped", unit.reason if isinstance(unit, SkippedScene) else duplicate)
        return None

    def _skip(self, unit: Unit | SkippedScene, status: Status, reason: str) -> None:
        """Record a scene that is not opened."""
        self._run_log.skipped(SkippedScene(scene=unit.scene, collection=unit.collection, reason=reason))
        self._add_result(SceneResult(scene=unit.scene, collection=unit.collection, status=status, reason=reason))

    def _record(self, scene: SceneState, outcome: Outcome[Any, Any]) -> None:
        """Record the outcome of a task and move its scene on."""
        scene.in_flight -= 1
        if isinstance(outcome, TaskFailure):
            self._record_failure(scene, outcome)
        elif scene.prepared is None:
            self._start_tiles(scene, outcome.result)
        elif scene.finishing:
            self._commit(scene, outcome.result)
            return
        else:
            self._record_tiles(scene, outcome)
        self._advance(scene)

    def _start_tiles(self, scene: SceneState, prepared: PreparedScene) -> None:
        scene.prepared = prepared
        # A scene that is done and published needs no lease: nothing of it is written. Else prune must not remove its
        # cube between here and the commit.
        if self._leases is not None and not (prepared.settled and scene.unit.is_published(prepared)):
            claim = self._leases.take(scene.unit)
            scene.leased = claim is None
            if claim is not None:
                self._withdraw(scene, _held_by(claim))
                return
        scene.tasks = scene.unit.tiles(prepared)
        self._report.bytes_written += prepared.bytes_written
        self._add_event("opened", scene, "; ".join(prepared.warnings))

    def _record_tiles(self, scene: SceneState, outcome: TaskResult[Any, TaskReceipt]) -> None:
        receipt = outcome.result
        scene.adapted += receipt.block is not None
        scene.written += len(receipt.tiles)
        self._report.tiles_written += len(receipt.tiles)
        self._report.bytes_written += receipt.bytes_written
        self._report.samples += receipt.samples
        self._report.worker_s += receipt.read_s + receipt.model_s + receipt.write_s
        self._report.peak_worker_bytes = max(self._report.peak_worker_bytes, receipt.peak_bytes)
        self._run_log.receipt(scene.unit, receipt, outcome)
        self._add_event("tile" if receipt.block is None else "block", scene)

    def _record_failure(self, scene: SceneState, outcome: TaskFailure[Any]) -> None:
        phase = "tile" if getattr(outcome.task, "block", None) is None else "adapt"
        step = "prepare" if scene.prepared is None else "finish" if scene.finishing else phase
        tiles = getattr(outcome.task, "tiles", ())
        scene.failed += max(1, len(tiles))
        scene.reason = scene.reason or f"{outcome.error}: {outcome.message}"
        self._run_log.failure(scene.unit, step=step, tiles=tiles, outcome=outcome)
        if outcome.error in _NO_ROOM:
            self._report.notes["stopped"] = outcome.message
            self.stop()

    def _advance(self, scene: SceneState) -> None:
        """Finish or close the scene if no task of it is left, else keep it open."""
        if scene.in_flight:
            return
        task = _next_task(scene)
        if task is not None:
            scene.tasks = _put_back(task, scene.tasks)
        elif scene.held:
            self._close(scene, "held")
        elif scene.failed:
            self._close(scene, "failed")
        elif scene.leased and not scene.finishing and self._leases is not None and self._leases.lost(scene.unit):
            self._withdraw(scene, "its lease was taken over: this driver was cut off from the archive for too long")
            self._close(scene, "held")
        elif scene.prepared is not None and not scene.finishing:
            scene.finishing = True
            scene.tasks = iter([scene.unit.finish(scene.prepared)])

    def _withdraw(self, scene: SceneState, reason: str) -> None:
        """Leave the scene to the other driver that has it."""
        scene.held, scene.leased, scene.reason, scene.tasks = True, False, reason, iter(())
        self._run_log.skipped(SkippedScene(scene=scene.unit.scene, collection=scene.unit.collection, reason=reason))

    def _commit(self, scene: SceneState, totals: SceneTotals) -> None:
        assert scene.prepared is not None
        try:
            bytes_written = scene.unit.commit(scene.prepared, totals)
        except (ArchiveError, *MALFORMED) as error:  # every tile is there; the same command will publish them
            scene.reason = f"{type(error).__name__}: {error}"
            self._run_log.skipped(
                SkippedScene(scene=scene.unit.scene, collection=scene.unit.collection, reason=scene.reason)
            )
            self._close(scene, "failed")
            return
        self._report.bytes_written += bytes_written
        self._close(scene, "published" if bytes_written or scene.written else "current", totals.figures)

    def _close(
        self,
        scene: SceneState,
        status: Status,
        figures: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._open.remove(scene)
        del self._by_id[scene.unit.id]
        if scene.leased and self._leases is not None:
            self._leases.release(scene.unit)
        self._add_result(
            SceneResult(
                scene=scene.unit.scene,
                collection=scene.unit.collection,
                status=status,
                tiles_written=scene.written,
                tiles_failed=scene.failed if scene.prepared is not None else 0,
                reason=scene.reason,
                warnings=scene.prepared.warnings if scene.prepared else (),
                figures=dict(figures),
            )
        )

    def _add_result(self, result: SceneResult) -> None:
        self._report.scenes.append(result)
        self._events.append(Event(kind=result.status, scene=result.unit, message=result.reason))

    def _add_event(self, kind: Literal["opened", "block", "tile"], scene: SceneState, message: str = "") -> None:
        assert scene.prepared is not None
        done, total = len(scene.prepared.done) + scene.written, scene.prepared.total
        if kind == "block":
            done, total = scene.adapted, scene.prepared.blocks
        self._events.append(Event(kind=kind, scene=scene.unit.id, done=done, total=total, message=message))


def _next_task(scene: SceneState) -> Any | None:
    """Return the scene's next task that can start now; past a ``WAIT`` only when all tasks before it have succeeded."""
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
    """The tasks with their first again, which `next` gave: one of many thousands is put back after each other."""
    return _Tasks([task], tasks.rest if isinstance(tasks, _Tasks) and not tasks.first else tasks)


@dataclass
class _Tasks(Iterator[Any]):
    first: list[Any]
    rest: Iterator[Any]

    def __next__(self) -> Any:
        return self.first.pop() if self.first else next(self.rest)
