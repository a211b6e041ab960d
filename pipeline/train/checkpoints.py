"""Checkpoints in an archive, so that a training (`training/<id>/`) or a trial of a search resumes after any kill.

    plan.json                     what it does
    record.json                   where it stands, and which of the files below are whole
    checkpoints/<step>.safetensors    weights, their average, the optimiser's moments; the two newest
    best-<step>.safetensors       the averaged weights that scored best on the validation scenes
    metrics.jsonl                 loss, rate and scores, one line for each report
    driver.json                   who works on it; of two, the later one

Tensors are written first, the record that names them (with their sha256) next, and old tensors are deleted last. Each
is one put: no record names what a kill left half done, and nothing else is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from hypermend.catalog.documents import parse_json, validated
from hypermend.catalog.errors import ArchiveError, NotFound
from hypermend.catalog.storage.archive_store import ArchiveStore, TooLarge, to_json
from hypermend.models.fit import Resume, State

Line = dict[str, Any]
KEPT = 2
"""Checkpoints: the older one is for a newest that was damaged."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A file of tensors."""

    key: str
    sha256: str
    """Empty: not known, as in a trial of 0.1; then the tensors are not checked."""
    step: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Where a training stands."""

    state: Literal["running", "finished", "diverged"] = "running"
    reason: str = ""
    """Why it ended."""
    checkpoints: tuple[Saved, ...] = ()
    """The newest last."""
    best: Saved | None = None
    scores: Mapping[str, Any] = field(default_factory=dict)
    """Scores of the best weights, by validation scene."""
    psnr_db: float | None = None
    """Score of the best weights, mean over the validation scenes."""
    stale: int = 0
    """Validations since the best one."""


class CheckpointStore:
    """Files of tensors in one folder, whose names begin with `prefix`."""

    def __init__(self, root: ArchiveStore, folder: str, prefix: str = "") -> None:
        self.root, self.folder, self._prefix = root, folder, prefix

    def save(self, name: str, state: State, *, step: int, seconds: float) -> Saved:
        """Write tensors; the caller puts the record that names them next, and then calls `sweep`."""
        data = save_tensors({k: v.detach().cpu().contiguous() for k, v in sorted(state.items())})
        key = f"{self.folder}/{self._prefix}{name}"
        self.root.put(key, data)
        return Saved(key=key, sha256=hashlib.sha256(data).hexdigest(), step=step, seconds=seconds)

    def load(self, saved: Saved) -> State | None:
        """Read tensors; None where they are gone or damaged."""
        try:
            data = self.root.get(saved.key)
        except (NotFound, TooLarge):
            return None
        if saved.sha256 and hashlib.sha256(data).hexdigest() != saved.sha256:
            return None
        try:
            return load_tensors(data)
        except (SafetensorError, ArithmeticError, KeyError, RuntimeError, TypeError, ValueError):
            return None

    def sweep(self, kept: Iterable[Saved | None]) -> None:
        """Delete the tensors that the record does not name: older ones, and those of a kill."""
        named = {saved.key for saved in kept if saved}
        for entry in list(self.root.list(self.folder)):
            ours = entry.key.startswith(f"{self.folder}/{self._prefix}") and entry.key.endswith(".safetensors")
            if ours and entry.key not in named:
                self.root.delete(entry.key)


class TrainingStore(CheckpointStore):
    """The files of one training."""

    def read(self) -> TrainingState | None:
        """None where nothing was kept yet."""
        try:
            return self.root.get_document(f"{self.folder}/record.json", _state_of)
        except NotFound:
            return None

    def put(self, record: TrainingState) -> TrainingState:
        self.root.put_json(f"{self.folder}/record.json", asdict(record))
        return record

    def checkpoint(self, record: TrainingState, state: State, *, step: int, seconds: float) -> TrainingState:
        """Keep everything that `resume` needs; returns the record that names it."""
        saved = self.save(f"checkpoints/{step:09d}.safetensors", state, step=step, seconds=seconds)
        others = [c for c in record.checkpoints if c.step != step]
        kept = self.put(replace(record, checkpoints=(*others, saved)[-KEPT:]))
        self.sweep((*kept.checkpoints, kept.best))
        return kept

    def better(self, record: TrainingState, state: State, *, step: int, seconds: float) -> TrainingState:
        """Save the weights that scored best; `checkpoint` puts the record that names them."""
        return replace(record, best=self.save(f"best-{step:09d}.safetensors", state, step=step, seconds=seconds))

    def resume(self, record: TrainingState) -> Resume | None:
        """Load the newest checkpoint that is intact."""
        for saved in reversed(record.checkpoints):
            state = self.load(saved)
            if state is not None:
                return Resume(state=state, step=saved.step, seconds=saved.seconds)
        return None

    def lines(self) -> list[Line]:
        """Read the metrics so far, without a last line that was cut off."""
        try:
            text = self.root.get(f"{self.folder}/metrics.jsonl").decode(errors="replace")
        except NotFound:
            return []
        return list(_parsed(text))

    def put_lines(self, lines: Sequence[Line]) -> None:
        """Write all lines in one put: an object store cannot append."""
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        self.root.put(f"{self.folder}/metrics.jsonl", text.encode())

    def take(self, driver: str) -> None:
        """Record which driver works on the training from now on."""
        self.root.put(f"{self.folder}/driver.json", to_json({"driver": driver}))

    def taken_by_another(self, driver: str) -> bool:
        """Say whether a later driver works on the training: then this one must write no more."""
        now: str = self.root.get_document(f"{self.folder}/driver.json", lambda data: str(data["driver"]))
        return now != driver

    def forget(self, record: TrainingState) -> TrainingState:
        """Delete the checkpoints of a finished training."""
        kept = self.put(replace(record, checkpoints=()))
        self.sweep((*kept.checkpoints, kept.best))
        return kept


def _parsed(text: str) -> Iterator[Line]:
    for line in text.splitlines():
        try:
            parsed = parse_json(line)
        except ValueError:
            return
        if not isinstance(parsed, dict) or not isinstance(parsed.get("step"), int):
            return
        yield parsed


def _state_of(data: Any) -> TrainingState:
    record = validated(TrainingState, data)
    if unknown := set(data) - set(asdict(record)):
        raise ValueError(f"unknown keys {', '.join(sorted(unknown))}")
    for score in record.scores.values():
        float(score["psnr_db"]), float(score["baseline_db"])
    return record


class TrainingStopped(ArchiveError):
    """A training that cannot resume by itself: says why and what to do."""
