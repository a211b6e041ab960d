"""Verify: read every shard of every published cube against its mark."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import catalog
from catalog.cube import Cube
from catalog.publish import cube_key
from catalog.root import Root
from pipeline.tiles import Index


@dataclass(frozen=True, kw_only=True)
class Torn:
    """A tile whose bytes are not those that were marked."""

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
    root = Root(archive)
    cubes = tiles = 0
    torn: list[Torn] = []
    for stage, verb in (("source", "ingest"), ("restored", "restore")):
        for item in catalog.open(archive).search(stage=stage):
            cube = Cube(root, cube_key(item.scene))
            cubes += 1
            tiles += len(cube.done())
            for index in cube.verify():
                torn.append(Torn(cube=cube.path, index=index, repair_with=verb))
                cube.unmark(index)
    return VerifyReport(cubes=cubes, tiles=tiles, torn=tuple(torn))
