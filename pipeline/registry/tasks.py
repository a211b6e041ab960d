"""One task of the model registry, as one value: which models do it, and which one is its default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hypermend.models.card import ModelCard
from hypermend.models.checkpoint import task_of


@dataclass(frozen=True, kw_only=True)
class ModelTask:
    """One task."""

    name: str
    builtins: tuple[str, ...]
    """Names of built-in models; the first is the default of a scene that has none of its own."""
    pairs: bool = False
    """Whether its models take two images."""
    finer: bool = False
    """Whether its models make pixels finer; then it has a default for each scale."""
    seconds_per_sample: float
    """CPU seconds of the built-in models for one band of one pixel of the result, on a whole image (benchmarks/results:
    io, sharpen, fusion): for the forecast of an archive that has no run yet."""
    adapting_seconds_per_sample: float = 0.0
    """The same for the adaptation of a model that adapts."""

    def slot(self, scale: int) -> str:
        """Name the place that a default model stands in: denoise, fuse, sharpen-x2 ..."""
        return f"{self.name}-x{scale}" if self.finer else self.name

    def mismatch(self, card: ModelCard, scale: int | None = None) -> str | None:
        """Say why a model cannot do the task; None where it can.

        Args:
            card: of the model.
            scale: that the user wants, of a task that makes pixels finer; None for any.
        """
        name, task = card.name, task_of(card)
        pairs = task is not None and TASKS[task].pairs
        if pairs != self.pairs:
            takes = f"two images: it is for task {task!r}" if pairs else f"one image and cannot {self.name} two"
            return f"model {name} takes {takes}; choose another with --model"
        if self.finer and card.scale == 1:
            return f"model {name} leaves pixels as large as they are and cannot {self.name}; choose another --model"
        if self.finer and scale not in (None, card.scale):
            return f"model {name} makes pixels {card.scale} times finer, and --scale asks for {scale}"
        if not self.finer and not self.pairs and card.scale > 1:
            return f"model {name} makes pixels finer: it is for task {task!r}; choose another with --model"
        return None


TRAINED = {("cave", "nikon-d700"): "cave-d700-filter"}
"""Pairs of sensors that have a filter of their own."""
UNIVERSAL = "ual-fusion"
"""The network for any pair; it gains nothing over what needs no training (docs/decisions/0028)."""
UNTRAINED = "least-squares"
TASKS: Mapping[str, ModelTask] = {
    task.name: task
    for task in (
        ModelTask(name="denoise", builtins=("stas-subspace",), seconds_per_sample=4.6e-7),
        ModelTask(name="sharpen", builtins=("ssrnet-x{scale}-small",), finer=True, seconds_per_sample=2.1e-6),
        ModelTask(
            name="fuse",
            builtins=(UNTRAINED, *TRAINED.values(), UNIVERSAL),
            pairs=True,
            seconds_per_sample=2.4e-7,
            adapting_seconds_per_sample=2.3e-6,
        ),
    )
}


def slot_of(card: ModelCard) -> str | None:
    """Name the place that a model can be the default of; None for a model without a task."""
    task = task_of(card)
    return None if task is None else TASKS[task].slot(card.scale)
