"""One trial of a search: areas are read, a super-net is trained, a genotype comes out. No Ray.

After each epoch the weights go to `searches/<id>/trials/<n>-<epoch>.safetensors` and then the record to `<n>.json`, so
a trial that was killed anywhere resumes after its last complete epoch and ends as it would have ended, bit for bit if
the number of threads is the same. Where the weights are gone or damaged, it begins again.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch

from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import read_spec
from hypermend.catalog.documents import validated
from hypermend.catalog.errors import NotFound
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.denoise.samples import (
    SampleSettings,
    TrainingScene,
    any_of,
    band_stream,
    sample_stream,
    weighted,
)
from hypermend.models.denoise.samples import loss as subspace_loss
from hypermend.models.denoise.stas import Genotype
from hypermend.models.denoise.stas_search import (
    SearchDiverged,
    SearchProgress,
    SearchSettings,
    Source,
    alpha_rate,
    best_by_edge,
    log_mse,
    random_genotype,
    score,
    search,
)
from hypermend.models.denoise.supernet import SuperNet
from hypermend.models.fit import Batch
from hypermend.pipeline.search.plan import SearchPlan
from hypermend.pipeline.tiling.pixels import physical
from hypermend.pipeline.train.areas import Area
from hypermend.pipeline.train.checkpoints import CheckpointStore, Saved
from hypermend.pipeline.train.dataset import STRONGEST_NOISE, scene_level

HELD = 4
"""Validation batches that every epoch of every trial is scored on."""
TrialState = Literal["running", "finished", "stopped", "diverged", "failed"]
SETTINGS = frozenset({"learning_rate", "alpha_rate"})
FIGURES = frozenset({"validation_loss", "baseline_loss", "seconds"})
"""What each line of a trial's history has."""
ENDED: frozenset[TrialState] = frozenset({"finished", "stopped", "diverged"})
"""A trial that failed (its process died, its store was out of reach) is tried again; these are not."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """State of a trial; the archive's copy decides what is still to do."""

    number: int
    seed: int
    settings: Mapping[str, float]
    """learning_rate and alpha_rate."""
    state: TrialState = "running"
    epoch: int = 0
    """Epochs done."""
    history: tuple[Mapping[str, float], ...] = ()
    """For each epoch: epoch, train_loss, validation_loss, baseline_loss (of changing nothing), seconds."""
    genotype: Mapping[str, Any] | None = None
    reason: str = ""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Node, process and threads that last worked on it."""
    weights: Saved | None = None
    """Weights of the last epoch and the state that `search` resumes from; None before the first and after the end."""

    @property
    def validation_loss(self) -> float:
        """Validation loss of the last epoch."""
        return float(self.history[-1]["validation_loss"])

    def at(self, epoch: int) -> float | None:
        """Validation loss after an epoch; None where it did not come so far."""
        return float(self.history[epoch - 1]["validation_loss"]) if len(self.history) >= epoch else None


def record_key(search: str, number: int) -> str:
    return f"searches/{search}/trials/{number:03d}.json"


def read_record(root: ArchiveStore, search: str, number: int) -> TrialRecord | None:
    """Read the archive's record of a trial; None where it never began."""
    try:
        return root.get_document(record_key(search, number), partial(_record_of, search, number))
    except NotFound:
        return None


def _record_of(search: str, number: int, data: Any) -> TrialRecord:
    weights = data.get("weights")
    if "weights" not in data and data["epoch"] and data["state"] not in ENDED:  # a trial of 0.1
        key = f"searches/{search}/trials/{number:03d}-{data['epoch']:04d}.safetensors"
        weights = {"key": key, "sha256": "", "step": data["epoch"], "seconds": 0.0}
    record = validated(TrialRecord, {**data, "weights": weights or None})
    if unknown := set(data) - set(asdict(record)):
        raise ValueError(f"unknown keys {', '.join(sorted(unknown))}")
    if record.number != number or not record.settings.keys() >= SETTINGS:
        raise ValueError(f"it is of trial {record.number}, with settings {', '.join(record.settings)}")
    if not all(line.keys() >= FIGURES for line in record.history):
        raise ValueError(f"its history has lines without {', '.join(sorted(FIGURES))}")
    if record.genotype is not None:
        Genotype.from_dict(record.genotype)
    if record.state == "finished" and not (record.history and record.genotype):
        raise ValueError("it is finished without a genotype")
    return record


