"""The interface between a run and one of its scenes: four steps, in this order.

prepare  open the input, create the output, read which tiles are done       -> PreparedScene
tiles    one task for each missing piece, in two phases where blocks adapt  -> TaskReceipt
finish   fold the marks, add up                                             -> SceneTotals
commit   put the STAC item, in the driver: after it the scene is published
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from hypermend.pipeline.tiling.tiles import Index


@dataclass(frozen=True, kw_only=True)
class PreparedScene:
    """Result of ``prepare``."""

    total: int
    """Number of tiles of the scene."""
    done: frozenset[Index]
    """Tiles that an earlier run has marked."""
    blocks: int = 0
    """Number of adaptation blocks that must be done before the first tile."""
    settled: bool = False
    """True where no tile will be written: every tile is done and the marks are folded."""
    bytes_written: int = 0
    context: Any = None
    """Small value that the later tasks and the commit need."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SceneTotals:
    """Result of ``finish``."""

    valid_fraction: float
    """Usable share of the scene, 0 to 1."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Figures of the scene for the run's report; JSON values."""
    item_figures: Mapping[str, Any] = field(default_factory=dict)
    """Figures for its item, those of each band among them; the report of a long run has no room for these."""
    quicklooks: tuple[str, ...] = ()
    """Names of the cube's pictures."""


class Unit(Protocol):
    """Unit of work of a run: one scene. ``task.unit`` of each of its tasks is its ``id``, ``<collection>/<scene>``."""

    @property
    def id(self) -> str: ...

    @property
    def collection(self) -> str: ...

    @property
    def scene(self) -> str:
        """Id of the scene; another collection may have a scene of the same id."""
        ...

    @property
    def reads(self) -> tuple[str, ...]:
        """Keys of the cubes of other scenes that the unit reads."""
        ...

    def prepare(self) -> Any: ...

    def tiles(self, prepared: PreparedScene) -> Iterator[Any]:
        """Give the tasks that are left.

        A ``WAIT`` among them says that the tasks after it need all tasks before it to have succeeded. Other scenes fill
        the gap.
        """
        ...

    def finish(self, prepared: PreparedScene) -> Any: ...

    def is_published(self, prepared: PreparedScene) -> bool:
        """Whether the catalog already names the cube of this unit."""
        ...

    def commit(self, prepared: PreparedScene, totals: SceneTotals) -> int:
        """Publish the scene and return the number of bytes written."""
        ...
