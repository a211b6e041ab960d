"""Reading for a training: areas of source cubes in physical values, and what is known of a whole scene. No Ray.

Nothing is kept but the open cubes and a few numbers of each; an area is read from its chunks when a sample needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np

from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.recent import Recent
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.arrays import F32
from hypermend.models.signal.subspace import moments, subspace
from hypermend.pipeline.tiling.pixels import physical
from hypermend.pipeline.train.areas import Area

T = TypeVar("T")
SEEN_AREAS = 6
"""Most areas that the statistics of a scene come from."""
OPEN_CUBES = 64
STRONGEST_NOISE = 80 / 255
"""Standard deviation of the strongest noise that is added in training, as a share of the bright value."""


def scene_level(values: Iterable[F32]) -> tuple[float, float]:
    """Estimate a scene's bright value, and the least noise to train it with, as a share of that.

    Three times the scene's own noise, at most a quarter of the strongest: below it that noise would be learnt as if it
    were the scene.

    Args:
        values: (bands, h, w) parts of it.
    """
    m = moments((v, np.ones(v.shape[1:], dtype=bool)) for v in values)
    bright = m.bright if m and m.bright > 0 else 1.0
    space = subspace(m) if m else None
    own = 3 * float(np.median(space.noise_std)) / bright if space else 0.0
    return bright, float(np.clip(own, 1 / 255, STRONGEST_NOISE / 4))


class PatchDataset(Generic[T]):
    """The areas of a training, read on demand."""

    def __init__(self, root: ArchiveStore, areas: Sequence[Area], know: Callable[[Iterable[F32]], T]) -> None:
        """
        Args:
            root: the archive.
            areas: to learn from.
            know: what is to be known of a scene, from some of its areas.
        """
        self._root, self._areas, self._know = root, areas, know
        self._open: Recent[str, Cube] = Recent(OPEN_CUBES)
        self._known: dict[str, T] = {}
        self._of_cube: dict[str, list[Area]] = {}
        for area in areas:
            self._of_cube.setdefault(area.cube, []).append(area)

    def draw(self, rng: np.random.Generator) -> Area:
        """A scene at random, then one of its areas: a large scene does not count for more."""
        cubes = sorted(self._of_cube)
        own = self._of_cube[cubes[int(rng.integers(len(cubes)))]]
        return own[int(rng.integers(len(own)))]

    def read(self, area: Area) -> F32:
        """(bands, edge, edge) of the good bands."""
        cube = self._open.get(area.cube, lambda: Cube(self._root, area.cube))
        stored, _ = cube.read(slice(area.y0, area.y0 + area.edge_px), slice(area.x0, area.x0 + area.edge_px))
        return np.asarray(physical(stored, cube.spec)[np.array(cube.spec.good)])

    def known(self, key: str) -> T:
        """Statistics of a scene; the same in every process."""
        if key not in self._known:
            seen = self._of_cube[key][:SEEN_AREAS]
            self._known[key] = self._know(self.read(a) for a in seen)
        return self._known[key]


def named(areas: Iterable[Area], scenes: Mapping[str, str]) -> str:
    """Scenes and windows, for a person."""
    return "; ".join(
        f"{scenes[a.cube]} y {a.y0}-{a.y0 + a.edge_px} x {a.x0}-{a.x0 + a.edge_px}" for a in dict.fromkeys(areas)
    )
