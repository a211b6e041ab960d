"""One night: ingest and restore the scenes that are new, replaced or failed before, each once.

    find     every scene that the job's filters match, compared with the state of earlier nights
    freeze   runs/<run>/items.jsonl: the scenes of this night, written before any work begins
    work     ingest, then restore, in two runs with their own logs
    report   runs/<run>/night.json, and the state for the next night: nightly/<name>/scenes.jsonl

Nothing here depends on the clock: a scene is due because its item or the settings have changed since it was last
restored, or because it failed. So the next night catches up a missed one, a wrong clock does no harm, and calling a
killed night again repeats it. A lease in the archive keeps two nights from running at once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import hypermend
from hypermend.catalog.documents import MALFORMED, parse_json, validated
from hypermend.catalog.errors import ArchiveError, NotFound
from hypermend.catalog.readers.scene_reader import READER_VERSION
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac.discover import Skipped
from hypermend.catalog.stac.publish import unsigned_item
from hypermend.catalog.storage.archive_store import ArchiveStore, digest
from hypermend.catalog.storage.leases import Leases
from hypermend.pipeline.config import FILE_FIELDS, NightlyJob
from hypermend.pipeline.ingest import find_scenes, ingest
from hypermend.pipeline.registry.selection import possible
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.restore.make_plan import RESULT_VERSION
from hypermend.pipeline.runs.report import SceneResult, new_run_id, unit_id
from hypermend.pipeline.runs.run import Engine, Run
from hypermend.pipeline.runs.run_log import SEARCH, RunLog, SkippedScene

Why = Literal["new", "replaced", "failed"]
_SEARCH_UNIT = unit_id("", SEARCH)
STALE_HOURS = 48.0
"""A night that has run for longer is reported as a problem."""
_RESULT_SETTINGS = (
    "task",
    "model",
    "scale",
    "destripe",
    "fill_bands",
    "uncertainty",
    "tile_px",
    "bands",
    "gsd_m",
    "guide_collection",
    "budget_steps",
    "budget_seconds",
    *FILE_FIELDS,
)


@dataclass(frozen=True, kw_only=True)
class SceneRecord:
    """State of a scene after the nights so far: a line of nightly/<name>/scenes.jsonl."""

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
class DueScene:
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
    """Restored and published, in this night or before."""
    failed: list[dict[str, Any]] = field(default_factory=list)
    """Scenes that failed and will be tried again."""
    given_up: list[dict[str, Any]] = field(default_factory=list)
    """Scenes that have now failed in as many nights as the job allows."""
    held: list[str] = field(default_factory=list)
    """Scenes that another driver restores at this time; the next night looks again."""
    suppressed: int = 0
    """Scenes given up in an earlier night: tried again when their item changes, or by `hypermend retry`."""
    problem: str = ""
    """A problem beside the scenes that the user must look at."""
    running: str = ""
    """The driver that runs this night already; then this one has done nothing."""
    tiles_written: int = 0
    bytes_written: int = 0
    seconds: float = 0.0
    stopped: bool = False

    @property
    def exit_code(self) -> int:
        """0: the user need do nothing; the next night tries failed scenes again. 1: a scene was given up, nothing at
        all succeeded, or the search died. 130: stopped; call it again.
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
            "given up in earlier nights": self.suppressed,
        }
        counts = ", ".join(f"{n} {name}" for name, n in ends.items() if n)
        return (
            f"{self.found} found, {due}"
            + (f": {counts}" if counts else "")
            + (f"; {self.problem}" if self.problem else "")
        )

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self) | {"exit_code": self.exit_code}
        values["resting"] = values.pop("suppressed")  # the key of every night.json so far
        return values


