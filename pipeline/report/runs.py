"""The runs of an archive, from the documents that they leave: no cluster is needed, and a killed run has some, too."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import hypermend
from hypermend.catalog.documents import MALFORMED, parse_json
from hypermend.catalog.errors import ArchiveError, NotFound, Refused, Unreachable
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.runs.report import Status

State = Literal["done", "failures", "stopped", "unfinished"]
"""done: every scene is published; failures: some are not; stopped: by its user; unfinished: at work or killed."""
_STATES: dict[int, State] = {0: "done", 1: "failures", 130: "stopped"}
_NOTHING: Mapping[str, Any] = {}
MOST = 1e18
"""Largest number of a document that is believed: more than bytes of any archive."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run; a night stands for its own runs."""

    run: str
    verb: str
    state: State
    started: str = ""
    """RFC 3339; empty where the id does not say."""
    seconds: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)
    """Scenes by how they ended."""
    tiles: int = 0
    bytes_written: int = 0
    samples: int = 0
    worker_s: float = 0.0
    job: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    scenes: tuple[Mapping[str, Any], ...] = ()
    """Its scene results, as JSON values."""


def list_runs(archive: str) -> Iterator[RunRecord]:
    """Give the runs of an archive, newest first.

    Raises:
        NotFound: no such archive.
    """
    root = hypermend.open(archive).root
    folders = sorted(root.folders("runs"), reverse=True)
    nights = tuple(f"{folder}-" for folder in folders if folder.endswith("-nightly"))
    return (read_run(root, folder) for folder in folders if not folder.startswith(nights))


def find_run(archive: str, run: str) -> RunRecord:
    """Read the run of this id, or the only one whose id begins so.

    Raises:
        NotFound: there is none; or no such archive.
        Refused: several begin so.
    """
    root = hypermend.open(archive).root
    folders = root.folders("runs")
    found = [folder for folder in folders if folder == run] or sorted(f for f in folders if f.startswith(run))
    nights = {folder for folder in found if folder.endswith("-nightly")}
    found = [folder for folder in found if not any(folder.startswith(f"{night}-") for night in nights)]
    if not found:
        raise NotFound(f"{archive} has no run {run!r}; `hypermend runs` lists them")
    if len(found) > 1:
        raise Refused(f"{len(found)} runs begin with {run!r}, such as {found[0]} and {found[1]}; give more of the id")
    return read_run(root, found[0])


def read_run(root: ArchiveStore, run: str) -> RunRecord:
    """Read what a run left; a document that cannot be read counts as missing."""
    if run.endswith("-nightly"):
        return _night(root, run)
    report = document(root, f"runs/{run}/report.json")
    scenes = tuple(scene for scene in _sequence(report, "scenes") if isinstance(scene, Mapping))
    return RunRecord(
        run=run,
        verb=run.rsplit("-", 1)[-1],
        state=_state(report) if report else "unfinished",
        started=_started(run),
        seconds=_number(report, "seconds"),
        counts=_counts(scenes),
        tiles=int(_number(report, "tiles_written")) if report else sum(1 for _ in receipts(root, run)),
        bytes_written=int(_number(report, "bytes_written")),
        samples=int(_number(report, "samples")),
        worker_s=_number(report, "worker_s"),
        job=document(root, f"runs/{run}/job.json"),
        notes=_mapping(report, "notes"),
        scenes=scenes,
    )


def _night(root: ArchiveStore, run: str) -> RunRecord:
    """A night: its own end, and the scenes of its runs; one that was restored is not counted as ingested."""
    night = document(root, f"runs/{run}/night.json")
    folders = [folder for folder in root.folders("runs") if folder.startswith(f"{run}-")]
    parts = [read_run(root, folder) for folder in sorted(folders, key=lambda f: (not f.endswith("-ingest"), f))]
    last = {(str(s.get("collection")), str(s.get("scene"))): s for part in parts for s in part.scenes}
    return RunRecord(
        run=run,
        verb="nightly",
        state=_state(night) if night else "unfinished",
        started=_started(run),
        seconds=_number(night, "seconds") or sum(part.seconds for part in parts),
        counts=_counts(last.values()),
        tiles=sum(part.tiles for part in parts),
        bytes_written=sum(part.bytes_written for part in parts),
        samples=sum(part.samples for part in parts),
        worker_s=sum(part.worker_s for part in parts),
        job=document(root, f"runs/{run}/job.json"),
        notes={k: v for part in parts for k, v in part.notes.items()},
        scenes=tuple(last.values()),
    )


def receipts(root: ArchiveStore, run: str) -> Iterator[Mapping[str, Any]]:
    """Give the receipts of a run, those of a night's runs too; lines that cannot be read are left out."""
    folders = [f for f in root.folders("runs") if f == run or (run.endswith("-nightly") and f.startswith(f"{run}-"))]
    for folder in sorted(folders):
        for entry in sorted(root.list(f"runs/{folder}/receipts"), key=lambda e: e.key):
            try:
                lines = root.get(entry.key).splitlines()
            except Unreachable:
                raise
            except ArchiveError as error:
                log.warning("a log of a run cannot be read (%s)", error)
                continue
            for line in lines:
                try:
                    receipt = parse_json(line)
                except MALFORMED:
                    continue
                if isinstance(receipt, Mapping):
                    yield receipt


def _started(run: str) -> str:
    try:
        return f"{datetime.strptime(run.split('-')[0], '%Y%m%dT%H%M%SZ').replace(tzinfo=UTC):%Y-%m-%dT%H:%M:%SZ}"
    except ValueError:
        return ""


def document(root: ArchiveStore, key: str) -> Mapping[str, Any]:
    """Read a JSON object of a run; one that is missing or damaged counts as empty."""
    try:
        value = root.get_json(key)
    except NotFound:
        return _NOTHING
    except Unreachable:
        raise
    except ArchiveError as error:  # damaged, a link, a FIFO: it costs itself alone
        log.warning("a document of a run cannot be read (%s)", error)
        return _NOTHING
    return value if isinstance(value, Mapping) else _NOTHING


def _state(document: Mapping[str, Any]) -> State:
    code = document.get("exit_code")
    return _STATES.get(code, "failures") if isinstance(code, int) else "failures"


def _counts(scenes: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    statuses = (scene.get("status") for scene in scenes)
    return dict(Counter(s if s in get_args(Status) else "unknown" for s in statuses if isinstance(s, str)))


def _mapping(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key)
    return value if isinstance(value, Mapping) else _NOTHING


def _sequence(document: Mapping[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    return value if isinstance(value, list) else []


def _number(document: Mapping[str, Any], key: str) -> float:
    return number(document.get(key)) or 0.0


def number(value: Any) -> float | None:
    """A JSON value as a number that can be shown and added; None where it is none, not finite, or absurd."""
    return float(value) if isinstance(value, int | float) and abs(value) <= MOST else None
