"""Which scenes a job restores, with which models and how much memory. Reads no pixel and knows no engine."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, islice
from typing import TYPE_CHECKING

import hypermend
from hypermend.catalog.cube.layout import read_spec
from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.errors import ArchiveError, Refused
from hypermend.catalog.keys import cube_key, scene_collection, source_collection
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac.index import SearchResult
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.budget import AdaptationBudget
from hypermend.models.card import BadCard
from hypermend.models.checkpoint import BadCheckpoint
from hypermend.pipeline.config import RestoreJob
from hypermend.pipeline.engine.outcome import Workers
from hypermend.pipeline.engine.worker_memory import GIB, SLACK_BYTES, share_bytes
from hypermend.pipeline.registry.models import load_pair_model
from hypermend.pipeline.registry.selection import ModelChoice, ModelSelector, default_model
from hypermend.pipeline.restore.guides import Guides, budget_of
from hypermend.pipeline.restore.plan import Guide, Plan, make_plan
from hypermend.pipeline.runs.run import workers_of
from hypermend.pipeline.runs.run_log import SkippedScene

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class SceneTask:
    """What is done to a scene."""

    chain: tuple[ModelChoice, ...]
    """A model for each task, first done first."""
    tile_px: int | None
    granted_bytes: int | None
    budget: AdaptationBudget | None = None

    @property
    def model(self) -> str:
        """Names of the models, as ``--model`` takes them."""
        return ",".join(chosen.model for chosen in self.chain)


@dataclass(frozen=True, kw_only=True)
class SceneRequest:
    """One scene of a job."""

    source: Scene
    task: SceneTask
    guide: Guide | None = None
    guide_scene: Scene | None = None


def scene_requests(
    job: RestoreJob, root: ArchiveStore, found: Iterable[Scene]
) -> Iterator[SceneRequest | SkippedScene]:
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
        begun |= isinstance(one, SceneRequest)
        yield one


def _refusal(scene: Scene, error: Exception) -> SkippedScene:
    return SkippedScene(scene=scene.id, collection=scene_collection(scene.collection), reason=str(error))


def _chains(job: RestoreJob, root: ArchiveStore) -> Callable[[Scene], SceneRequest | SkippedScene]:
    """What gives a scene its models."""
    choose = ModelSelector(job, root)
    limit = granted_bytes(job)

    def deal(scene: Scene) -> SceneRequest:
        chosen = tuple(choose(task, scene.sensor, _spec(root, scene)) for task in job.tasks)
        return SceneRequest(source=scene, task=SceneTask(chain=chosen, tile_px=job.tile_px, granted_bytes=limit))

    return deal


def _fusions(job: RestoreJob, root: ArchiveStore) -> Callable[[Scene], SceneRequest | SkippedScene]:
    """What gives a scene its guide and its model."""
    choose = ModelSelector(job, root)
    limit = granted_bytes(job)
    guides = Guides(job)
    budget = cache(lambda name: budget_of(job, load_pair_model(root, name)))

    def deal(scene: Scene) -> SceneRequest | SkippedScene:
        try:
            guide, guide_scene = guides.find(scene)
        except Refused as error:
            return _refusal(scene, error)
        builtin = default_model(scene.sensor, guide_scene.sensor)
        chosen = choose("fuse", scene.sensor, _spec(root, scene), builtin)
        task = SceneTask(chain=(chosen,), tile_px=job.tile_px, granted_bytes=limit, budget=budget(chosen.model))
        return SceneRequest(source=scene, task=task, guide=guide, guide_scene=guide_scene)

    return deal


def _spec(root: ArchiveStore, scene: Scene) -> Callable[[], CubeSpec]:
    return lambda: read_spec(root, cube_key(scene))


LOOKED_AT = 8
MARGIN = 1.5


def memory_grant(
    job: RestoreJob, root: ArchiveStore, found: Iterator[SceneRequest | SkippedScene]
) -> tuple[Iterator[SceneRequest | SkippedScene], Workers]:
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
        if isinstance(one, SceneRequest):
            with contextlib.suppress(ArchiveError):  # said when the scene's turn comes
                figures.append(plan_scene(one, root).tile_bytes)
    if not figures:
        return found, workers
    grant = round(MARGIN * max(figures))
    told = (replace(o, task=replace(o.task, granted_bytes=grant)) if isinstance(o, SceneRequest) else o for o in found)
    return told, replace(workers, memory_bytes=grant + SLACK_BYTES, limit_bytes=grant)


def granted_bytes(job: RestoreJob) -> int | None:
    """Memory of each worker: as the job says, else a share of this machine; None on a cluster elsewhere."""
    if job.memory_gib is not None:
        return round(job.memory_gib * GIB)
    return share_bytes(job.workers) if job.ray_address is None else None


def sources(job: RestoreJob) -> SearchResult:
    """The source cubes that the job's filters match.

    Raises:
        Refused: as ``restore``.
    """
    found = hypermend.open(job.archive).sources(
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


def plan_scene(one: SceneRequest, root: ArchiveStore) -> Plan:
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
