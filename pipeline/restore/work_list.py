"""Choose the work of a job: which scenes, with which models and guides, in how much memory.

Shared by ``plan``, ``restore`` and ``evaluate``. Reads no pixel and loads no engine.
"""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, islice

import hypermend
from hypermend.catalog.cube.layout import read_spec
from hypermend.catalog.errors import ArchiveError, Refused
from hypermend.catalog.keys import cube_key, scene_collection, source_collection
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac.index import SearchResult
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.card import BadCard
from hypermend.models.checkpoint import BadCheckpoint
from hypermend.pipeline.config import RestoreJob
from hypermend.pipeline.engine.memory_grant import SLACK_BYTES, granted_bytes
from hypermend.pipeline.engine.outcome import Workers
from hypermend.pipeline.registry.models import load_pair_model
from hypermend.pipeline.registry.selection import ModelChoice, ModelSelector, default_model
from hypermend.pipeline.restore.guide_selection import adaptation_budget, guide_scenes
from hypermend.pipeline.restore.make_plan import plan_request
from hypermend.pipeline.restore.request import PairRequest, SceneRequest
from hypermend.pipeline.runs.run import workers_of
from hypermend.pipeline.runs.run_log import SkippedScene

FIRST_SCENES = 8
"""Scenes that are looked at before a run begins."""
MEMORY_MARGIN = 1.5
"""Memory of a worker over the largest tile of the first scenes: later ones may take more."""


@dataclass(frozen=True, kw_only=True)
class WorkList:
    """The work of one job."""

    scenes: int
    requests: Iterator[SceneRequest | SkippedScene]
    """One for each scene, made as it is asked for."""
    workers: Workers
    samples: int | None
    """pixels times bands of all scenes; None where they are more than are looked at beforehand"""


def work_list(job: RestoreJob) -> WorkList:
    """Choose scenes, models and memory.

    Raises:
        Refused, BadCheckpoint: as ``restore``.
    """
    root = hypermend.open(job.archive).root
    scenes = sources(job)
    requests = scene_requests(job, root, scenes)
    first = list(islice(requests, FIRST_SCENES))  # an error of the job is raised here, not within the run
    return WorkList(
        scenes=len(scenes),
        requests=chain(first, requests),
        workers=granted_workers(job, root, first),
        samples=_samples(root, first) if len(scenes) <= FIRST_SCENES else None,
    )


def _samples(root: ArchiveStore, first: Sequence[SceneRequest | SkippedScene]) -> int:
    total = 0
    for request in first:
        if isinstance(request, SceneRequest):
            for key in request.cubes:
                with contextlib.suppress(ArchiveError):  # reported when the scene's turn comes
                    total += math.prod(read_spec(root, key).shape)
    return total


def sources(job: RestoreJob) -> SearchResult:
    """Find the source cubes that the job's filters match.

    Raises:
        Refused: as ``restore``.
    """
    scenes = hypermend.open(job.archive).sources(
        collections=job.collections, sensor=job.sensor, bbox=job.bbox, datetime=job.datetime
    )
    if job.guide_collection and not job.collections:  # a guide is restored only if its collection is named
        guides = source_collection(job.guide_collection)
        scenes = scenes.where(lambda row: row.collection != guides)
    if job.scenes:
        ids, wanted = {row.id for row in scenes.rows}, set(job.scenes)
        if unknown := wanted - ids:
            scene_id = next(name for name in job.scenes if name in unknown)
            nearest = difflib.get_close_matches(scene_id, sorted(ids), n=1, cutoff=0.0)
            hint = f"; the nearest is {nearest[0]!r}" if nearest else "; it has none that matches the other filters"
            raise Refused(f"{job.archive} has no source cube of scene {scene_id!r}{hint}")
        scenes = scenes.where(lambda row: row.id in wanted)
    if not scenes:
        raise Refused(f"{job.archive} has no source cube that matches; `hypermend ingest` makes them")
    return scenes


