"""A worker of a restoration: prepare a scene, adapt its blocks, restore its tiles, sum it up.

    read --(single_image or image_pair)--> pixels of the core --> write one shard --> mark

Whatever a tile's pixels depend on lies within its halo, in the plan or in the weights of the blocks around it, so every
tile size, worker and order gives the same cube (docs/concepts.md).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hypermend.catalog.cube.codec_pipeline import use_one_cpu
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import create, read_spec
from hypermend.catalog.cube.marks import DoneMarks
from hypermend.catalog.cube.quicklook import write_quicklooks
from hypermend.catalog.cube.spec import VALID
from hypermend.catalog.errors import NotFound, Refused
from hypermend.catalog.pairs.pairing import finer_lonlat
from hypermend.catalog.recent import Recent
from hypermend.catalog.storage.archive_store import ArchiveStore, to_json
from hypermend.models.card import ModelCard
from hypermend.models.restorer import SceneStatistics
from hypermend.pipeline.engine.memory_grant import keep_freed_memory, peak_bytes
from hypermend.pipeline.restore.image_pair import ImagePairScene
from hypermend.pipeline.restore.make_plan import check_memory, plan_request
from hypermend.pipeline.restore.messages import AdaptBlock, Finish, Prepare, RestoreContext, RestoreTile
from hypermend.pipeline.restore.plan import Plan, read_plan
from hypermend.pipeline.restore.request import SceneRequest
from hypermend.pipeline.restore.single_image import SingleImageScene
from hypermend.pipeline.runs.run_log import TaskReceipt
from hypermend.pipeline.runs.unit import PreparedScene, SceneTotals
from hypermend.pipeline.tiling.bad_bands import isolated, rms_errors
from hypermend.pipeline.tiling.figures import all_bands, brief_figures, scene_figures, tile_figures
from hypermend.pipeline.tiling.pixels import TilePixels
from hypermend.pipeline.tiling.tiles import Index, Tile

KEEP_OPEN = 4
"""Scenes that a worker keeps open."""


class OpenScene(Protocol):
    """One scene in a worker: its plan, its cubes and its models, read when they are first used."""

    plan: Plan

    def facts(self) -> dict[str, Any]:
        """Estimate whatever depends on the whole scene; the plan has none yet."""
        ...

    def model_facts(self) -> list[SceneStatistics]:
        """The facts of each model, as the plan holds them."""
        ...

    def adapted(self) -> frozenset[Index]:
        """Blocks that have adapted."""
        ...

    def adapt(self, block: Index) -> TaskReceipt:
        """Adapt the model to one block and store what it learned; the mark is written last."""
        ...

    def pixels(self, tile: Tile) -> TilePixels:
        """Read and restore one tile."""
        ...

    def figures(self) -> dict[str, Any]:
        """Figures of the scene for the run's report; folds the marks of its blocks."""
        ...


def scene_class(guide: object | None) -> type[SingleImageScene] | type[ImagePairScene]:
    """The one place in a worker where a fusion goes another way."""
    return SingleImageScene if guide is None else ImagePairScene


