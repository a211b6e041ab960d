"""Verbs for clusters and nights: ``nightly``, ``submit``, ``jobs``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hypermend.pipeline.cli.app import (
    Address,
    Archive,
    Json,
    Workers,
    app,
    emit,
    kept_for_json,
    refuse,
    settings,
    until_told_to_stop,
    user_errors,
)
from hypermend.pipeline.config import NightlyJob

HeadAddress = Annotated[
    str, typer.Option("--address", envvar="RAY_API_SERVER_ADDRESS", help="Head of the cluster: http://HEAD:8265.")
]
JobId = Annotated[str, typer.Argument(help="Id of a job, as `hypermend jobs list` shows it.")]
jobs = typer.Typer(no_args_is_help=True, help="See and steer what was submitted to a cluster.")
app.add_typer(jobs, name="jobs")


@app.command()
def nightly(
    job: Annotated[Path, typer.Argument(help="A TOML job: a STAC source and how to restore.")],
    archive: Archive = None,
    workers: Workers = None,
    address: Address = None,
    limit: Annotated[int | None, typer.Option(help="At most so many scenes this night.")] = None,
    as_json: Json = False,
) -> None:
    """Do what is new, replaced or failed before, once; call it as often as you like."""
    from hypermend.pipeline.engine.cluster import start_ray
    from hypermend.pipeline.nightly import nightly as night_of
    from hypermend.pipeline.runs.progress import follow
    from hypermend.pipeline.runs.run import Run

    console = Console(stderr=as_json)

    def work(run: Run) -> None:
        start_ray(address=asked.ray_address)
        with until_told_to_stop(run):
            follow(run, console)

    with user_errors():
        asked = settings(job, NightlyJob, archive=archive, workers=workers, ray_address=address, limit=limit)
        with kept_for_json(as_json):
            night = night_of(asked, work=work)
    for one in [*night.given_up, *night.failed]:
        console.print(f"{one['scene']}: {one['reason']}", highlight=False, soft_wrap=True)
    console.print(f"night {asked.name}: {night.line()}", highlight=False, soft_wrap=True)
    if as_json:
        emit(night.to_dict())
    raise typer.Exit(night.exit_code)


@app.command()
def submit(
    job: Annotated[Path, typer.Argument(help="A TOML job for ingest, restore or nightly.")],
    address: HeadAddress,
    verb: Annotated[
        str | None, typer.Option(help="ingest, restore or nightly; default: what the file's keys say.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow its log to its end; leave with its exit code.")] = False,
    as_json: Json = False,
) -> None:
    """Run a job on a cluster, through Ray's Jobs API; submitting the same work twice is one job."""
    from hypermend.pipeline.engine.submit import Cluster, package

    with user_errors():
        made = package(job, verb)
        cluster = Cluster(address)
        submitted = cluster.submit(made)
    said = f"{submitted.id}: {'submitted' if submitted.new else 'already there, ' + submitted.status.lower()}"
    print(said, file=sys.stderr if as_json else sys.stdout)
    if wait:
        with user_errors():
            submitted = cluster.follow(submitted.id, lambda text: print(text, end="", file=sys.stderr))
    if as_json:
        emit(submitted.to_dict())
    raise typer.Exit(submitted.exit_code if wait else 0)


@jobs.command("list")
def list_jobs(address: HeadAddress, as_json: Json = False) -> None:
    """Every job of Hypermend on the cluster, the newest first."""
    from hypermend.pipeline.engine.submit import Cluster

    with user_errors():
        found = Cluster(address).jobs()
    if as_json:
        emit({"jobs": [one.to_dict() for one in found]})
        return
    for one in found:
        print(f"{one.id}  {one.status.lower():10}  {one.begun}  {one.message}".rstrip())
    if not found:
        print("no job", file=sys.stderr)


@jobs.command()
def logs(job: JobId, address: HeadAddress, follow: Annotated[bool, typer.Option("--follow")] = False) -> None:
    """What a job has printed so far."""
    from hypermend.pipeline.engine.submit import Cluster

    with user_errors():
        cluster = Cluster(address)
        if follow:
            end = cluster.follow(job, lambda text: print(text, end="", flush=True))
            raise typer.Exit(end.exit_code)
        print(cluster.logs(job), end="")


@jobs.command()
def stop(job: JobId, address: HeadAddress) -> None:
    """Let a job finish its tiles in flight and end; submitted again, it goes on."""
    from hypermend.pipeline.engine.submit import Cluster

    with user_errors():
        stopped = Cluster(address).stop(job)
    if not stopped:
        refuse(f"job {job} had already ended")
    print(f"{job}: stopping")


@jobs.command()
def retry(job: JobId, address: HeadAddress, as_json: Json = False) -> None:
    """Run a job again that has ended: it does what is left, failed tiles and scenes included."""
    from hypermend.pipeline.engine.submit import Cluster

    with user_errors():
        submitted = Cluster(address).retry(job)
    if as_json:
        emit(submitted.to_dict())
    else:
        print(f"{submitted.id}: submitted")
