"""Ingest: convert the scenes that STAC items name to source cubes, and publish those as STAC items.

The driver is here, the worker in `ingest_worker`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import hypermend
from hypermend.catalog.keys import check_raw_collection, source_collection
from hypermend.catalog.meaning.instrument import check_sensor
from hypermend.catalog.meaning.of_scene import without_user_values
from hypermend.catalog.meaning.overrides import NO_OVERRIDES, Overrides
from hypermend.catalog.scene import AUTO, Scene
from hypermend.catalog.sensor_tables import keep_table, tables_of
from hypermend.catalog.sensors import SHIPPED, SensorTables
from hypermend.catalog.stac.discover import Skipped, discover, from_folder
from hypermend.catalog.stac.index import search
from hypermend.catalog.stac.publish import names_cube, put_item, source_item
from hypermend.catalog.stac.static_catalog import check_root_catalog
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.config import IngestJob
from hypermend.pipeline.ingest_worker import Finish, IngestContext, IngestWorker, Prepare, SceneFiles, WriteTiles
from hypermend.pipeline.runs.engine_choice import choose_engine
from hypermend.pipeline.runs.report import new_run_id, unit_id
from hypermend.pipeline.runs.run import Engine, Run, workers_of
from hypermend.pipeline.runs.run_log import SkippedScene
from hypermend.pipeline.runs.unit import PreparedScene, SceneTotals, Unit
from hypermend.pipeline.tiling.tiles import TileGrid


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
        write = partial(WriteTiles, unit=self.id, files=self._files, state=cube.state, target=cube.key)
        if cube.windowed:
            yield from (write(tiles=(index,)) for index in missing)
        elif whole := tuple(missing):
            yield write(tiles=whole)

    def finish(self, prepared: PreparedScene) -> Finish:
        cube: IngestContext = prepared.context
        files = None if prepared.settled else self._files
        return Finish(unit=self.id, target=cube.key, files=files, state=cube.state)

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
            quicklooks=totals.quicklooks,
        )
        if cube.scene.datetime is None:
            self._notes["undated"] = self._notes.get("undated", 0) + 1
        if border := totals.figures.get("border"):
            self._notes.setdefault("borders", []).append(f"{self.scene}: {border}")
        kept = keep_table(self._root, self._tables, cube.spec.sensor)
        return kept + put_item(self._root, item, run=self._run)


def ingest(
    job: IngestJob,
    *,
    engine: Engine | None = None,
    scenes: Iterable[Scene | Skipped] | None = None,
    run: str | None = None,
) -> Run:
    """Set up an ingest run: iterate its events, or ``wait`` for its report.

    Args:
        job: archive, filters and options.
        engine: runs the tasks; None for that of the job.
        scenes: the scenes; None for those that the job's filters find.
        run: id of the run; None for a new one.

    Raises:
        ArchiveError: the archive or the STAC endpoint cannot be read at all.
    """
    if job.stac is None:
        hypermend.open(job.archive)  # a misspelt archive is refused before it is made
    root = ArchiveStore(job.archive)
    check_root_catalog(root)
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
    chosen = engine or choose_engine(job, 0 if count is not None and count <= FEW_SCENES else None)
    started = Run(run_id, job, units, make, chosen, scenes=count, lease="ingest", workers=workers)
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


FEW_SCENES = 2
"""So many scenes are read by one process before Ray has started."""


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
        Refused: the collection has the name of one of source cubes, or the folder has a catalog of another kind.
        BadSensor: no such sensor, or a table that cannot be read.
    """
    if collection is not None:
        check_raw_collection(collection)
    root, run = ArchiveStore(archive), new_run_id("catalog")
    check_root_catalog(root)
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
