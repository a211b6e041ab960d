"""Restore: source cubes -> restored cubes, planned scene by scene and published as STAC items.

This is the driver's side: it holds no pixel. ``restore_worker`` is what happens to them. A fusion is the same walk with
a guide beside the scene, and with a phase before the tiles in which the model adapts to each block.
"""

from __future__ import annotations

import contextlib
import difflib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

import catalog
from catalog.cube import Cube, read_spec
from catalog.errors import ArchiveError, NotFound
from catalog.publish import cube_key, put_item, restored_item
from catalog.root import Root
from catalog.scene import Scene
from models.card import ModelCard
from models.checkpoint import FUSIONS
from pipeline.config import RestoreJob
from pipeline.execute import WAIT, Wait, Workers, on_ray
from pipeline.fuse import Guides, budget_of, default_model
from pipeline.job import Engine, Finished, Opened, Run, new_run_id, unit_id, workers_of
from pipeline.ledger import Refusal
from pipeline.memory import GIB, SLACK_BYTES, share_bytes
from pipeline.plan import Budget, Guide, Plan, Refused, make_plan, pending
from pipeline.restore_worker import (
    AdaptBlock,
    Finish,
    OpenedScene,
    Prepare,
    RestoreTile,
    RestoreWorker,
    load_pair_model,
    model_card,
)

DEFAULT_MODEL = {"denoise": "stas-subspace"}


