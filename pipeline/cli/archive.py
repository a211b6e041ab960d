"""The verbs of an archive: ``demo``, ``catalog``, ``ingest``, ``query``, ``serve``, ``export``, ``verify``,
``index``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import hypermend
from hypermend.catalog.documents import visible
from hypermend.catalog.scene import Scene
from hypermend.catalog.sensors import SensorTables
from hypermend.pipeline.cli.app import Archive, Json, app, emit, next_step, refuse
from hypermend.pipeline.cli.inspect import facts_json, line
from hypermend.pipeline.cli.run_job import run_job, stdout_for_json, warn_undated
from hypermend.pipeline.cli.verb import verb
from hypermend.pipeline.config import CatalogSettings, IngestJob, Job
from hypermend.pipeline.terminal import Terminal

FORMATS = ("cog", "envi", "netcdf")


@app.command()
def demo(
    archive: Annotated[Path, typer.Option(help="Folder in which the demo archive is made.")] = Path("demo-archive"),
    as_json: Json = False,
) -> None:
    """Walk synthetic scenes from files to restored cubes."""
    from hypermend.pipeline.demo.driver import run

    with stdout_for_json(as_json):
        result = run(archive, Terminal(stderr=as_json))
    if as_json:
        emit(result)


@verb(CatalogSettings, file="no")
def catalog(
    settings: CatalogSettings,
    path: Annotated[Path, typer.Argument(help="A folder of image files, or one file, that has no STAC of its own.")],
    as_json: Json = False,
) -> None:
    """Make STAC items for files that have none.

    Prints what each scene is taken for.
    """
    from hypermend.pipeline.ingest import catalog_folder
    from hypermend.pipeline.inspect.driver import scene_facts

    lines: list[dict[str, Any]] = []

    def show(scene: Scene, tables: SensorTables) -> None:
        facts = scene_facts(scene, tables)
        lines.append(facts_json(facts))
        if not as_json:
            print(line(facts))

    made = catalog_folder(
        settings.archive,
        path,
        sensor=settings.sensor,
        collection=settings.collection,
        overrides=settings.overrides,
        sensors=settings.sensors,
        show=show,
    )
    for skipped in made.skipped:
        print(visible(f"skipped {skipped.id}: {skipped.reason}"), file=sys.stderr)
    warn_undated(made.undated, "--datetime")
    if as_json:
        skips = [{"id": s.id, "reason": s.reason} for s in made.skipped]
        emit({"scenes": made.scenes, "summaries": lines, "skipped": skips})
    if not made.scenes and not made.skipped:
        refuse(f"{path}: no image file that a reader knows")
    if made.scenes and not as_json:
        next_step("ingest", settings.archive)
    raise typer.Exit(1 if made.skipped else 0)


@verb(IngestJob, without=("deadline_s",))
def ingest(
    job: IngestJob,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what the scenes are taken for.")] = False,
    as_json: Json = False,
) -> None:
    """Turn scenes into source cubes."""
    from hypermend.pipeline.ingest import ingest as start

    if not dry_run:
        run_job(start, job, as_json, then=("plan",))
    from hypermend.pipeline.inspect.dry_run import dry_run as facts_of_job

    every = []
    for facts in facts_of_job(job):
        every.append(facts)
        if not as_json:
            print(line(facts))
    refused = [facts for facts in every if facts.refusal is not None]
    warn_undated(sum(facts.refusal is None and facts.time is None for facts in every), "--scene-datetime")
    if as_json:
        ids = [facts.id for facts in every if facts.refusal is None]
        skipped = [(facts.id, facts.refusal) for facts in refused]
        emit({"scenes": ids, "summaries": [facts_json(facts) for facts in every], "skipped": skipped})
    raise typer.Exit(1 if refused else 0)


@verb(Job, file="no", only=("archive", "sensor", "collections", "bbox", "datetime"))
def query(
    job: Job,
    stage: Annotated[str | None, typer.Option(help="raw, source or restored; default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Find scenes and their cubes.

    With --json a STAC FeatureCollection; each item's asset "cube" is the Zarr, ready to open.
    """
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
def serve(
    archive: Archive,
    host: Annotated[
        str, typer.Option(help="Address to listen at; by default only this machine reaches the server.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 for any that is free.")] = 8080,
) -> None:
    """Browse an archive in a web page, and search it by a STAC API.

    Read-only. Ends with Ctrl-C.
    """
    from hypermend.pipeline.serve.server import is_loopback
    from hypermend.pipeline.serve.server import serve as answer

    root = hypermend.open(archive).root
    if not is_loopback(host):
        print("warning: everyone who reaches this address can read the archive's cubes", file=sys.stderr)
    answer(root, host=host, port=port, started=lambda url: print(f"{url} (Ctrl-C ends)", flush=True))


@app.command()
def verify(
    archive: Archive,
    repair: Annotated[
        bool, typer.Option("--repair", help="Set aside documents that parse and cannot be used, to be made again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check every shard against its mark, and the metadata.

    `ingest` or `restore` writes again what is torn.
    """
    from hypermend.pipeline.maintenance.verify import verify as check

    with Terminal(stderr=True).status("looking for cubes") as status:
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
    """Rebuild the query index and the catalogs from the items."""
    count = hypermend.open(archive).reindex()
    print(f"{count} items indexed")


@app.command()
def export(
    item: Annotated[str, typer.Argument(help="Id of a scene, or its collection and id: enmap-denoise/S1.")],
    archive: Archive,
    format: Annotated[str, typer.Option(help="Format of the file.", metavar="|".join(FORMATS))],
    out: Annotated[Path, typer.Option(help="The file to make; it must not exist.")],
    bbox: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(metavar="W S E N", help="West, south, east, north in degrees; default: the whole scene."),
    ] = None,
    bands: Annotated[
        str | None, typer.Option(help="Names, numbers and ranges of numbers: B2,B8A or 1-30,40; default: all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a cube as a COG, ENVI or NetCDF file.

    For software that does not read Zarr.
    """
    if format not in FORMATS:
        refuse(f"--format {format!r} is none of {', '.join(FORMATS)}")
    from hypermend.pipeline.export.driver import export as write

    made = write(archive, item, format=format, out=out, bbox=bbox, bands=bands)  # type: ignore[arg-type]
    for warning in made.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if as_json:
        emit(made.to_dict())
    else:
        print(*made.files, sep="\n")
