"""Verify: read every shard of every published cube, and the weights of every adapted block, against its mark."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import catalog
from catalog.cube import Cube
from catalog.errors import NotFound
from catalog.marks import Marks
from catalog.publish import cube_key
from pipeline.plan import Plan, plan_key
from pipeline.tiles import Index


@dataclass(frozen=True, kw_only=True)
class Torn:
    """A tile of a published cube whose bytes are not those that were marked, or that has no mark. Or such a block."""

    cube: str
    """Where the cube lies; of a block, its folder of weights."""
    index: Index
    repair_with: str
    """The verb that writes it again: ingest or restore."""


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    cubes: int
    tiles: int
    torn: tuple[Torn, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def verify(archive: str) -> VerifyReport:
    """Check every source and restored cube, and withdraw the marks of torn tiles.

    A tile without a mark is work to do: the next `ingest` or `restore` of its scene writes it again and touches no
    other.
    """
    place = catalog.open(archive)
    cubes = tiles = 0
    torn: list[Torn] = []
    for stage, verb in (("source", "ingest"), ("restored", "restore")):
        for item in place.search(stage=stage):
            cube = Cube(place.root, cube_key(item.scene))
            for index in cube.verify():
                cube.unmark(index)
            rows, columns = cube.spec.tiles
            whole = cube.done()
            missing = [(iy, ix) for iy in range(rows) for ix in range(columns) if (iy, ix) not in whole]
            torn += [Torn(cube=cube.path, index=index, repair_with=verb) for index in missing]
            torn += [Torn(cube=where, index=index, repair_with=verb) for where, index in _torn_blocks(cube)]
            cubes, tiles = cubes + 1, tiles + rows * columns
    return VerifyReport(cubes=cubes, tiles=tiles, torn=tuple(torn))


def _torn_blocks(cube: Cube) -> list[tuple[str, Index]]:
    """Adaptation blocks of a fused cube whose weights are lost or changed; their marks are withdrawn."""
    if cube.spec.stage != "restored":
        return []
    try:
        plan = Plan.from_dict(cube.root.get_json(plan_key(cube.path)))
    except NotFound:  # a cube copied without its plan: its tiles are whole all the same
        return []
    if plan.blocks is None:
        return []
    marks = Marks(cube.root, plan.adapted)
    for index in marks.verify():
        marks.unmark(index)
    whole = marks.done()
    return [(plan.adapted, block.index) for block in plan.blocks if block.index not in whole]
