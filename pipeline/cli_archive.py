"""The verbs of an archive: files in, cubes and items out, and what is found in it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import catalog as archives
from pipeline.cli_app import (
    Address,
    Archive,
    Bbox,
    BudgetSeconds,
    BudgetSteps,
    Collections,
    GuideCollection,
    JobFile,
    Json,
    Memory,
    ModelName,
    Scale,
    Sensor,
    TaskName,
    TilePx,
    When,
    Workers,
    app,
    carry_out,
    emit,
    kept_for_json,
    refusals,
    refuse,
    settings,
)
from pipeline.config import IngestJob, RestoreJob, SearchJob


@app.command()
def demo(
    archive: Annotated[Path, typer.Option(help="Where the demo archive is made.")] = Path("demo-archive"),
    as_json: Json = False,
) -> None:
    """Make an archive of synthetic scenes and walk it from files to restored cubes."""
    from pipeline.demo import run

    with refusals(), kept_for_json(as_json):
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
    from pipeline.ingest import catalog_folder

    with refusals():
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
    from pipeline.ingest import ingest as start
    from pipeline.ingest import scenes

    with refusals():
        asked = settings(
            job, IngestJob, archive=archive, stac=stac, collections=collection, bbox=bbox, datetime=datetime,
            query=query, sensor=sensor, limit=limit, bands=band, gsd_m=gsd, sign=sign, tile_px=tile_px,
            workers=workers, ray_address=address,
        )  # fmt: skip
        if dry_run:
            found = [(s.id, getattr(s, "reason", None)) for s in scenes(asked)]
            if as_json:
                emit({"scenes": [i for i, reason in found if reason is None], "skipped": [f for f in found if f[1]]})
            else:
                for scene, reason in found:
                    print(scene if reason is None else f"{scene}: skipped: {reason}")
            raise typer.Exit(1 if any(reason for _, reason in found) else 0)
        carry_out(start, asked, as_json)


@app.command()
def plan(
    job: JobFile = None,
    archive: Archive = None,
    task: TaskName = None,
    scene: Annotated[list[str] | None, typer.Option(help="Id of a scene. Repeatable; default all.")] = None,
    collection: Collections = None,
    sensor: Sensor = None,
    bbox: Bbox = None,
    datetime: When = None,
    model: ModelName = None,
    scale: Scale = None,
    guide_collection: GuideCollection = None,
    budget_steps: BudgetSteps = None,
    budget_seconds: BudgetSeconds = None,
    tile_px: TilePx = None,
    workers: Workers = None,
    memory_gib: Memory = None,
    as_json: Json = False,
) -> None:
    """Show what a restoration would do: scenes, tiles, bytes, memory, time; what is new and what is done."""
    from pipeline.forecast import planned
    from pipeline.report import plan_table

    with refusals():
        asked = settings(
            job, RestoreJob, archive=archive, task=task, scenes=scene, collections=collection, sensor=sensor,
            bbox=bbox, datetime=datetime, model=model, scale=scale, guide_collection=guide_collection,
            budget_steps=budget_steps, budget_seconds=budget_seconds, tile_px=tile_px, workers=workers,
            memory_gib=memory_gib,
        )  # fmt: skip
        rows = list(planned(asked))
    if as_json:
        emit({"scenes": [row.to_dict() for row in rows]})
    else:
        plan_table(rows, Console())
    raise typer.Exit(1 if any(row.plan is None for row in rows) else 0)


@app.command()
def restore(
    job: JobFile = None,
    archive: Archive = None,
    task: TaskName = None,
    scene: Annotated[list[str] | None, typer.Option(help="Id of a scene. Repeatable; default all.")] = None,
    collection: Collections = None,
    sensor: Sensor = None,
    bbox: Bbox = None,
    datetime: When = None,
    model: ModelName = None,
    scale: Scale = None,
    guide_collection: GuideCollection = None,
    budget_steps: BudgetSteps = None,
    budget_seconds: BudgetSeconds = None,
    tile_px: TilePx = None,
    workers: Workers = None,
    memory_gib: Memory = None,
    address: Address = None,
    deadline: Annotated[float | None, typer.Option(help="Longest time of one tile, in seconds.")] = None,
    as_json: Json = False,
) -> None:
    """Restore source cubes tile by tile and publish the results; run it again to resume, repair or catch up."""
    from pipeline.restore import restore as start

    with refusals():
        asked = settings(
            job, RestoreJob, archive=archive, task=task, scenes=scene, collections=collection, sensor=sensor,
            bbox=bbox, datetime=datetime, model=model, scale=scale, guide_collection=guide_collection,
            budget_steps=budget_steps, budget_seconds=budget_seconds, tile_px=tile_px, workers=workers,
            memory_gib=memory_gib, ray_address=address, deadline_s=deadline,
        )  # fmt: skip
        carry_out(start, asked, as_json)


@app.command()
def search(
    archive: Annotated[str, typer.Option(help="Root of the archive.")],
    sensor: Annotated[list[str], typer.Option(help="Name of a sensor table. Repeatable: they share the cluster.")],
    strategy: Annotated[str | None, typer.Option(help="darts (default) or spos")] = None,
    trials: Annotated[int | None, typer.Option(help="Trials of each sensor; default: the budget's.")] = None,
    budget: Annotated[str | None, typer.Option(help="smoke (two minutes), small (default) or full")] = None,
    domain: Annotated[str | None, typer.Option(help="subspace (default) or bands")] = None,
    scene: Annotated[
        list[str] | None, typer.Option(help="Id of a scene to learn from. Repeatable; default all.")
    ] = None,
    collection: Collections = None,
    anew: Annotated[bool, typer.Option("--anew", help="Search though a near genotype is known.")] = False,
    workers: Workers = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Search a network architecture for each sensor; run it again to go on after a kill."""
    from pipeline.search import search_archive
    from pipeline.search_report import answers_table

    console = Console(stderr=as_json)
    with refusals():
        asked = settings(
            None, SearchJob, archive=archive, sensors=sensor, strategy=strategy, trials=trials, budget=budget,
            domain=domain, scenes=scene, collections=collection, anew=anew, workers=workers, ray_address=address,
        )  # fmt: skip
        with kept_for_json(as_json):
            answers = search_archive(asked, lambda line: console.print(line, highlight=False, soft_wrap=True))
    answers_table(answers, console)
    if as_json:
        emit({"genotypes": [a.to_dict() for a in answers]})
    raise typer.Exit(0 if all(a.found for a in answers) else 1)


