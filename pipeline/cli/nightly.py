"""The verb ``nightly``."""

from __future__ import annotations

import typer

from hypermend.catalog.documents import visible
from hypermend.pipeline.cli.app import Json, emit
from hypermend.pipeline.cli.run_job import leave_report, stdout_for_json, work_through
from hypermend.pipeline.cli.verb import verb
from hypermend.pipeline.config import NightlyJob
from hypermend.pipeline.terminal import Terminal


@verb(
    NightlyJob,
    file="required",
    file_help="A TOML job: a STAC source and how to restore.",
    only=("archive", "workers", "ray_address", "limit"),
)
def nightly(job: NightlyJob, as_json: Json = False) -> None:
    """Restore once what is new, replaced or failed before.

    Run it as often as you like.
    """
    from hypermend.pipeline.nightly import nightly as run_night

    console = Terminal(stderr=as_json)
    with stdout_for_json(as_json):
        night = run_night(job, work=lambda run: work_through(run, job, console))
    for scene in [*night.given_up, *night.failed]:
        console.print(visible(f"{scene['scene']}: {scene['reason']}"), highlight=False, soft_wrap=True)
    console.print(f"night {job.name}: {night.line()}", highlight=False, soft_wrap=True)
    if night.bytes_written or night.failed or night.given_up:
        leave_report(job.archive, night.run)
    if as_json:
        emit(night.to_dict())
    raise typer.Exit(night.exit_code)