def scene_requests(
    job: RestoreJob, root: ArchiveStore, scenes: Iterable[Scene]
) -> Iterator[SceneRequest | SkippedScene]:
    """Make the request of each scene, or say why it is skipped.

    Raises:
        Refused, BadCheckpoint: as ``restore``. An error in the model of the first scene is an error of the job; in that
            of a later scene it skips that scene, as a missing guide always does.
    """
    make_request = _PairRequests(job, root) if job.task == "fuse" else _SceneRequests(job, root)
    first = True
    for scene in scenes:
        request: SceneRequest | SkippedScene
        try:
            request = make_request(scene)
        except (Refused, BadCheckpoint, BadCard) as error:
            if first:
                raise
            request = _skipped(scene, error)
        except ArchiveError as error:
            request = _skipped(scene, error)
        first &= not isinstance(request, SceneRequest)
        yield request


def _skipped(scene: Scene, error: Exception) -> SkippedScene:
    return SkippedScene(scene=scene.id, collection=scene_collection(scene.collection), reason=str(error))


class _SceneRequests:
    """Makes the requests of scenes that are restored by themselves."""

    def __init__(self, job: RestoreJob, root: ArchiveStore) -> None:
        self._job, self._root = job, root
        self._select = ModelSelector(job, root)

    def __call__(self, scene: Scene) -> SceneRequest | SkippedScene:
        choices = tuple(self._choice(task, scene) for task in self._job.tasks)
        overviews = self._job.overviews is not False
        return SceneRequest(
            scene=scene,
            choices=choices,
            tile_px=self._job.tile_px,
            overviews=overviews,
            destripe=self._job.destripe,
            fill_bands=self._job.fill_bands,
            uncertainty=self._job.uncertainty,
        )

    def _choice(self, task: str, scene: Scene, builtin: str | None = None) -> ModelChoice:
        return self._select(task, scene.sensor, lambda: read_spec(self._root, cube_key(scene)), builtin)


class _PairRequests(_SceneRequests):
    """Makes the requests of scenes that are fused with a guide."""

    def __init__(self, job: RestoreJob, root: ArchiveStore) -> None:
        super().__init__(job, root)
        self._guides = guide_scenes(job)
        self._budget = cache(lambda name: adaptation_budget(job, load_pair_model(root, name)))

    def __call__(self, scene: Scene) -> SceneRequest | SkippedScene:
        try:
            paired = self._guides.find(scene)
        except ArchiveError as error:  # no guide covers enough of it: never an error of the job
            return _skipped(scene, error)
        choice = self._choice("fuse", scene, default_model(scene.sensor, paired.guide.sensor))
        budget = self._budget(choice.model)
        return PairRequest(
            scene=scene,
            choices=(choice,),
            tile_px=self._job.tile_px,
            overviews=self._job.overviews is not False,
            paired=paired,
            budget=budget,
        )


def granted_workers(job: RestoreJob, root: ArchiveStore, first: Sequence[SceneRequest | SkippedScene]) -> Workers:
    """Workers of a job with the memory that each asks for and may take.

    On a cluster, where the job does not say, the memory follows from the plans of the first scenes with a margin: the
    cluster is asked for it, and a later scene that takes more is refused by its plan, with both numbers.
    """
    workers, limit = workers_of(job), granted_bytes(job)
    if limit is not None:
        return replace(workers, memory_bytes=None if job.ray_address is None else limit, limit_bytes=limit)
    tiles = []
    for request in first:
        if isinstance(request, SceneRequest):
            with contextlib.suppress(ArchiveError):  # reported when the scene's turn comes
                tiles.append(plan_request(root, request, request.cards).tile_bytes)
    if not tiles:
        return workers
    grant = round(MEMORY_MARGIN * max(tiles))
    return replace(workers, memory_bytes=grant + SLACK_BYTES, limit_bytes=grant)
