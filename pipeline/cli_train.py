"""The verb `train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pipeline.cli_app import (
    Address,
    Archive,
    Bbox,
    Collections,
    JobFile,
    Json,
    Sensor,
    When,
    app,
    emit,
    kept_for_json,
    refusals,
    settings,
)
from pipeline.config import TrainJob


@app.command()
def train(
    job: JobFile = None,
    archive: Archive = None,
    task: Annotated[str | None, typer.Option(help="denoise, sharpen or fuse")] = None,
    name: Annotated[str | None, typer.Option(help="Of the model that comes out: models/NAME.")] = None,
    scene: Annotated[list[str] | None, typer.Option(help="Id of a scene. Repeatable; default all.")] = None,
    validation_scene: Annotated[
        list[str] | None, typer.Option(help="Id of a scene to be scored on. Repeatable; default a tenth.")
    ] = None,
    collection: Collections = None,
    sensor: Sensor = None,
    bbox: Bbox = None,
    datetime: When = None,
    guide_collection: Annotated[
        str | None, typer.Option(help="Fuse: half of the pairs have the response of its sensors.")
    ] = None,
    genotype: Annotated[str | None, typer.Option(help="Denoise: id of an architecture of the archive.")] = None,
    scale: Annotated[int | None, typer.Option(help="Sharpen: 2 (default), 3 or 4.")] = None,
    filters: Annotated[int | None, typer.Option(help="Sharpen: 16 (default); the paper has 64.")] = None,
    modules: Annotated[int | None, typer.Option(help="Sharpen: 1 (default); the paper has 3.")] = None,
    steps: Annotated[int | None, typer.Option(help="End after so many steps, if that comes first.")] = None,
    minutes: Annotated[float | None, typer.Option(help="End after so long, if that comes first.")] = None,
    batch: Annotated[int | None, typer.Option(help="Samples of a step, over all workers.")] = None,
    patch_px: Annotated[int | None, typer.Option(help="Edge of a sample in pixels.")] = None,
    learning_rate: Annotated[float | None, typer.Option()] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and samples; default 0.")] = None,
    check_every: Annotated[int | None, typer.Option(help="Steps between validations.")] = None,
    patience: Annotated[int | None, typer.Option(help="Validations without gain before the end; default 8.")] = None,
    bf16: Annotated[
        bool | None, typer.Option("--bf16/--no-bf16", help="Mixed precision; default where it is faster.")
    ] = None,
    freeze_norm: Annotated[bool, typer.Option("--freeze-norm", help="Denoise: fixed normalisation.")] = False,
    workers: Annotated[int | None, typer.Option(help="Processes; default one per GPU or CPU.")] = None,
    gpus: Annotated[bool, typer.Option("--gpus", help="One GPU for each worker.")] = False,
    tensorboard: Annotated[Path | None, typer.Option(help="Folder for TensorBoard's event files.")] = None,
    address: Address = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """Train a model on source cubes; run it again to go on after a kill."""
    from pipeline.train_job import plan_training
    from pipeline.train_report import follow, plan_lines, summary

    console = Console(stderr=as_json)
    with refusals():
        asked = settings(
            job, TrainJob, archive=archive, task=task, name=name, scenes=scene, validation_scenes=validation_scene,
            collections=collection, sensor=sensor, bbox=bbox, datetime=datetime, guide_collection=guide_collection,
            genotype=genotype, scale=scale, filters=filters, modules=modules, steps=steps, minutes=minutes,
            batch=batch, patch_px=patch_px, learning_rate=learning_rate, seed=seed, check_every=check_every,
            patience=patience, bf16=bf16, freeze_norm=freeze_norm or None, workers=workers, gpus=gpus or None,
            tensorboard=tensorboard, ray_address=address,
        )  # fmt: skip
        if dry_run:
            plan = plan_training(asked)
            shown: Any = {"training": plan.id, **plan.to_dict()}
            if as_json:
                emit(shown)
            else:
                plan_lines(plan, console)
            raise typer.Exit(0)
        with kept_for_json(as_json):
            report = follow(asked, console)
    summary(report, console)
    if as_json:
        emit(report.to_dict())
    raise typer.Exit(0 if report.model else 1)
