"""Restore: source cubes -> restored cubes, planned scene by scene and published as STAC items.

This is the driver's side: it holds no pixel. ``restore_worker`` is what happens to them. A fusion is the same walk with
a guide beside the scene, and with a phase before the tiles in which the model adapts to each block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import hypermend
from hypermend.catalog.keys import cube_key, scene_collection
from hypermend.catalog.stac.publish import put_item, restored_item
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.config import RestoreJob
from hypermend.pipeline.engine.outcome import WAIT, Wait
from hypermend.pipeline.engine.ray_actors import on_ray
from hypermend.pipeline.restore.messages import AdaptBlock, Finish, OpenedScene, Prepare, RestoreTile
from hypermend.pipeline.restore.plan import Plan, pending
from hypermend.pipeline.restore.work_list import SceneRequest, memory_grant, scene_requests, sources
from hypermend.pipeline.runs.report import new_run_id, unit_id
from hypermend.pipeline.runs.run import Engine, Run
from hypermend.pipeline.runs.run_log import SkippedScene
from hypermend.pipeline.runs.unit import PreparedScene, SceneTotals

if TYPE_CHECKING:
    from hypermend.pipeline.restore.worker import RestoreWorker


class RestoreUnit:
    """One scene's walk from its source cube to a published restored cube."""

    def __init__(self, todo: SceneRequest, root: ArchiveStore, run: str) -> None:
        self._source, self._task = todo.source, todo.task
        self._guide, self._guide_scene = todo.guide, todo.guide_scene
        self.collection, self.scene = scene_collection(self._source.collection), self._source.id
        self.id = unit_id(self.collection, self.scene)
        self._root = root
        self._run = run

    def prepare(self) -> Prepare:
        return Prepare(
            unit=self.id,
            scene=self.scene,
            source=cube_key(self._source),
            ingest_id=str(self._source.properties["hypermend:ingest"]),
            collection=self.collection,
            models={chosen.task: chosen.model for chosen in self._task.chain},
            why={chosen.task: chosen.why for chosen in self._task.chain},
            tile_px=self._task.tile_px,
            guide=self._guide,
            budget=self._task.budget,
            granted_bytes=self._task.granted_bytes,
        )

    def tiles(self, prepared: PreparedScene) -> Iterator[AdaptBlock | RestoreTile | Wait]:
        scene: OpenedScene = prepared.context
        plan = scene.plan
        if plan.blocks is not None:
            for block in plan.blocks:
                if block.index not in scene.adapted:
                    yield AdaptBlock(unit=self.id, plan=plan.key, block=block.index)
            yield WAIT  # a tile blends what the blocks around it have learned
        for index in pending(plan, prepared.done):
            yield RestoreTile(unit=self.id, plan=plan.key, index=index)

    def finish(self, prepared: PreparedScene) -> Finish:
        return Finish(unit=self.id, plan=prepared.context.plan.key)

    def commit(self, prepared: PreparedScene, totals: SceneTotals) -> int:
        plan: Plan = prepared.context.plan
        item = restored_item(
            self._source,
            plan.spec,
            key=plan.target,
            task=plan.task,
            plan_id=plan.id,
            model=plan.model,
            valid_fraction=totals.valid_fraction,
            guide=self._guide_scene,
        )
        said: dict[str, Any] = {}
        if plan.guide is not None:
            said |= {"hypermend:overlap": plan.guide.overlap, "hypermend:days_apart": plan.guide.days_apart}
        reasons = [f"model {step.model}: {step.why}" for step in plan.steps if step.why]
        if prepared.warnings or reasons:
            said |= {"hypermend:notes": [*prepared.warnings, *reasons]}
        if said:
            item = replace(item, properties={**item.properties, **said})
        return put_item(self._root, item, run=self._run)


def _worker(archive: str) -> RestoreWorker:
    """Imported where it works: torch takes seconds to load, and the driver has no use for it."""
    from hypermend.pipeline.restore.worker import RestoreWorker

    return RestoreWorker(archive)


def restore(job: RestoreJob, *, engine: Engine = on_ray, run: str | None = None) -> Run:
    """Begin to restore what the job names: iterate the run, or ``wait`` for its report.

    Args:
        run: id of the run; None for a new one.

    Raises:
        Refused: nothing matches, a scene asked for by id is not in the archive, or the model is of another task.
        BadCheckpoint: there is no such model.
    """
    root = hypermend.open(job.archive).root
    run_id = run or new_run_id("restore")
    found = sources(job)
    dealt, workers = memory_grant(job, root, scene_requests(job, root, found))
    models: set[str] = set()

    def units() -> Iterator[RestoreUnit | SkippedScene]:
        for one in dealt:
            if isinstance(one, SceneRequest):
                models.add(one.task.model)
                begun.report.notes["model"] = ", ".join(sorted(models))
            yield RestoreUnit(one, root, run_id) if isinstance(one, SceneRequest) else one

    make = partial(_worker, root.url)  # absolute: a worker may stand in another folder
    lease = f"restore-{'-'.join(job.tasks)}"
    begun = Run(run_id, job, units(), make, engine, scenes=len(found), lease=lease, workers=workers)
    begun.report.notes.update(task=job.task, model="")
    return begun
