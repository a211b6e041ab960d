"""`hypermend train`: source cubes of an archive -> a model that `restore` finds, on Ray Train.

Ray Train starts the workers, connects them (gloo on CPUs, nccl on GPUs) and starts them again when one dies. The
archive's own records (`checkpoints.py`) say where the training stands, so it resumes in the same way after a worker or
the driver was killed, and on another machine: by the same command.
"""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.queue import Queue

from hypermend.catalog.errors import Refused
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.catalog.storage.cube_leases import reading
from hypermend.pipeline.config import TrainJob
from hypermend.pipeline.engine.cluster import start_ray
from hypermend.pipeline.train.checkpoints import Line, TrainingState, TrainingStopped, TrainingStore
from hypermend.pipeline.train.make_plan import plan_training
from hypermend.pipeline.train.plan import TrainPlan
from hypermend.pipeline.train.publish import publish, published
from hypermend.pipeline.train.tensorboard import TensorBoardWriter
from hypermend.pipeline.train.worker import WorkerGroup, cpu_has_bf16, work

MAX_DEATHS = 3
"""Number of workers that may die before Ray gives the training up; the same command still resumes it."""
Show = Callable[[Line], None]


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """Result of a training."""

    training: str
    model: str | None
    """Key in the archive; None where there is none."""
    state: str
    """finished, current (there was nothing to do), diverged or failed."""
    steps: int
    seconds: float
    psnr_db: float | None
    scenes: dict[str, Any]
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)


def train(job: TrainJob, show: Show) -> TrainReport:
    """Train to the end, or resume; `show` gets each line of metrics as it comes.

    Raises:
        Refused: as `plan_training`, a name that is taken, or more workers than the cluster has room for.
    """
    plan = plan_training(job)
    root = ArchiveStore(job.archive)
    ledger = TrainingStore(root, plan.folder)
    if job.bf16 and not job.gpus and not cpu_has_bf16():
        raise Refused("--bf16: this CPU has no bfloat16 units, training would be 35 times slower; leave it out")
    board = TensorBoardWriter(job.tensorboard, plan.id) if job.tensorboard else None
    was_there = published(root, job.name, plan)
    record = ledger.read() or TrainingState()
    reason = ""
    if record.state == "running":
        root.put_json(f"{plan.folder}/plan.json", plan.to_dict())
        with reading(root, plan.cubes, what=f"training {plan.id}"):
            reason = _on_ray(job, root, plan, ledger, _Follower(ledger, show, board))
        record = ledger.read() or record
    elif board:
        board.show(ledger.lines())
    if board:
        board.close()
    if record.state == "finished":
        try:
            if not was_there:
                publish(root, job.name, plan, ledger, record)
            ledger.forget(record)
        except TrainingStopped as stopped:
            return _report(plan, record, None, "failed", str(stopped))
        return _report(plan, record, f"models/{job.name}", "current" if was_there else "finished", record.reason)
    return _report(plan, record, None, "diverged" if record.state == "diverged" else "failed", record.reason or reason)


def _report(plan: TrainPlan, record: TrainingState, model: str | None, state: str, reason: str) -> TrainReport:
    best = record.best
    return TrainReport(
        training=plan.id,
        model=model,
        state=state,
        steps=best.step if best else 0,
        seconds=best.seconds if best else 0.0,
        psnr_db=record.psnr_db,
        scenes=dict(record.scores),
        reason=reason,
    )


class _Follower:
    """Shows each line of metrics once, as worker 0 sends it.

    Lines come through a queue, which outlives workers that Ray starts again. The archive is read twice only: for the
    lines before, and at the end for those that were lost on the way.
    """

    def __init__(self, store: TrainingStore, show: Show, board: TensorBoardWriter | None) -> None:
        self._store, self._show, self._board = store, show, board
        self._last = 0
        self.queue: Any = None
        """None before `__enter__`: it is an actor, and so needs Ray."""
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> None:
        earlier = self._store.lines()
        self._last = earlier[-1]["step"] if earlier else 0
        if self._board:
            self._board.show(earlier)
        self.queue = Queue(actor_options={"num_cpus": 0})
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        with suppress(RayError):
            self.queue.put(None)
        self._thread.join()
        self._take(self._store.lines())
        self.queue.shutdown()

    def _follow(self) -> None:
        with suppress(RayError):
            while (line := self.queue.get()) is not None:
                self._take([line])

    def _take(self, lines: Sequence[Line]) -> None:
        new = [line for line in lines if line["step"] > self._last]
        for line in new:
            self._show(line)
            self._last = line["step"]
        if self._board:
            self._board.show(new)


def _on_ray(job: TrainJob, root: ArchiveStore, plan: TrainPlan, ledger: TrainingStore, follower: _Follower) -> str:
    """Train on the cluster; returns why it stopped, or nothing."""
    os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
    from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.exceptions import TrainingFailedError
    from ray.train.v2.torch.torch_trainer import TorchTrainer

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    start_ray(address=job.ray_address)
    workers, cpus = _room(job, plan)
    driver = secrets.token_hex(8)
    ledger.take(driver)
    with tempfile.TemporaryDirectory(prefix="hypermend-train-") as scratch, follower:
        config = {
            "archive": root.url,
            "plan": f"{plan.folder}/plan.json",
            "driver": driver,
            "threads": cpus,
            "lines": follower.queue,
        }
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config=config,
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=job.gpus, resources_per_worker={"CPU": cpus, "GPU": int(job.gpus)}
            ),
            run_config=RunConfig(
                name=plan.id,
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=MAX_DEATHS),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )
        try:
            result: Any = trainer.fit()
        except TrainingFailedError as error:
            return _last_words(error)
    return str(result.return_value or "")


def _room(job: TrainJob, plan: TrainPlan) -> tuple[int, int]:
    """Choose the number of workers, and of CPUs for each."""
    cluster: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus, gpus = int(cluster.get("CPU", 1)), int(cluster.get("GPU", 0))
    most = gpus if job.gpus else cpus
    workers = job.workers or min(most, plan.settings.batch)
    if workers > most or most == 0:
        raise Refused(f"{workers or 1} worker(s) requested; the cluster has {gpus} GPU(s) and {cpus} CPU(s)")
    return workers, max(1, cpus // workers)


def _last_words(error: Exception) -> str:
    """Last line of what a worker raised."""
    failures = getattr(error, "worker_failures", {})
    for failure in failures.values():
        lines = str(failure).strip().splitlines()
        if lines:
            return lines[-1]
    return (str(error).strip().splitlines() or ["the workers exited without an error message"])[-1]


def _train_worker(config: dict[str, Any]) -> str:
    """Work on a training in one process of Ray Train; returns why it stopped, or nothing."""
    import torch
    from ray import train as ray_train
    from ray.train.torch import get_device
    from torch import distributed

    context = ray_train.get_context()
    torch.set_num_threads(config["threads"])
    root, size = ArchiveStore(config["archive"]), context.get_world_size()
    group = WorkerGroup(
        rank=context.get_world_rank(),
        size=size,
        share=None if size == 1 else distributed.all_reduce,
        device=str(get_device()),
    )
    plan = TrainPlan.from_dict(root.get_json(config["plan"]))
    try:
        for line in work(root, plan, group, driver=config["driver"]):
            if group.rank == 0:
                config["lines"].actor.put_nowait.remote(line)  # not waited for: a lost line harms no training
    except TrainingStopped as stopped:
        return str(stopped)
    return ""
