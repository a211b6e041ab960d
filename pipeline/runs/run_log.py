"""The log of a run: the receipt or failure of every task, one line of JSON each, readable without a cluster."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.engine.outcome import TaskFailure, TaskResult
from hypermend.pipeline.tiling.tiles import Index


@dataclass(frozen=True, kw_only=True)
class TaskReceipt:
    """Receipt of one task: its tiles, times and bytes."""

    tiles: tuple[Index, ...]
    read_s: float
    model_s: float
    write_s: float
    valid_fraction: float
    """Share of usable pixels, 0 to 1."""
    samples: int
    """Bands times pixels written."""
    bytes_written: int
    peak_bytes: int
    """Largest resident size of the worker process so far."""
    saturated: int = 0
    """Numbers beyond the range of the cube's type, stored as its largest or smallest."""
    repaired: int = 0
    """Numbers that were predicted from the other bands of their pixel."""
    block: Index | None = None
    """The adaptation block, where the task adapted one."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Figures of the block: steps, losses, whether it fell back; JSON values."""


SEARCH = "(search)"
"""In place of a scene: the search for scenes itself."""
CURRENT = "current"
"""Kind of a line that is no failure: it ends the failures before it."""


@dataclass(frozen=True, kw_only=True)
class SkippedScene:
    """A scene that never becomes a unit, because of a bad item or an unreachable asset, or that is not published."""

    scene: str
    reason: str
    collection: str | None = None
    """None where it is not known."""


class SceneRef(Protocol):
    """The scene that a line of the log is about."""

    @property
    def collection(self) -> str | None: ...

    @property
    def scene(self) -> str: ...


class RunLog:
    """Receipts and failures of one run: ``runs/<run>/{receipts,failures}/<driver>/<n>.jsonl``.

    Object stores cannot append, so lines are collected into numbered parts. A run that does nothing writes nothing.
    """

    flush_lines = 500
    flush_s = 30.0

    def __init__(self, root: ArchiveStore, run: str, *, job: Mapping[str, Any] | None = None) -> None:
        """Make a log that has written nothing yet.

        Args:
            root: the archive.
            run: id of the run.
            job: the job; stored as ``job.json`` with the first line, so that `hypermend retry` can run it again.
        """
        self._root = root
        self.run = run
        self._job = job
        self._driver = f"{os.uname().nodename}-{os.getpid()}"
        self._lines: dict[str, list[str]] = {"receipts": [], "failures": []}
        self._parts = {"receipts": 0, "failures": 0}
        self._flushed = time.monotonic()

    def receipt(self, scene: SceneRef, receipt: TaskReceipt, outcome: TaskResult[Any, Any]) -> None:
        """Log a task that succeeded."""
        line = {"attempts": outcome.attempts, "node": outcome.node, **asdict(receipt)}
        self._add("receipts", scene, line)

    def failure(self, scene: SceneRef, *, step: str, tiles: Any, outcome: TaskFailure[Any]) -> None:
        """Log a task that failed in ``step``: prepare, adapt, tile or finish."""
        self._add(
            "failures",
            scene,
            {
                "step": step,
                "tiles": tiles,
                "kind": outcome.kind.value,
                "error": outcome.error,
                "message": outcome.message,
                "attempts": outcome.attempts,
                "node": outcome.node,
            },
        )

    def skipped(self, scene: SkippedScene) -> None:
        """Log a scene that is not worked on, or not published."""
        self._add("failures", scene, {"step": "discover", "message": scene.reason})

    def current(self, scene: SkippedScene) -> None:
        """Log that the earlier failures of a scene, or of the search, are over."""
        self._add("failures", scene, {"step": "discover", "kind": CURRENT, "message": scene.reason})

    def _add(self, kind: str, scene: SceneRef, line: dict[str, Any]) -> None:
        line = {
            "run": self.run,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "collection": scene.collection,
            "scene": scene.scene,
            **line,
        }
        self._lines[kind].append(json.dumps(line))
        if len(self._lines[kind]) >= self.flush_lines or time.monotonic() - self._flushed > self.flush_s:
            self.flush()

    def flush(self) -> None:
        """Write the lines collected so far, one object for each kind."""
        if self._job is not None and any(self._lines.values()):
            self._root.put_json(f"runs/{self.run}/job.json", self._job)
            self._job = None
        for kind, lines in self._lines.items():
            if lines:
                key = f"runs/{self.run}/{kind}/{self._driver}/{self._parts[kind]:06d}.jsonl"
                self._root.put(key, ("\n".join(lines) + "\n").encode())
                self._parts[kind] += 1
                lines.clear()
        self._flushed = time.monotonic()
