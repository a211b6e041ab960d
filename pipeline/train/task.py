"""One task of a training, as one value: everything in which denoise, sharpen and fuse differ."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from torch import nn

from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.arrays import F32
from hypermend.models.card import ModelCard
from hypermend.models.fit import AllReduce, Batch, FitSettings, Loss, Progress, Resume, State, fit
from hypermend.models.sampling import SampleStream
from hypermend.pipeline.config import TrainJob
from hypermend.pipeline.train.areas import Area
from hypermend.pipeline.train.plan import TaskName, TrainingSources, TrainPlan

M = TypeVar("M")
Config = Mapping[str, Any]
"""Configuration of the network, as in a model card."""
Scores = dict[str, float]
"""psnr_db of the model, baseline_db of doing without it, and any other figures of the task."""


class Fit(Protocol):
    """How weights follow from samples; `models.fit.fit` is the one of networks."""

    def __call__(
        self,
        net: nn.Module,
        batches: Iterator[Batch],
        loss: Loss,
        settings: FitSettings,
        *,
        share: AllReduce | None = None,
        resume: Resume | None = None,
    ) -> Iterator[Progress]:
        """Train `net` in place."""
        ...


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The samples of a training, and the loss that belongs to them."""

    stream: SampleStream[Any]
    draw: Callable[[np.random.Generator], Area]
    """Generator of `stream.sources` -> the area that its sample comes from."""
    loss: Loss


@dataclass(frozen=True, kw_only=True)
class LabScene:
    """A scene of a recipe, read from files."""

    name: str
    sensor: str
    cube: F32
    """(bands, h, w), 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Generic[M]):
    """Training from files of lab scenes, as the shipped weights were made (`recipe.py`)."""

    name: str | None = None
    """Name of the model; None for that of the output folder."""
    minutes: float
    others: Mapping[str, str]
    """Folder of --data -> sensor, beside cave/."""
    peak: float | None = None
    """Value that cubes are divided by; None for the largest of each."""
    config: Callable[[argparse.Namespace], dict[str, Any]]
    stream: Callable[[Sequence[LabScene], Config, int], SampleStream[Any]]
    """Training scenes, config and seed -> samples."""
    loss: Loss
    crop: Callable[[F32, Config], F32]
    """Cut a validation scene to what is scored."""
    validate: Callable[[M, Mapping[str, F32], bool], dict[str, Any]]
    """Model, validation scenes, and whether this is the end of training -> metrics for the card."""
    protocol: str


@dataclass(frozen=True, kw_only=True)
class Task(Generic[M]):
    """One task: its defaults are those of the shipped weights' recipes. M is the class of its models."""

    name: TaskName
    batch: int
    patch_px: int
    learning_rate: float
    ema_decay: float
    """Decay for each step of the exponential moving average of the weights."""
    config: Callable[[ArchiveStore, TrainJob, TrainingSources], dict[str, Any]]
    edges_px: Callable[[Config, int], list[int]]
    """Config and patch_px -> edges of training areas, the best first."""
    crop_multiple: Callable[[Config], int]
    """Config -> number of pixels that the edge of a validation crop is a multiple of."""
    bf16_safe: Callable[[Config, str], bool]
    """Config and device -> whether bfloat16 trains as well as float32 does."""
    fit: Fit = fit
    network: Callable[[Config], nn.Module]
    """Config -> network with new weights from torch's generator."""
    samples: Callable[[ArchiveStore, TrainPlan], Samples]
    card: Callable[[Config, Any], dict[str, Any]]
    """Config and network -> fields of a model card; what it says of accepted scenes goes before the plan's."""
    protocol: str
    """Protocol of `score`, in words."""
    model: Callable[[ModelCard, State], M]
    score: Callable[[M, F32], Scores]
    """Model and square of a validation scene, divided by its largest value -> scores."""
    recipe: Recipe[M] | None = None
    """None: only `hypermend train` trains it, from an archive."""
