"""The verbs of an archive: files in, cubes and items out, and what is found in it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import hypermend
from hypermend.pipeline.cli.app import (
    Address,
    Archive,
    Bbox,
    Collections,
    JobFile,
    Json,
    Sensor,
    TilePx,
    When,
    Workers,
    app,
    emit,
    kept_for_json,
    refuse,
    run_job,
    settings,
    user_errors,
)
from hypermend.pipeline.config import IngestJob


@app.command()
def demo(
    archive: Annotated[Path, typer.Option(help="Where the demo archive is made.")] = Path("demo-archive"),
    as_json: Json = False,
) -> None:
    """Make an archive of synthetic scenes and walk it from files to restored cubes."""
    from hypermend.pipeline.demo.driver import run

    with user_errors(), kept_for_json(as_json):
        result = run(archive, Console(stderr=as_json))
    if as_json:
        emit(result)


@app.command()
def catalog(
    path: Annotated[Path, typer.Argument(help="A folder of image files that has no STAC of its own.")],
    sensor: Annotated[str, typer.Option(help="Name of a sensor table.")],
    archive: Annotated[str, typer.Option(help="Root of the archive.")],
    collection: Annotated[str | None, typer.Option(help="Default: the sensor's name.")] = None,
    as_json: Json = False,
) -> None:
    """Make STAC items for a folder of files, so that it can be ingested."""
    from hypermend.pipeline.ingest import catalog_folder

    with user_errors():
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


@app.command()
def ingest(
    job: JobFile = None,
    archive: Archive = None,
    stac: Annotated[str | None, typer.Option(help="STAC API, static catalog or item; default: raw items.")] = None,
    collection: Collections = None,
    bbox: Bbox = None,
    datetime: When = None,
    query: Annotated[list[str] | None, typer.Option(help="Such as 'eo:cloud_cover<20'. Repeatable.")] = None,
    sensor: Sensor = None,
    limit: Annotated[int | None, typer.Option(help="At most so many scenes.")] = None,
    band: Annotated[list[str] | None, typer.Option("--bands", help="Names of bands to take. Repeatable.")] = None,
    gsd: Annotated[float | None, typer.Option(help="Pixel size of the grid to ingest on, in metres.")] = None,
    sign: Annotated[str | None, typer.Option(help="none, planetary-computer, earthdata, s3-requester-pays")] = None,
    tile_px: TilePx = None,
    workers: Workers = None,
    address: Address = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the scenes.")] = False,
    as_json: Json = False,
) -> None:
    """Turn scenes into source cubes."""
    from hypermend.pipeline.ingest import find_scenes
    from hypermend.pipeline.ingest import ingest as start

    with user_errors():
        asked = settings(
            job, IngestJob, archive=archive, stac=stac, collections=collection, bbox=bbox, datetime=datetime,
            query=query, sensor=sensor, limit=limit, bands=band, gsd_m=gsd, sign=sign, tile_px=tile_px,
            workers=workers, ray_address=address,
        )  # fmt: skip
        if dry_run:
            found = [(s.id, getattr(s, "reason", None)) for s in find_scenes(asked)]
            if as_json:
                emit({"scenes": [i for i, reason in found if reason is None], "skipped": [f for f in found if f[1]]})
            else:
                for scene, reason in found:
                    print(scene if reason is None else f"{scene}: skipped: {reason}")
            raise typer.Exit(1 if any(reason for _, reason in found) else 0)
        run_job(start, asked, as_json)


@app.command()
def query(
    archive: Annotated[str, typer.Option(help="Root of the archive.")],
    stage: Annotated[str | None, typer.Option(help="raw, source or restored")] = None,
    sensor: Sensor = None,
    collection: Annotated[str | None, typer.Option()] = None,
    bbox: Bbox = None,
    datetime: When = None,
    as_json: Json = False,
) -> None:
    """Find scenes. With --json a STAC FeatureCollection; each item's asset "cube" is the Zarr, ready to open."""
    with user_errors():
        items = hypermend.open(archive).search(
            stage=stage, sensor=sensor, collection=collection, bbox=bbox, datetime=datetime
        )
    if as_json:
        emit(hypermend.feature_collection([item.scene for item in items]))
        return
    for item in items:
        s = item.scene
        print(f"{s.datetime:%Y-%m-%d}  {s.collection}  {s.id}")
        print("   ", s.assets["cube"].href if "cube" in s.assets else f"{len(s.assets)} files of {s.sensor}")
    if not items:
        print("no scene matches", file=sys.stderr)


@app.command()
def verify(
    archive: Annotated[str, typer.Option(help="Root of the archive.")],
    as_json: Json = False,
) -> None:
    """Read every shard against its mark, and the metadata. `ingest` or `restore` writes again what is torn."""
    from hypermend.pipeline.maintenance.verify import verify as check

    with user_errors(), Console(stderr=True).status("looking for cubes") as status:
        report = check(archive, lambda done, total: status.update(f"{done} of {total} cubes read"))
    if as_json:
        emit(report.to_dict())
    else:
        for torn in report.torn:
            print(f"torn: {torn}")
        print(f"{report.cubes} cubes, {report.tiles} tiles read, {len(report.torn)} torn")
    raise typer.Exit(1 if report.torn else 0)


@app.command()
def index(archive: Annotated[str, typer.Option(help="Root of the archive.")]) -> None:
    """Rebuild the query index and the browsable catalogs from the items."""
    with user_errors():
        count = hypermend.open(archive).reindex()
    print(f"{count} items indexed")
