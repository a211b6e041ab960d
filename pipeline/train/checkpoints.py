"""What an archive keeps of a training, so that it goes on after any kill: `training/<id>/`.

    plan.json                     what it does
    record.json                   where it stands, and which of the files below are whole
    checkpoints/<step>.safetensors    weights, their average, the optimiser's moments; the two newest
    best-<step>.safetensors       the averaged weights that scored best on the validation scenes
    metrics.jsonl                 loss, rate and scores, one line for each report
    driver.json                   who works on it; of two, the later one

Tensors are written first and the record that names them (with their sha256) after, each in one put: what a kill leaves
half done is named by no record, and never read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from hypermend.catalog.errors import ArchiveError, NotFound
from hypermend.catalog.storage.archive_store import ArchiveStore, to_json
from hypermend.models.fit import Resume, State

Line = dict[str, Any]
KEPT = 2
"""Checkpoints: the older one is for a newest that was damaged."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A file of tensors."""

    key: str
    sha256: str
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
    """Of the best weights, by validation scene."""
    psnr_db: float | None = None
    """Of the best weights, mean over the validation scenes."""
    stale: int = 0
    """Validations since the best one."""


class TrainingStore:
    """The files of one training."""

    def __init__(self, root: ArchiveStore, folder: str) -> None:
        self.root, self.folder = root, folder

    def read(self) -> TrainingState | None:
        """None where nothing was kept yet."""
        try:
            data = self.root.get_json(f"{self.folder}/record.json")
        except NotFound:
            return None
        best = Saved(**data["best"]) if data["best"] else None
        return TrainingState(**{**data, "checkpoints": tuple(Saved(**c) for c in data["checkpoints"]), "best": best})

    def put(self, record: TrainingState) -> TrainingState:
        self.root.put_json(f"{self.folder}/record.json", asdict(record))
        return record

    def checkpoint(self, record: TrainingState, state: State, *, step: int, seconds: float) -> TrainingState:
        """Keep everything that `resume` needs; the record with it in."""
        saved = self._save(f"checkpoints/{step:09d}.safetensors", state, step, seconds)
        others = [c for c in record.checkpoints if c.step != step]
        kept = self.put(replace(record, checkpoints=(*others, saved)[-KEPT:]))
        self._sweep(kept)
        return kept

    def better(self, record: TrainingState, state: State, *, step: int, seconds: float) -> TrainingState:
        """Keep the weights that scored best. The record is not put yet."""
        return replace(record, best=self._save(f"best-{step:09d}.safetensors", state, step, seconds))

    def resume(self, record: TrainingState) -> Resume | None:
        """The newest checkpoint that is whole."""
        for saved in reversed(record.checkpoints):
            state = self.load(saved)
            if state is not None:
                return Resume(state=state, step=saved.step, seconds=saved.seconds)
        return None

    def load(self, saved: Saved) -> State | None:
        """Its tensors; None where it is gone or damaged."""
        try:
            data = self.root.get(saved.key)
            return load_tensors(data) if hashlib.sha256(data).hexdigest() == saved.sha256 else None
        except NotFound:
            return None

    def lines(self) -> list[Line]:
        """The metrics so far; a last line that was cut off is left out."""
        try:
            text = self.root.get(f"{self.folder}/metrics.jsonl").decode()
        except NotFound:
            return []
        return list(_parsed(text))

    def put_lines(self, lines: Sequence[Line]) -> None:
        """All of them, in one put: an object store cannot append."""
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        self.root.put(f"{self.folder}/metrics.jsonl", text.encode())

    def take(self, driver: str) -> None:
        """Say who works on it from now on."""
        self.root.put(f"{self.folder}/driver.json", to_json({"driver": driver}))

    def taken_by_another(self, driver: str) -> bool:
        """Whether a later driver works on it: then this one must write no more."""
        return bool(self.root.get_json(f"{self.folder}/driver.json")["driver"] != driver)

    def _save(self, name: str, state: State, step: int, seconds: float) -> Saved:
        data = save_tensors({k: v.detach().cpu().contiguous() for k, v in sorted(state.items())})
        key = f"{self.folder}/{name}"
        self.root.put(key, data)
        return Saved(key=key, sha256=hashlib.sha256(data).hexdigest(), step=step, seconds=seconds)

    def _sweep(self, record: TrainingState) -> None:
        """Delete the tensors that the record does not name: older ones, and those of a kill."""
        named = {s.key for s in (*record.checkpoints, record.best) if s}
        for entry in list(self.root.list(self.folder)):
            if entry.key.endswith(".safetensors") and entry.key not in named:
                self.root.delete(entry.key)

    def forget(self, record: TrainingState) -> TrainingState:
        """A finished training needs its checkpoints no more."""
        kept = self.put(replace(record, checkpoints=()))
        self._sweep(kept)
        return kept


def _parsed(text: str) -> Iterator[Line]:
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


class TrainingStopped(ArchiveError):
    """A training that cannot go on by itself: says why and what to do."""
