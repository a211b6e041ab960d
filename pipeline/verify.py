"""Verify: read every shard of every published cube against its mark."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import catalog
from catalog.cube import Cube
from catalog.publish import cube_key
from pipeline.tiles import Index


@dataclass(frozen=True, kw_only=True)
class Torn:
    """A tile of a published cube whose bytes are not those that were marked, or that has no mark."""

    cube: str
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
            cubes, tiles = cubes + 1, tiles + rows * columns
    return VerifyReport(cubes=cubes, tiles=tiles, torn=tuple(torn))
