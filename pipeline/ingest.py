"""Ingest: convert the scenes that STAC items name to source cubes, and publish those as STAC items.

One task reads one window and writes one shard. A format without windows (.mat v5, PNG) takes one task for the whole
file, whose size is checked first.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import hypermend
from hypermend.catalog.arrays import Flags, Stored
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import create
from hypermend.catalog.cube.marks import DoneMarks
from hypermend.catalog.cube.spec import NODATA, VALID, CubeSpec
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.keys import source_collection, source_cube_key
from hypermend.catalog.meaning.instrument import check_sensor
from hypermend.catalog.meaning.of_scene import completed, without_user_values
from hypermend.catalog.meaning.overrides import NO_OVERRIDES, Overrides
from hypermend.catalog.readers.border import edge_border, edge_numbers
from hypermend.catalog.readers.scene_reader import READER_VERSION, Source, open_scene
from hypermend.catalog.scene import AUTO, Scene
from hypermend.catalog.sensor_tables import keep_table, tables_of
from hypermend.catalog.sensors import SHIPPED, SensorTables
from hypermend.catalog.stac.discover import Skipped, discover, from_folder
from hypermend.catalog.stac.fields import rfc3339
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
    overviews: bool

    def open(self, tables: SensorTables) -> Source:
        """Open the files."""
        return open_scene(self.scene, bands=self.bands or None, gsd_m=self.gsd_m, sign=signer(self.sign), tables=tables)


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
    scene: Scene
    """completed from its files"""
    identity: str
    windowed: bool


KEEP_OPEN = 4
"""Number of scenes whose files a worker keeps open, and of cubes."""


class IngestWorker:
    """Handler of ingest tasks; keeps the files and cubes of the last few scenes open."""

    def __init__(self, archive: str, tables: SensorTables = SHIPPED) -> None:
        self._root = ArchiveStore(archive)
        self._tables = tables
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
        spec = replace(source.spec, defects=source.defects(slice(0, 1), slice(0, 1)) is not None)
        if task.files.tile_px is not None:
            chunk, shard = CubeSpec.layout(spec.shape, spec.dtype, task.files.tile_px)
            spec = replace(spec, chunk=chunk, shard=shard)
        scene = completed(task.files.scene, spec.sensor, source.meaning)
        when = scene.trusted_datetime
        spec = replace(spec.with_overviews(task.files.overviews), time=None if when is None else rfc3339(when))
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
                ingest_id=ingest_id,
                key=key,
                spec=spec,
                scene=scene,
                identity=source.identity,
                windowed=source.windowed,
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
            shards = cube.write(y, x, stored, flags, defects=source.defects(y, x))
            valid = int(np.count_nonzero(flags & VALID))
            data = int(np.count_nonzero(~flags & NODATA))
            edges = _edges(x, stored, flags, cube.spec)
            cube.mark(*index, shards, {"valid_px": valid, "data_px": data} | ({"edges": edges} if edges else {}))
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
            BadAsset: no pixel of the scene holds data; an empty cube is not published. One of clouds alone is: what
                its product flags, a user may still want to see.
        """
        cube = self._cube(task.target)
        marks = cube.marks.fold().values()
        valid = sum(mark.extra["valid_px"] for mark in marks)
        if not any(mark.extra.get("data_px", mark.extra["valid_px"]) for mark in marks):
            raise BadAsset(f"scene {task.unit}: every pixel is nodata; there is nothing to publish")
        self._files.drop(task.unit)
        counts = Counter[float]()
        for mark in marks:
            counts.update({float(number): pixels for number, pixels in mark.extra.get("edges", {}).items()})
        border = edge_border(counts, cube.spec.height)
        figures = {} if border is None else {"border": border}
        return SceneTotals(valid_fraction=valid / (cube.spec.height * cube.spec.width), figures=figures)

    def _source(self, unit: str, files: SceneFiles) -> Source:
        def open() -> Source:
            source = files.open(self._tables)
            if not source.windowed:  # a file that is read whole stays in memory whole: keep one at most
                self._files.clear()
            return source

        return self._files.get(unit, open)

    def _cube(self, key: str) -> Cube:
        return self._cubes.get(key, lambda: Cube(self._root, key))


def _edges(x: slice, stored: Stored, flags: Flags, spec: CubeSpec) -> dict[str, int]:
    """Constant numbers at the left and the right edge of the scene, where a tile meets them."""
    counts = Counter[float]()
    for column, at_edge in ((0, x.start == 0), (-1, x.stop == spec.width)):
        if at_edge:
            counts.update(edge_numbers(stored[:, :, column], flags[:, column], spec))
    return {f"{number:g}": pixels for number, pixels in counts.most_common(3)}


