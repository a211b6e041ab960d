"""Restore: source cubes -> restored cubes, planned scene by scene and published as STAC items.

This is the driver's side: it holds no pixel. ``restore_worker`` is what happens to them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

import catalog
from catalog.cube import Cube, read_spec
from catalog.errors import NotFound
from catalog.publish import cube_key, put_item, restored_item
from catalog.root import Root
from catalog.scene import Scene
from pipeline.config import RestoreJob
from pipeline.execute import on_ray
from pipeline.job import Engine, Opened, Run, new_run_id, unit_id
from pipeline.plan import Plan, Refused, make_plan, pending
from pipeline.restore_worker import Finish, Prepare, RestoreTile, RestoreWorker, model_card

DEFAULT_MODEL = {"denoise": "stas-subspace"}


class RestoreUnit:
    """One scene's walk from its source cube to a published restored cube."""

    def __init__(self, source: Scene, job: RestoreJob, root: Root, run: str) -> None:
        self.collection, self.scene = _base(source.collection), source.id
        self.id = unit_id(self.collection, self.scene)
        self._source = source
        self._job = job
        self._root = root
        self._run = run

    def prepare(self) -> Prepare:
        return Prepare(
            unit=self.id,
            scene=self.scene,
            source=cube_key(self._source),
            ingest_id=str(self._source.properties["hypermend:ingest"]),
            collection=self.collection,
            task=self._job.task,
            model=model_name(self._job),
            tile_px=self._job.tile_px,
        )

    def tiles(self, opened: Opened) -> Iterator[RestoreTile]:
        plan: Plan = opened.context
        return (RestoreTile(unit=self.id, plan=plan.key, index=tile.index) for tile in pending(plan, opened.done))

    def finish(self, opened: Opened) -> Finish:
        return Finish(unit=self.id, plan=opened.context.key)

    def commit(self, opened: Opened, finished: float) -> int:
        plan: Plan = opened.context
        item = restored_item(
            self._source,
            plan.spec,
            key=plan.target,
            task=plan.task,
            plan_id=plan.id,
            model=plan.model,
            valid_fraction=finished,
        )
        if opened.warnings:
            item = replace(item, properties={**item.properties, "hypermend:notes": list(opened.warnings)})
        return put_item(self._root, item, run=self._run)


def restore(job: RestoreJob, *, engine: Engine = on_ray) -> Run:
    """Begin to restore what the job names: iterate the run, or ``wait`` for its report.

    Raises:
        Refused: nothing matches, or a scene that is asked for by id is not in the archive.
        BadCheckpoint: there is no such model.
    """
    root = catalog.open(job.archive).root
    run_id = new_run_id("restore")
    model_card(root, model_name(job))  # a name that is wrong is wrong for every scene
    found = sources(job)
    units = (RestoreUnit(scene, job, root, run_id) for scene in found)
    run = Run(run_id, job, units, partial(RestoreWorker, job.archive), engine, scenes=len(found))
    run.report.notes.update(task=job.task, model=model_name(job))
    return run


def model_name(job: RestoreJob) -> str:
    """The model that the job names, or the default of its task."""
    return job.model or DEFAULT_MODEL[job.task]


def sources(job: RestoreJob) -> list[Scene]:
    """The source cubes that the job's filters match.

    Raises:
        Refused: as ``restore``.
    """
    wanted = {_base(c) for c in job.collections}
    found = [
        item.scene
        for item in catalog.open(job.archive).search(
            stage="source", sensor=job.sensor, bbox=job.bbox, datetime=job.datetime
        )
        if not wanted or _base(item.scene.collection) in wanted
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
            values["plan"] = {
                **{key: getattr(self.plan, key) for key in ("id", "source", "target", "model", "halo", "tile_px")},
                "tiles": len(self.plan.grid),
                "tile_memory_bytes": self.plan.pixel_bytes,
                "warnings": self.plan.warnings,
            }
        return values


def planned(job: RestoreJob) -> Iterator[PlannedScene]:
    """Plan every scene of the job without reading a pixel.

    Raises:
        Refused: as ``restore``. A scene that the model does not accept is a row with its reason.
    """
    root = catalog.open(job.archive).root
    card = model_card(root, model_name(job))
    rate = _seconds_per_sample(root, card.name)
    for scene in sources(job):
        source = cube_key(scene)
        try:
            plan = make_plan(
                scene_id=scene.id,
                collection=_base(scene.collection),
                source=source,
                ingest_id=str(scene.properties["hypermend:ingest"]),
                spec=read_spec(root, source),
                card=card,
                task=job.task,
                tile_px=job.tile_px,
            )
        except Refused as refusal:
            yield PlannedScene(collection=_base(scene.collection), scene=scene.id, reason=str(refusal))
            continue
        to_do = len(plan.grid) - len(_done(root, plan))
        share = to_do / len(plan.grid)
        read_px = [px + 2 * plan.halo for px in plan.grid.read_px]
        itemsize = np.dtype(plan.spec.dtype).itemsize
        samples = plan.spec.bands * plan.spec.height * plan.spec.width
        yield PlannedScene(
            collection=plan.collection,
            scene=scene.id,
            plan=plan,
            tiles_to_do=to_do,
            read_bytes=to_do * read_px[0] * read_px[1] * plan.spec.bands * itemsize,
            seconds=None if rate is None else rate * samples * share,
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