def nightly(job: NightlyJob, *, engine: Engine | None = None, work: Callable[[Run], object] = Run.wait) -> Night:
    """Run one night.

    Args:
        engine: runs the tasks; None for that of the job.
        work: works a run to its end, perhaps showing it.

    Raises:
        ArchiveError: the archive or the STAC source cannot be read at all.
        BadCheckpoint: there is no such model.
    """
    if job.stac is None:
        hypermend.open(job.archive)  # a misspelt archive is refused before it is made
    root = ArchiveStore(job.archive)
    night = Night(run=new_run_id("nightly"))
    leases = Leases(root, what=night.run)
    key = f"leases/nightly/{job.name}.json"
    if (other := leases.take(key)) is not None:
        hours = (datetime.now(UTC) - datetime.fromisoformat(other.since)).total_seconds() / 3600
        night.running = str(other)
        if hours > STALE_HOURS:
            night.problem = f"it has been running for {hours:.0f} hours: check whether it still makes progress"
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
        self, job: NightlyJob, root: ArchiveStore, night: Night, engine: Engine | None, work: Callable[[Run], object]
    ) -> None:
        self._job, self._root, self._night = job, root, night
        self._engine, self._work = engine, work
        self._state_key = f"nightly/{job.name}/scenes.jsonl"
        self._records = {record.unit: record for record in read_state(root, job.name)}
        self._had_state = bool(self._records)
        self._settings = digest(_settings(job, root))
        self._log = RunLog(root, night.run, job=job.to_record())

    def do(self) -> None:
        due = self._due()
        self._log.flush()
        if not due:
            self._save_state()
            return
        lines = [_item_line(scene) for scene in due]
        self._root.put(f"runs/{self._night.run}/items.jsonl", _jsonl(lines))
        ended = self._ingest(due)
        ingested = {unit for unit, result in ended.items() if result.status in ("published", "current")}
        ready = [d for d in due if d.unit in ingested and d.scene.collection != self._job.guide_collection]
        for scene in ready:  # the result that counts is that of its restoration
            del ended[scene.unit]
        self._settle(due, ended | self._restore(ready))
        self._save_state()

    def _due(self) -> list[DueScene]:
        """The scenes of this night: the new and the replaced first, then those that failed."""
        due: list[DueScene] = []
        seen: set[str] = set()
        for scene in self._all_scenes():
            self._night.found += 1
            if isinstance(scene, Skipped):
                self._bad_item(scene)
                continue
            unit = unit_id(scene.collection, scene.id)
            if unit in seen:
                continue
            seen.add(unit)
            work = digest([unsigned_item(scene), self._settings])
            record = self._records.get(unit)
            if record is None or record.work != work:
                why: Why = "new" if record is None else "replaced"
                due.append(DueScene(scene=scene, why=why, work=work, failures=0))
            elif record.status == "failed" and record.failures < self._job.attempts:
                due.append(DueScene(scene=scene, why="failed", work=work, failures=record.failures))
            elif record.status == "failed":
                self._night.suppressed += 1
        due.sort(key=lambda scene: scene.why == "failed")
        due = due[: self._job.limit]
        for due_scene in due:
            self._night.due[due_scene.why] += 1
        return due

    def _all_scenes(self) -> Iterable[Scene | Skipped]:
        """Every scene that matches. If the search dies, the night reports it and works on the scenes so far."""
        every = self._job.model_copy(update={"limit": None})
        try:
            for scene in find_scenes(every):
                if not self._job.scenes or scene.id in self._job.scenes:
                    yield scene
        except ArchiveError as error:
            self._night.problem = f"the search ended early: {error}"
            self._log.skipped(SkippedScene(scene=SEARCH, reason=self._night.problem))
            self._records[_SEARCH_UNIT] = SceneRecord(
                collection="", scene=SEARCH, work="", status="failed", reason=str(error), run=self._night.run
            )
        else:
            if self._records.pop(_SEARCH_UNIT, None) is not None:
                self._log.current(SkippedScene(scene=SEARCH, reason="this search went to its end"))

    def _bad_item(self, skipped: Skipped) -> None:
        """Count one failure of an item that is no scene, as for a scene that fails."""
        work = digest([skipped.id, skipped.reason])
        record = self._records.get(unit_id("", skipped.id))
        before = record.failures if record is not None and record.work == work else 0
        if before >= self._job.attempts:
            self._night.suppressed += 1
            return
        self._failed("", skipped.id, work, before, skipped.reason)
        self._log.skipped(SkippedScene(scene=skipped.id, reason=skipped.reason))

    def _ingest(self, due: list[DueScene]) -> dict[str, SceneResult]:
        run = ingest(self._job, engine=self._engine, scenes=[d.scene for d in due], run=f"{self._night.run}-ingest")
        return self._run(run)

    def _restore(self, ready: list[DueScene]) -> dict[str, SceneResult]:
        """Restore the ingested scenes, each collection by itself: one id may be in several."""
        ended: dict[str, SceneResult] = {}
        for collection in sorted({d.scene.collection for d in ready}):
            if self._night.stopped:
                break
            ids = tuple(d.scene.id for d in ready if d.scene.collection == collection)
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

    def _settle(self, due: list[DueScene], ended: dict[str, SceneResult]) -> None:
        for d in due:
            result = ended.get(d.unit)
            if result is None:  # stopped before its turn: it stays due
                continue
            if result.status == "held":
                self._night.held.append(d.unit)
            elif result.status in ("failed", "skipped"):
                self._failed(d.scene.collection, d.scene.id, d.work, d.failures, result.reason)
            else:
                self._night.published += 1
                self._records[d.unit] = SceneRecord(
                    collection=d.scene.collection,
                    scene=d.scene.id,
                    work=d.work,
                    status="published",
                    run=self._night.run,
                )

    def _failed(self, collection: str, scene: str, work: str, before: int, reason: str) -> None:
        failures = before + 1
        record = SceneRecord(
            collection=collection,
            scene=scene,
            work=work,
            status="failed",
            failures=failures,
            reason=reason,
            run=self._night.run,
        )
        self._records[record.unit] = record
        line = {"collection": collection, "scene": scene, "nights": failures, "reason": reason}
        (self._night.given_up if failures >= self._job.attempts else self._night.failed).append(line)

    def _save_state(self) -> None:
        rows = [asdict(record) for _, record in sorted(self._records.items())]
        if rows or self._had_state:
            self._root.put_if_changed(self._state_key, _jsonl(rows))


def read_state(root: ArchiveStore, name: str) -> list[SceneRecord]:
    """Read the state that the nights of this name saved; [] before the first, or if it is damaged (all is due)."""
    try:
        lines = root.get(f"nightly/{name}/scenes.jsonl").splitlines()
        return [validated(SceneRecord, parse_json(line)) for line in lines]
    except (NotFound, *MALFORMED):
        return []


def _settings(job: NightlyJob, root: ArchiveStore) -> dict[str, Any]:
    """Settings, weights and versions that make other pixels of the same files."""
    values = job.model_dump(mode="json", include=set(_RESULT_SETTINGS))
    weights = {card.name: card.weights_sha256 for card in possible(job, root)}
    return {**values, "weights": weights, "results": RESULT_VERSION, "reader": READER_VERSION}


def _item_line(due: DueScene) -> dict[str, Any]:
    return {"why": due.why, "failures": due.failures, "work": due.work, "item": unsigned_item(due.scene)}


def _jsonl(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode()