def put_record(root: ArchiveStore, search: str, record: TrialRecord) -> TrialRecord:
    root.put_json(record_key(search, record.number), asdict(record))
    return record


def first_record(plan: SearchPlan, number: int) -> TrialRecord:
    """Record of a trial that has not begun, with the default settings."""
    rate = alpha_rate(plan.budget.epochs * plan.budget.steps)
    return TrialRecord(number=number, seed=number, settings={"learning_rate": 1e-3, "alpha_rate": rate})


def run_trial(
    root: ArchiveStore, plan: SearchPlan, record: TrialRecord, *, device: str = "cpu"
) -> Iterator[TrialRecord]:
    """Work on a trial to its end; yields its record, already in the archive, after each epoch.

    A loss that is no number ends it as "diverged", with the reason.
    """
    where = {"node": socket.gethostname(), "pid": os.getpid(), "threads": torch.get_num_threads()}
    record = replace(record, state="running", reason="", where=where)
    put_record(root, plan.id, record)
    try:
        for record in _epochs(root, plan, record, device):  # noqa: B020 - the last one is needed below
            yield record
    except SearchDiverged as e:
        record = end(root, plan.id, record, state="diverged", reason=str(e))
        yield record


def end(root: ArchiveStore, search: str, record: TrialRecord, *, state: TrialState, reason: str = "") -> TrialRecord:
    """End a trial, and delete its weights."""
    record = put_record(root, search, replace(record, state=state, reason=reason, weights=None))
    _store(root, search, record.number).sweep(())
    return record


def sweep_ended(root: ArchiveStore, search: str, record: TrialRecord) -> None:
    """Delete the weights of an ended trial that a kill may have left."""
    if record.state in ENDED:
        _store(root, search, record.number).sweep(())


def _store(root: ArchiveStore, search: str, number: int) -> CheckpointStore:
    return CheckpointStore(root, f"searches/{search}/trials", prefix=f"{number:03d}-")


def _epochs(root: ArchiveStore, plan: SearchPlan, record: TrialRecord, device: str) -> Iterator[TrialRecord]:
    samples = _Samples(root, plan, seed=record.seed)
    extra = 3 * plan.channels if plan.domain == "subspace" else 0
    net = SuperNet(plan.channels, width=plan.budget.width, extra=extra, seed=record.seed)
    torch.nn.init.zeros_(net.conv3.weight)  # the first answer is the input's, or the DCT estimate's
    torch.nn.init.zeros_(net.conv3.bias)  # type: ignore[arg-type]
    net = net.to(device)
    held = list(islice(samples.held(), HELD))
    baseline = sum(float(samples.loss(x[:, : plan.channels], target)) for x, target in held) / HELD
    settings = SearchSettings(
        epochs=plan.budget.epochs, steps=plan.budget.steps, strategy=plan.strategy, seed=record.seed, **record.settings
    )
    resume = _store(root, plan.id, record.number).load(record.weights) if record.weights else None
    if resume is None:
        record = replace(record, epoch=0, history=(), genotype=None, weights=None)
    for p in search(net, samples.train, samples.validation, samples.loss, settings, resume=resume):
        value = _progress_score(net, held, samples, plan)
        if not math.isfinite(value):
            raise SearchDiverged(f"validation loss is {value} after epoch {p.epoch}: lower the learning rate")
        line = {
            "epoch": p.epoch,
            "train_loss": p.train_loss,
            "validation_loss": value,
            "baseline_loss": baseline,
            "seconds": round(p.seconds, 2),
        }
        record = _keep(root, plan, record, p, line)
        if p.epoch < settings.epochs:
            yield record
    if plan.strategy == "spos":
        chosen = best_by_edge(lambda g: score(net, held, samples.loss, g), seed=record.seed)
        last = {**record.history[-1], "validation_loss": score(net, held, samples.loss, chosen)}
        record = replace(record, genotype=chosen.to_dict(), history=(*record.history[:-1], last))
    yield end(root, plan.id, record, state="finished")


