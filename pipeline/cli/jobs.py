"""The verbs ``submit`` and ``jobs``: jobs on a cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hypermend.pipeline.cli.app import Json, app, emit, refuse

HeadAddress = Annotated[
    str, typer.Option("--address", envvar="RAY_API_SERVER_ADDRESS", help="Head of the cluster: http://HEAD:8265.")
]
JobId = Annotated[str, typer.Argument(help="Id of a job, as `hypermend jobs list` shows it.")]
jobs = typer.Typer(no_args_is_help=True, help="List, stop and retry the jobs of a cluster.")
app.add_typer(jobs, name="jobs")


@app.command()
def submit(
    job: Annotated[Path, typer.Argument(help="A TOML job for ingest, restore or nightly.")],
    address: HeadAddress,
    verb: Annotated[
        str | None, typer.Option(help="ingest, restore or nightly; default: what the file's keys say.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Print its log to its end; leave with its exit code.")] = False,
    as_json: Json = False,
) -> None:
    """Run a job on a cluster, through Ray's Jobs API.

    Submitting the same work twice is one job.
    """
    from hypermend.pipeline.engine.submit import JobsClient, make_package

    package = make_package(job, verb)  # a bad job is refused before the cluster is asked
    cluster = JobsClient(address)
    submitted = cluster.submit(package)
    state = "submitted" if submitted.new else f"already there, {submitted.status.lower()}"
    print(f"{submitted.id}: {state}", file=sys.stderr if as_json else sys.stdout)
    if wait:
        submitted = cluster.follow(submitted.id, lambda text: print(text, end="", file=sys.stderr))
    if as_json:
        emit(submitted.to_dict())
    raise typer.Exit(submitted.exit_code if wait else 0)


@jobs.command("list")
def list_jobs(address: HeadAddress, as_json: Json = False) -> None:
    """List every job of Hypermend on the cluster, the newest first."""
    from hypermend.pipeline.engine.submit import JobsClient

    submitted = JobsClient(address).jobs()
    if as_json:
        emit({"jobs": [job.to_dict() for job in submitted]})
        return
    for job in submitted:
        print(f"{job.id}  {job.status.lower():10}  {job.begun}  {job.message}".rstrip())
    if not submitted:
        print("no job", file=sys.stderr)


@jobs.command()
def logs(
    job: JobId,
    address: HeadAddress,
    follow: Annotated[bool, typer.Option("--follow", help="Until the job ends; leave with its exit code.")] = False,
) -> None:
    """Print the log of a job so far."""
    from hypermend.pipeline.engine.submit import JobsClient

    cluster = JobsClient(address)
    if follow:
        end = cluster.follow(job, lambda text: print(text, end="", flush=True))
        raise typer.Exit(end.exit_code)
    print(cluster.logs(job), end="")


@jobs.command()
def stop(job: JobId, address: HeadAddress) -> None:
    """Let a job finish its tiles in flight and end; submitted again, it resumes."""
    from hypermend.pipeline.engine.submit import JobsClient

    if not JobsClient(address).stop(job):
        refuse(f"job {job} had already ended")
    print(f"{job}: stopping")


@jobs.command()
def retry(job: JobId, address: HeadAddress, as_json: Json = False) -> None:
    """Run a job again that has ended: it does what is left, failed tiles and scenes included."""
    from hypermend.pipeline.engine.submit import JobsClient

    submitted = JobsClient(address).retry(job)
    if as_json:
        emit(submitted.to_dict())
    else:
        print(f"{submitted.id}: submitted")
