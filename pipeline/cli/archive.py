"""The verbs of an archive: ``demo``, ``catalog``, ``ingest``, ``query``, ``verify`` and ``index``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import hypermend
from hypermend.pipeline.cli.app import Archive, Json, app, emit, refuse
from hypermend.pipeline.cli.run_job import run_job, stdout_for_json
from hypermend.pipeline.cli.verb import verb
from hypermend.pipeline.config import IngestJob, Job


@app.command()
def demo(
    archive: Annotated[Path, typer.Option(help="Folder in which the demo archive is made.")] = Path("demo-archive"),
    as_json: Json = False,
) -> None:
    """Make an archive of synthetic scenes and process it from files to restored cubes."""
    from hypermend.pipeline.demo.driver import run

    with stdout_for_json(as_json):
        result = run(archive, Console(stderr=as_json))
    if as_json:
        emit(result)


@app.command()
def catalog(
    path: Annotated[Path, typer.Argument(help="A folder of image files that has no STAC of its own.")],
    sensor: Annotated[str, typer.Option(help="Name of a sensor table.")],
    archive: Archive,
    collection: Annotated[str | None, typer.Option(help="Id of the collection; default: the sensor's name.")] = None,
    as_json: Json = False,
) -> None:
    """Make STAC items for a folder of files, so that it can be ingested."""
    from hypermend.pipeline.ingest import catalog_folder

    made = catalog_folder(archive, path, sensor=sensor, collection=collection)
    for skipped in made.skipped:
        print(f"skipped {skipped.id}: {skipped.reason}", file=sys.stderr)
    if as_json:
        emit({"scenes": made.scenes, "skipped": [{"id": s.id, "reason": s.reason} for s in made.skipped]})
    else:
        for scene in made.scenes:
            print(scene)
    if not made.scenes and not made.skipped:
        refuse(f"{path}: no image file that a reader knows")
    raise typer.Exit(1 if made.skipped else 0)


@verb(IngestJob, without=("deadline_s",))
def ingest(
    job: IngestJob,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the scenes.")] = False,
    as_json: Json = False,
) -> None:
    """Turn scenes into source cubes."""
    from hypermend.pipeline.ingest import find_scenes
    from hypermend.pipeline.ingest import ingest as start

    if not dry_run:
        run_job(start, job, as_json)
    reasons = [(scene.id, getattr(scene, "reason", None)) for scene in find_scenes(job)]
    skipped = [(id, reason) for id, reason in reasons if reason is not None]
    if as_json:
        emit({"scenes": [id for id, reason in reasons if reason is None], "skipped": skipped})
    else:
        for id, reason in reasons:
            print(id if reason is None else f"{id}: skipped: {reason}")
    raise typer.Exit(1 if skipped else 0)


@verb(Job, file="no", only=("archive", "sensor", "collections", "bbox", "datetime"))
def query(
    job: Job,
    stage: Annotated[str | None, typer.Option(help="raw, source or restored; default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Find scenes. With --json a STAC FeatureCollection; each item's asset "cube" is the Zarr, ready to open."""
    items = hypermend.open(job.archive).search(
        stage=stage, sensor=job.sensor, collections=job.collections, bbox=job.bbox, datetime=job.datetime
    )
    if as_json:
        emit(hypermend.feature_collection([item.scene for item in items]))
        return
    for item in items:
        s = item.scene
        day = "undated   " if s.datetime is None else f"{s.datetime:%Y-%m-%d}"
        print(f"{day}  {s.collection}  {s.id}")
        print("   ", s.assets["cube"].href if "cube" in s.assets else f"{len(s.assets)} files of {s.sensor}")
    if not items:
        print("no scene matches", file=sys.stderr)


@app.command()
def verify(
    archive: Archive,
    repair: Annotated[
        bool, typer.Option("--repair", help="Set aside documents that parse and cannot be used, to be made again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Read every shard against its mark, and the metadata. `ingest` or `restore` writes again what is torn."""
    from hypermend.pipeline.maintenance.verify import verify as check

    with Console(stderr=True).status("looking for cubes") as status:
        report = check(archive, lambda done, total: status.update(f"{done} of {total} cubes read"), repair=repair)
    if as_json:
        emit(report.to_dict())
    else:
        for torn in report.torn:
            print(f"torn: {torn}")
        for unread in report.unread:
            print(f"not read: {unread}")
        unread_too = f", {len(report.unread)} documents not read" if report.unread else ""
        print(f"{report.cubes} cubes, {report.tiles} tiles read, {len(report.torn)} torn{unread_too}")
    raise typer.Exit(1 if report.torn or report.unread else 0)


@app.command()
def index(archive: Archive) -> None:
    """Rebuild the query index and the browsable catalogs from the items."""
    count = hypermend.open(archive).reindex()
    print(f"{count} items indexed")
