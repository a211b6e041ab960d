"""One scene's walk through a run, as the board sees it.

prepare  open the input, create the output, find what is already done   -> Opened
tiles    one task for each piece that is missing, perhaps in two phases   -> Receipt
finish   fold the marks, sum up                                           -> Finished
commit   put the STAC item, by the driver: the scene is published, or it is not
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from hypermend.pipeline.tiling.tiles import Index


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What ``prepare`` found out."""

    total: int
    """Tiles of the scene."""
    done: frozenset[Index]
    """Tiles that an earlier run has marked."""
    blocks: int = 0
    """Adaptation blocks that must be done before the first tile."""
    settled: bool = False
    """Nothing will be written: every tile is done and its marks are folded. Such a scene needs no lease."""
    bytes_written: int = 0
    context: Any = None
    """What the later tasks and the commit need; small."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What ``finish`` summed up."""

    valid_fraction: float
    """Usable share of the scene, 0 to 1."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """What the run's report says of the scene; JSON values."""


class Unit(Protocol):
    """One scene's walk. ``task.unit`` of every task it gives is its ``id``, ``<collection>/<scene>``."""

    @property
    def id(self) -> str: ...

    @property
    def collection(self) -> str: ...

    @property
    def scene(self) -> str:
        """Id of the scene; another collection may have one of the same id."""
        ...

    def prepare(self) -> Any: ...

    def tiles(self, opened: Opened) -> Iterator[Any]:
        """The tasks that are left. ``WAIT`` among them: what follows needs what came before, whole and without failure.

        Other scenes fill the gap.
        """
        ...

    def finish(self, opened: Opened) -> Any: ...

    def commit(self, opened: Opened, finished: Finished) -> int:
        """Publish the scene; returns the bytes written."""
        ...