class IngestUnit:
    """One scene of an ingest run: from files to a published source cube."""

    def __init__(
        self,
        scene: Scene,
        job: IngestJob,
        root: ArchiveStore,
        run: str,
        *,
        tables: SensorTables = SHIPPED,
        notes: dict[str, Any] | None = None,
    ) -> None:
        """
        Args:
            notes: those of the run. `undated` counts the scenes whose time is unknown, `borders` holds a line for each
                scene with a border of one number.
        """
        self.collection, self.scene = scene.collection, scene.id
        self.id = unit_id(self.collection, self.scene)
        scene = job.overrides.apply(scene)
        self._files = SceneFiles(
            scene=scene,
            bands=job.bands,
            gsd_m=job.gsd_m,
            sign=job.sign,
            tile_px=job.tile_px,
            overviews=job.overviews is not False,
        )
        self._root = root
        self._run = run
        self.reads: tuple[str, ...] = ()
        self._tables = tables
        self._notes = {} if notes is None else notes

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
        cube: IngestContext = prepared.context
        return names_cube(self._root, replace(cube.scene, collection=source_collection(self.collection)), cube.key)

    def commit(self, prepared: PreparedScene, totals: SceneTotals) -> int:
        cube: IngestContext = prepared.context
        item = source_item(
            without_user_values(cube.scene),
            cube.spec,
            key=cube.key,
            ingest_id=cube.ingest_id,
            valid_fraction=totals.valid_fraction,
        )
        if cube.scene.datetime is None:
            self._notes["undated"] = self._notes.get("undated", 0) + 1
        if border := totals.figures.get("border"):
            self._notes.setdefault("borders", []).append(f"{self.scene}: {border}")
        kept = keep_table(self._root, self._tables, cube.spec.sensor)
        return kept + put_item(self._root, item, run=self._run)


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
    if job.stac is None:
        hypermend.open(job.archive)  # a misspelt archive is refused before it is made
    root = ArchiveStore(job.archive)
    run_id = run or new_run_id("ingest")
    scenes = find_scenes(job) if scenes is None else scenes
    count = len(scenes) if isinstance(scenes, Sized) else None  # an API is asked for page after page during the run
    tables = tables_of(root, job.sensors)
    notes: dict[str, Any] = {}
    unit = partial(IngestUnit, job=job, root=root, run=run_id, tables=tables, notes=notes)
    units: Iterator[Unit | SkippedScene] = (
        SkippedScene(scene=scene.id, reason=scene.reason) if isinstance(scene, Skipped) else unit(scene)
        for scene in scenes
    )
    workers = replace(workers_of(job), gpus=0.0)  # reading files needs none
    make = partial(IngestWorker, root.url, tables)
    started = Run(run_id, job, units, make, engine, scenes=count, lease="ingest", workers=workers)
    started.report.notes = notes
    return started


def find_scenes(job: IngestJob) -> Iterable[Scene | Skipped]:
    """Find the scenes that pass the job's filters, in the archive itself or in the STAC source that the job names.

    Raises:
        BadSensor: the job names a sensor that has no table.
    """
    if job.stac is not None and job.sensor is not None:
        check_sensor(job.sensor, tables_of(ArchiveStore(job.archive), job.sensors))
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
        sensor=job.sensor or AUTO,
        bbox=job.bbox,
        datetime=job.datetime,
        query=job.query,
        limit=job.limit,
    )


@dataclass(frozen=True, kw_only=True)
class CatalogReport:
    """Result of ``catalog_folder``: ids of the scenes with a raw item, files skipped, bytes of the items."""

    scenes: tuple[str, ...]
    undated: int
    """Scenes whose time no file states."""
    skipped: tuple[Skipped, ...]
    bytes_written: int


def catalog_folder(
    archive: str,
    path: Path,
    *,
    sensor: str = AUTO,
    collection: str | None = None,
    overrides: Overrides = NO_OVERRIDES,
    sensors: Path | None = None,
    show: Callable[[Scene, SensorTables], None] | None = None,
) -> CatalogReport:
    """Make raw items for a folder of files, or for one file, that has no STAC items.

    Args:
        sensor: name of a table, or ``auto``: the files say it.
        collection: None for the sensor's name.
        sensors: folder with the user's tables; those in use are kept in the archive.
        show: shows each scene, given the tables, as its item is written.

    Raises:
        NotFound: no such folder.
        BadSensor: no such sensor, or a table that cannot be read.
    """
    root, run = ArchiveStore(archive), new_run_id("catalog")
    tables = tables_of(root, sensors)
    scenes, skipped, bytes_written = [], [], 0
    for scene in from_folder(path, sensor=sensor, collection=collection, overrides=overrides, tables=tables):
        if isinstance(scene, Skipped):
            skipped.append(scene)
            continue
        bytes_written += keep_table(root, tables, scene.sensor) + put_item(root, scene, run=run)
        scenes.append(scene)
        if show is not None:
            show(scene, tables)
    return CatalogReport(
        scenes=tuple(scene.id for scene in scenes),
        undated=sum(scene.datetime is None for scene in scenes),
        skipped=tuple(skipped),
        bytes_written=bytes_written,
    )
