"""The verbs ``runs``, ``report``, ``failures``, ``retry`` and ``prune``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from hypermend.catalog.documents import visible
from hypermend.pipeline.cli.app import Archive, Json, app, emit
from hypermend.pipeline.cli.run_job import leave_report, stdout_for_json, work_through
from hypermend.pipeline.cli.verb import verb
from hypermend.pipeline.config import IngestJob, Job, RestoreJob
from hypermend.pipeline.terminal import Terminal

MAX_HOURS = 1e6
"""A hundred years and more: no cube is older."""
RunId = Annotated[str | None, typer.Option("--run", help="Id of a run, or how it begins.")]
SceneId = Annotated[str | None, typer.Option("--scene", help="Id of a scene.")]
Reason = Annotated[
    str | None, typer.Option(help="crash, deadline, memory, error, refused, a class of error, or part of its message.")
]


@app.command()
def runs(
    archive: Archive,
    limit: Annotated[int, typer.Option(min=1, help="Most runs.")] = 50,
    as_json: Json = False,
) -> None:
    """List the runs of an archive, the newest first.

    With their state, scenes by how they ended, tiles and time.
    """
    from hypermend.pipeline.formatting import duration, plural, size
    from hypermend.pipeline.report.runs import list_runs

    found = list(islice(list_runs(archive), limit))
    if as_json:
        emit({"runs": [{k: v for k, v in asdict(run).items() if k != "scenes"} for run in found]})
        return
    for run in found:
        counts = ", ".join(f"{count} {status}" for status, count in run.counts.items())
        done = f"{plural(run.tiles, 'tile')}, {size(run.bytes_written)} in {duration(run.seconds)}"
        print(visible(f"{run.state:10}  {run.run}"))
        print(visible(f"            {counts or 'no scene ended'}; {done}"))
    if not found:
        print("no run", file=sys.stderr)


@app.command()
def report(
    run: Annotated[
        str, typer.Argument(help="Id of a run, a training or a search, or how it begins; `hypermend runs` lists runs.")
    ],
    archive: Archive,
    out: Annotated[Path | None, typer.Option(help="The file; default: report.html in the run's folder.")] = None,
    as_json: Json = False,
) -> None:
    """Make the page of a run, a training or a search again.

    One HTML file that needs no network: pictures, figures, spectra or curves, failures, provenance.
    """
    from hypermend.pipeline.report.learning import write_learning_page
    from hypermend.pipeline.report.page import write_report

    path = write_learning_page(archive, run, out) or write_report(archive, run, out)
    if as_json:
        emit({"report": path})
    else:
        print(path)


@app.command()
def failures(
    archive: Archive,
    run: RunId = None,
    scene: SceneId = None,
    reason: Reason = None,
    every: Annotated[bool, typer.Option("--all", help="Also what has been published since.")] = False,
    as_json: Json = False,
) -> None:
    """List what failed and has not been published since.

    From the logs of the runs; no cluster is needed.
    """
    from hypermend.pipeline.maintenance.failures import failures as read

    failed = read(archive, run=run, scene=scene, reason=reason, include_published=every)
    if as_json:
        emit({"failures": [failure.to_dict() for failure in failed]})
        return
    for failure in failed:
        print(failure)
    if not failed:
        print("no failure", file=sys.stderr)


@verb(Job, file="no", only=("archive", "workers", "ray_address"))
def retry(
    job: Job,
    run: RunId = None,
    scene: SceneId = None,
    reason: Reason = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done again.")] = False,
    as_json: Json = False,
) -> None:
    """Do again what failed, by reason.

    Runs the jobs of those runs, narrowed to their failed scenes and tiles.
    """
    from hypermend.pipeline.maintenance.failures import failures as read
    from hypermend.pipeline.maintenance.failures import jobs_to_retry

    console = Terminal(stderr=as_json)
    failed = read(job.archive, run=run, scene=scene, reason=reason)
    here = job.model_dump(include={"workers", "ray_address"}, exclude_none=True)
    jobs = [old.model_copy(update=here) for old in jobs_to_retry(job.archive, failed)]
    reports: list[dict[str, Any]] = []
    if dry_run or not jobs:
        for failure in failed:
            console.print(str(failure), highlight=False, soft_wrap=True, markup=False)
    else:
        with stdout_for_json(as_json):
            reports = [_run_again(old, console, {f.scene for f in failed}) for old in jobs]
    if not failed:
        print("nothing to do again", file=sys.stderr)
    if as_json:
        emit({"failures": [f.to_dict() for f in failed], "runs": reports})
    raise typer.Exit(max((report["exit_code"] for report in reports), default=0))


def _run_again(job: Job, console: Terminal, scenes: set[str]) -> dict[str, Any]:
    from hypermend.pipeline.ingest import find_scenes, ingest
    from hypermend.pipeline.maintenance.failures import record_current
    from hypermend.pipeline.restore.driver import restore
    from hypermend.pipeline.runs.progress import summary

    if isinstance(job, RestoreJob):
        run = restore(job)
    else:
        assert isinstance(job, IngestJob)
        everything = job.model_copy(update={"limit": None})
        run = ingest(job, scenes=[scene for scene in find_scenes(everything) if scene.id in scenes])
    report = work_through(run, job, console)
    summary(report, console)
    if report.bytes_written:
        leave_report(job.archive, report.run)
    record_current(job.archive, report)
    return report.to_dict()


@app.command()
def prune(
    archive: Archive,
    older_than: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=MAX_HOURS,
            help="Hours since the newer cube was published; until then the old one may be in use.",
        ),
    ] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove cubes that newer ones have replaced.

    Never one that the catalog names or a current plan reads.
    """
    from hypermend.pipeline.formatting import plural, size
    from hypermend.pipeline.maintenance.prune import prune as remove

    report = remove(archive, older_than_hours=older_than, dry_run=dry_run)
    if as_json:
        emit(report.to_dict())
        return
    for cube in report.removed:
        print(f"{cube.cube}: {size(cube.bytes)}, replaced by {cube.replaced_by}")
    for line in report.refused:
        print(line, file=sys.stderr)
    would = "would be removed" if dry_run else "removed"
    print(f"{plural(len(report.removed), 'cube')}, {size(report.bytes)} {would}")
    if report.refused:
        raise typer.Exit(1)
