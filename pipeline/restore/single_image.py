"""One image in a worker: the facts of the scene before its first tile, and the pixels of a tile by a chain of models.

source cube --read with margin--> fill holes, repair defects --step, trim, step, trim--> the core, on finer pixels after
a sharpener
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.errors import Refused
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.denoise.model import StasModel
from hypermend.models.restorer import Model, SceneStatistics, array_from_json, array_to_json
from hypermend.models.signal.repair import Repair, masked
from hypermend.models.signal.stripes import PlacedWindow
from hypermend.pipeline.registry.models import load_model
from hypermend.pipeline.restore.chain import Chain, bind_steps
from hypermend.pipeline.restore.plan import Plan
from hypermend.pipeline.restore.steps import Step
from hypermend.pipeline.runs.run_log import TaskReceipt
from hypermend.pipeline.tiling.bad_bands import FilledBands, isolated
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
from hypermend.pipeline.tiling.tiles import Index, Tile, Window, padded_window, sample_windows, spread

COLUMNS_PX, STRIP_PX = 256, 64
"""Columns in a group, and rows of a strip: whole chunks of a cube."""
BOOTSTRAP_PX, BOOTSTRAPPED = 112, 4
"""Edge and most windows of a scene that are restored again to know its errors."""
MOST_STRIPS = 8
"""Strips of a scene, spread over its height, in which defects are looked for."""


def scene_facts(plan: Plan, source: Cube, models: Sequence[Model]) -> dict[str, Any]:
    """Estimate whatever depends on the whole scene: the mean spectrum that fills deep holes, and each model's facts.

    A model estimates from its later input: sampled windows of the scene, restored by the steps before it.

    Raises:
        Refused: no sampled pixel of the scene holds data.
    """
    mean = _mean_spectrum(plan, source, np.flatnonzero(plan.spec.good))
    facts: list[list[SceneStatistics]] = []
    repair: Repair | None = None
    for i, (step, model) in enumerate(zip(plan.steps, models, strict=True)):
        if i == 0 and isinstance(model, StasModel) and model.repairs:
            statistics, repair = _with_defects(plan, source, model)
            if plan.uncertainty == "on":
                statistics = model.estimate_errors(
                    statistics, _windows(plan, SourceReader(plan, source, mean, repair), model.margin)
                )
            facts.append([statistics])
        elif i == 0:
            # One estimate for each spectral window, on the bands that it feeds.
            facts.append([model.estimate(_samples(plan, source, bands)) for bands in _fed(plan, step)])
        else:
            reader = SourceReader(plan, source, mean, repair)
            before = Chain(plan.steps[:i], bind_steps(plan, models[:i], facts))
            position = np.cumsum(plan.spec.good) - 1
            facts.append([model.estimate(_restored(plan, reader, before, position[b])) for b in _fed(plan, step)])
    found = {"mean": array_to_json(mean), "steps": facts}
    return found if repair is None else {**found, "repair": repair.to_json()}


def _with_defects(plan: Plan, source: Cube, model: StasModel) -> tuple[SceneStatistics, Repair | None]:
    """Estimate the statistics of a scene, and its repair; None where it has no defects.

    Defects are looked for over the whole width of the scene, in groups of columns and strips of rows: memory does not
    depend on the size of the scene. Statistics come from the sampled windows, as without defects.
    """
    height, width = plan.source_px
    bands = np.flatnonzero(plan.spec.good)

    def read(window: Window) -> PlacedWindow:
        stored, flags = source.read(window.y, window.x)
        values = physical(stored[bands], source.spec)
        known = data_mask(values, flags)
        missing = np.zeros(values.shape, dtype=bool)
        if source.spec.defects:
            missing = source.read_defects(window.y, window.x)[bands]
        return np.where(known, values, np.float32(0)), known, missing & known, np.arange(window.x0, window.x1)

    def windows() -> Iterator[PlacedWindow]:
        return (w for w in map(read, sample_windows(height, width)) if w[1].any())

    def columns() -> Iterator[Iterator[tuple[Physical, Mask, Mask]]]:
        for x0 in range(0, width, COLUMNS_PX):
            strips = (
                Window(y0=y0, y1=min(y0 + STRIP_PX, height), x0=x0, x1=min(x0 + COLUMNS_PX, width))
                for y0 in spread(height, STRIP_PX, MOST_STRIPS)
            )
            yield (read(strip)[:3] for strip in strips)

    defects, stripes, lacking = masked(windows, columns, destripe=plan.destripe == "on")
    defective = bool(defects) or source.spec.defects or stripes is not None
    statistics, fit = model.estimate_masked(lacking, defective=defective)
    return statistics, None if fit is None else Repair(defects=defects, fit=fit, stripes=stripes)


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
    plan: Plan, reader: SourceReader, before: Chain, bands: NDArray[np.intp]
) -> Iterator[tuple[Physical, Mask]]:
    """The same windows as the first steps leave them; ``bands`` counts good ones."""
    for window in sample_windows(*plan.source_px):
        image = reader.read(window, before.margin).image
        core = window.inside(image.window)
        known = image.known[core]
        if known.any():
            restored = before(image.values)
            values = image.values[(..., *core)] if restored is None else restored
            known = repeated(known, values.shape[1] // known.shape[0])
            yield np.where(known, values[bands], np.float32(0)), known


def _windows(plan: Plan, reader: SourceReader, margin: int) -> Iterator[Physical]:
    """A few windows of the scene as its tiles are read, for the bootstrap of its errors."""
    for window in sample_windows(*plan.source_px, edge_px=BOOTSTRAP_PX, at_most=BOOTSTRAPPED):
        image = reader.read(window, margin).image
        if image.known[window.inside(image.window)].any():
            yield image.values


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
    """The good bands, holes filled and defects repaired."""
    measured: Physical
    """The same before the repair."""
    repaired: Mask | None
    """(good bands, h, w) numbers that were repaired; None where the scene has no defects."""


class SourceReader:
    """Reads windows of a scene as models take them."""

    def __init__(self, plan: Plan, source: Cube, mean: Physical, repair: Repair | None) -> None:
        self._source, self._mean, self._repair = source, mean, repair
        self._size = plan.source_px
        self._good = np.flatnonzero(plan.spec.good)

    def read(self, window: Window, margin: int) -> SourceWindow:
        """Read a window with ``margin`` pixels around it, without holes and defects."""
        asked = window.grown(margin)
        repair = self._repair
        reach = 0 if repair is None else repair.reach_px
        stored, flags, image, missing, x = self._with_holes(asked.grown(reach))
        if not image.known.all():
            image = image.filled(self._with_holes(asked.grown(reach + FILL_REACH_PX))[2], self._mean)
        if repair is None:
            return SourceWindow(stored=stored, flags=flags, image=image, measured=image.values, repaired=None)
        values, repaired = repair(image.values, image.known, missing, x)
        inner = asked.inside(image.window)
        measured, values, repaired, stored = (
            np.ascontiguousarray(a[(..., *inner)]) for a in (image.values, values, repaired, stored)
        )
        image = ImageWindow(window=asked, values=values, known=image.known[inner])
        return SourceWindow(stored=stored, flags=flags[inner], image=image, measured=measured, repaired=repaired)

    def _with_holes(self, window: Window) -> tuple[Stored, Flags, ImageWindow, Mask, NDArray[np.int64]]:
        """Stored numbers, flags, the good bands, which of them the product calls defective, and the scene's columns."""
        read = padded_window(*self._size, window, 0)
        stored, flags = (read.take(pixels) for pixels in self._source.read(read.window.y, read.window.x))
        values = physical(stored if len(self._good) == len(stored) else stored[self._good], self._source.spec)
        image = ImageWindow(window=window, values=values, known=data_mask(values, flags))
        missing = np.zeros(values.shape, bool)
        if self._repair is not None and self._source.spec.defects:
            missing = read.take(self._source.read_defects(read.window.y, read.window.x))[self._good]
        return stored, flags, image, missing, read.window.x0 + read.take_x.astype(np.int64)


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
        """Defects of the scene, where it has any; how many numbers were repaired is in the marks."""
        if self._repair is None:
            return {}
        found, bands = self._repair.defects, np.array(self.plan.spec.band)[np.array(self.plan.spec.good)]
        values = {int(b): list(v) for b, v in zip(bands, found.values, strict=True) if v}
        defects = {
            "dead_columns": int(found.columns.sum()),
            "repeated_values": values,
            "bands_with_spikes": bands[self._repair.fit.spiky].tolist(),
        }
        if (stripes := self._repair.stripes) is None:
            return {"defects": defects}
        offsets = stripes.offsets
        return {
            "defects": defects,
            "stripes": {
                "columns": int(np.count_nonzero(offsets)),
                "bands": bands[offsets.any(axis=1)].tolist(),
                "largest": float(np.abs(offsets).max()),
            },
        }

    def pixels(self, tile: Tile) -> TilePixels:
        plan, reader, chain = self.plan, self._reader, self._chain
        start = time.perf_counter()
        source = reader.read(plan.source_grid.to_read(tile.index), chain.margin)
        read = time.perf_counter()
        image, core = source.image, plan.source_grid[tile.index].core.inside(source.image.window)
        # Bad bands and holes are neither fed nor invented: they stay as they were measured, on finer pixels.
        stored = repeated(source.stored[(..., *core)], plan.scale)
        flags, known, saturated, std = source.flags, image.known[core], 0, None
        if known.any():
            if plan.uncertainty == "on":
                output, deviation = chain.with_std(image.values)
                std = self._of_all_bands(deviation[:, : tile.core.height, : tile.core.width], known)
            else:
                output = chain(image.values)
            if output is None and source.repaired is not None:
                output = image.values[(..., *core)]
            if output is not None:
                output, fine = output[:, : tile.core.height, : tile.core.width], repeated(known, plan.scale)
                refuse_bad_output(output, fine)
                stored, saturated = self._changed(
                    stored, repeated(source.measured[(..., *core)], plan.scale), output, fine
                )
            flags = mark_near_fill(flags, image.known, chain.margin)
        fill_errors = None
        if self._filled is not None:
            fine = repeated(known, plan.scale)
            fill_errors = self._filled.errors(stored, fine, plan.spec)
            stored = self._filled.fill(stored.astype(plan.spec.dtype), fine, plan.spec)
        return TilePixels(
            stored=stored,
            flags=repeated(flags[core], plan.scale),
            read_s=read - start,
            model_s=time.perf_counter() - read,
            saturated=saturated,
            repaired=self._marked(source.repaired, core),
            std=std,
            fill_errors=fill_errors,
            source=source.stored[(..., *core)],
            known=known,
        )

    def _of_all_bands(self, std: Physical, known: Mask) -> Physical:
        """Standard deviations of all bands, coded; NaN in bad bands and without data.

        Five bits of the mantissa are kept, steps of 3 to 6 %: the rest of a float32 compresses to nothing.
        """
        out = np.full((self.plan.spec.bands, *known.shape), np.nan, np.float32)
        mantissa, exponent = np.frexp(np.where(known, std, np.float32(np.nan)))
        out[np.flatnonzero(self.plan.spec.good)] = np.ldexp(np.rint(mantissa * 32) / 32, exponent)
        return out

    def _marked(self, repaired: Mask | None, core: tuple[slice, slice]) -> Mask | None:
        """Repaired numbers of all bands of a tile, on the target's pixels."""
        if repaired is None:
            return None
        marked = repeated(repaired[(..., *core)], self.plan.scale)
        out = np.zeros((self.plan.spec.bands, *marked.shape[1:]), bool)
        out[np.flatnonzero(self.plan.spec.good)] = marked
        return out

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
    def _filled(self) -> FilledBands | None:
        return isolated(self.plan.spec) if self.plan.fill_bands == "on" else None

    @cached_property
    def _reader(self) -> SourceReader:
        assert self.plan.scene_facts is not None
        mean = array_from_json(self.plan.scene_facts["mean"])
        return SourceReader(self.plan, Cube(self._root, self.plan.source), mean, self._repair)

    @cached_property
    def _repair(self) -> Repair | None:
        assert self.plan.scene_facts is not None
        facts = self.plan.scene_facts.get("repair")
        return None if facts is None else Repair.from_json(facts)

    @cached_property
    def _chain(self) -> Chain:
        assert self.plan.scene_facts is not None
        return Chain(self.plan.steps, bind_steps(self.plan, self._models(), self.plan.scene_facts["steps"]))
