"""Fusion in the driver: the guides of a job and the adaptation budget of a model. No pixel is read.

The request and its plan follow (``request.PairRequest``), then the worker (``pair_reader``, ``adapted_blocks``,
``image_pair``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import hypermend
from hypermend.catalog.errors import Refused
from hypermend.catalog.keys import scene_collection
from hypermend.catalog.pairs.pairing import GuideScenes
from hypermend.models.budget import AdaptationBudget
from hypermend.pipeline.config import RestoreJob

if TYPE_CHECKING:
    from hypermend.models.fuse.interface import FusionModel

DEFAULT_STEPS = 60
"""Measured (docs/decisions/0010): held-out squares gain nothing after 30 to 60 steps."""


def guide_scenes(job: RestoreJob) -> GuideScenes:
    """Find the source cubes of the job's guide collection.

    Raises:
        Refused: there is none.
    """
    assert job.guide_collection is not None
    name = scene_collection(job.guide_collection)
    scenes = hypermend.open(job.archive).sources(collections=(name,))
    if not scenes:
        raise Refused(f"{job.archive} has no source cube of guide collection {name!r}; `hypermend ingest` makes them")
    return GuideScenes(scenes, collection=name)


def adaptation_budget(job: RestoreJob, model: FusionModel) -> AdaptationBudget | None:
    """How long each block may adapt; None where the model does not.

    Raises:
        Refused: a budget is given to a model that does not adapt, and the job itself names that model.
    """
    given = job.budget_steps is not None or job.budget_seconds is not None
    if not model.adapts:
        if given and job.model is not None:
            raise Refused(f"model {model.card.name} does not adapt; leave out --budget-steps and --budget-seconds")
        return None
    if job.budget_steps == 0:
        return None
    return AdaptationBudget(
        steps=DEFAULT_STEPS if job.budget_steps is None else job.budget_steps, seconds=job.budget_seconds
    )
