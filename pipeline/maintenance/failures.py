"""Failures of an archive, read from the logs of all runs without a cluster, and the jobs that retry them."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import hypermend
from hypermend.catalog.documents import MALFORMED, parse_json, validated, visible
from hypermend.catalog.errors import ArchiveError, Unreachable
from hypermend.catalog.stac.fields import parse_time
from hypermend.catalog.storage.archive_store import ArchiveStore, NotJson
from hypermend.pipeline.config import BadJob, IngestJob, Job, NightlyJob, RestoreJob, parse
from hypermend.pipeline.runs.report import RunReport
from hypermend.pipeline.runs.run_log import CURRENT, SEARCH

log = logging.getLogger(__name__)
_KINDS: dict[str, type[Job]] = {kind.__name__: kind for kind in (IngestJob, RestoreJob, NightlyJob)}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One line of a run log: a tile, a block, or a scene, that failed."""

    run: str
    time: str
    collection: str | None
    scene: str
    step: str
    """discover, prepare, adapt, tile or finish"""
    message: str
    kind: str = "refused"
    """error, crash, deadline or memory; refused where the scene was not worked on; current where a retry found nothing
    left to do, which is not a failure and resolves those before it"""
    error: str = ""
    """Class of the exception."""
    tiles: tuple[tuple[int, int], ...] = ()
    attempts: int = 0
    node: str = ""
    open: bool = True
    """True while the scene has not been published since, nor been found current by a retry."""

    @property
    def verb(self) -> str:
        return "ingest" if self.run.endswith(("-ingest", "-nightly")) else "restore"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        where = f"{self.collection}/{self.scene}" if self.collection else self.scene
        tiles = f" tile {', '.join(f'{iy}-{ix}' for iy, ix in self.tiles[:4])}" if self.tiles else ""
        more = f" and {len(self.tiles) - 4} more" if len(self.tiles) > 4 else ""
        tried = f" after {self.attempts} tries" if self.attempts > 1 else ""
        return visible(f"{self.time}  {self.kind:8}  {where}{tiles}{more}, {self.step}{tried}: {self.message}")


def failures(
    archive: str,
    *,
    run: str | None = None,
    scene: str | None = None,
    reason: str | None = None,
    include_published: bool = False,
) -> list[Failure]:
    """List failures, oldest first.

    Args:
        archive: folder or URL.
        run: only those of this run; its id or a prefix of it.
        scene: only those of this scene.
        reason: only those of this kind or class of error, or with this text in the message.
        include_published: also those whose scene has been published since.

    Raises:
        NotFound: no such archive.
    """
    opened = hypermend.open(archive)
    lines = list(_lines(opened.root))
    selected = [
        failure
        for failure in lines
        if failure.kind != CURRENT
        and failure.run.startswith(run or "")
        and (scene is None or failure.scene == scene)
        and (reason is None or reason in (failure.kind, failure.error) or reason.lower() in failure.message.lower())
    ]
    published = _published(opened, sorted({failure.scene for failure in selected}))
    for line in lines:
        if line.kind == CURRENT:
            published.setdefault((line.verb, line.scene), []).append(_time(line))
    checked = [
        Failure(**(asdict(failure) | {"open": not _since(published, failure)}))
        for failure in sorted(selected, key=lambda f: (f.time, f.run))
    ]
    return [failure for failure in checked if include_published or failure.open]


