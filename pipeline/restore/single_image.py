"""A chain of models in a worker: what is found out about a scene before the first tile, and the pixels of a tile.

source cube --read with margin--> fill holes --step, trim, step, trim--> the core, on finer pixels after a sharpener
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.errors import Refused
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.restorer import Model, SceneStatistics, array_from_json, array_to_json
from hypermend.pipeline.restore.chain import Chain, bind, inner_window
from hypermend.pipeline.restore.plan import Plan
from hypermend.pipeline.restore.steps import Step
from hypermend.pipeline.tiling.pixels import (
    FILL_REACH_PX,
    Flags,
    Mask,
    Physical,
    Stored,
    TilePixels,
    data_mask,
    fill_holes,
    mark_near_fill,
    physical,
    refuse_bad_output,
    repeated,
    to_stored,
)
from hypermend.pipeline.tiling.tiles import PaddedRead, Tile, Window, padded_window, sample_windows


def scene_facts(plan: Plan, source: Cube, models: Sequence[Model]) -> dict[str, Any]:
    """What depends on the whole scene: the mean spectrum that fills deep holes, and what each model asks for.

    A model is told of what it will see: sampled windows of the scene, restored by the steps before it.

    Raises:
        Refused: no sampled pixel of the scene holds data.
    """
    mean = _mean_spectrum(plan, source, np.flatnonzero(plan.spec.good))
    facts: list[list[SceneStatistics]] = []
    for i, (step, model) in enumerate(zip(plan.steps, models, strict=True)):
        if i == 0:
            # One estimate for each spectral window, on the bands that it feeds.
            facts.append([model.estimate(_samples(plan, source, bands)) for bands in _fed(plan, step)])
            continue
        before = Chain(plan.steps[:i], bind(plan, models[:i], facts))
        position = np.cumsum(plan.spec.good) - 1
        facts.append([model.estimate(_restored(plan, source, mean, before, position[b])) for b in _fed(plan, step)])
    return {"mean": array_to_json(mean), "steps": facts}


def _fed(plan: Plan, step: Step) -> list[NDArray[np.intp]]:
    """Bands of the cube that each call of a step's model is fed."""
    windows = plan.windows(step)
    return [np.flatnonzero(plan.spec.good)] if windows is None else [np.array(w.take) for w in windows]


def _samples(plan: Plan, source: Cube, bands: NDArray[np.intp]) -> Iterator[tuple[Physical, Mask]]:
    """Sampled windows of the scene: physical values of ``bands`` and where they hold data. One in memory at a time."""
    for window in sample_windows(*plan.source_px):
        stored, flags = source.read(window.y, window.x)
        values = physical(stored[bands], source.spec)
        known = data_mask(values, flags)
        if known.any():
            yield np.where(known, values, np.float32(0)), known


def _restored(
    plan: Plan, source: Cube, mean: Physical, before: Chain, bands: NDArray[np.intp]
) -> Iterator[tuple[Physical, Mask]]:
    """The same windows as the first steps leave them; ``bands`` counts good ones."""
    reader = Reader(plan, source, mean)
    for window in sample_windows(*plan.source_px):
        found = reader.read(window, before.margin)
        known = found.known[inner_window(before.margin)]
        if known.any():
            restored = before(found.values)
            values = found.values[(..., *inner_window(before.margin))] if restored is None else restored
            known = repeated(known, values.shape[1] // known.shape[0])
            yield np.where(known, values[bands], np.float32(0)), known


def _mean_spectrum(plan: Plan, source: Cube, good: NDArray[np.intp]) -> Physical:
    total, count = np.zeros(len(good)), 0
    for values, known in _samples(plan, source, good):
        total += values[:, known].sum(axis=1, dtype=np.float64)
        count += int(known.sum())
    if count == 0:
        raise Refused(f"scene {plan.scene_id}: none of the sampled pixels holds data; nothing to restore")
    return (total / count).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Padded:
    """One window of source pixels with its margin; beyond the scene it is reflected."""

    stored: Stored
    flags: Flags
    values: Physical
    """(b, h, w) of the good bands, without holes."""
    known: Mask
    """(h, w): where there was data."""


class Reader:
    """Windows of a scene as models take them."""

    def __init__(self, plan: Plan, source: Cube, mean: Physical) -> None:
        self._source, self._mean = source, mean
        self._size = plan.source_px
        self._good = np.flatnonzero(plan.spec.good)

    def read(self, window: Window, margin: int) -> Padded:
        """A window with ``margin`` pixels around it."""
        stored, flags = self._padded(window, margin)
        values = physical(stored if len(self._good) == len(stored) else stored[self._good], self._source.spec)
        known = data_mask(values, flags)
        if not known.all():
            # A hole takes its values from up to FILL_REACH_PX farther than the network looks.
            wide, wide_flags = self._padded(window, margin + FILL_REACH_PX)
            filled = physical(wide[self._good], self._source.spec)
            fill_holes(filled, data_mask(filled, wide_flags), self._mean)
            values = np.ascontiguousarray(filled[(..., *inner_window(FILL_REACH_PX))])
        return Padded(stored=stored, flags=flags, values=values, known=known)

    def _padded(self, window: Window, margin: int) -> tuple[Stored, Flags]:
        read: PaddedRead = padded_window(*self._size, window, margin)
        stored, flags = self._source.read(read.window.y, read.window.x)
        return read.take(stored), read.take(flags)


class SingleImageScene:
    """A plan with its source open and its restorers bound."""

    def __init__(self, plan: Plan, root: ArchiveStore, models: Sequence[Model]) -> None:
        assert plan.scene_facts is not None
        self.plan = plan
        source = Cube(root, plan.source)
        self._good = np.flatnonzero(plan.spec.good)
        self._reader = Reader(plan, source, array_from_json(plan.scene_facts["mean"]))
        self._chain = Chain(plan.steps, bind(plan, models, plan.scene_facts["steps"]))

    def pixels(self, tile: Tile) -> TilePixels:
        """Read and restore one tile."""
        start = time.perf_counter()
        plan, margin = self.plan, self._chain.margin
        found = self._reader.read(plan.source_grid.to_read(tile.index), margin)
        read = time.perf_counter()
        at = plan.source_grid[tile.index].core
        core = slice(margin, margin + at.height), slice(margin, margin + at.width)
        # What is neither fed nor invented (bad bands, holes) stays as it was measured, on finer pixels.
        stored = repeated(found.stored[(..., *core)], plan.scale)
        flags, known = found.flags, found.known[core]
        if known.any():
            output = self._chain(found.values)
            if output is not None:
                output, there = output[:, : tile.core.height, : tile.core.width], repeated(known, plan.scale)
                refuse_bad_output(output, there)
                stored = self._changed(stored, repeated(found.values[(..., *core)], plan.scale), output, there)
            flags = mark_near_fill(flags, found.known, margin)
        return TilePixels(
            stored=stored,
            flags=repeated(flags[core], plan.scale),
            read_s=read - start,
            model_s=time.perf_counter() - read,
        )

    def _changed(self, stored: Stored, before: Physical, after: Physical, known: Mask) -> Stored:
        """The change of the good bands, added to the stored numbers where there is data.

        Adding the change, rather than storing the result anew, keeps every band that the models left alone bit for bit.
        """
        spec, out = self.plan.spec, stored.astype(self.plan.spec.dtype)
        change = (after - before) / np.float32(spec.scale_factor)
        out[self._good] = np.where(known, to_stored(stored[self._good] + change, spec), out[self._good])
        return out
