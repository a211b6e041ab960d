"""The table of tasks, and from the plan of a training to its network, samples and card."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import nn

from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.card import ModelCard
from hypermend.pipeline.train import denoise, fuse, sharpen
from hypermend.pipeline.train.plan import TrainPlan
from hypermend.pipeline.train.task import Samples, Task

TASKS: Mapping[str, Task[Any]] = {task.name: task for task in (denoise.TASK, sharpen.TASK, fuse.TASK)}
_SEEDED = Lock()
"""Torch's generator is that of the whole process."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """The parts of one training."""

    task: Task[Any]
    net: nn.Module
    samples: Samples
    card: ModelCard
    """Without name, scenes and scores."""


def build(root: ArchiveStore, plan: TrainPlan) -> Training:
    """Build the parts of a plan's training, with new weights drawn from its seed."""
    task = TASKS[plan.task]
    with _SEEDED, torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.settings.seed)
        net = task.network(plan.config)
    return Training(task=task, net=net, samples=task.samples(root, plan), card=plan_card(plan, net))


def plan_card(plan: TrainPlan, net: nn.Module) -> ModelCard:
    """Draft the card of the model that a plan makes."""
    s, task = plan.spectrum, TASKS[plan.task]
    return ModelCard(
        name=plan.id,
        config=dict(plan.config),
        accepts_range_nm=(s.low_nm, s.high_nm),
        accepts_spacing_nm=s.spacing_nm,
        quantity=s.quantity,
        code_version=importlib.metadata.version("hypermend"),
        metrics={"protocol": task.protocol},
        **task.card(plan.config, net),
    )