class RestoreWorker:
    """Handles the tasks of any number of scenes; keeps models for its life and the last few scenes open."""

    def __init__(self, archive: str) -> None:
        keep_freed_memory()
        use_one_cpu()
        self._root = ArchiveStore(archive)
        self._scenes: Recent[str, tuple[OpenScene, Cube]] = Recent(KEEP_OPEN)
        self._model = cache(lambda load, name: load(self._root, name))

    def __call__(self, task: Prepare | AdaptBlock | RestoreTile | Finish) -> Any:
        if isinstance(task, Prepare):
            return self._prepare(task)
        if isinstance(task, AdaptBlock):
            return self._adapt(task)
        if isinstance(task, RestoreTile):
            return self._restore(task)
        return self._finish(read_plan(self._root, task.plan))

    def _prepare(self, task: Prepare) -> PreparedScene:
        plan = self._plan(task.request)
        check_memory(plan, task.granted_bytes)
        wrote = 0
        try:
            plan = read_plan(self._root, plan.key)
        except NotFound:
            plan = _as_created(self._root, plan)
            data = to_json(plan.with_facts(self._open(plan).facts()).to_dict())
            # Of two drivers that estimate at once, one wins, and both go on with its facts.
            wrote = len(data) if self._root.put_if_absent(plan.key, data) else 0
            plan = read_plan(self._root, plan.key)
        create(self._root, plan.target, plan.spec, lonlat=_lonlat(self._root, plan))
        done, folded = DoneMarks(self._root, plan.target).tiles()
        scene = self._open(plan)
        adapted = scene.adapted()
        blocks = len(plan.blocks or ()) - len(adapted)
        # A model that leaves a scene, or a window of its bands, as it is says why.
        reasons = [f"left as it is: {facts['reason']}" for facts in scene.model_facts() if "reason" in facts]
        return PreparedScene(
            total=len(plan.grid),
            done=done,
            blocks=blocks,
            settled=folded and len(done) == len(plan.grid) and blocks == 0,
            bytes_written=wrote,
            context=RestoreContext(plan=replace(plan, scene_facts=None), adapted=adapted),
            warnings=(*plan.warnings, *dict.fromkeys(reasons)),
        )

    def _plan(self, request: SceneRequest) -> Plan:
        kind = scene_class(request.guide_scene)
        return plan_request(self._root, request, {c.task: self._card(kind, c.model) for c in request.choices})

    def _adapt(self, task: AdaptBlock) -> TaskReceipt:
        scene, _ = self._scene(task.plan)
        return scene.adapt(task.block)

    def _restore(self, task: RestoreTile) -> TaskReceipt:
        """Restore and write one tile; the mark is written last."""
        scene, target = self._scene(task.plan)
        tile = scene.plan.grid[task.index]
        out = scene.pixels(tile)
        start = time.perf_counter()
        stored = out.stored.astype(scene.plan.spec.dtype, copy=False)
        shards = target.write(tile.core.y, tile.core.x, stored, out.flags, out.repaired, out.std)
        usable = int(np.count_nonzero(out.flags & VALID))
        counts: dict[str, Any] = {"valid_px": usable}
        if out.repaired is not None:
            counts["repaired"] = int(np.count_nonzero(out.repaired))
        if out.fill_errors is not None:
            counts["fill_errors"] = out.fill_errors
        figures = tile_figures(out.source, stored, out.known, scene.plan.spec)
        target.mark(*tile.index, shards, counts | {"figures": figures})
        return TaskReceipt(
            tiles=(tile.index,),
            read_s=out.read_s,
            model_s=out.model_s,
            write_s=time.perf_counter() - start,
            valid_fraction=usable / out.flags.size,
            samples=stored.size,
            bytes_written=sum(shard.size for shard in shards),
            peak_bytes=peak_bytes(),
            saturated=out.saturated,
            repaired=counts.get("repaired", 0),
        )

    def _finish(self, plan: Plan) -> SceneTotals:
        """Fold the marks and draw the quicklooks."""
        marks = DoneMarks(self._root, plan.target).fold()
        valid = sum(mark.extra["valid_px"] for mark in marks.values())
        models = [{"task": step.task, "model": step.model, "why": step.why} for step in plan.steps]
        figures = {"models": models, **self._open(plan).figures()}
        if plan.spec.repaired:
            figures["repaired"] = sum(mark.extra["repaired"] for mark in marks.values())
        if plan.fill_bands == "on":
            extras = (mark.extra for mark in marks.values())
            figures["filled_bands"] = rms_errors(plan.spec, isolated(plan.spec), extras)
        changes = scene_figures([mark.extra.get("figures", {}) for mark in marks.values()], sum(plan.spec.good))
        return SceneTotals(
            valid_fraction=valid / (plan.spec.height * plan.spec.width),
            figures=figures | ({"changes": brief_figures(changes)} if changes else {}),
            item_figures=_item_figures(figures) | all_bands(changes, plan.spec.good) if changes else {},
            quicklooks=write_quicklooks(Cube(self._root, plan.target), source=Cube(self._root, plan.source)),
        )

    def _scene(self, key: str) -> tuple[OpenScene, Cube]:
        """The scene of a plan, kept open, and its restored cube."""
        return self._scenes.get(key, partial(self._open_both, key))

    def _open_both(self, key: str) -> tuple[OpenScene, Cube]:
        plan = read_plan(self._root, key)
        kind = scene_class(plan.guide)
        for step in plan.steps:
            if self._card(kind, step.model).weights_sha256 != step.weights_sha256:
                raise Refused(
                    f"scene {plan.scene_id}: the weights of {step.model} changed under its plan; run it again"
                )
        return self._open(plan), Cube(self._root, plan.target)

    def _open(self, plan: Plan) -> OpenScene:
        kind = scene_class(plan.guide)
        return kind(plan, self._root, partial(self._model, kind.load_model))

    def _card(self, kind: type[SingleImageScene] | type[ImagePairScene], name: str) -> ModelCard:
        """The card that lies beside the loaded weights."""
        card: ModelCard = self._model(kind.load_model, name).card
        return replace(card, name=name)


def _item_figures(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The counts among the figures of a scene that its item keeps."""
    counts = {name: figures[name] for name in ("repaired", "blocks_adapted", "blocks_fallen_back") if name in figures}
    if "defects" in figures:
        counts |= {name: figures["defects"][name] for name in ("dead_columns", "bands_with_spikes")}
    counts |= {name: figures[name] for name in ("filled_bands",) if name in figures}
    return counts | ({"stripes": figures["stripes"]} if "stripes" in figures else {})


def _as_created(root: ArchiveStore, plan: Plan) -> Plan:
    """The plan for the cube that lies at its target already, if its own plan is lost.

    Whether that cube has overviews and a time is no part of the plan's id: it may be of another version.
    """
    try:
        old = read_spec(root, plan.target)
    except NotFound:
        return plan
    return replace(plan, spec=replace(plan.spec, overviews=old.overviews, time=old.time))


def _lonlat(root: ArchiveStore, plan: Plan) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """2-D longitude and latitude of a cube in sensor geometry, on the pixels of the target."""
    if plan.spec.grid is not None:
        return None
    coarse = Cube(root, plan.source).lonlat()
    return None if coarse is None else finer_lonlat(*coarse, plan.scale)
