"""Fusion in a worker: what is found out about a pair, what a block adapts, and the pixels of a tile.

    source cube --+
                  +-- read with halo --> fill holes --> model (one for each block around) --> blend --> crop the core
    guide cube ---+

Windows are cut at the scene's edge, not reflected beyond it: the model knows how blurred and sharp pixels continue
there (`models/degrade.py`: edges of the sharp scene replicated), and a reflected pair would contradict it. A tile at
the edge sees the same edge as the whole scene, so tiled equals whole all the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from hypermend.catalog.cube.marks import DoneMarks, Shard, crc32_hex
from hypermend.catalog.errors import NotFound, Refused
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.catalog.storage.recent import Recent
from hypermend.models.fuse.protocol import AdaptationFigures, BadPair, FusionModel, FusionRestorer, Pair
from hypermend.models.restorer import SceneStatistics, array_from_json, array_to_json
from hypermend.pipeline.engine.worker_memory import peak_bytes
from hypermend.pipeline.restore.pair_reader import PairReader, PairWindow, inside, scaled
from hypermend.pipeline.restore.plan import Plan
from hypermend.pipeline.runs.run_log import TaskReceipt
from hypermend.pipeline.tiling.pixels import (
    Physical,
    TilePixels,
    mark_near_fill,
    refuse_bad_output,
    repeated,
    to_stored,
)
from hypermend.pipeline.tiling.tiles import Index, Tile, Window, sample_windows

SAMPLE_EDGE_PX = (16, 128)
"""Least and largest edge in LR pixels of the windows that the scene's facts are estimated from."""
SAMPLE_EDGE_HR_PX = 1024


