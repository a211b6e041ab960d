"""One night: what is new, replaced or failed before goes from its files to its restored cube; once.

    find     every scene that the job's filters match, compared with what earlier nights remember   -> todo
    freeze   runs/<run>/items.jsonl: what this night covers, written before any work begins
    work     ingest, then restore, in two runs with their own ledgers
    say      runs/<run>/night.json, and what the next night must know: nightly/<name>/scenes.jsonl

Nothing here looks at the clock: a scene is due because its item, or the settings, are others than when it was last
restored, or because it failed. So a missed night is caught up by the next, a wrong clock does no harm, and a night that
was killed is repeated by calling it again. Two never run at once: a lease in the archive sees to that.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from hypermend.catalog.errors import ArchiveError, NotFound
from hypermend.catalog.readers.scene_reader import READER_VERSION
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac.discover import Skipped
from hypermend.catalog.stac.publish import unsigned_item
from hypermend.catalog.storage.archive_store import ArchiveStore, digest
from hypermend.catalog.storage.leases import Leases
from hypermend.pipeline.config import NightlyJob
from hypermend.pipeline.engine.ray_actors import on_ray
from hypermend.pipeline.ingest import find_scenes, ingest
from hypermend.pipeline.registry.selection import possible
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.restore.make_plan import RESULT_VERSION
from hypermend.pipeline.runs.report import SceneResult, new_run_id, unit_id
from hypermend.pipeline.runs.run import Engine, Run

Why = Literal["new", "replaced", "failed"]
STUCK_HOURS = 48.0
_OF_RESULTS = (
    "task",
    "model",
    "scale",
    "tile_px",
    "bands",
    "gsd_m",
    "guide_collection",
    "budget_steps",
    "budget_seconds",
)


@dataclass(frozen=True, kw_only=True)
class Known:
    """What earlier nights know of a scene."""

    collection: str
    scene: str
    work: str
    """Hash of its item and of the settings when it was last tried."""
    status: Literal["published", "failed"]
    failures: int = 0
    """Nights in a row in which this work failed."""
    reason: str = ""
    run: str = ""

    @property
    def unit(self) -> str:
        return unit_id(self.collection, self.scene)


@dataclass(frozen=True, kw_only=True)
class Due:
    """A scene of this night."""

    scene: Scene
    why: Why
    work: str
    failures: int

    @property
    def unit(self) -> str:
        return unit_id(self.scene.collection, self.scene.id)


@dataclass(kw_only=True)
class Night:
    """How a night ended."""

    run: str
    found: int = 0
    """Scenes that the filters match."""
    due: dict[str, int] = field(default_factory=lambda: {"new": 0, "replaced": 0, "failed": 0})
    published: int = 0
    """Restored and published, or found to be so."""
    failed: list[dict[str, Any]] = field(default_factory=list)
    """Scenes that failed and will be tried again."""
    given_up: list[dict[str, Any]] = field(default_factory=list)
    """Scenes whose last try this night was."""
    held: list[str] = field(default_factory=list)
    """Scenes that another driver is at work on; the next night looks again."""
    resting: int = 0
    """Scenes given up in an earlier night: tried again when their item changes, or by `hypermend retry`."""
    problem: str = ""
    """What a person should know beside the scenes."""
    running: str = ""
    """Who runs this night already, where one does; then nothing was done."""
    tiles_written: int = 0
    bytes_written: int = 0
    seconds: float = 0.0
    stopped: bool = False

    @property
    def exit_code(self) -> int:
        """0: nothing for a person to do, failures that the next night tries again included. 1: a scene was given up,
        nothing at all succeeded, or the search died. 130: stopped; call it again.
        """
        if self.stopped:
            return 130
        nothing_works = bool(self.failed) and not self.published
        return int(bool(self.given_up) or bool(self.problem) or nothing_works)

    def line(self) -> str:
        """The night in one line."""
        if self.running:
            return f"nothing done: this night is already running: {self.running}"
        due = ", ".join(f"{n} {why}" for why, n in self.due.items() if n) or "nothing due"
        ends = {
            "published": self.published,
            "failed, to be tried again": len(self.failed),
            "given up": len(self.given_up),
            "held by another driver": len(self.held),
            "given up in earlier nights": self.resting,
        }
        told = ", ".join(f"{n} {name}" for name, n in ends.items() if n)
        return (
            f"{self.found} found, {due}" + (f": {told}" if told else "") + (f"; {self.problem}" if self.problem else "")
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"exit_code": self.exit_code}


def nightly(job: NightlyJob, *, engine: Engine = on_ray, work: Callable[[Run], object] = Run.wait) -> Night:
    """Do one night.

    Args:
        work: works a run to its end, perhaps showing it.

    Raises:
        ArchiveError: the archive or the STAC source cannot be read at all.
        BadCheckpoint: there is no such model.
    """
    root = ArchiveStore(job.archive)
    night = Night(run=new_run_id("nightly"))
    leases = Leases(root, what=night.run)
    key = f"leases/nightly/{job.name}.json"
    if (other := leases.take(key)) is not None:
        hours = (datetime.now(UTC) - datetime.fromisoformat(other.since)).total_seconds() / 3600
        night.running = str(other)
        if hours > STUCK_HOURS:
            night.problem = f"it has been running for {hours:.0f} hours: look whether it still gets on"
        return night
    begin = time.monotonic()
    try:
        _Night(job, root, night, engine, work).do()
    finally:
        leases.close()
    night.seconds = time.monotonic() - begin
    if night.bytes_written or night.failed or night.given_up or night.problem:
        root.put_json(f"runs/{night.run}/night.json", night.to_dict())
    return night


class _Night:
    def __init__(
        self, job: NightlyJob, root: ArchiveStore, night: Night, engine: Engine, work: Callable[[Run], object]
    ) -> None:
        self._job, self._root, self._night = job, root, night
        self._engine, self._work = engine, work
        self._table = f"nightly/{job.name}/scenes.jsonl"
        self._known = {known.unit: known for known in read_table(root, job.name)}
        self._settings = digest(_settings(job, root))

    def do(self) -> None:
        due = self._due()
        if not due:
            self._remember()
            return
        lines = [_frozen(one) for one in due]
        self._root.put(f"runs/{self._night.run}/items.jsonl", _jsonl(lines))
        ended = self._ingest(due)
        well = [
            one for one in due if (end := ended.get(one.unit)) is not None and end.status in ("published", "current")
        ]
        ready = [one for one in well if one.scene.collection != self._job.guide_collection]
        for one in ready:  # what counts is how its restoration ends
            del ended[one.unit]
        self._settle(due, ended | self._restore(ready))
        self._remember()

    def _due(self) -> list[Due]:
        """What this night covers: the new and the replaced first, then what failed."""
        due: list[Due] = []
        seen: set[str] = set()
        for found in self._found():
            self._night.found += 1
            if isinstance(found, Skipped):
                self._bad_item(found)
                continue
            unit = unit_id(found.collection, found.id)
            if unit in seen:
                continue
            seen.add(unit)
            work = digest([unsigned_item(found), self._settings])
            known = self._known.get(unit)
            if known is None or known.work != work:
                due.append(Due(scene=found, why="new" if known is None else "replaced", work=work, failures=0))
            elif known.status == "failed" and known.failures < self._job.attempts:
                due.append(Due(scene=found, why="failed", work=work, failures=known.failures))
            elif known.status == "failed":
                self._night.resting += 1
        due.sort(key=lambda one: one.why == "failed")
        due = due[: self._job.limit]
        for one in due:
            self._night.due[one.why] += 1
        return due

    def _found(self) -> Iterable[Scene | Skipped]:
        """Every scene there is; a search that dies on the way is a problem, and what it had found is worked on."""
        every = self._job.model_copy(update={"limit": None})
        try:
            for found in find_scenes(every):
                if not self._job.scenes or found.id in self._job.scenes:
                    yield found
        except ArchiveError as error:
            self._night.problem = f"the search ended early: {error}"

    def _bad_item(self, skipped: Skipped) -> None:
        """An item that is no scene: one try a night, like a scene that fails."""
        work = digest([skipped.id, skipped.reason])
        known = self._known.get(unit_id("", skipped.id))
        before = known.failures if known is not None and known.work == work else 0
        if before >= self._job.attempts:
            self._night.resting += 1
            return
        self._failed("", skipped.id, work, before, skipped.reason)

    def _ingest(self, due: list[Due]) -> dict[str, SceneResult]:
        run = ingest(self._job, engine=self._engine, scenes=[one.scene for one in due], run=f"{self._night.run}-ingest")
        return self._run(run)

    def _restore(self, ready: list[Due]) -> dict[str, SceneResult]:
        """Restore what was ingested, each collection by itself: one id may be in several."""
        ended: dict[str, SceneResult] = {}
        for collection in sorted({one.scene.collection for one in ready}):
            if self._night.stopped:
                break
            ids = tuple(one.scene.id for one in ready if one.scene.collection == collection)
            # The scenes are named: no filter may lose one of them.
            plain = {"bbox": None, "datetime": None, "sensor": None, "scenes": ids, "collections": (collection,)}
            run_id = f"{self._night.run}-{digest(collection)[:6]}-restore"
            try:
                run = restore(self._job.model_copy(update=plain), engine=self._engine, run=run_id)
            except ArchiveError as error:
                failed = [SceneResult(scene=i, collection=collection, status="failed", reason=str(error)) for i in ids]
                ended |= {result.unit: result for result in failed}
                continue
            ended |= self._run(run)
        return ended

    def _run(self, run: Run) -> dict[str, SceneResult]:
        self._work(run)
        self._night.tiles_written += run.report.tiles_written
        self._night.bytes_written += run.report.bytes_written
        self._night.stopped |= run.report.stopped
        if "stopped" in run.report.notes:
            self._night.problem = str(run.report.notes["stopped"])
        return {result.unit: result for result in run.report.scenes}

    def _settle(self, due: list[Due], ended: dict[str, SceneResult]) -> None:
        for one in due:
            result = ended.get(one.unit)
            if result is None:  # stopped before its turn: it stays due
                continue
            if result.status == "held":
                self._night.held.append(one.unit)
            elif result.status in ("failed", "skipped"):
                self._failed(one.scene.collection, one.scene.id, one.work, one.failures, result.reason)
            else:
                self._night.published += 1
                self._known[one.unit] = Known(
                    collection=one.scene.collection,
                    scene=one.scene.id,
                    work=one.work,
                    status="published",
                    run=self._night.run,
                )

    def _failed(self, collection: str, scene: str, work: str, before: int, reason: str) -> None:
        known = Known(
            collection=collection,
            scene=scene,
            work=work,
            status="failed",
            failures=before + 1,
            reason=reason,
            run=self._night.run,
        )
        self._known[known.unit] = known
        said = {"collection": collection, "scene": scene, "nights": known.failures, "reason": reason}
        (self._night.given_up if known.failures >= self._job.attempts else self._night.failed).append(said)

    def _remember(self) -> None:
        rows = [asdict(known) for _, known in sorted(self._known.items())]
        if rows:
            self._root.put_if_changed(self._table, _jsonl(rows))


def read_table(root: ArchiveStore, name: str) -> list[Known]:
    """What the nights of this name remember; nothing before the first, or where the table is damaged (all is due)."""
    try:
        return [Known(**json.loads(line)) for line in root.get(f"nightly/{name}/scenes.jsonl").splitlines()]
    except (NotFound, ValueError, TypeError):
        return []


def _settings(job: NightlyJob, root: ArchiveStore) -> dict[str, Any]:
    """Whatever makes other pixels of the same files."""
    values = job.model_dump(mode="json", include=set(_OF_RESULTS))
    weights = {card.name: card.weights_sha256 for card in possible(job, root)}
    return {**values, "weights": weights, "results": RESULT_VERSION, "reader": READER_VERSION}


def _frozen(one: Due) -> dict[str, Any]:
    return {"why": one.why, "failures": one.failures, "work": one.work, "item": unsigned_item(one.scene)}


def _jsonl(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode()
