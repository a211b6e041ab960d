"""Restore: source cubes -> restored cubes, planned scene by scene and published as STAC items.

This is the driver's side: it holds no pixel. ``restore_worker`` is what happens to them. A fusion is the same walk with
a guide beside the scene, and with a phase before the tiles in which the model adapts to each block.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import catalog
from catalog.cube_layout import read_spec
from catalog.errors import ArchiveError
from catalog.index import Found
from catalog.publish import cube_key, put_item, restored_item, scene_collection, source_collection
from catalog.root import Root
from catalog.scene import Scene
from catalog.spec import CubeSpec
from models.card import BadCard
from models.checkpoint import BadCheckpoint
from pipeline.choose import Chooser, Chosen
from pipeline.config import RestoreJob
from pipeline.execute import on_ray
from pipeline.fuse import Guides, budget_of, default_model
from pipeline.job import Engine, Run, workers_of
from pipeline.ledger import Refusal
from pipeline.memory import GIB, SLACK_BYTES, share_bytes
from pipeline.outcome import WAIT, Wait, Workers
from pipeline.plan import Budget, Guide, Plan, Refused, make_plan, pending
from pipeline.restore_tasks import AdaptBlock, Finish, OpenedScene, Prepare, RestoreTile
from pipeline.run_report import new_run_id, unit_id
from pipeline.shelf import load_pair_model
from pipeline.unit import Finished, Opened

if TYPE_CHECKING:
    from pipeline.restore_worker import RestoreWorker


class RestoreUnit:
    """One scene's walk from its source cube to a published restored cube."""

    def __init__(self, todo: Todo, root: Root, run: str) -> None:
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

    def tiles(self, opened: Opened) -> Iterator[AdaptBlock | RestoreTile | Wait]:
        scene: OpenedScene = opened.context
        plan = scene.plan
        if plan.blocks is not None:
            for block in plan.blocks:
                if block.index not in scene.adapted:
                    yield AdaptBlock(unit=self.id, plan=plan.key, block=block.index)
            yield WAIT  # a tile blends what the blocks around it have learned
        for index in pending(plan, opened.done):
            yield RestoreTile(unit=self.id, plan=plan.key, index=index)

    def finish(self, opened: Opened) -> Finish:
        return Finish(unit=self.id, plan=opened.context.plan.key)

    def commit(self, opened: Opened, finished: Finished) -> int:
        plan: Plan = opened.context.plan
        item = restored_item(
            self._source,
            plan.spec,
            key=plan.target,
            task=plan.task,
            plan_id=plan.id,
            model=plan.model,
            valid_fraction=finished.valid_fraction,
            guide=self._guide_scene,
        )
        said: dict[str, Any] = {}
        if plan.guide is not None:
            said |= {"hypermend:overlap": plan.guide.overlap, "hypermend:days_apart": plan.guide.days_apart}
        reasons = [f"model {step.model}: {step.why}" for step in plan.steps if step.why]
        if opened.warnings or reasons:
            said |= {"hypermend:notes": [*opened.warnings, *reasons]}
        if said:
            item = replace(item, properties={**item.properties, **said})
        return put_item(self._root, item, run=self._run)


