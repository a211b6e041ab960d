"""The three trainings: for each its network, its samples from areas of cubes, and its score on a held-out square.

The samples are the recipes' of the shipped weights (`models/samples.py`, `sharpen_samples.py`, `fusion_samples.py`),
drawn by `models/streams.py`; the scores are their `validate`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from hypermend.models.arrays import F32
from hypermend.models.card import ModelCard
from hypermend.models.fit import Loss, State
from hypermend.models.sampling import SampleStream
from hypermend.pipeline.train.areas import Area
from hypermend.pipeline.train.plan import TrainPlan

Scores = dict[str, float]
"""psnr_db of the model and baseline_db of doing without it, and what else the task scores."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a training needs of its task."""

    net: nn.Module
    loss: Loss
    stream: SampleStream[Any]
    draw: Callable[[np.random.Generator], Area]
    """Of a generator of `stream.sources`: the area that its sample is of."""
    card: ModelCard
    """Without name, scenes and scores."""
    score: Callable[[ModelCard, State, F32], Scores]
    """Of the weights on a square of a scene, divided by its bright value."""


def task_card(plan: TrainPlan, **fields: Any) -> ModelCard:
    s = plan.spectrum
    return ModelCard(
        name=plan.id,
        config=dict(plan.config),
        accepts_range_nm=(s.low_nm, s.high_nm),
        accepts_spacing_nm=s.spacing_nm,
        quantity=s.quantity,
        code_version=importlib.metadata.version("hypermend"),
        **fields,
    )
