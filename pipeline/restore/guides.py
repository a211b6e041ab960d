"""Fusion on the driver's side: which guide each scene gets, and how long its blocks may adapt. No pixel is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hypermend
from hypermend.catalog.errors import Refused
from hypermend.catalog.keys import cube_key, scene_collection
from hypermend.catalog.pairs.pairing import GuideScenes
from hypermend.catalog.scene import Scene
from hypermend.models.budget import AdaptationBudget
from hypermend.pipeline.config import RestoreJob
from hypermend.pipeline.restore.plan import Guide

if TYPE_CHECKING:
    from hypermend.models.fuse.protocol import FusionModel

DEFAULT_STEPS = 60
"""Measured (docs/decisions/0010): held-out squares stop to gain after 30 to 60 steps."""


class Guides:
    """The guides of a job, found once: the source cubes of its guide collection."""

    def __init__(self, job: RestoreJob) -> None:
        """
        Raises:
            Refused: the collection has no source cube.
        """
        assert job.guide_collection is not None
        name = scene_collection(job.guide_collection)
        found = hypermend.open(job.archive).sources(collections=(name,))
        if not found:
            raise Refused(
                f"{job.archive} has no source cube of guide collection {name!r}; `hypermend ingest` makes them"
            )
        self.collection = name
        self._scenes = GuideScenes(found, collection=name)

    def find(self, scene: Scene) -> tuple[Guide, Scene]:
        """The guide of a scene, as its plan names it, and its item.

        Raises:
            Refused: it has none that covers enough of it.
        """
        paired = self._scenes.find(scene)
        guide = Guide(
            scene_id=paired.guide.id,
            collection=self.collection,
            source=cube_key(paired.guide),
            ingest_id=str(paired.guide.properties["hypermend:ingest"]),
            overlap=round(paired.overlap, 4),
            days_apart=round(paired.days_apart, 4),
            others=paired.others,
        )
        return guide, paired.guide


def budget_of(job: RestoreJob, model: FusionModel) -> AdaptationBudget | None:
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
