"""What the driver of a restoration asks of its workers, and what it is told of a scene.

Apart from ``restore_worker``, which loads torch: the driver computes nothing and starts without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hypermend.models.budget import AdaptationBudget
from hypermend.pipeline.restore.plan import Guide, Plan
from hypermend.pipeline.tiling.tiles import Index


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Plan one scene, estimate its facts, create its target."""

    unit: str
    scene: str
    source: str
    ingest_id: str
    collection: str
    models: Mapping[str, str]
    """The model for each task, first done first."""
    why: Mapping[str, str]
    """Why each task got its model."""
    tile_px: int | None
    guide: Guide | None = None
    budget: AdaptationBudget | None = None
    granted_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class AdaptBlock:
    """Adapt the model to one block of a scene."""

    unit: str
    plan: str
    block: Index


@dataclass(frozen=True, kw_only=True)
class RestoreTile:
    unit: str
    plan: str
    """Key of the plan; the worker reads it once."""
    index: Index

    @property
    def tiles(self) -> tuple[Index, ...]:
        return (self.index,)


@dataclass(frozen=True, kw_only=True)
class Finish:
    unit: str
    plan: str


@dataclass(frozen=True, kw_only=True)
class OpenedScene:
    """What the driver keeps of a prepared scene."""

    plan: Plan
    adapted: frozenset[Index]
    """Blocks that an earlier run has adapted."""
