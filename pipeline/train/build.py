"""From the plan of a training to the network, samples and score of its task."""

from __future__ import annotations

from threading import Lock

import torch

from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.train.denoise import denoise_task
from hypermend.pipeline.train.fuse import fuse_task
from hypermend.pipeline.train.plan import TrainPlan
from hypermend.pipeline.train.sharpen import sharpen_task
from hypermend.pipeline.train.task import Task

_SEEDED = Lock()
"""Torch's generator is that of the whole process."""


def build(root: ArchiveStore, plan: TrainPlan) -> Task:
    """The task of a plan, with new weights drawn from the seed."""
    with _SEEDED, torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.settings.seed)
        return {"denoise": denoise_task, "sharpen": sharpen_task, "fuse": fuse_task}[plan.task](root, plan)
