"""One image in a worker: the facts of the scene before its first tile, and the pixels of a tile by a chain of models.

source cube --read with margin--> fill holes --step, trim, step, trim--> the core, on finer pixels after a sharpener
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.errors import Refused
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.restorer import Model, SceneStatistics, array_from_json, array_to_json
from hypermend.pipeline.registry.models import load_model
from hypermend.pipeline.restore.chain import Chain, bind_steps
from hypermend.pipeline.restore.plan import Plan
from hypermend.pipeline.restore.steps import Step
from hypermend.pipeline.runs.run_log import TaskReceipt
from hypermend.pipeline.tiling.pixels import (
    FILL_REACH_PX,
    Flags,
    ImageWindow,
    Mask,
    MeanSpectrum,
    Physical,
    Stored,
    TilePixels,
    count_saturated,
    data_mask,
    mark_near_fill,
    physical,
    refuse_bad_output,
    repeated,
    to_stored,
)
from hypermend.pipeline.tiling.tiles import Index, Tile, Window, padded_window, sample_windows


def scene_facts(plan: Plan, source: Cube, models: Sequence[Model]) -> dict[str, Any]:
    """Estimate whatever depends on the whole scene: the mean spectrum that fills deep holes, and each model's facts.

    A model estimates from its later input: sampled windows of the scene, restored by the steps before it.

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
        before = Chain(plan.steps[:i], bind_steps(plan, models[:i], facts))
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
    reader = SourceReader(plan, source, mean)
    for window in sample_windows(*plan.source_px):
        image = reader.read(window, before.margin).image
        core = window.inside(image.window)
        known = image.known[core]
        if known.any():
            restored = before(image.values)
            values = image.values[(..., *core)] if restored is None else restored
            known = repeated(known, values.shape[1] // known.shape[0])
            yield np.where(known, values[bands], np.float32(0)), known


def _mean_spectrum(plan: Plan, source: Cube, good: NDArray[np.intp]) -> Physical:
    spectrum = MeanSpectrum()
    for values, known in _samples(plan, source, good):
        spectrum.add(values, known)
    if spectrum.pixels == 0:
        raise Refused(f"scene {plan.scene_id}: none of the sampled pixels holds data; nothing to restore")
    return spectrum.mean()


@dataclass(frozen=True, kw_only=True)
class SourceWindow:
    """One window of source pixels with its margin; beyond the scene it is reflected."""

    stored: Stored
    """(bands, h, w) as the source cube stores them."""
    flags: Flags
    image: ImageWindow
    """The good bands."""


class SourceReader:
    """Reads windows of a scene as models take them."""

    def __init__(self, plan: Plan, source: Cube, mean: Physical) -> None:
        self._source, self._mean = source, mean
        self._size = plan.source_px
        self._good = np.flatnonzero(plan.spec.good)

    def read(self, window: Window, margin: int) -> SourceWindow:
        """Read a window with ``margin`` pixels around it, without holes."""
        source = self._with_holes(window.grown(margin))
        if source.image.known.all():
            return source
        wide = self._with_holes(window.grown(margin + FILL_REACH_PX))
        return replace(source, image=source.image.filled(wide.image, self._mean))

    def _with_holes(self, window: Window) -> SourceWindow:
        read = padded_window(*self._size, window, 0)
        stored, flags = (read.take(pixels) for pixels in self._source.read(read.window.y, read.window.x))
        values = physical(stored if len(self._good) == len(stored) else stored[self._good], self._source.spec)
        image = ImageWindow(window=window, values=values, known=data_mask(values, flags))
        return SourceWindow(stored=stored, flags=flags, image=image)


class SingleImageScene:
    """A plan of one image, its source and its models; an ``OpenScene``."""

    load_model = staticmethod(load_model)

    def __init__(self, plan: Plan, root: ArchiveStore, load: Callable[[str], Model]) -> None:
        self.plan = plan
        self._root, self._load = root, load

    def facts(self) -> dict[str, Any]:
        return scene_facts(self.plan, Cube(self._root, self.plan.source), self._models())

    def model_facts(self) -> list[SceneStatistics]:
        assert self.plan.scene_facts is not None
        return [facts for step in self.plan.scene_facts["steps"] for facts in step]

    def adapted(self) -> frozenset[Index]:
        return frozenset()

    def adapt(self, block: Index) -> TaskReceipt:
        raise NotImplementedError("models of one image do not adapt")

    def figures(self) -> dict[str, Any]:
        return {}

    def pixels(self, tile: Tile) -> TilePixels:
        plan, reader, chain = self.plan, self._reader, self._chain
        start = time.perf_counter()
        source = reader.read(plan.source_grid.to_read(tile.index), chain.margin)
        read = time.perf_counter()
        image, core = source.image, plan.source_grid[tile.index].core.inside(source.image.window)
        # Bad bands and holes are neither fed nor invented: they stay as they were measured, on finer pixels.
        stored = repeated(source.stored[(..., *core)], plan.scale)
        flags, known, saturated = source.flags, image.known[core], 0
        if known.any():
            output = chain(image.values)
            if output is not None:
                output, fine = output[:, : tile.core.height, : tile.core.width], repeated(known, plan.scale)
                refuse_bad_output(output, fine)
                stored, saturated = self._changed(
                    stored, repeated(image.values[(..., *core)], plan.scale), output, fine
                )
            flags = mark_near_fill(flags, image.known, chain.margin)
        return TilePixels(
            stored=stored,
            flags=repeated(flags[core], plan.scale),
            read_s=read - start,
            model_s=time.perf_counter() - read,
            saturated=saturated,
        )

    def _changed(self, stored: Stored, before: Physical, after: Physical, known: Mask) -> tuple[Stored, int]:
        """The change of the good bands, added to the stored numbers where there is data; how many were cut.

        Adding the change, rather than storing the result, keeps every band that the models left alone bit for bit.
        """
        spec, out = self.plan.spec, stored.astype(self.plan.spec.dtype)
        good = np.flatnonzero(spec.good)
        change = (after - before) / np.float32(spec.scale_factor)
        changed = stored[good] + change
        out[good] = np.where(known & (change != 0), to_stored(changed, spec), out[good])
        return out, count_saturated(changed, known, spec)

    def _models(self) -> list[Model]:
        return [self._load(step.model) for step in self.plan.steps]

    @cached_property
    def _reader(self) -> SourceReader:
        assert self.plan.scene_facts is not None
        mean = array_from_json(self.plan.scene_facts["mean"])
        return SourceReader(self.plan, Cube(self._root, self.plan.source), mean)

    @cached_property
    def _chain(self) -> Chain:
        assert self.plan.scene_facts is not None
        return Chain(self.plan.steps, bind_steps(self.plan, self._models(), self.plan.scene_facts["steps"]))
