"""A run: one dispatcher for many scenes. Their tiles are interleaved, and a scene is committed when its last is done.

Each scene walks through four steps (``pipeline.unit``). All but the last run in a worker, so the driver never holds a
pixel. Ingest and restoration are two ``Unit``s of this walk; whatever else they share is here and in ``board``: resume,
leases, the ledger of receipts and failures, progress, and what the exit code will be.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.catalog.storage.leases import Leases
from hypermend.pipeline.config import Job
from hypermend.pipeline.engine.outcome import HandlerFactory, Outcome, Policy, Workers
from hypermend.pipeline.runs.report import Event, RunReport
from hypermend.pipeline.runs.run_log import RunLog, SkippedScene
from hypermend.pipeline.runs.scene_leases import SceneLeases
from hypermend.pipeline.runs.scheduler import SceneScheduler
from hypermend.pipeline.runs.unit import Unit


class Engine(Protocol):
    """``serial`` or ``on_ray``."""

    def __call__(
        self, make: HandlerFactory[Any, Any], tasks: Iterator[Any], *, policy: Policy, workers: Workers
    ) -> Iterator[Outcome[Any, Any]]: ...


JOIN_S = 900.0
"""Machines of clouds start in two to ten minutes, if there are any."""


def workers_of(job: Job) -> Workers:
    """What the job asks the cluster for; its memory is the restoration's to know."""
    return Workers(
        count=job.workers,
        gpus=job.gpus_per_worker,
        max_gpus=job.max_gpus,
        lane=job.lane,
        join_s=0.0 if job.ray_address is None else JOIN_S,
    )


class Run:
    """A run that has begun: iterate its events, or ``wait`` for its report."""

    def __init__(
        self,
        run_id: str,
        job: Job,
        units: Iterable[Unit | SkippedScene],
        make: HandlerFactory[Any, Any],
        engine: Engine,
        *,
        scenes: int | None = None,
        open_scenes: int = 3,
        lease: str | None = None,
        workers: Workers | None = None,
    ) -> None:
        """
        Args:
            lease: what is done to each scene, where one driver at a time may do it; None for no leases.
            workers: None for as many as the job says.
        """
        self.scenes = scenes
        """How many units there will be, where that is known beforehand."""
        self.report = RunReport(run=run_id)
        self._job = job
        self._root = ArchiveStore(job.archive)
        hold = None if lease is None else SceneLeases(Leases(self._root, what=run_id), lease)
        ledger = RunLog(self._root, run_id, job=job.to_record())
        self._board = SceneScheduler(units, self.report, ledger, open_scenes=open_scenes, hold=hold)
        asked = workers or workers_of(job)
        self._start = lambda tasks: engine(make, tasks, policy=Policy(deadline_s=job.deadline_s), workers=asked)

    def __iter__(self) -> Iterator[Event]:
        begin = time.monotonic()
        yield from self._board.run(self._start)
        self.report.seconds = time.monotonic() - begin
        if self.report.bytes_written and "stopped" not in self.report.notes:  # a run that wrote nothing leaves nothing
            self._root.put_json(f"runs/{self.report.run}/report.json", self.report.to_dict())

    def stop(self) -> None:
        """Begin nothing more; the tiles in flight are finished, and the same command goes on later."""
        self._board.stop()

    def wait(self) -> RunReport:
        """Work to the end."""
        for _ in self:
            pass
        return self.report
