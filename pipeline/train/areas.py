"""Squares of source cubes that networks learn from: whole, usable in every pixel, on a lattice of each cube."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hypermend.catalog.cube.layout import open_cube, read_spec
from hypermend.catalog.cube.spec import VALID
from hypermend.catalog.storage.archive_store import ArchiveStore


@dataclass(frozen=True, kw_only=True, order=True)
class Area:
    """A square of one source cube."""

    cube: str
    """Key in the archive."""
    y0: int
    x0: int
    edge_px: int

    def overlaps(self, other: Area) -> bool:
        """Whether they share a pixel."""
        return (
            self.cube == other.cube
            and abs(self.y0 - other.y0) < max(self.edge_px, other.edge_px)
            and abs(self.x0 - other.x0) < max(self.edge_px, other.edge_px)
        )


def usable(root: ArchiveStore, key: str, edge_px: int) -> Iterator[Area]:
    """Squares of a cube's lattice all of whose pixels are usable; reads its flags, no other pixels."""
    spec, flags = read_spec(root, key), open_cube(root, key)["valid"]
    for y0 in range(0, spec.height - edge_px + 1, edge_px):
        row = np.asarray(flags[y0 : y0 + edge_px].values) & VALID
        for x0 in range(0, spec.width - edge_px + 1, edge_px):
            if row[:, x0 : x0 + edge_px].all():
                yield Area(cube=key, y0=y0, x0=x0, edge_px=edge_px)


def interleave_by_cube(found: Sequence[Sequence[Area]], at_most: int) -> list[Area]:
    """One area of each cube in turn, in an order of its own, until there are enough."""
    rng = np.random.default_rng(0)
    shuffled = [[areas[i] for i in rng.permutation(len(areas))] for areas in found]
    longest = max(map(len, shuffled), default=0)
    return [areas[i] for i in range(longest) for areas in shuffled if i < len(areas)][:at_most]
