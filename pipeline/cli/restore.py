"""The verbs `plan` and `restore`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from hypermend.pipeline.cli.app import (
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
    emit,
    run_job,
    settings,
    user_errors,
)
from hypermend.pipeline.config import RestoreJob


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
    from hypermend.pipeline.restore.dry_run import estimate_scenes, plan_table

    with user_errors():
        asked = settings(
            job, RestoreJob, archive=archive, task=task, scenes=scene, collections=collection, sensor=sensor,
            bbox=bbox, datetime=datetime, model=model, scale=scale, guide_collection=guide_collection,
            budget_steps=budget_steps, budget_seconds=budget_seconds, tile_px=tile_px, workers=workers,
            memory_gib=memory_gib,
        )  # fmt: skip
        rows = list(estimate_scenes(asked))
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
    from hypermend.pipeline.restore.driver import restore as start

    with user_errors():
        asked = settings(
            job, RestoreJob, archive=archive, task=task, scenes=scene, collections=collection, sensor=sensor,
            bbox=bbox, datetime=datetime, model=model, scale=scale, guide_collection=guide_collection,
            budget_steps=budget_steps, budget_seconds=budget_seconds, tile_px=tile_px, workers=workers,
            memory_gib=memory_gib, ray_address=address, deadline_s=deadline,
        )  # fmt: skip
        run_job(start, asked, as_json)