class RestoreUnit:
    """One scene's walk from its source cube to a published restored cube."""

    def __init__(self, todo: Todo, root: Root, run: str) -> None:
        self._source, self._task = todo.source, todo.task
        self._guide, self._guide_scene = todo.guide, todo.guide_scene
        self.collection, self.scene = _base(self._source.collection), self._source.id
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
            task=self._task.name,
            model=self._task.model,
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
        for tile in pending(plan, opened.done):
            yield RestoreTile(unit=self.id, plan=plan.key, index=tile.index)

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
        if opened.warnings:
            said |= {"hypermend:notes": list(opened.warnings)}
        if said:
            item = replace(item, properties={**item.properties, **said})
        return put_item(self._root, item, run=self._run)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is done to a scene."""

    name: str
    model: str
    card: ModelCard
    tile_px: int | None
    granted_bytes: int | None
    budget: Budget | None = None


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
    found, workers = granted(job, root, todo(job, root))
    units = (RestoreUnit(one, root, run_id) if isinstance(one, Todo) else one for one in found)
    make = partial(RestoreWorker, job.archive)
    begun = Run(run_id, job, units, make, engine, scenes=len(found), lease=f"restore-{job.task}", workers=workers)
    models = sorted({one.task.model for one in found if isinstance(one, Todo)})
    begun.report.notes.update(task=job.task, model=", ".join(models))
    return begun


def todo(job: RestoreJob, root: Root) -> list[Todo | Refusal]:
    """Every scene of the job with its model and, for a fusion, its guide.

    Raises:
        Refused: as ``restore``. A scene that has no guide is a refusal of its own.
        BadCheckpoint: as ``restore``.
    """
    task = cache(lambda name: task_of(job, root, name))
    if job.model is not None:
        task(job.model)  # a name that is wrong is wrong for every scene
    found = sources(job)
    if job.task != "fuse":
        return [Todo(source=scene, task=task(job.model or DEFAULT_MODEL[job.task])) for scene in found]
    guides = Guides(job)
    pairs: list[Todo | Refusal] = []
    for scene in found:
        try:
            guide, guide_scene = guides.of(scene)
        except Refused as refusal:
            pairs.append(Refusal(scene=scene.id, collection=_base(scene.collection), reason=str(refusal)))
            continue
        model = job.model or default_model(scene.sensor, guide_scene.sensor)
        pairs.append(Todo(source=scene, task=task(model), guide=guide, guide_scene=guide_scene))
    return pairs


def task_of(job: RestoreJob, root: Root, name: str) -> Task:
    """A model and what depends on it and on the job alone.

    Raises:
        Refused: the model is of another task, or cannot use the budget.
        BadCheckpoint: there is no such model.
    """
    card = model_card(root, name)
    if (card.architecture in FUSIONS) != (job.task == "fuse"):
        takes = "two images: it is for task 'fuse'" if card.architecture in FUSIONS else "one image and cannot fuse two"
        raise Refused(f"model {name} takes {takes}; choose another with --model")
    budget = budget_of(job, load_pair_model(root, name)) if job.task == "fuse" else None
    return Task(
        name=job.task, model=name, card=card, tile_px=job.tile_px, granted_bytes=granted_bytes(job), budget=budget
    )


LOOKED_AT = 8
MARGIN = 1.5


def granted(job: RestoreJob, root: Root, found: list[Todo | Refusal]) -> tuple[list[Todo | Refusal], Workers]:
    """What each worker asks for and may take.

    On a cluster where the job does not say, that is what the plans of the first scenes say with a margin: machines are
    asked for it, and a later scene that takes more is refused by its plan, with both numbers.
    """
    workers = workers_of(job)
    if job.ray_address is None or job.memory_gib is not None:
        limit = granted_bytes(job)
        asked = limit if job.memory_gib is not None and job.ray_address is not None else None
        return found, replace(workers, memory_bytes=asked, limit_bytes=limit)
    figures = []
    for one in found[:LOOKED_AT]:
        if isinstance(one, Todo):
            with contextlib.suppress(Refused, ArchiveError):  # said when the scene's turn comes
                figures.append(_plan(one, root).tile_bytes)
    if not figures:
        return found, workers
    grant = round(MARGIN * max(figures))
    tasks = {one.task.model: replace(one.task, granted_bytes=grant) for one in found if isinstance(one, Todo)}
    told = [replace(one, task=tasks[one.task.model]) if isinstance(one, Todo) else one for one in found]
    return told, replace(workers, memory_bytes=grant + SLACK_BYTES, limit_bytes=grant)


def granted_bytes(job: RestoreJob) -> int | None:
    """Memory of each worker: as the job says, else a share of this machine; None on a cluster elsewhere."""
    if job.memory_gib is not None:
        return round(job.memory_gib * GIB)
    return share_bytes(job.workers) if job.ray_address is None else None


def sources(job: RestoreJob) -> list[Scene]:
    """The source cubes that the job's filters match.

    Raises:
        Refused: as ``restore``.
    """
    wanted = {_base(c) for c in job.collections}
    guides = _base(job.guide_collection or "")
    found = [
        item.scene
        for item in catalog.open(job.archive).search(
            stage="source", sensor=job.sensor, bbox=job.bbox, datetime=job.datetime
        )
        # a guide is not restored itself unless it is asked for
        if (_base(item.scene.collection) in wanted if wanted else _base(item.scene.collection) != guides)
    ]
    known = [scene.id for scene in found]
    for scene_id in job.scenes:
        if scene_id not in known:
            nearest = difflib.get_close_matches(scene_id, known, n=1, cutoff=0.0)
            hint = f"; the nearest is {nearest[0]!r}" if nearest else "; it has none that matches the other filters"
            raise Refused(f"{job.archive} has no source cube of scene {scene_id!r}{hint}")
    found = [scene for scene in found if not job.scenes or scene.id in job.scenes]
    if not found:
        raise Refused(f"{job.archive} has no source cube that matches; `hypermend ingest` makes them")
    return found


def _base(collection: str) -> str:
    return collection.removesuffix("-source")


@dataclass(frozen=True, kw_only=True)
class PlannedScene:
    """What a restoration would do to one scene; ``plan`` is None where it is refused, for ``reason``."""

    collection: str
    scene: str
    plan: Plan | None = None
    reason: str = ""
    tiles_to_do: int = 0
    read_bytes: int = 0
    """Uncompressed, halos included; what is stored is smaller."""
    seconds: float | None = None
    """Of one worker, from the rate of the latest run with the same model; None before there was one."""

    def to_dict(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        if self.plan is not None:
            keys = ("id", "source", "target", "model", "halo", "tile_px", "scale")
            guide = self.plan.guide
            values["plan"] = {
                **{key: getattr(self.plan, key) for key in keys},
                "guide": None if guide is None else asdict(guide),
                "blocks": 0 if self.plan.blocks is None else len(self.plan.blocks),
                "tiles": len(self.plan.grid),
                "tile_memory_bytes": self.plan.tile_bytes,
                "warnings": self.plan.warnings,
            }
        return values


def planned(job: RestoreJob) -> Iterator[PlannedScene]:
    """Plan every scene of the job without reading a pixel.

    Raises:
        Refused: as ``restore``. A scene that the model does not accept is a row with its reason.
    """
    root = catalog.open(job.archive).root
    rate = cache(lambda model: _seconds_per_sample(root, model))
    for one in todo(job, root):
        if isinstance(one, Refusal):
            yield PlannedScene(collection=one.collection or "", scene=one.scene, reason=one.reason)
            continue
        try:
            plan = _plan(one, root)
        except Refused as refusal:
            scene = one.source
            yield PlannedScene(collection=_base(scene.collection), scene=scene.id, reason=str(refusal))
            continue
        to_do = len(plan.grid) - len(_done(root, plan))
        share = to_do / len(plan.grid)
        read_px = [px // plan.scale + 2 * plan.halo for px in plan.grid.read_px]
        itemsize = np.dtype(plan.spec.dtype).itemsize
        samples = plan.spec.bands * plan.spec.height * plan.spec.width
        yield PlannedScene(
            collection=plan.collection,
            scene=plan.scene_id,
            plan=plan,
            tiles_to_do=to_do,
            read_bytes=to_do * read_px[0] * read_px[1] * plan.spec.bands * itemsize,
            seconds=None if (per_sample := rate(plan.model)) is None else per_sample * samples * share,
        )


def _plan(one: Todo, root: Root) -> Plan:
    scene, task, source = one.source, one.task, cube_key(one.source)
    return make_plan(
        scene_id=scene.id,
        collection=_base(scene.collection),
        source=source,
        ingest_id=str(scene.properties["hypermend:ingest"]),
        spec=read_spec(root, source),
        card=task.card,
        task=task.name,
        tile_px=task.tile_px,
        guide=None if one.guide is None else (one.guide, read_spec(root, one.guide.source)),
        budget=task.budget,
        granted_bytes=task.granted_bytes,
    )


def _done(root: Root, plan: Plan) -> frozenset[tuple[int, int]]:
    try:
        return frozenset(Cube(root, plan.target).done())
    except NotFound:
        return frozenset()


def _seconds_per_sample(root: Root, model: str) -> float | None:
    """Worker seconds for one band of one pixel in the latest run of ``model`` that wrote something."""
    reports = sorted(entry.key for entry in root.list("runs") if entry.key.endswith("-restore/report.json"))
    for key in reversed(reports):
        report = json.loads(root.get(key))
        if report["notes"].get("model") == model and report["samples"]:
            return float(report["worker_s"]) / float(report["samples"])
    return None
