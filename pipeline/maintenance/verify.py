"""Verify: compare every shard of every published cube, and the weights of every adapted block, with its mark."""

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
class TornPart:
    """A part of a published cube that is lost, or whose bytes differ from those written."""

    cube: str
    """Key of the cube; for a block the folder of its weights, for a plan the plan."""
    index: Index | None
    """The tile or block; None for the metadata or the plan."""
    repair_with: str
    """Verb that writes it again: ingest or restore."""

    def __str__(self) -> str:
        part = "metadata" if self.index is None else f"tile {self.index[0]}-{self.index[1]}"
        return f"{self.cube} {part}: run `hypermend {self.repair_with}` again"


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """Result of ``verify``: cubes and tiles checked, and the torn parts among them."""

    cubes: int
    tiles: int
    torn: tuple[TornPart, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def verify(archive: str, progress: Callable[[int, int], None] = lambda done, total: None) -> VerifyReport:
    """Check every source and restored cube; delete the marks of torn tiles, and damaged metadata.

    The next `ingest` or `restore` of the scene writes whatever has no mark or no metadata, and nothing else.

    Args:
        archive: folder or URL.
        progress: called after each cube with the number of cubes done and their total.
    """
    opened = hypermend.open(archive)
    items = [(item, verb) for stage, verb in _VERBS.items() for item in opened.search(stage=stage)]
    tiles = 0
    torn: list[TornPart] = []
    for number, (item, verb) in enumerate(items, 1):
        key = cube_key(item.scene)
        cube = _open(opened.root, key)
        if cube is None:
            torn.append(TornPart(cube=key, index=None, repair_with=verb))
        else:
            torn += [TornPart(cube=where, index=index, repair_with=verb) for where, index in _torn(cube)]
            tiles += math.prod(cube.spec.tiles)
        progress(number, len(items))
    return VerifyReport(cubes=len(items), tiles=tiles, torn=tuple(torn))


def _open(root: ArchiveStore, key: str) -> Cube | None:
    """Open the cube; where its metadata are lost or damaged, delete its group, so that it counts as missing."""
    try:
        open_cube(root, key)  # as users do, from the group's copy of all metadata
        return Cube(root, key)  # as we do, from the metadata of each array
    except (NotFound, BadCube):
        root.delete(f"{key}/zarr.json")
        return None


def _torn(cube: Cube) -> list[tuple[str, Index | None]]:
    """List the tiles and blocks that are not intact, and delete their marks."""
    intact = _intact(cube.marks)
    rows, columns = cube.spec.tiles
    missing = [(iy, ix) for iy in range(rows) for ix in range(columns) if (iy, ix) not in intact]
    return [*((cube.path, index) for index in missing), *_torn_blocks(cube)]


def _intact(marks: DoneMarks) -> Collection[Index]:
    """Return the tiles whose bytes agree with their marks, and delete the other marks."""
    try:
        torn = marks.verify()
    except BadCube:
        marks.drop_folded()
        torn = marks.verify()
    for index in torn:
        marks.unmark(index)
    return marks.done()


def _torn_blocks(cube: Cube) -> list[tuple[str, Index | None]]:
    """List the damaged parts beside a restored cube: its plan, which is then deleted, or its adaptation blocks."""
    key = plan_key(cube.path)
    if cube.spec.stage != "restored":
        return []
    try:
        plan = read_plan(cube.root, key)
    except NotFound:  # a cube copied without its plan: its tiles are intact all the same
        return []
    except Refused:
        cube.root.delete(key)
        return [(key, None)]
    if plan.blocks is None:
        return []
    intact = _intact(DoneMarks(cube.root, plan.adapted))
    return [(plan.adapted, block.index) for block in plan.blocks if block.index not in intact]