@app.command()
def genotypes(
    archive: Annotated[str, typer.Option(help="Root of the archive.")],
    as_json: Json = False,
) -> None:
    """List the architectures that an archive has found, each with the spectrum it was found on."""
    from pipeline.genotypes import Found, known

    with refusals():
        every = list(known(archives.open(archive).root))
    usable = [g for g in every if isinstance(g, Found)]
    if as_json:
        emit({"genotypes": [g.to_dict() for g in usable]})
    else:
        for g in usable:
            print(f"{g.id}  {g.spectrum}  {g.figures['strategy']}, {g.figures['budget']}")
            print(f"    {' '.join(g.genotype.ops)}")
            print(f"    {g.picture}")
    for bad in (g for g in every if not isinstance(g, Found)):
        print(bad, file=sys.stderr)
    if not every:
        print("no genotype yet; `hypermend search` finds them", file=sys.stderr)
    raise typer.Exit(1 if len(usable) < len(every) else 0)


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
    with refusals():
        items = archives.open(archive).search(
            stage=stage, sensor=sensor, collection=collection, bbox=bbox, datetime=datetime
        )
    if as_json:
        emit(archives.feature_collection([item.scene for item in items]))
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
    from pipeline.verify import verify as check

    with refusals(), Console(stderr=True).status("looking for cubes") as status:
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
    with refusals():
        count = archives.open(archive).reindex()
    print(f"{count} items indexed")
