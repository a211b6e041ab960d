"""One dispatcher for many scenes: their tiles are interleaved, and a scene is committed when its last tile is done.

Each scene walks through four steps. All but the last run in a worker, so the driver never holds a pixel:

    prepare  open the input, create the output, find what is already done   -> Opened
    tiles    one task for each piece that is missing, perhaps in two phases   -> Receipt
    finish   fold the marks, sum up                                           -> Finished
    commit   put the STAC item, by the driver: the scene is published, or it is not

Ingest and restoration are two ``Unit``s of this walk; whatever else they share lives here: resume, the ledger of
receipts and failures, progress, and what the exit code will be.
"""

from __future__ import annotations

import resource
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal, Protocol

from catalog.errors import ArchiveError
from catalog.root import Root
from pipeline.config import Job
from pipeline.execute import WAIT, Done, Failed, Make, Outcome, Policy, Wait, Workers
from pipeline.ledger import Ledger, Receipt, Refusal
from pipeline.tiles import Index


class Engine(Protocol):
    """``serial`` or ``on_ray``."""

    def __call__(
        self, make: Make[Any, Any], tasks: Iterator[Any], *, policy: Policy, workers: Workers
    ) -> Iterator[Outcome[Any, Any]]: ...


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What ``prepare`` found out."""

    total: int
    """Tiles of the scene."""
    done: frozenset[Index]
    """Tiles that an earlier run has marked."""
    blocks: int = 0
    """Adaptation blocks that must be done before the first tile."""
    bytes_written: int = 0
    context: Any = None
    """What the later tasks and the commit need; small."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What ``finish`` summed up."""

    valid_fraction: float
    """Usable share of the scene, 0 to 1."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """What the run's report says of the scene; JSON values."""


def unit_id(collection: str, scene: str) -> str:
    """What tells a run's units apart: a scene id is unique in its collection only."""
    return f"{collection}/{scene}"


class Unit(Protocol):
    """One scene's walk. ``task.unit`` of every task it gives is its ``id``, ``<collection>/<scene>``."""

    @property
    def id(self) -> str: ...

    @property
    def collection(self) -> str: ...

    @property
    def scene(self) -> str:
        """Id of the scene; another collection may have one of the same id."""
        ...

    def prepare(self) -> Any: ...

    def tiles(self, opened: Opened) -> Iterator[Any]:
        """The tasks that are left. ``WAIT`` among them: what follows needs what came before, whole and without failure.

        Other scenes fill the gap.
        """
        ...

    def finish(self, opened: Opened) -> Any: ...

    def commit(self, opened: Opened, finished: Finished) -> int:
        """Publish the scene; returns the bytes written."""
        ...


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something a person may want to see."""

    kind: Literal["opened", "block", "tile", "published", "current", "failed", "skipped"]
    scene: str
    """Id of the unit, or what is known of a scene that did not become one."""
    done: int = 0
    """Tiles, or adaptation blocks where the event is one."""
    total: int = 0
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class SceneResult:
    """How a scene ended: published, current (nothing was left to do), failed or skipped."""

    scene: str
    status: Literal["published", "current", "failed", "skipped"]
    collection: str | None = None
    """None for a scene that was refused before its collection was known."""
    tiles_written: int = 0
    tiles_failed: int = 0
    reason: str = ""
    warnings: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    """What was found out about the scene: of a fusion its pair, and steps, losses and fall-backs of every block."""

    @property
    def unit(self) -> str:
        """Id of the unit, as far as it is known."""
        return self.scene if self.collection is None else unit_id(self.collection, self.scene)


@dataclass(kw_only=True)
class RunReport:
    """How a run ended; complete once ``run`` is exhausted."""

    run: str
    scenes: list[SceneResult] = field(default_factory=list)
    tiles_written: int = 0
    bytes_written: int = 0
    seconds: float = 0.0
    samples: int = 0
    """Bands times pixels written."""
    worker_s: float = 0.0
    """Seconds that workers spent on tiles, added up."""
    peak_worker_bytes: int = 0
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0: every scene is published. 1: some are not, see ``scenes`` and the ledger."""
        return int(any(s.status in ("failed", "skipped") for s in self.scenes))

    def count(self, status: str) -> int:
        return sum(s.status == status for s in self.scenes)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"exit_code": self.exit_code}


