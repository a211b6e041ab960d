"""Ingest: convert the scenes that STAC items name to source cubes, and publish those as STAC items.

One task reads one window and writes one shard. A format without windows (.mat v5, PNG) takes one task for the whole
file, whose size is checked first.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import hypermend
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import create
from hypermend.catalog.cube.marks import DoneMarks
from hypermend.catalog.cube.spec import VALID, CubeSpec
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.keys import source_collection, source_cube_key
from hypermend.catalog.readers.scene_reader import READER_VERSION, Source, open_scene
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac.discover import Skipped, discover, from_folder
from hypermend.catalog.stac.index import search
from hypermend.catalog.stac.publish import names_cube, put_item, source_item
from hypermend.catalog.storage.archive_store import ArchiveStore, digest
from hypermend.catalog.storage.recent import Recent
from hypermend.catalog.storage.signing import signer
from hypermend.pipeline.config import IngestJob
from hypermend.pipeline.engine.memory_grant import peak_bytes
from hypermend.pipeline.engine.ray_actors import on_ray
from hypermend.pipeline.runs.report import new_run_id, unit_id
from hypermend.pipeline.runs.run import Engine, Run, workers_of
from hypermend.pipeline.runs.run_log import SkippedScene, TaskReceipt
from hypermend.pipeline.runs.unit import PreparedScene, SceneTotals, Unit
from hypermend.pipeline.tiling.tiles import Index, TileGrid


@dataclass(frozen=True, kw_only=True)
class SceneFiles:
    """A scene and the options with which a worker opens its files."""

    scene: Scene
    bands: tuple[str, ...]
    gsd_m: float | None
    sign: str
    tile_px: int | None

    def open(self) -> Source:
        """Open the files."""
        return open_scene(self.scene, bands=self.bands or None, gsd_m=self.gsd_m, sign=signer(self.sign))


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Task: open a scene's files and create its source cube."""

    unit: str
    files: SceneFiles


@dataclass(frozen=True, kw_only=True)
class WriteTiles:
    """Task: write tiles of a source cube."""

    unit: str
    files: SceneFiles
    identity: str
    """Identity of the files when the scene was prepared: a cube must not mix two versions of a file."""
    target: str
    tiles: tuple[Index, ...]


@dataclass(frozen=True, kw_only=True)
class Finish:
    """Task: fold the marks of a source cube and add up its usable pixels."""

    unit: str
    target: str


@dataclass(frozen=True, kw_only=True)
class IngestContext:
    """Facts of a prepared scene that the driver keeps for its tiles and its item."""

    ingest_id: str
    key: str
    spec: CubeSpec
    identity: str
    windowed: bool


KEEP_OPEN = 4
"""Number of scenes whose files a worker keeps open, and of cubes."""


class IngestWorker:
    """Handler of ingest tasks; keeps the files and cubes of the last few scenes open."""

    def __init__(self, archive: str) -> None:
        self._root = ArchiveStore(archive)
        self._files: Recent[str, Source] = Recent(KEEP_OPEN, close=lambda source: source.close())
        self._cubes: Recent[str, Cube] = Recent(KEEP_OPEN)

    def __call__(self, task: Prepare | WriteTiles | Finish) -> Any:
        if isinstance(task, Prepare):
            return self._prepare(task)
        if isinstance(task, WriteTiles):
            return self._write(task)
        return self._finish(task)

    def _prepare(self, task: Prepare) -> PreparedScene:
        source = self._source(task.unit, task.files)
        spec = source.spec
        if task.files.tile_px is not None:
            chunk, shard = CubeSpec.layout(spec.shape, spec.dtype, task.files.tile_px)
            spec = replace(spec, chunk=chunk, shard=shard)
        identity = {"files": source.identity, "spec": spec.to_dict(), "version": READER_VERSION}
        ingest_id = digest(identity)
        spec = replace(spec, attrs={**spec.attrs, "hypermend:ingest": ingest_id})
        key = source_cube_key(task.files.scene.id, ingest_id)
        create(self._root, key, spec, lonlat=source.lonlat)
        rows, columns = spec.tiles
        done, folded = DoneMarks(self._root, key).tiles()
        return PreparedScene(
            total=rows * columns,
            done=done,
            settled=folded and len(done) == rows * columns,
            context=IngestContext(
                ingest_id=ingest_id, key=key, spec=spec, identity=source.identity, windowed=source.windowed
            ),
        )

    def _write(self, task: WriteTiles) -> TaskReceipt:
        source, cube = self._source(task.unit, task.files), self._cube(task.target)
        if source.identity != task.identity:
            raise BadAsset(f"scene {task.unit}: its files changed while they were ingested; run the same command again")
        read_s = write_s = 0.0
        usable = pixels = samples = written = 0
        for index in task.tiles:
            y, x = cube.spec.window(*index)
            start = time.perf_counter()
            stored, flags = source.read(y, x)
            middle = time.perf_counter()
            shards = cube.write(y, x, stored, flags)
            valid = int(np.count_nonzero(flags & VALID))
            cube.mark(*index, shards, {"valid_px": valid})
            write_s += time.perf_counter() - middle
            read_s += middle - start
            usable, pixels, samples = usable + valid, pixels + flags.size, samples + stored.size
            written += sum(shard.size for shard in shards)
        return TaskReceipt(
            tiles=task.tiles,
            read_s=read_s,
            model_s=0.0,
            write_s=write_s,
            valid_fraction=usable / pixels,
            samples=samples,
            bytes_written=written,
            peak_bytes=peak_bytes(),
        )

    def _finish(self, task: Finish) -> SceneTotals:
        """Fold the marks and add up the usable pixels.

        Raises:
            BadAsset: no pixel of the scene is usable; an empty cube is not published.
        """
        cube = self._cube(task.target)
        valid = sum(mark.extra["valid_px"] for mark in cube.marks.fold().values())
        if valid == 0:
            raise BadAsset(f"scene {task.unit}: every pixel is nodata or flagged; there is nothing to publish")
        self._files.drop(task.unit)
        return SceneTotals(valid_fraction=valid / (cube.spec.height * cube.spec.width))

    def _source(self, unit: str, files: SceneFiles) -> Source:
        def open() -> Source:
            source = files.open()
            if not source.windowed:  # a file that is read whole stays in memory whole: keep one at most
                self._files.clear()
            return source

        return self._files.get(unit, open)

    def _cube(self, key: str) -> Cube:
        return self._cubes.get(key, lambda: Cube(self._root, key))


