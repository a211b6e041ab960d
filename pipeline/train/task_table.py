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
from hypermend.pipeline.config import TrainJob
from hypermend.pipeline.train import denoise, fuse, sharpen
from hypermend.pipeline.train.plan import TrainPlan
from hypermend.pipeline.train.task import Samples, Task

TASKS: Mapping[str, Task[Any]] = {task.name: task for task in (denoise.TASK, sharpen.TASK, fuse.TASK)}
"""The networks."""
_SEEDED = Lock()
"""Torch's generator is that of the whole process."""


def task_of_job(job: TrainJob) -> Task[Any]:
    """The task of a job: a network's, or that of a filter of one pair of sensors."""
    return TASKS[job.task] if job.pair_scale is None else fuse.FILTER


def task_of(plan: TrainPlan) -> Task[Any]:
    """The task of a plan, by its config."""
    return fuse.FILTER if fuse.is_filter(plan.config) else TASKS[plan.task]


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
    task = task_of(plan)
    with _SEEDED, torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.settings.seed)
        net = task.network(plan.config)
    return Training(task=task, net=net, samples=task.samples(root, plan), card=plan_card(plan, net))


def plan_card(plan: TrainPlan, net: nn.Module) -> ModelCard:
    """Draft the card of the model that a plan makes."""
    s, task = plan.spectrum, task_of(plan)
    fields: dict[str, Any] = {
        "accepts_range_nm": (s.low_nm, s.high_nm),
        "accepts_spacing_nm": s.spacing_nm,
        "quantity": s.quantity,
        **task.card(plan.config, net),
    }
    return ModelCard(
        name=plan.id,
        config=dict(plan.config),
        code_version=importlib.metadata.version("hypermend"),
        metrics={"protocol": task.protocol},
        **fields,
    )