def peak_bytes() -> int:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def new_run_id(verb: str) -> str:
    """Sorts by time and never meets another."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}-{verb}"


@dataclass(eq=False)
class _Open:
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


class Board:
    """The open scenes of a run: a few at a time, their tasks dealt in turn."""

    def __init__(self, units: Iterable[Unit | Refusal], report: RunReport, ledger: Ledger, *, open_scenes: int) -> None:
        self._units = iter(units)
        self._report = report
        self._ledger = ledger
        self._width = open_scenes
        self._open: deque[_Open] = deque()
        self._by_id: dict[str, _Open] = {}
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
            yield from self._drain()
        finally:
            self._ledger.flush()

    def _drain(self) -> Iterator[Event]:
        while self._events:
            yield self._events.popleft()

    def _stream(self) -> Iterator[Any | Wait]:
        while True:
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
            scene = _Open(unit, iter([unit.prepare()]))
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
            refusal = Refusal(scene="(search)", reason=f"no more scenes are looked for: {error}")
            self._ledger.skipped(refusal)
            self._end(SceneResult(scene=refusal.scene, status="failed", reason=refusal.reason))
            return None
        if unit is None:
            self._more = False
            return None
        if not isinstance(unit, Refusal) and unit.id not in self._seen:
            self._seen.add(unit.id)
            return unit
        if not isinstance(unit, Refusal):
            reason = f"collection {unit.collection} has it twice in this run; give one of them another id"
            unit = Refusal(scene=unit.scene, collection=unit.collection, reason=reason)
        self._ledger.skipped(unit)
        self._end(
            SceneResult(scene=unit.scene, collection=unit.collection, status="skipped", reason=unit.reason),
        )
        return None

    def _settle(self, scene: _Open, outcome: Outcome[Any, Any]) -> None:
        scene.in_flight -= 1
        if isinstance(outcome, Failed):
            self._failed(scene, outcome)
        elif scene.opened is None:
            self._opened(scene, outcome.result)
        elif scene.finishing:
            self._commit(scene, outcome.result)
            return
        else:
            self._wrote(scene, outcome)
        self._advance(scene)

    def _opened(self, scene: _Open, opened: Opened) -> None:
        scene.opened = opened
        scene.tasks = scene.unit.tiles(opened)
        self._report.bytes_written += opened.bytes_written
        self._say("opened", scene, "; ".join(opened.warnings))

    def _wrote(self, scene: _Open, outcome: Done[Any, Receipt]) -> None:
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

    def _failed(self, scene: _Open, outcome: Failed[Any]) -> None:
        during = "tile" if getattr(outcome.task, "block", None) is None else "adapt"
        step = "prepare" if scene.opened is None else "finish" if scene.finishing else during
        tiles = getattr(outcome.task, "tiles", ())
        scene.failed += max(1, len(tiles))
        scene.reason = scene.reason or f"{outcome.error}: {outcome.message}"
        self._ledger.failure(scene.unit, step=step, tiles=tiles, outcome=outcome)

    def _advance(self, scene: _Open) -> None:
        """Close the scene if nothing of it is left to do, else leave it on the board."""
        if scene.in_flight:
            return
        task = _next_task(scene)
        if task is not None:
            scene.tasks = _put_back(task, scene.tasks)
        elif scene.failed:
            self._close(scene, "failed")
        elif scene.opened is not None and not scene.finishing:
            scene.finishing = True
            scene.tasks = iter([scene.unit.finish(scene.opened)])

    def _commit(self, scene: _Open, finished: Finished) -> None:
        assert scene.opened is not None
        try:
            wrote = scene.unit.commit(scene.opened, finished)
        except ArchiveError as error:  # every tile is there; the same command will publish them
            scene.reason = f"{type(error).__name__}: {error}"
            refusal = Refusal(scene=scene.unit.scene, collection=scene.unit.collection, reason=scene.reason)
            self._ledger.skipped(refusal)
            self._close(scene, "failed")
            return
        self._report.bytes_written += wrote
        self._close(scene, "published" if wrote or scene.written else "current", finished.figures)

    def _close(
        self,
        scene: _Open,
        status: Literal["published", "current", "failed"],
        figures: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._open.remove(scene)
        del self._by_id[scene.unit.id]
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

    def _say(self, kind: Literal["opened", "block", "tile"], scene: _Open, message: str = "") -> None:
        assert scene.opened is not None
        done, total = len(scene.opened.done) + scene.written, scene.opened.total
        if kind == "block":
            done, total = scene.adapted, scene.opened.blocks
        self._events.append(Event(kind=kind, scene=scene.unit.id, done=done, total=total, message=message))


def _next_task(scene: _Open) -> Any | None:
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


def _put_back(task: Any, tasks: Iterator[Any]) -> Iterator[Any]:
    yield task
    yield from tasks


class Run:
    """A run that has begun: iterate its events, or ``wait`` for its report."""

    def __init__(
        self,
        run_id: str,
        job: Job,
        units: Iterable[Unit | Refusal],
        make: Make[Any, Any],
        engine: Engine,
        *,
        scenes: int | None = None,
        open_scenes: int = 3,
    ) -> None:
        self.scenes = scenes
        """How many units there will be, where that is known beforehand."""
        self.report = RunReport(run=run_id)
        self._root = Root(job.archive)
        self._board = Board(units, self.report, Ledger(self._root, run_id), open_scenes=open_scenes)
        self._start = lambda tasks: engine(
            make, tasks, policy=Policy(deadline_s=job.deadline_s), workers=Workers(count=job.workers)
        )

    def __iter__(self) -> Iterator[Event]:
        begin = time.monotonic()
        yield from self._board.run(self._start)
        self.report.seconds = time.monotonic() - begin
        if self.report.bytes_written:  # a run that wrote nothing leaves nothing
            self._root.put_json(f"runs/{self.report.run}/report.json", self.report.to_dict())

    def wait(self) -> RunReport:
        """Work to the end."""
        for _ in self:
            pass
        return self.report
