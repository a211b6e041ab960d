"""The work of each worker of a training; worker 0 also keeps the records. No Ray: one worker alone is the reference.

    samples of its slots -> fit (gradients shared) -> every `check_every` steps: score, keep, perhaps end

Scores, the loss and the clock are shared, so every worker takes the same decisions. What worker 0 cannot write stops
all of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from hypermend.catalog.errors import ArchiveError
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.fit import AllReduce, Diverged, FitSettings, Progress, Resume, State
from hypermend.models.sampling import prefetch
from hypermend.pipeline.train.checkpoints import Line, TrainingState, TrainingStopped, TrainingStore
from hypermend.pipeline.train.dataset import PatchDataset, named
from hypermend.pipeline.train.plan import TrainPlan
from hypermend.pipeline.train.task import Scores
from hypermend.pipeline.train.task_table import Training, build, task_of

WRITE_EVERY_S = 2.0
"""Between writes of the metrics that no validation asks for."""


@dataclass(frozen=True, kw_only=True)
class WorkerGroup:
    """The workers of a training, as one of them sees them."""

    rank: int = 0
    size: int = 1
    share: AllReduce | None = None
    """None for one alone."""
    device: str = "cpu"

    def sum(self, values: list[float]) -> list[float]:
        """Over all workers; all must call it."""
        if self.share is None:
            return values
        flat = torch.tensor(values, dtype=torch.float64, device=self.device)
        self.share(flat)
        return [float(v) for v in flat]


def work(root: ArchiveStore, plan: TrainPlan, crew: WorkerGroup, *, driver: str = "") -> Iterator[Line]:
    """Train to the end, from where the archive says it stands; yields the metrics of each report.

    Args:
        root: the archive; `plan` is in it.
        plan: what to do.
        crew: this worker among the others.
        driver: who has taken the training; empty where nobody else can.

    Raises:
        TrainingStopped: the loss is no number, nothing can be written, or another driver has taken over.
    """
    ledger = TrainingStore(root, plan.folder)
    record = ledger.read() or TrainingState()
    if record.state != "running":
        return
    resume = ledger.resume(record)
    training = build(root, plan)
    samples = training.samples
    if resume:
        _check_fits(ledger, resume, training.net)
    step = resume.step if resume else 0
    keeper = CheckpointWriter(ledger, plan, crew, record, step, driver)
    settings = fit_settings(plan, crew.device)
    slots = range(crew.rank, plan.settings.batch, crew.size)
    batches = prefetch(lambda at: samples.stream.batch(at, slots), step)
    net = training.net.to(crew.device)
    try:
        for p in training.task.fit(net, batches, samples.loss, settings, share=crew.share, resume=resume):
            step = p.step
            yield keeper.keep(p, lambda state: validate(root, plan, training, state, crew))
            if keeper.record.state != "running":
                return
    except Diverged as e:
        areas = [samples.draw(rng) for rng in samples.stream.sources(e.step - 1)]
        raise keeper.diverged(f"{e}; its batch: {named(areas, plan.scenes)}") from e
    finally:
        batches.close()


def _check_fits(ledger: TrainingStore, resume: Resume, net: torch.nn.Module) -> None:
    """
    Raises:
        TrainingStopped: the checkpoint is of another network than the plan's.
    """
    there = {k.removeprefix("net."): tuple(v.shape) for k, v in resume.state.items() if k.startswith("net.")}
    needed = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    if there != needed:
        name = sorted(k for k in {*there, *needed} if there.get(k) != needed.get(k))[0]
        raise TrainingStopped(
            f"{ledger.root.href(ledger.folder)}: the checkpoint at step {resume.step} is of another network ({name} is "
            f"{there.get(name)}, the plan's is {needed.get(name)}); delete that folder to begin anew"
        )


def fit_settings(plan: TrainPlan, device: str) -> FitSettings:
    """Settings of `fit` on this hardware."""
    s = plan.settings
    return FitSettings(
        steps=s.steps,
        minutes=s.minutes,
        learning_rate=s.learning_rate,
        warmup_steps=min(20, (s.steps or 1000) // 10),
        ema_decay=task_of(plan).ema_decay,
        bf16=gains_from_bf16(plan, device) if s.bf16 is None else s.bf16,
        report_every=s.report_every,
        freeze_norm=s.freeze_norm,
    )


def gains_from_bf16(plan: TrainPlan, device: str) -> bool:
    """Say whether bfloat16 is safe for the task, and faster: on GPUs and CPUs that have it (elsewhere 35x slower)."""
    has = cpu_has_bf16() if device == "cpu" else bool(torch.cuda.is_bf16_supported())
    return has and task_of(plan).bf16_safe(plan.config, device)


def cpu_has_bf16() -> bool:
    """Say whether the CPU has AVX512-BF16 or AMX."""
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def validate(
    root: ArchiveStore, plan: TrainPlan, training: Training, state: State, crew: WorkerGroup
) -> dict[str, Scores]:
    """Score the weights on each validation scene; the workers take turns, and all get all."""
    names, task = sorted(plan.held), training.task
    own: dict[str, Scores] = {}
    for i, name in enumerate(names):
        if i % crew.size == crew.rank:
            square = PatchDataset(root, [plan.held[name]], lambda _: None).read(plan.held[name])
            model = task.model(training.card, state)
            own[name] = task.score(model, np.asarray(square / square.max()))
    keys = ("psnr_db", "baseline_db")
    flat = crew.sum([own[n][k] if n in own else 0.0 for n in names for k in keys])
    return {n: {k: round(flat[2 * i + j], 3) for j, k in enumerate(keys)} for i, n in enumerate(names)}


class CheckpointWriter:
    """The records of a running training: worker 0 writes them, all follow them."""

    def __init__(
        self, ledger: TrainingStore, plan: TrainPlan, crew: WorkerGroup, record: TrainingState, step: int, driver: str
    ) -> None:
        self.record = record
        self._ledger, self._plan, self._crew, self._driver = ledger, plan, crew, driver
        self._lines = [line for line in ledger.lines() if line["step"] <= step]
        self._written = time.monotonic()

    def keep(self, p: Progress, score: Any) -> Line:
        """The metrics of a report; every `check_every` steps and at the end with scores, and a checkpoint."""
        line: Line = {
            "step": p.step,
            "seconds": round(p.seconds, 2),
            "fraction": round(p.fraction, 6),
            "loss": p.loss,
            "learning_rate": p.learning_rate,
        }
        check = p.step % self._plan.settings.check_every == 0 or p.fraction >= 1.0
        average = p.ema.state_dict()
        if check:
            scores = score(average)
            line["psnr_db"] = round(float(np.mean([s["psnr_db"] for s in scores.values()])), 3)
            line["baseline_db"] = round(float(np.mean([s["baseline_db"] for s in scores.values()])), 3)
            if not np.isfinite(line["psnr_db"]):
                raise Diverged(f"PSNR is {line['psnr_db']} at step {p.step}: lower the learning rate", p.step)
            line["scenes"] = scores
        self._lines.append(line)
        if check:
            self._checked(p, average, line)
        elif self._crew.rank == 0 and time.monotonic() - self._written > WRITE_EVERY_S:
            self._written = time.monotonic()
            self._ledger.put_lines(self._lines)
        return line

    def _checked(self, p: Progress, average: State, line: Line) -> None:
        at = {"step": p.step, "seconds": round(p.seconds, 2)}
        better = self.record.psnr_db is None or line["psnr_db"] > self.record.psnr_db
        stale = 0 if better else self.record.stale + 1
        record, failed = replace(self.record, stale=stale), ""
        if better:
            record = replace(record, psnr_db=line["psnr_db"], scores=line["scenes"])
        patience = self._plan.settings.patience
        if p.fraction >= 1.0:
            record = replace(record, state="finished")
        elif patience is not None and stale >= patience:
            record = replace(record, state="finished", reason=f"no gain in {stale} validations")
        if self._crew.rank == 0:
            try:
                record = self._write(record, p, average, better, at)
            except ArchiveError as e:
                failed = str(e)
        if self._crew.sum([float(bool(failed))])[0]:
            raise TrainingStopped(failed or "worker 0 could not keep the training")
        self.record = record

    def _write(
        self, record: TrainingState, p: Progress, average: State, better: bool, at: dict[str, Any]
    ) -> TrainingState:
        if self._driver and self._ledger.taken_by_another(self._driver):
            raise TrainingStopped(f"training {self._plan.id} was taken over by another driver; this one stops")
        self._ledger.put_lines(self._lines)
        if better:
            record = self._ledger.better(record, average, **at)
        return self._ledger.checkpoint(record, p.state(), **at)

    def diverged(self, reason: str) -> TrainingStopped:
        """Keep why it ended."""
        if self._crew.rank == 0:
            self._ledger.put(replace(self.record, state="diverged", reason=reason))
        return TrainingStopped(reason)
