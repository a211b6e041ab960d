"""Fusion in the worker: the facts of a pair, the adaptation of a block, and the pixels of a tile.

source cube --+
              +-- read with halo --> fill holes --> model (one for each block around) --> blend --> crop the core
guide cube ---+
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch

from hypermend.catalog.errors import Refused
from hypermend.catalog.recent import Recent
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.fuse.interface import AdaptationFigures, BadPair, FusionModel, FusionRestorer, Pair
from hypermend.models.restorer import SceneStatistics, array_from_json, array_to_json
from hypermend.pipeline.engine.memory_grant import peak_bytes
from hypermend.pipeline.registry.models import load_pair_model
from hypermend.pipeline.restore.adapted_blocks import AdaptedBlocks
from hypermend.pipeline.restore.pair_reader import PairReader, PairWindow
from hypermend.pipeline.restore.plan import Plan
from hypermend.pipeline.runs.run_log import TaskReceipt
from hypermend.pipeline.tiling.pixels import (
    MeanSpectrum,
    Physical,
    TilePixels,
    count_saturated,
    mark_near_fill,
    refuse_bad_output,
    repeated,
    to_stored,
)
from hypermend.pipeline.tiling.tiles import Index, Tile, Window, sample_windows

SAMPLE_EDGE_LR_PX = (16, 128)
"""Least and largest edge of the windows that the scene's facts are estimated from."""
SAMPLE_EDGE_HR_PX = 1024
KEEP_BLOCKS = 32
"""Blocks whose adapted models a scene keeps."""