def _progress_score(net: SuperNet, held: Sequence[Batch], samples: _Samples, plan: SearchPlan) -> float:
    """Score the mixture; for SPOS, which has none, the mean of a few paths."""
    if plan.strategy == "darts":
        return score(net, held, samples.loss)
    paths = [random_genotype(i) for i in range(4)]
    return sum(score(net, held, samples.loss, g) for g in paths) / len(paths)


def _keep(
    root: ArchiveStore, plan: SearchPlan, record: TrialRecord, p: SearchProgress, line: Mapping[str, float]
) -> TrialRecord:
    """Save the weights, put the record that names them, delete the old weights: complete after a kill at any point."""
    store = _store(root, plan.id, record.number)
    weights = store.save(f"{p.epoch:04d}.safetensors", p.state, step=p.epoch, seconds=round(p.seconds, 2))
    kept = replace(
        record,
        epoch=p.epoch,
        history=(*record.history, line),
        genotype=p.genotype.to_dict() if p.genotype else None,
        weights=weights,
    )
    put_record(root, plan.id, kept)
    store.sweep([weights])
    return kept


class _Samples:
    """The batches of one trial, by epoch; what an epoch sees depends on its number and the seed alone."""

    def __init__(self, root: ArchiveStore, plan: SearchPlan, *, seed: int) -> None:
        self._plan, self._seed = plan, seed
        self._scenes = {True: read_areas(root, plan.train), False: read_areas(root, plan.validation)}
        self.loss = subspace_loss if plan.domain == "subspace" else log_mse
        self.train: Source = lambda epoch: self._stream(True, [seed, epoch, 0])
        self.validation: Source = lambda epoch: self._stream(False, [seed, epoch, 1])

    def held(self) -> Iterator[Batch]:
        """The same validation batches for every trial of the search."""
        return self._stream(False, [0, 0, 2])

    def _stream(self, train: bool, seeds: list[int]) -> Iterator[Batch]:
        seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
        budget, scenes = self._plan.budget, self._scenes[train]
        if self._plan.domain == "bands":
            cubes = [scene.cube for scene in scenes]
            draw = any_of(cubes, budget.patch_px)
            return band_stream(draw, patch_px=budget.patch_px, seed=seed, batch=budget.patches).batches()
        settings = SampleSettings(
            channels=self._plan.channels,
            patch_px=budget.patch_px,
            scene_px=budget.area_px,
            refresh_steps=2,
            strongest_noise=STRONGEST_NOISE,
        )
        return sample_stream(weighted(scenes, settings), settings, seed=seed, batch=budget.patches).batches()


def read_areas(root: ArchiveStore, areas: Sequence[Area]) -> list[TrainingScene]:
    """The good bands of each area, divided by a bright value of what is read of its cube."""
    by_cube: dict[str, list[Area]] = {}
    for area in areas:
        by_cube.setdefault(area.cube, []).append(area)
    out: list[TrainingScene] = []
    for key, own in by_cube.items():
        spec, cube = read_spec(root, key), Cube(root, key)
        good = np.array(spec.good)
        values = []
        for a in own:
            stored, _ = cube.read(slice(a.y0, a.y0 + a.edge_px), slice(a.x0, a.x0 + a.edge_px))
            values.append(physical(stored, spec)[good])
        bright, least = scene_level(values)
        out += [TrainingScene(cube=(v / bright).astype(np.float32), least_noise=least) for v in values]
    return out
