"""Verify: read every shard of every published cube, and the weights of every adapted block, against its mark."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Any

import hypermend
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import open_cube
from hypermend.catalog.cube.marks import DoneMarks
from hypermend.catalog.errors import BadCube, NotFound, Refused
from hypermend.catalog.keys import cube_key
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.restore.plan import plan_key, read_plan
from hypermend.pipeline.tiling.tiles import Index

_VERBS = {"source": "ingest", "restored": "restore"}


@dataclass(frozen=True, kw_only=True)
class Torn:
    """A part of a published cube that is lost, or whose bytes are not those that were written."""

    cube: str
    """Where the cube lies; of a block, its folder of weights; of a plan, the plan."""
    index: Index | None
    """The tile or block; None: its metadata, or its plan."""
    repair_with: str
    """The verb that writes it again: ingest or restore."""

    def __str__(self) -> str:
        part = "metadata" if self.index is None else f"tile {self.index[0]}-{self.index[1]}"
        return f"{self.cube} {part}: run `hypermend {self.repair_with}` again"


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    cubes: int
    tiles: int
    torn: tuple[Torn, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def verify(archive: str, seen: Callable[[int, int], None] = lambda done, total: None) -> VerifyReport:
    """Check every source and restored cube; withdraw the marks of torn tiles, and metadata that cannot be followed.

    What has no mark or no metadata is work to do: the next `ingest` or `restore` of its scene writes it again and
    touches nothing else.

    Args:
        seen: told after each cube how many of how many are done.
    """
    place = hypermend.open(archive)
    items = [(item, verb) for stage, verb in _VERBS.items() for item in place.search(stage=stage)]
    tiles = 0
    torn: list[Torn] = []
    for number, (item, verb) in enumerate(items, 1):
        key = cube_key(item.scene)
        cube = _opened(place.root, key)
        if cube is None:
            torn.append(Torn(cube=key, index=None, repair_with=verb))
        else:
            torn += [Torn(cube=where, index=index, repair_with=verb) for where, index in _torn(cube)]
            tiles += math.prod(cube.spec.tiles)
        seen(number, len(items))
    return VerifyReport(cubes=len(items), tiles=tiles, torn=tuple(torn))


def _opened(root: ArchiveStore, key: str) -> Cube | None:
    """The cube; None where its metadata are lost or damaged. A cube without its group counts as not there."""
    try:
        open_cube(root, key)  # as users do, by the group's copy of all metadata
        return Cube(root, key)  # as we do, by those of each array
    except (NotFound, BadCube):
        root.delete(f"{key}/zarr.json")
        return None


def _torn(cube: Cube) -> list[tuple[str, Index | None]]:
    """Tiles and blocks that are not whole, their marks withdrawn."""
    whole = _whole(cube.marks)
    rows, columns = cube.spec.tiles
    missing = [(iy, ix) for iy in range(rows) for ix in range(columns) if (iy, ix) not in whole]
    return [*((cube.path, index) for index in missing), *_torn_blocks(cube)]


def _whole(marks: DoneMarks) -> Collection[Index]:
    """What is as it was marked; the other marks are withdrawn."""
    try:
        torn = marks.verify()
    except BadCube:
        marks.drop_folded()
        torn = marks.verify()
    for index in torn:
        marks.unmark(index)
    return marks.done()


def _torn_blocks(cube: Cube) -> list[tuple[str, Index | None]]:
    """A restored cube's plan, where it is damaged, and removed; of a fused one the adaptation blocks not whole."""
    key = plan_key(cube.path)
    if cube.spec.stage != "restored":
        return []
    try:
        plan = read_plan(cube.root, key)
    except NotFound:  # a cube copied without its plan: its tiles are whole all the same
        return []
    except Refused:
        cube.root.delete(key)
        return [(key, None)]
    if plan.blocks is None:
        return []
    whole = _whole(DoneMarks(cube.root, plan.adapted))
    return [(plan.adapted, block.index) for block in plan.blocks if block.index not in whole]