def pair_facts(plan: Plan, root: ArchiveStore, model: FusionModel) -> dict[str, Any]:
    """Estimate whatever depends on the whole pair: mean spectra that fill deep holes, and the model's facts.

    Raises:
        Refused: no sampled pixel holds data in both images, or the model finds that they do not belong together.
    """
    (guide,) = plan.guides
    reader = PairReader(plan, root)
    low, high = SAMPLE_EDGE_LR_PX
    edge = min(high, max(low, SAMPLE_EDGE_HR_PX // plan.scale))
    windows = sample_windows(*plan.source_px, edge_px=edge)
    y_mean, x_mean = _mean_spectra(plan, reader, windows)
    reader.fill_with(y_mean, x_mean)

    def pairs() -> Iterator[Pair]:
        for window in windows:
            pair = reader.read(window).pair
            if pair.y_valid.any() and pair.x_valid.any():
                yield pair

    try:
        facts = model.estimate(pairs, reader.setup)
    except BadPair as error:
        raise Refused(f"scene {plan.scene_id} with guide {guide.scene_id}: {error}") from error
    return {"mean": array_to_json(y_mean), "guide_mean": array_to_json(x_mean), "model": facts}


def _mean_spectra(plan: Plan, reader: PairReader, windows: list[Window]) -> tuple[Physical, Physical]:
    scene, guide = MeanSpectrum(), MeanSpectrum()
    for window in windows:
        pair = reader.read_with_holes(window)
        scene.add(pair.y.values, pair.y.known)
        guide.add(pair.x.values, pair.x.known)
    for name, spectrum in (("scene", scene), ("guide", guide)):
        if spectrum.pixels == 0:
            raise Refused(
                f"scene {plan.scene_id}: none of the sampled pixels of the {name} holds data; nothing to fuse"
            )
    return scene.mean(), guide.mean()


class ImagePairScene:
    """A plan of a pair, its two cubes, its model and its adapted blocks; an ``OpenScene``."""

    load_model = staticmethod(load_pair_model)

    def __init__(self, plan: Plan, root: ArchiveStore, load: Callable[[str], FusionModel]) -> None:
        self.plan = plan
        self._root, self._load = root, load
        self._blocks = AdaptedBlocks(root, plan)
        self._restorers: Recent[Index, FusionRestorer] = Recent(KEEP_BLOCKS)

    def facts(self) -> dict[str, Any]:
        return pair_facts(self.plan, self._root, self._model)

    def model_facts(self) -> list[SceneStatistics]:
        return [self._facts]

    def adapted(self) -> frozenset[Index]:
        return self._blocks.done()

    def figures(self) -> dict[str, Any]:
        plan, blocks = self.plan, self._blocks.figures()
        return {
            "guide": plan.spec.attrs["hypermend:guide"],
            "scale": plan.scale,
            "pair": _without_arrays(self._facts),
            "blocks_adapted": sum(bool(b.get("adapted")) for b in blocks),
            "blocks_fallen_back": sum(not b.get("adapted") for b in blocks),
            "steps": sum(int(b.get("steps", 0)) for b in blocks),
            "blocks": blocks,
        }

    def adapt(self, block: Index) -> TaskReceipt:
        plan, reader = self.plan, self._reader
        assert plan.blocks is not None
        assert plan.budget is not None
        start = time.perf_counter()
        support = plan.blocks[block].support
        window = reader.read(reader.around(support, plan.halo))
        read = time.perf_counter()
        core = support.inside(window.y.window)
        fine = support.finer(plan.scale).inside(window.x.window)
        state: Mapping[str, torch.Tensor] = {}
        figures: AdaptationFigures = {"adapted": False, "steps": 0, "reason": "no pixel is usable in both images"}
        pair = window.pair
        if pair.y_valid[core].any() and pair.x_valid[fine].any():
            adapted = self._model.adapt(self._facts, pair, core, plan.budget)
            state, figures = adapted.state, adapted.figures.copy()
        modelled = time.perf_counter()
        # Seconds stand in the receipt only: an undisturbed run and a resumed one leave the same bytes.
        figures.pop("seconds", None)
        wrote = self._blocks.put(block, state, figures)
        return TaskReceipt(
            tiles=(),
            block=block,
            figures=figures,
            read_s=read - start,
            model_s=modelled - read,
            write_s=time.perf_counter() - modelled,
            valid_fraction=float(pair.y_valid[core].mean()),
            samples=0,
            bytes_written=wrote,
            peak_bytes=peak_bytes(),
        )

    def pixels(self, tile: Tile) -> TilePixels:
        plan, reader, s = self.plan, self._reader, self.plan.scale
        start = time.perf_counter()
        core = plan.source_grid[tile.index].core
        window = reader.read(reader.around(core, plan.halo))
        read = time.perf_counter()
        y, x = core.inside(window.y.window)
        fine = tile.core.inside(window.x.window)
        # Bad bands and holes are neither fed nor invented: they stay as they were measured, on finer pixels.
        stored = repeated(window.stored[:, y, x], s).astype(plan.spec.dtype)
        flags, known, saturated = repeated(window.flags, s), repeated(window.y.known, s), 0
        if window.y.known[y, x].any():
            output = self._fused(window, core)
            unguided = ~window.x.known[fine]
            if unguided.any():
                output = np.where(unguided, self._without_guide(window, core), output)
            refuse_bad_output(output, known[fine])
            good = np.flatnonzero(plan.spec.good)
            numbers = (output - np.float32(plan.spec.add_offset)) / np.float32(plan.spec.scale_factor)
            stored[good] = np.where(known[fine], to_stored(numbers, plan.spec), stored[good])
            saturated = count_saturated(numbers, known[fine], plan.spec)
            flags = mark_near_fill(flags, known & window.x.known, s * plan.halo)
        return TilePixels(
            stored=stored,
            flags=flags[fine],
            read_s=read - start,
            model_s=time.perf_counter() - read,
            saturated=saturated,
            source=window.stored[:, y, x],
            known=window.y.known[y, x],
        )

    def _fused(self, window: PairWindow, core: Window) -> Physical:
        """The model's output on the core, the blocks' outputs blended: (b, s * height, s * width)."""
        if self.plan.blocks is None:
            return self._run(self._unadapted, window, core)
        s = self.plan.scale
        out = np.zeros((len(window.y.values), s * core.height, s * core.width), np.float32)
        unadapted: Physical | None = None
        for block in self.plan.blocks.over(core):
            part = block.support.intersection(core)
            weight = self.plan.blocks.weight(block.index, part)
            restorer = self._restorer(block.index)
            where = (slice(None), *part.finer(s).inside(core.finer(s)))
            if restorer is self._unadapted:  # blocks that fell back share one output
                unadapted = self._run(restorer, window, core) if unadapted is None else unadapted
                out[where] += weight * unadapted[where]
            else:
                out[where] += weight * self._run(restorer, window, part)
        return out

    def _run(self, restorer: FusionRestorer, window: PairWindow, part: Window) -> Physical:
        """A restorer's output on ``part``, which lies at least a halo inside the window or at the scene's edge."""
        s = self.plan.scale
        around = self._reader.around(part, self.plan.halo)
        y = window.y.values[(..., *around.inside(window.y.window))]
        x = window.x.values[(..., *around.finer(s).inside(window.x.window))]
        output = _on_device(restorer, y, x)
        return output[(..., *part.finer(s).inside(around.finer(s)))]

    def _without_guide(self, window: PairWindow, core: Window) -> Physical:
        values = torch.from_numpy(window.y.values)[None].to(_device())
        with torch.inference_mode():
            output = self._unadapted.without_guide(values)[0].cpu().numpy()
        fine = core.finer(self.plan.scale).inside(window.x.window)
        return np.asarray(output[(..., *fine)], dtype=np.float32)

    def _restorer(self, block: Index) -> FusionRestorer:
        def bind() -> FusionRestorer:
            state = self._blocks.get(block)
            return self._model.bind(self._facts, state) if state else self._unadapted

        return self._restorers.get(block, bind)

    @property
    def _facts(self) -> SceneStatistics:
        assert self.plan.scene_facts is not None
        facts: SceneStatistics = self.plan.scene_facts["model"]
        return facts

    @property
    def _model(self) -> FusionModel:
        return self._load(self.plan.model)

    @cached_property
    def _unadapted(self) -> FusionRestorer:
        return self._model.bind(self._facts)

    @cached_property
    def _reader(self) -> PairReader:
        assert self.plan.scene_facts is not None
        reader = PairReader(self.plan, self._root)
        reader.fill_with(*(array_from_json(self.plan.scene_facts[name]) for name in ("mean", "guide_mean")))
        return reader


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _on_device(restorer: FusionRestorer, y: Physical, x: Physical) -> Physical:
    pair = [torch.from_numpy(np.ascontiguousarray(values))[None].to(_device()) for values in (y, x)]
    with torch.inference_mode():
        return np.asarray(restorer(*pair)[0].cpu().numpy(), dtype=np.float32)


def _without_arrays(facts: Any) -> Any:
    """Facts without their packed arrays, as the run's report shows them."""
    if isinstance(facts, dict):
        return {k: _without_arrays(v) for k, v in facts.items() if not (isinstance(v, dict) and "float32" in v)}
    return facts