class IngestUnit:
    """One scene of an ingest run: from files to a published source cube."""

    def __init__(self, scene: Scene, job: IngestJob, root: ArchiveStore, run: str) -> None:
        self.collection, self.scene = scene.collection, scene.id
        self.id = unit_id(self.collection, self.scene)
        self._files = SceneFiles(scene=scene, bands=job.bands, gsd_m=job.gsd_m, sign=job.sign, tile_px=job.tile_px)
        self._root = root
        self._run = run
        self.reads: tuple[str, ...] = ()

    def prepare(self) -> Prepare:
        return Prepare(unit=self.id, files=self._files)

    def tiles(self, prepared: PreparedScene) -> Iterator[WriteTiles]:
        cube: IngestContext = prepared.context
        _, tile_px, _ = cube.spec.shard
        grid = TileGrid(height=cube.spec.height, width=cube.spec.width, tile_px=tile_px)
        missing = (index for index in grid.indices() if index not in prepared.done)
        write = partial(WriteTiles, unit=self.id, files=self._files, identity=cube.identity, target=cube.key)
        if cube.windowed:
            yield from (write(tiles=(index,)) for index in missing)
        elif whole := tuple(missing):
            yield write(tiles=whole)

    def finish(self, prepared: PreparedScene) -> Finish:
        return Finish(unit=self.id, target=prepared.context.key)

    def is_published(self, prepared: PreparedScene) -> bool:
        collection = source_collection(self.collection)
        return names_cube(self._root, replace(self._files.scene, collection=collection), prepared.context.key)

    def commit(self, prepared: PreparedScene, totals: SceneTotals) -> int:
        cube: IngestContext = prepared.context
        item = source_item(
            self._files.scene,
            cube.spec,
            key=cube.key,
            ingest_id=cube.ingest_id,
            valid_fraction=totals.valid_fraction,
        )
        return put_item(self._root, item, run=self._run)


def ingest(
    job: IngestJob, *, engine: Engine = on_ray, scenes: Iterable[Scene | Skipped] | None = None, run: str | None = None
) -> Run:
    """Set up an ingest run: iterate its events, or ``wait`` for its report.

    Args:
        job: archive, filters and options.
        engine: runs the tasks.
        scenes: the scenes; None for those that the job's filters find.
        run: id of the run; None for a new one.

    Raises:
        ArchiveError: the archive or the STAC endpoint cannot be read at all.
    """
    root = ArchiveStore(job.archive)
    run_id = run or new_run_id("ingest")
    scenes = find_scenes(job) if scenes is None else scenes
    count = len(scenes) if isinstance(scenes, Sized) else None  # an API is asked for page after page during the run
    units = (_unit(scene, job, root, run_id) for scene in scenes)
    workers = replace(workers_of(job), gpus=0.0)  # reading files needs none
    return Run(
        run_id, job, units, partial(IngestWorker, root.url), engine, scenes=count, lease="ingest", workers=workers
    )


def _unit(scene: Scene | Skipped, job: IngestJob, root: ArchiveStore, run: str) -> Unit | SkippedScene:
    if isinstance(scene, Skipped):
        return SkippedScene(scene=scene.id, reason=scene.reason)
    return IngestUnit(scene, job, root, run)


def find_scenes(job: IngestJob) -> Iterable[Scene | Skipped]:
    """Find the scenes that pass the job's filters, in the archive itself or in the STAC source that the job names."""
    if job.stac is None:
        in_archive = search(
            hypermend.open(job.archive).root,
            stage="raw",
            sensor=job.sensor,
            collections=job.collections,
            bbox=job.bbox,
            datetime=job.datetime,
            query=job.query,
        )
        return in_archive if job.limit is None else islice(in_archive, job.limit)
    return discover(
        job.stac,
        collections=job.collections,
        sensor=job.sensor,
        bbox=job.bbox,
        datetime=job.datetime,
        query=job.query,
        limit=job.limit,
    )


@dataclass(frozen=True, kw_only=True)
class CatalogReport:
    """Result of ``catalog_folder``: ids of the scenes with a raw item, files skipped, bytes of the items."""

    scenes: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    bytes_written: int


def catalog_folder(archive: str, path: Path, *, sensor: str, collection: str | None = None) -> CatalogReport:
    """Make raw items for a folder of files that has no STAC items.

    Raises:
        NotFound: no such folder.
        BadSensor: no such sensor.
    """
    root, run = ArchiveStore(archive), new_run_id("catalog")
    scenes, skipped, bytes_written = [], [], 0
    for scene in from_folder(path, sensor=sensor, collection=collection or sensor):
        if isinstance(scene, Skipped):
            skipped.append(scene)
        else:
            bytes_written += put_item(root, scene, run=run)
            scenes.append(scene.id)
    return CatalogReport(scenes=tuple(scenes), skipped=tuple(skipped), bytes_written=bytes_written)
