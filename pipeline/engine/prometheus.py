"""Metrics of a run, exported to Prometheus through Ray: tasks by class and end, seconds, tiles, bytes, workers.

Ray serves them on the metrics port of every node (``ray_hypermend_...``); deploy/grafana.json draws them.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from ray.util import metrics

from hypermend.pipeline.engine.outcome import TaskFailure, TaskResult

SECONDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0]
SEND_S = 2.0


class RunMetrics:
    """Metrics of one run. Sums are sent every two seconds: a call to Ray costs as much as a small task."""

    def __init__(self) -> None:
        self._tasks = metrics.Counter("hypermend_tasks", "Tasks that ended.", tag_keys=("task", "end"))
        self._tiles = metrics.Counter("hypermend_tiles", "Tiles written.")
        self._bytes = metrics.Counter("hypermend_bytes_written", "Bytes of cubes written.")
        self._deaths = metrics.Counter("hypermend_workers_lost", "Workers that died.", tag_keys=("with",))
        self._workers = metrics.Gauge("hypermend_workers", "Workers of this run.")
        self._seconds = metrics.Histogram(
            "hypermend_task_seconds", "Time of a task that took 0.1 s or more.", boundaries=SECONDS, tag_keys=("task",)
        )
        self._sums: Counter[tuple[str, str]] = Counter()
        self._written: Counter[str] = Counter()
        self._sent = 0.0

    def add_task(self, outcome: TaskResult[Any, Any] | TaskFailure[Any]) -> None:
        """Count a task that ended. Its label is the name of its class: dashboards and alerts query by it."""
        task = type(outcome.task).__name__
        if isinstance(outcome, TaskResult):
            self._sums[task, "done"] += 1
            self._written["tiles"] += len(getattr(outcome.result, "tiles", ()))
            self._written["bytes"] += getattr(outcome.result, "bytes_written", 0)
            if outcome.seconds >= SECONDS[0]:
                self._seconds.observe(outcome.seconds, tags={"task": task})
        else:
            self._sums[task, outcome.kind.value] += 1
        if time.monotonic() - self._sent > SEND_S:
            self._send()

    def add_death(self, lost: str) -> None:
        """Count a worker that died: ``lost`` is "machine", or "process" where the machine lives on."""
        self._deaths.inc(tags={"with": lost})

    def set_workers(self, count: int) -> None:
        self._workers.set(count)
        self._send()

    def _send(self) -> None:
        self._sent = time.monotonic()
        for (task, end), count in self._sums.items():
            self._tasks.inc(count, tags={"task": task, "end": end})
        for counter, name in ((self._tiles, "tiles"), (self._bytes, "bytes")):
            if self._written[name]:
                counter.inc(self._written[name])
        self._sums.clear()
        self._written.clear()