def _worker(archive: str) -> RestoreWorker:
    """Imported where it works: torch takes seconds to load, and the driver has no use for it."""
    from pipeline.restore_worker import RestoreWorker

    return RestoreWorker(archive)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is done to a scene."""

    chain: tuple[Chosen, ...]
    """A model for each task, first done first."""
    tile_px: int | None
    granted_bytes: int | None
    budget: Budget | None = None

    @property
    def model(self) -> str:
        """Names of the models, as ``--model`` takes them."""
        return ",".join(chosen.model for chosen in self.chain)


@dataclass(frozen=True, kw_only=True)
class Todo:
    """One scene of a job."""

    source: Scene
    task: Task
    guide: Guide | None = None
    guide_scene: Scene | None = None


def restore(job: RestoreJob, *, engine: Engine = on_ray, run: str | None = None) -> Run:
    """Begin to restore what the job names: iterate the run, or ``wait`` for its report.

    Args:
        run: id of the run; None for a new one.

    Raises:
        Refused: nothing matches, a scene asked for by id is not in the archive, or the model is of another task.
        BadCheckpoint: there is no such model.
    """
    root = catalog.open(job.archive).root
    run_id = run or new_run_id("restore")
    found = sources(job)
    dealt, workers = granted(job, root, todo(job, root, found))
    models: set[str] = set()

    def units() -> Iterator[RestoreUnit | Refusal]:
        for one in dealt:
            if isinstance(one, Todo):
                models.add(one.task.model)
                begun.report.notes["model"] = ", ".join(sorted(models))
            yield RestoreUnit(one, root, run_id) if isinstance(one, Todo) else one

    make = partial(_worker, root.url)  # absolute: a worker may stand in another folder
    lease = f"restore-{'-'.join(job.tasks)}"
    begun = Run(run_id, job, units(), make, engine, scenes=len(found), lease=lease, workers=workers)
    begun.report.notes.update(task=job.task, model="")
    return begun


def todo(job: RestoreJob, root: Root, found: Iterable[Scene]) -> Iterator[Todo | Refusal]:
    """The scenes one by one, each with its models and, for a fusion, its guide; or why it has none.

    Raises:
        Refused, BadCheckpoint: as ``restore``. What is wrong with the model of the first scene is wrong with the job;
            with that of a later one it is a refusal of its own, as is a scene without a guide.
    """
    deal = _fusions(job, root) if job.task == "fuse" else _chains(job, root)
    begun = False
    for scene in found:
        try:
            one = deal(scene)
        except (Refused, BadCheckpoint, BadCard) as error:
            if not begun:
                raise
            one = _refusal(scene, error)
        except ArchiveError as error:
            one = _refusal(scene, error)
        begun |= isinstance(one, Todo)
        yield one


def _refusal(scene: Scene, error: Exception) -> Refusal:
    return Refusal(scene=scene.id, collection=scene_collection(scene.collection), reason=str(error))


def _chains(job: RestoreJob, root: Root) -> Callable[[Scene], Todo | Refusal]:
    """What gives a scene its models."""
    choose = Chooser(job, root)
    limit = granted_bytes(job)

    def deal(scene: Scene) -> Todo:
        chosen = tuple(choose(task, scene.sensor, _spec(root, scene)) for task in job.tasks)
        return Todo(source=scene, task=Task(chain=chosen, tile_px=job.tile_px, granted_bytes=limit))

    return deal


def _fusions(job: RestoreJob, root: Root) -> Callable[[Scene], Todo | Refusal]:
    """What gives a scene its guide and its model."""
    choose = Chooser(job, root)
    limit = granted_bytes(job)
    guides = Guides(job)
    budget = cache(lambda name: budget_of(job, load_pair_model(root, name)))

    def deal(scene: Scene) -> Todo | Refusal:
        try:
            guide, guide_scene = guides.of(scene)
        except Refused as error:
            return _refusal(scene, error)
        builtin = default_model(scene.sensor, guide_scene.sensor)
        chosen = choose("fuse", scene.sensor, _spec(root, scene), builtin)
        task = Task(chain=(chosen,), tile_px=job.tile_px, granted_bytes=limit, budget=budget(chosen.model))
        return Todo(source=scene, task=task, guide=guide, guide_scene=guide_scene)

    return deal


def _spec(root: Root, scene: Scene) -> Callable[[], CubeSpec]:
    return lambda: read_spec(root, cube_key(scene))


LOOKED_AT = 8
MARGIN = 1.5


def granted(job: RestoreJob, root: Root, found: Iterator[Todo | Refusal]) -> tuple[Iterator[Todo | Refusal], Workers]:
    """What each worker asks for and may take.

    On a cluster where the job does not say, that is what the plans of the first scenes say with a margin: machines are
    asked for it, and a later scene that takes more is refused by its plan, with both numbers.
    """
    first = list(islice(found, LOOKED_AT))  # also what is wrong with the job is said now and not by its run
    found = chain(first, found)
    workers = workers_of(job)
    if job.ray_address is None or job.memory_gib is not None:
        limit = granted_bytes(job)
        asked = limit if job.memory_gib is not None and job.ray_address is not None else None
        return found, replace(workers, memory_bytes=asked, limit_bytes=limit)
    figures = []
    for one in first:
        if isinstance(one, Todo):
            with contextlib.suppress(Refused, ArchiveError):  # said when the scene's turn comes
                figures.append(plan_of(one, root).tile_bytes)
    if not figures:
        return found, workers
    grant = round(MARGIN * max(figures))
    told = (replace(o, task=replace(o.task, granted_bytes=grant)) if isinstance(o, Todo) else o for o in found)
    return told, replace(workers, memory_bytes=grant + SLACK_BYTES, limit_bytes=grant)


def granted_bytes(job: RestoreJob) -> int | None:
    """Memory of each worker: as the job says, else a share of this machine; None on a cluster elsewhere."""
    if job.memory_gib is not None:
        return round(job.memory_gib * GIB)
    return share_bytes(job.workers) if job.ray_address is None else None


def sources(job: RestoreJob) -> Found:
    """The source cubes that the job's filters match.

    Raises:
        Refused: as ``restore``.
    """
    found = catalog.open(job.archive).sources(
        collections=job.collections, sensor=job.sensor, bbox=job.bbox, datetime=job.datetime
    )
    if job.guide_collection and not job.collections:  # a guide is not restored itself unless it is asked for
        guides = source_collection(job.guide_collection)
        found = found.where(lambda row: row.collection != guides)
    if job.scenes:
        known, wanted = {row.id for row in found.rows}, set(job.scenes)
        if unknown := wanted - known:
            scene_id = next(name for name in job.scenes if name in unknown)
            nearest = difflib.get_close_matches(scene_id, sorted(known), n=1, cutoff=0.0)
            hint = f"; the nearest is {nearest[0]!r}" if nearest else "; it has none that matches the other filters"
            raise Refused(f"{job.archive} has no source cube of scene {scene_id!r}{hint}")
        found = found.where(lambda row: row.id in wanted)
    if not found:
        raise Refused(f"{job.archive} has no source cube that matches; `hypermend ingest` makes them")
    return found


def plan_of(one: Todo, root: Root) -> Plan:
    scene, task, source = one.source, one.task, cube_key(one.source)
    return make_plan(
        scene_id=scene.id,
        collection=scene_collection(scene.collection),
        source=source,
        ingest_id=str(scene.properties["hypermend:ingest"]),
        spec=read_spec(root, source),
        models={chosen.task: chosen.card for chosen in task.chain},
        why={chosen.task: chosen.why for chosen in task.chain},
        tile_px=task.tile_px,
        guide=None if one.guide is None else (one.guide, read_spec(root, one.guide.source)),
        budget=task.budget,
        granted_bytes=task.granted_bytes,
    )
