"""What a worker does for a restoration: prepare a scene, adapt its blocks, restore its tiles, sum it up.

    read --(chain_worker or fuse_worker)--> pixels of the core --> write one shard --> mark

Whatever a tile's pixels depend on lies within its halo, in the plan or in the weights of the blocks around it, so every
tile size, worker and order gives the same cube (DESIGN section 4).
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import create, open_cube
from hypermend.catalog.cube.marks import DoneMarks
from hypermend.catalog.cube.spec import VALID
from hypermend.catalog.errors import NotFound, Refused
from hypermend.catalog.pairs.pairing import finer_lonlat
from hypermend.catalog.storage.archive_store import ArchiveStore, to_json
from hypermend.catalog.storage.recent import Recent
from hypermend.models.card import ModelCard
from hypermend.models.restorer import Model
from hypermend.pipeline.engine.worker_memory import keep_freed_memory, peak_bytes
from hypermend.pipeline.registry.models import load_model, load_pair_model
from hypermend.pipeline.restore.image_pair import ImagePairScene, block_figures, block_marks, pair_facts, summary
from hypermend.pipeline.restore.make_plan import check_memory, plan_request
from hypermend.pipeline.restore.messages import AdaptBlock, Finish, OpenedScene, Prepare, RestoreTile
from hypermend.pipeline.restore.plan import Plan, read_plan
from hypermend.pipeline.restore.single_image import SingleImageScene, scene_facts
from hypermend.pipeline.runs.run_log import TaskReceipt
from hypermend.pipeline.runs.unit import PreparedScene, SceneTotals
from hypermend.pipeline.tiling.tiles import Index

KEEP_OPEN = 4
"""Scenes that a worker keeps open."""


class RestoreWorker:
    """Handles the tasks of any number of scenes; keeps models for its life and the last few scenes open."""

    def __init__(self, archive: str) -> None:
        keep_freed_memory()
        self._root = ArchiveStore(archive)
        self._scenes: Recent[str, tuple[SingleImageScene | ImagePairScene, Cube]] = Recent(KEEP_OPEN)
        self._model = cache(lambda name: load_model(self._root, name))
        self._fusion = cache(lambda name: load_pair_model(self._root, name))

    def __call__(self, task: Prepare | AdaptBlock | RestoreTile | Finish) -> Any:
        if isinstance(task, Prepare):
            return self._prepare(task)
        if isinstance(task, AdaptBlock):
            return self._adapt(task)
        if isinstance(task, RestoreTile):
            return self._restore(task)
        return self._finish(read_plan(self._root, task.plan))

    def _prepare(self, task: Prepare) -> PreparedScene:
        request = task.request
        cards = {choice.task: self._card(choice.task, choice.model) for choice in request.choices}
        plan = plan_request(self._root, request, cards)
        check_memory(plan, task.granted_bytes)
        wrote = 0
        try:
            plan = read_plan(self._root, plan.key)
        except NotFound:
            data = to_json(plan.with_facts(self._facts(plan)).to_dict())
            # Of two drivers that estimate at once, one wins, and both go on with its facts.
            wrote = len(data) if self._root.put_if_absent(plan.key, data) else 0
            plan = read_plan(self._root, plan.key)
        create(self._root, plan.target, plan.spec, lonlat=_lonlat(self._root, plan))
        done, folded = DoneMarks(self._root, plan.target).tiles()
        adapted = block_marks(self._root, plan).tiles()[0] if plan.blocks else frozenset[Index]()
        settled = folded and len(done) == len(plan.grid) and (plan.blocks is None or len(adapted) == len(plan.blocks))
        facts = plan.scene_facts
        assert facts is not None
        # A model that leaves a scene, or a window of its bands, as it is says why.
        found = [f for step in facts["steps"] for f in step] if plan.guide is None else [facts["model"]]
        reasons = dict.fromkeys(f"left as it is: {f['reason']}" for f in found if "reason" in f)
        return PreparedScene(
            total=len(plan.grid),
            done=done,
            blocks=0 if plan.blocks is None else len(plan.blocks) - len(adapted),
            settled=settled,
            bytes_written=wrote,
            context=OpenedScene(plan=replace(plan, scene_facts=None), adapted=adapted),
            warnings=(*plan.warnings, *reasons),
        )

    def _facts(self, plan: Plan) -> dict[str, Any]:
        if plan.guide is None:
            return scene_facts(plan, Cube(self._root, plan.source), self._models(plan))
        return pair_facts(plan, self._root, self._fusion(plan.model))

    def _adapt(self, task: AdaptBlock) -> TaskReceipt:
        scene, _ = self._scene(task.plan)
        assert isinstance(scene, ImagePairScene)
        return scene.adapt(task.block)

    def _restore(self, task: RestoreTile) -> TaskReceipt:
        """Restore and write one tile; the mark is written last."""
        scene, target = self._scene(task.plan)
        tile = scene.plan.grid[task.index]
        out = scene.pixels(tile)
        start = time.perf_counter()
        stored = out.stored.astype(scene.plan.spec.dtype, copy=False)
        shards = target.write(tile.core.y, tile.core.x, stored, out.flags)
        usable = int(np.count_nonzero(out.flags & VALID))
        target.mark(*tile.index, shards, {"valid_px": usable})
        return TaskReceipt(
            tiles=(tile.index,),
            read_s=out.read_s,
            model_s=out.model_s,
            write_s=time.perf_counter() - start,
            valid_fraction=usable / out.flags.size,
            samples=stored.size,
            bytes_written=sum(shard.size for shard in shards),
            peak_bytes=peak_bytes(),
        )

    def _finish(self, plan: Plan) -> SceneTotals:
        """Fold the marks."""
        marks = DoneMarks(self._root, plan.target).fold()
        valid = sum(mark.extra["valid_px"] for mark in marks.values())
        figures: dict[str, Any] = {"models": [{"task": s.task, "model": s.model, "why": s.why} for s in plan.steps]}
        if plan.guide is not None:
            figures |= summary(plan, block_figures(self._root, plan))
        return SceneTotals(valid_fraction=valid / (plan.spec.height * plan.spec.width), figures=figures)

    def _scene(self, key: str) -> tuple[SingleImageScene | ImagePairScene, Cube]:
        return self._scenes.get(key, partial(self._open, key))

    def _open(self, key: str) -> tuple[SingleImageScene | ImagePairScene, Cube]:
        plan = read_plan(self._root, key)
        for step in plan.steps:
            if self._card(step.task, step.model).weights_sha256 != step.weights_sha256:
                raise Refused(
                    f"scene {plan.scene_id}: the weights of {step.model} changed under its plan; run it again"
                )
        scene: SingleImageScene | ImagePairScene = (
            SingleImageScene(plan, self._root, self._models(plan))
            if plan.guide is None
            else ImagePairScene(plan, self._root, self._fusion(plan.model))
        )
        return scene, Cube(self._root, plan.target)

    def _models(self, plan: Plan) -> list[Model]:
        return [self._model(step.model) for step in plan.steps]

    def _card(self, task: str, name: str) -> ModelCard:
        card = self._fusion(name).card if task == "fuse" else self._model(name).card
        return replace(card, name=name)


def _lonlat(root: ArchiveStore, plan: Plan) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """2-D longitude and latitude of a cube in sensor geometry, on the pixels of the target."""
    if plan.spec.grid is not None:
        return None
    cube = open_cube(root, plan.source)
    if "lon" not in cube.coords:
        return None
    return finer_lonlat(cube["lon"].values, cube["lat"].values, plan.scale)
