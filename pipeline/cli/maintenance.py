"""Verbs for the day after: ``failures``, ``retry``, ``prune``."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from hypermend.pipeline.cli.app import Address, Json, Workers, app, emit, kept_for_json, until_told_to_stop, user_errors
from hypermend.pipeline.config import IngestJob, Job, RestoreJob

OfArchive = Annotated[str, typer.Option("--archive", help="Root of the archive: a folder or s3://bucket/prefix.")]
OfRun = Annotated[str | None, typer.Option("--run", help="Id of a run, or how it begins.")]
OfScene = Annotated[str | None, typer.Option("--scene", help="Id of a scene.")]
Reason = Annotated[
    str | None, typer.Option(help="crash, deadline, memory, error, refused, a class of error, or part of its message.")
]


@app.command()
def failures(
    archive: OfArchive,
    run: OfRun = None,
    scene: OfScene = None,
    reason: Reason = None,
    every: Annotated[bool, typer.Option("--all", help="Also what has been published since.")] = False,
    as_json: Json = False,
) -> None:
    """What failed and has not been published since, from the ledgers in the archive; no cluster is needed."""
    from hypermend.pipeline.maintenance.failures import failures as read

    with user_errors():
        found = read(archive, run=run, scene=scene, reason=reason, include_published=every)
    if as_json:
        emit({"failures": [failure.to_dict() for failure in found]})
        return
    for failure in found:
        print(failure)
    if not found:
        print("no failure", file=sys.stderr)


@app.command()
def retry(
    archive: OfArchive,
    run: OfRun = None,
    scene: OfScene = None,
    reason: Reason = None,
    workers: Workers = None,
    address: Address = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done again.")] = False,
    as_json: Json = False,
) -> None:
    """Do again what failed, by reason: the jobs of those runs, narrowed to their failed scenes and tiles."""
    from hypermend.pipeline.maintenance.failures import failures as read
    from hypermend.pipeline.maintenance.failures import jobs_to_retry

    console = Console(stderr=as_json)
    with user_errors():
        found = read(archive, run=run, scene=scene, reason=reason)
        jobs = [job.model_copy(update=_where(workers, address)) for job in jobs_to_retry(archive, found)]
        if dry_run or not jobs:
            for failure in found:
                console.print(str(failure), highlight=False, soft_wrap=True, markup=False)
            reports: list[dict[str, Any]] = []
        else:
            with kept_for_json(as_json):
                reports = [_again(job, console, {f.scene for f in found}) for job in jobs]
    if not found:
        print("nothing to do again", file=sys.stderr)
    if as_json:
        emit({"failures": [f.to_dict() for f in found], "runs": reports})
    raise typer.Exit(max((report["exit_code"] for report in reports), default=0))


def _where(workers: int | None, address: str | None) -> dict[str, Any]:
    return {k: v for k, v in (("workers", workers), ("ray_address", address)) if v is not None}


def _again(job: Job, console: Console, scenes: set[str]) -> dict[str, Any]:
    from hypermend.pipeline.engine.cluster import start_ray
    from hypermend.pipeline.ingest import find_scenes, ingest
    from hypermend.pipeline.maintenance.failures import record_current
    from hypermend.pipeline.restore.driver import restore
    from hypermend.pipeline.runs.progress import follow, summary

    start_ray(address=job.ray_address)
    if isinstance(job, RestoreJob):
        run = restore(job)
    else:
        assert isinstance(job, IngestJob)
        everything = job.model_copy(update={"limit": None})
        run = ingest(job, scenes=[scene for scene in find_scenes(everything) if scene.id in scenes])
    with until_told_to_stop(run):
        report = follow(run, console)
    summary(report, console)
    record_current(job.archive, report)
    return report.to_dict()


@app.command()
def prune(
    archive: OfArchive,
    older_than: Annotated[
        float, typer.Option(help="Hours that the newer cube must have been published: the old one may be read still.")
    ] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove cubes that newer ones have replaced; never one that the catalog names or a current plan reads."""
    from hypermend.pipeline.formatting import plural, size
    from hypermend.pipeline.maintenance.prune import prune as remove

    with user_errors():
        report = remove(archive, older_than_hours=older_than, dry_run=dry_run)
    if as_json:
        emit(report.to_dict())
        return
    for one in report.removed:
        print(f"{one.cube}: {size(one.bytes)}, replaced by {one.replaced_by}")
    would = "would be removed" if dry_run else "removed"
    print(f"{plural(len(report.removed), 'cube')}, {size(report.bytes)} {would}")
