"""Restore: source cubes -> restored cubes, planned scene by scene and published as STAC items.

    work_list  scenes, models, guides, memory                    here, before the run
    Prepare    plan the scene, estimate its facts                in a worker
    AdaptBlock one for each block of a pair, if its model adapts
    RestoreTile, Finish
    commit     publish the item                                  here

The driver holds no pixel and loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import hypermend
from hypermend.catalog.stac.publish import names_cube, put_item, restored_collection, restored_item
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.config import RestoreJob
from hypermend.pipeline.engine.outcome import WAIT, Wait
from hypermend.pipeline.restore.messages import AdaptBlock, Finish, Prepare, RestoreContext, RestoreTile
from hypermend.pipeline.restore.plan import Plan, pending
from hypermend.pipeline.restore.request import SceneRequest
from hypermend.pipeline.restore.work_list import WorkList, work_list
from hypermend.pipeline.runs.engine_choice import choose_engine
from hypermend.pipeline.runs.report import new_run_id, unit_id
from hypermend.pipeline.runs.run import Engine, Run
from hypermend.pipeline.runs.run_log import SkippedScene
from hypermend.pipeline.runs.unit import PreparedScene, SceneTotals

if TYPE_CHECKING:
    from hypermend.pipeline.restore.worker import RestoreWorker


class RestoreUnit:
    """One scene on its way from its source cube to a published restored cube."""

    def __init__(self, request: SceneRequest, root: ArchiveStore, run: str, granted_bytes: int | None) -> None:
        self.collection, self.scene = request.collection, request.scene.id
        self.id = unit_id(self.collection, self.scene)
        self._request, self._granted_bytes = request, granted_bytes
        self._root, self._run = root, run
        self.reads = request.cubes[1:]

    def prepare(self) -> Prepare:
        return Prepare(unit=self.id, request=self._request, granted_bytes=self._granted_bytes)

    def tiles(self, prepared: PreparedScene) -> Iterator[AdaptBlock | RestoreTile | Wait]:
        scene: RestoreContext = prepared.context
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

    def is_published(self, prepared: PreparedScene) -> bool:
        plan: Plan = prepared.context.plan
        collection = restored_collection(self._request.scene, plan.task)
        return names_cube(self._root, replace(self._request.scene, collection=collection), plan.target)

    def commit(self, prepared: PreparedScene, totals: SceneTotals) -> int:
        plan: Plan = prepared.context.plan
        item = restored_item(
            self._request.scene,
            plan.spec,
            key=plan.target,
            task=plan.task,
            plan_id=plan.id,
            model=plan.model,
            valid_fraction=totals.valid_fraction,
            quicklooks=totals.quicklooks,
            figures=totals.item_figures,
        )
        notes = [*prepared.warnings, *(f"model {step.model}: {step.why}" for step in plan.steps if step.why)]
        properties = self._request.item_properties | ({"hypermend:notes": notes} if notes else {})
        return put_item(self._root, replace(item, properties={**item.properties, **properties}), run=self._run)


def restore(job: RestoreJob, *, engine: Engine | None = None, run: str | None = None) -> Run:
    """Begin to restore the scenes of a job: iterate the run, or ``wait`` for its report.

    Args:
        engine: runs the tasks; None for that of the job.
        run: id of the run; None for a new one.

    Raises:
        Refused: nothing matches, a scene asked for by id is not in the archive, or the model is of another task.
        BadCheckpoint: there is no such model.
    """
    root = hypermend.open(job.archive).root
    run_id = run or new_run_id("restore")
    work = work_list(job)
    notes: dict[str, Any] = {"task": job.task, "model": ""}
    started = Run(
        run_id,
        job,
        _units(work, root, run_id, notes),
        partial(_worker, root.url),  # absolute: a worker may stand in another folder
        engine or choose_engine(job, work.samples),
        scenes=work.scenes,
        lease=f"restore-{'-'.join(job.tasks)}",
        workers=work.workers,
    )
    started.report.notes = notes
    return started


def _units(work: WorkList, root: ArchiveStore, run: str, notes: dict[str, Any]) -> Iterator[RestoreUnit | SkippedScene]:
    """Units of the requests; ``notes`` names the models so far."""
    models: set[str] = set()
    for request in work.requests:
        if isinstance(request, SkippedScene):
            yield request
            continue
        models.add(request.model)
        notes["model"] = ", ".join(sorted(models))
        yield RestoreUnit(request, root, run, work.workers.limit_bytes)


def _worker(archive: str) -> RestoreWorker:
    """Imported where it works: torch takes seconds to load, and the driver never needs it."""
    from hypermend.pipeline.restore.worker import RestoreWorker

    return RestoreWorker(archive)
