"""The verbs `plan` and `restore`."""

from __future__ import annotations

import shlex
import sys

import typer

from hypermend.pipeline.cli.app import Json, emit
from hypermend.pipeline.cli.run_job import run_job
from hypermend.pipeline.cli.verb import verb
from hypermend.pipeline.config import RestoreJob
from hypermend.pipeline.terminal import Terminal


@verb(RestoreJob, without=("ray_address", "deadline_s"))
def plan(job: RestoreJob, as_json: Json = False) -> None:
    """Show what a restoration would do: tiles, bytes, time.

    And which memory it takes, what is new and what is done.
    """
    from hypermend.pipeline.restore.dry_run import estimate_scenes, plan_table

    rows = list(estimate_scenes(job))
    if as_json:
        emit({"scenes": [row.to_dict() for row in rows]})
    else:
        plan_table(rows, Terminal())
        if any(row.plan is not None for row in rows):
            print(f"next: {shlex.join(['hypermend', 'restore', *sys.argv[2:]])}", file=sys.stderr)
    raise typer.Exit(1 if any(row.plan is None for row in rows) else 0)


@verb(RestoreJob)
def restore(job: RestoreJob, as_json: Json = False) -> None:
    """Restore source cubes tile by tile and publish the results.

    Run it again to resume, repair or catch up.
    """
    from hypermend.pipeline.restore.driver import restore as start

    run_job(start, job, as_json, then=("query", "--stage", "restored"))
