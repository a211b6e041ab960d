"""A run: one dispatcher for many scenes. Their tiles are interleaved, and a scene is committed after its last tile.

Each scene passes through four steps (``runs/unit.py``). All but the last run in a worker, so the driver never holds a
pixel. Ingest and restoration are two implementations of ``Unit``. What they share is here and in the scheduler: resume,
leases, the log of receipts and failures, progress, and the exit code.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.catalog.storage.leases import Leases
from hypermend.pipeline.config import Job
from hypermend.pipeline.engine.child_process import in_child
from hypermend.pipeline.engine.outcome import HandlerFactory, Outcome, Policy, Workers
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.runs.report import Event, RunReport
from hypermend.pipeline.runs.run_log import RunLog, SkippedScene
from hypermend.pipeline.runs.scene_leases import SceneLeases
from hypermend.pipeline.runs.scheduler import SceneScheduler
from hypermend.pipeline.runs.unit import Unit


class Engine(Protocol):
    """An engine: ``serial``, ``in_child`` or ``on_ray``."""

    def __call__(
        self, factory: HandlerFactory[Any, Any], tasks: Iterator[Any], *, policy: Policy, workers: Workers
    ) -> Iterator[Outcome[Any, Any]]: ...


JOIN_S = 900.0
"""Longest wait for a cluster's first machine: those of clouds start in two to ten minutes, if there are any."""


def workers_of(job: Job) -> Workers:
    """Return what the job requests of the cluster, apart from memory, which the restoration works out."""
    return Workers(
        count=job.workers,
        gpus=job.gpus_per_worker,
        max_gpus=job.max_gpus,
        lane=job.lane,
        join_s=0.0 if job.ray_address is None else JOIN_S,
    )


class Run:
    """A run in progress: iterate its events, or ``wait`` for its report."""

    def __init__(
        self,
        run_id: str,
        job: Job,
        units: Iterable[Unit | SkippedScene],
        factory: HandlerFactory[Any, Any],
        engine: Engine,
        *,
        scenes: int | None = None,
        open_scenes: int = 3,
        lease: str | None = None,
        workers: Workers | None = None,
    ) -> None:
        """Set up a run; nothing starts before its events are iterated.

        Args:
            run_id: names the run in the archive.
            job: archive, deadline and workers of the run; logged with it.
            units: the scenes.
            factory: builds the handler of tasks in each worker.
            engine: runs the tasks.
            scenes: number of units, where it is known beforehand.
            open_scenes: how many scenes may be open at a time.
            lease: kind of the lease on each scene (``SceneLeases``); None for no leases.
            workers: None for what the job requests.
        """
        self.scenes = scenes
        self.uses_ray = engine not in (serial, in_child)
        self.report = RunReport(run=run_id)
        self._job = job
        self._root = ArchiveStore(job.archive)
        leases = None if lease is None else SceneLeases(Leases(self._root, what=run_id), lease)
        run_log = RunLog(self._root, run_id, job=job.to_record())
        self._scheduler = SceneScheduler(units, self.report, run_log, open_scenes=open_scenes, leases=leases)
        requested = workers or workers_of(job)
        self._work = lambda tasks: engine(factory, tasks, policy=Policy(deadline_s=job.deadline_s), workers=requested)

    def __iter__(self) -> Iterator[Event]:
        """Work to the end, one event after the other."""
        start = time.monotonic()
        yield from self._scheduler.run(self._work)
        self.report.seconds = time.monotonic() - start
        failed = any(scene.status in ("failed", "skipped") for scene in self.report.scenes)
        if (self.report.bytes_written or failed) and "stopped" not in self.report.notes:  # else it leaves nothing
            self._root.put_json(f"runs/{self.report.run}/report.json", self.report.to_dict())

    def stop(self) -> None:
        """Start no further task; the tiles in flight are finished, and the same command resumes the run later."""
        self._scheduler.stop()

    def wait(self) -> RunReport:
        """Work to the end and return the report."""
        for _ in self:
            pass
        return self.report
