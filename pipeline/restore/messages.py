"""Tasks of a restoration, from the driver to its workers, and what the driver keeps of a scene.

Apart from ``worker``, which loads torch: the driver computes nothing and starts without it. The class names are labels
of the Prometheus metrics.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypermend.pipeline.restore.plan import Plan
from hypermend.pipeline.restore.request import SceneRequest
from hypermend.pipeline.tiling.tiles import Index


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Plan one scene, estimate its facts, create its target."""

    unit: str
    request: SceneRequest
    granted_bytes: int | None = None
    """Memory of the worker; None for any."""


@dataclass(frozen=True, kw_only=True)
class AdaptBlock:
    """Adapt the model to one block of a scene."""

    unit: str
    plan: str
    block: Index


@dataclass(frozen=True, kw_only=True)
class RestoreTile:
    """Restore one tile of a scene and write it."""

    unit: str
    plan: str
    """Key of the plan; the worker reads it once."""
    index: Index

    @property
    def tiles(self) -> tuple[Index, ...]:
        return (self.index,)


@dataclass(frozen=True, kw_only=True)
class Finish:
    """Fold the marks of a scene and sum it up."""

    unit: str
    plan: str


@dataclass(frozen=True, kw_only=True)
class RestoreContext:
    """A prepared scene, as the driver keeps it."""

    plan: Plan
    adapted: frozenset[Index]
    """Blocks that an earlier run has adapted."""