def pair_facts(plan: Plan, root: ArchiveStore, model: FusionModel) -> dict[str, Any]:
    """What depends on the whole pair: mean spectra that fill deep holes, and what the model asks for.

    Raises:
        Refused: no sampled pixel holds data in both images, or the model finds that they do not belong together.
    """
    assert plan.guide is not None
    reader = PairReader(plan, root)
    low, high = SAMPLE_EDGE_PX
    edge = min(high, max(low, SAMPLE_EDGE_HR_PX // plan.scale))
    windows = sample_windows(*plan.source_px, edge_px=edge)
    y_mean, x_mean = _means(plan, reader, windows)
    reader.fill_with(y_mean, x_mean)

    def pairs() -> Iterator[Pair]:
        for window in windows:
            pair = reader.read(window).pair
            if pair.y_valid.any() and pair.x_valid.any():
                yield pair

    try:
        facts = model.estimate(pairs, reader.setup)
    except BadPair as error:
        raise Refused(f"scene {plan.scene_id} with guide {plan.guide.scene_id}: {error}") from error
    return {"mean": array_to_json(y_mean), "guide_mean": array_to_json(x_mean), "model": facts}


def _means(plan: Plan, reader: PairReader, windows: list[Window]) -> tuple[Physical, Physical]:
    totals: list[Any] = [0.0, 0.0]
    counts = [0, 0]
    for window in windows:
        found = reader.raw(window)
        for i, (values, known) in enumerate(((found.y, found.y_known), (found.x, found.x_known))):
            totals[i] = totals[i] + values[:, known].sum(axis=1, dtype=np.float64)
            counts[i] += int(known.sum())
    for name, count in zip(("scene", "guide"), counts, strict=True):
        if count == 0:
            raise Refused(
                f"scene {plan.scene_id}: none of the sampled pixels of the {name} holds data; nothing to fuse"
            )
    y_mean, x_mean = ((total / count).astype(np.float32) for total, count in zip(totals, counts, strict=True))
    return y_mean, x_mean


KEEP_BLOCKS = 32
"""Blocks whose adapted models a scene keeps."""


class ImagePairScene:
    """A plan with its two cubes open and its restorers bound."""

    def __init__(self, plan: Plan, root: ArchiveStore, model: FusionModel) -> None:
        assert plan.scene_facts is not None
        self.plan = plan
        self._root = root
        self._model = model
        self._facts: SceneStatistics = plan.scene_facts["model"]
        self._reader = PairReader(plan, root)
        self._reader.fill_with(
            array_from_json(plan.scene_facts["mean"]), array_from_json(plan.scene_facts["guide_mean"])
        )
        self._plain = model.bind(self._facts)
        self._marks = block_marks(root, plan)
        self._adapted: Recent[Index, FusionRestorer] = Recent(KEEP_BLOCKS)

    def adapt(self, index: Index) -> TaskReceipt:
        """Adapt to one block and store what it learned; the mark is written last."""
        plan = self.plan
        assert plan.blocks is not None
        assert plan.budget is not None
        start = time.perf_counter()
        support = plan.blocks[index].support
        found = self._reader.read(self._reader.grown(support, plan.halo))
        read = time.perf_counter()
        core = inside(support, found.window)
        state: Mapping[str, torch.Tensor] = {}
        figures: AdaptationFigures = {"adapted": False, "steps": 0, "reason": "no pixel is usable in both images"}
        pair = found.pair
        if pair.y_valid[core].any() and pair.x_valid[tuple(scaled(s, plan.scale) for s in core)].any():
            adapted = self._model.adapt(self._facts, pair, core, plan.budget)
            state, figures = adapted.state, adapted.figures.copy()
        modelled = time.perf_counter()
        # How long it took is the receipt's: an undisturbed run and a resumed one leave the same bytes.
        figures.pop("seconds", None)
        wrote = self._store(index, state, figures)
        return TaskReceipt(
            tiles=(),
            block=index,
            figures=figures,
            read_s=read - start,
            model_s=modelled - read,
            write_s=time.perf_counter() - modelled,
            valid_fraction=float(pair.y_valid[core].mean()),
            samples=0,
            bytes_written=wrote,
            peak_bytes=peak_bytes(),
        )

    def _store(self, index: Index, state: Mapping[str, torch.Tensor], figures: AdaptationFigures) -> int:
        shards = []
        if state:
            data = save_tensors({k: v.detach().cpu().contiguous() for k, v in sorted(state.items())})
            shards = [Shard(key=_state_name(index), size=len(data), crc32=crc32_hex(data))]
            self._root.put(f"{self.plan.adapted}/{_state_name(index)}", data)
        self._marks.mark(*index, shards, figures)
        return sum(shard.size for shard in shards)

    def pixels(self, tile: Tile) -> TilePixels:
        """Read and fuse one tile."""
        start = time.perf_counter()
        s, plan = self.plan.scale, self.plan
        core = Window(y0=tile.core.y0 // s, y1=tile.core.y1 // s, x0=tile.core.x0 // s, x1=tile.core.x1 // s)
        found = self._reader.read(self._reader.grown(core, plan.halo))
        read = time.perf_counter()
        y, x = inside(core, found.window)
        fine = scaled(y, s), scaled(x, s)
        # What is neither fed nor invented (bad bands, holes) stays as it was measured, on finer pixels.
        stored = repeated(found.stored[:, y, x], s).astype(plan.spec.dtype)
        flags = repeated(found.flags, s)
        known = repeated(found.y_known, s)
        if found.y_known[y, x].any():
            output = self._fused(found, core)
            lost = ~found.x_known[fine]
            if lost.any():
                output = np.where(lost, self._without_guide(found, core), output)
            refuse_bad_output(output, known[fine])
            good = np.flatnonzero(plan.spec.good)
            numbers = (output - np.float32(plan.spec.add_offset)) / np.float32(plan.spec.scale_factor)
            stored[good] = np.where(known[fine], to_stored(numbers, plan.spec), stored[good])
            flags = mark_near_fill(flags, known & found.x_known, s * plan.halo)
        return TilePixels(stored=stored, flags=flags[fine], read_s=read - start, model_s=time.perf_counter() - read)

    def _fused(self, found: PairWindow, core: Window) -> Physical:
        """The model's answer on the core, the blocks' answers blended: (b, s * height, s * width)."""
        if self.plan.blocks is None:
            return self._run(self._plain, found, core)
        s = self.plan.scale
        out = np.zeros((len(found.y), s * core.height, s * core.width), np.float32)
        unadapted: Physical | None = None
        for block in self.plan.blocks.over(core):
            part = _shared(block.support, core)
            weight = self.plan.blocks.weight(block.index, part)
            restorer = self._of_block(block.index)
            y, x = inside(part, core)
            where = slice(None), scaled(y, s), scaled(x, s)
            if restorer is self._plain:  # blocks that fell back share one answer
                unadapted = self._run(self._plain, found, core) if unadapted is None else unadapted
                out[where] += weight * unadapted[where]
            else:
                out[where] += weight * self._run(restorer, found, part)
        return out

    def _run(self, restorer: FusionRestorer, found: PairWindow, part: Window) -> Physical:
        """A restorer's answer on ``part``, which lies at least a halo inside the window or at the scene's edge."""
        around = self._reader.grown(part, self.plan.halo)
        y, x = inside(around, found.window)
        s = self.plan.scale
        answer = _on_device(restorer, found.y[:, y, x], found.x[:, scaled(y, s), scaled(x, s)])
        y, x = inside(part, around)
        return answer[:, scaled(y, s), scaled(x, s)]

    def _without_guide(self, found: PairWindow, core: Window) -> Physical:
        values = torch.from_numpy(found.y)[None].to(_device())
        with torch.inference_mode():
            answer = self._plain.without_guide(values)[0].cpu().numpy()
        y, x = inside(core, found.window)
        return np.asarray(answer[:, scaled(y, self.plan.scale), scaled(x, self.plan.scale)], dtype=np.float32)

    def _of_block(self, index: Index) -> FusionRestorer:
        def bind() -> FusionRestorer:
            state = self._state(index)
            return self._model.bind(self._facts, state) if state else self._plain

        return self._adapted.get(index, bind)

    def _state(self, index: Index) -> Mapping[str, torch.Tensor]:
        """What a block learned.

        Raises:
            Refused: it was never adapted, or its mark or its weights are torn.
        """
        mark = self._marks.get(index)
        name = f"{self.plan.adapted}/{_state_name(index)}"
        if mark is None:
            raise Refused(
                f"scene {self.plan.scene_id}: the mark of block {index} is missing or torn; `hypermend verify`, then "
                "the same command, adapts it again"
            )
        if not mark.shards:
            return {}
        try:
            data = self._root.get(name)
        except NotFound:
            data = b""
        if crc32_hex(data) != mark.shards[0].crc32:
            raise Refused(
                f"{self._root.href(name)} is torn; `hypermend verify`, then the same command, writes it again"
            )
        return load_tensors(data)


def _state_name(index: Index) -> str:
    return f"{index[0]}-{index[1]}.safetensors"


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _on_device(restorer: FusionRestorer, y: Physical, x: Physical) -> Physical:
    pair = [torch.from_numpy(np.ascontiguousarray(values))[None].to(_device()) for values in (y, x)]
    with torch.inference_mode():
        return np.asarray(restorer(*pair)[0].cpu().numpy(), dtype=np.float32)


def _shared(a: Window, b: Window) -> Window:
    return Window(y0=max(a.y0, b.y0), y1=min(a.y1, b.y1), x0=max(a.x0, b.x0), x1=min(a.x1, b.x1))


def block_marks(root: ArchiveStore, plan: Plan) -> DoneMarks:
    """Which blocks are adapted, with size and crc32 of their weights and their figures."""
    return DoneMarks(root, plan.adapted)


def block_figures(root: ArchiveStore, plan: Plan) -> list[dict[str, Any]]:
    """Steps, losses and fall-back of every block, in order; their marks are folded into one."""
    if plan.blocks is None:
        return []
    return [{"block": list(index), **mark.extra} for index, mark in block_marks(root, plan).fold().items()]


def summary(plan: Plan, blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """What the run's report says of a fused scene."""
    assert plan.guide is not None
    assert plan.scene_facts is not None
    return {
        "guide": f"{plan.guide.collection}/{plan.guide.scene_id}",
        "scale": plan.scale,
        "pair": _shown(plan.scene_facts["model"]),
        "blocks_adapted": sum(bool(b.get("adapted")) for b in blocks),
        "blocks_fallen_back": sum(not b.get("adapted") for b in blocks),
        "steps": sum(int(b.get("steps", 0)) for b in blocks),
        "blocks": blocks,
    }


def _shown(facts: Any) -> Any:
    """Facts without their packed arrays."""
    if isinstance(facts, dict):
        return {k: _shown(v) for k, v in facts.items() if not (isinstance(v, dict) and "float32" in v)}
    return facts