def record_current(archive: str, report: RunReport) -> None:
    """Log which scenes a retry found current: their failures came after they had been published."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    lines = [
        {"run": report.run, "time": now, "collection": r.collection, "scene": r.scene, "step": "prepare",
         "kind": CURRENT, "message": "nothing was left to do"}
        for r in report.scenes if r.status == "current"
    ]  # fmt: skip
    if lines:
        ArchiveStore(archive).put(
            f"runs/{report.run}/failures/current.jsonl", "\n".join(map(json.dumps, lines)).encode()
        )


def _lines(root: ArchiveStore) -> Iterator[Failure]:
    for folder in root.folders("runs"):
        for entry in sorted(root.list(f"runs/{folder}/failures"), key=lambda e: e.key):
            try:
                texts = root.get(entry.key).splitlines()
            except Unreachable:
                raise
            except ArchiveError as error:  # a link, a FIFO
                log.warning("a log of failures cannot be read (%s)", error)
                continue
            for text in texts:
                try:
                    line = validated(Failure, parse_json(text))
                    _time(line)
                except MALFORMED as error:
                    log.warning("a line of %s cannot be read (%s)", root.href(entry.key), error)
                    continue
                yield line


def _published(archive: hypermend.Archive, scenes: list[str]) -> dict[tuple[str, str], list[datetime]]:
    """Map (verb, scene) to the times at which its cubes were published."""
    published: dict[tuple[str, str], list[datetime]] = {}
    for stage, verb in (("source", "ingest"), ("restored", "restore")) if scenes else ():
        for item in archive.search(stage=stage, ids=scenes):
            with contextlib.suppress(*MALFORMED):  # an item that does not say when publishes nothing since
                when = parse_time(item.scene.properties["updated"])
                published.setdefault((verb, item.scene.id), []).append(when)
    return published


def _since(published: dict[tuple[str, str], list[datetime]], failure: Failure) -> bool:
    failed = _time(failure)
    return any(when >= failed for when in published.get((failure.verb, failure.scene), ()))


def _time(line: Failure) -> datetime:
    return datetime.fromisoformat(line.time).astimezone(UTC)


def jobs_to_retry(archive: str, failed: list[Failure]) -> list[Job]:
    """Make the jobs that retry these failures: the jobs of their runs, without duplicates, limited to their scenes.

    A job does only what is missing: for a scene with one failed tile, that tile.

    Raises:
        BadJob, NotJson: no run has a stored job (an earlier version ran it) that can be read. One that has none beside
            others is a warning.
    """
    root = ArchiveStore(archive)
    scenes: dict[str, tuple[type[Job], dict[str, Any], set[str]]] = {}
    problems: dict[str, Exception] = {}
    for failure in failed:
        if failure.scene == SEARCH:
            continue
        try:
            kind, record = _job_record(root, failure.run)
        except (NotJson, BadJob) as error:
            problems[failure.run] = error
            continue
        if failure.verb == "restore" and issubclass(kind, NightlyJob):
            kind, record = RestoreJob, {k: v for k, v in record.items() if k in RestoreJob.model_fields}
        elif issubclass(kind, NightlyJob):
            kind, record = IngestJob, {k: v for k, v in record.items() if k in IngestJob.model_fields}
        key = json.dumps([kind.__name__, {k: v for k, v in record.items() if k != "scenes"}], sort_keys=True)
        scenes.setdefault(key, (kind, record, set()))[2].add(failure.scene)
    jobs = []
    for kind, record, ids in scenes.values():
        narrowed = {**record, "archive": archive} | ({"scenes": tuple(sorted(ids))} if kind is RestoreJob else {})
        try:
            jobs.append(parse(kind, narrowed, where="the run's job.json"))
        except BadJob as error:  # of another version, or damaged
            problems[", ".join(sorted(ids))] = error
    for problem in problems.values():
        if not jobs:
            raise problem
        log.warning("%s", problem)
    return jobs


def _job_record(root: ArchiveStore, run: str) -> tuple[type[Job], dict[str, Any]]:
    key = f"runs/{run}/job.json"
    if not root.exists(key):
        raise BadJob(f"{root.href(key)} is not there: run the job of {run} again by hand")
    record = root.get_document(key, lambda value: {**value})
    kind = _KINDS.get(str(record.pop("job", "")), RestoreJob)
    # Whoever may write the archive must not choose the cluster that this machine joins, nor a file that it reads.
    record.pop("ray_address", None)
    if isinstance(record.get("wavelengths"), str):
        raise BadJob(f"{root.href(key)} names a file of wavelengths; run its job again by hand")
    return kind, record
