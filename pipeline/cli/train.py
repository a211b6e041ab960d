"""The verb `train`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hypermend.pipeline.cli.app import (
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
    settings,
    user_errors,
)
from hypermend.pipeline.config import TrainJob
from hypermend.pipeline.formatting import duration

if TYPE_CHECKING:
    from hypermend.pipeline.train.checkpoints import Line
    from hypermend.pipeline.train.driver import TrainReport
    from hypermend.pipeline.train.plan import TrainPlan


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
    from hypermend.pipeline.train.make_plan import plan_training

    console = Console(stderr=as_json)
    with user_errors():
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


def follow(job: TrainJob, console: Console) -> TrainReport:
    """Train, and show how far it is: on a terminal a live line, and everywhere a line for each validation."""
    from hypermend.pipeline.train import driver

    with console.status("starting") as live:

        def show(line: Line) -> None:
            left = line["seconds"] / line["fraction"] * (1 - line["fraction"]) if line["fraction"] else 0.0
            text = f"step {line['step']}  loss {line['loss']:.4g}  {duration(left)} left"
            if "psnr_db" in line:
                gain = line["psnr_db"] - line["baseline_db"]
                text = f"{text}  PSNR {line['psnr_db']:.2f} dB ({gain:+.2f})"
                console.print(text, highlight=False, soft_wrap=True)
            live.update(text)

        return driver.train(job, show)


def plan_lines(plan: TrainPlan, console: Console) -> None:
    """What a training would do."""
    s = plan.settings
    ends = ((s.steps, "steps"), (s.minutes, "minutes"))
    end = " or ".join(f"{number:g} {unit}" for number, unit in ends if number is not None)
    for text in (
        f"training {plan.id}",
        f"{plan.task} for {', '.join(plan.sensors)}: {' to '.join(map(str, sorted(set(plan.spectrum.bands))))} bands, "
        f"{plan.spectrum.low_nm:.0f}-{plan.spectrum.high_nm:.0f} nm",
        f"learns from {len(plan.train)} squares of {len(plan.scenes)} scene(s), is scored on {', '.join(plan.held)}",
        f"{end}, batches of {s.batch} samples of {s.patch_px} x {s.patch_px} pixels, "
        f"scored every {s.check_every} steps",
    ):
        console.print(text, highlight=False, soft_wrap=True)


def summary(report: TrainReport, console: Console) -> None:
    """What came of it; what went wrong goes to standard error."""
    if report.model is None:
        print(f"hypermend: training {report.training} {report.state}: {report.reason}", file=sys.stderr)
        return
    if report.scenes:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("validation scene")
        for name in ("PSNR dB", "without", "gain"):
            table.add_column(name, justify="right")
        for scene, s in report.scenes.items():
            gain = s["psnr_db"] - s["baseline_db"]
            table.add_row(scene, f"{s['psnr_db']:.2f}", f"{s['baseline_db']:.2f}", f"{gain:+.2f}")
        console.print(table)
    done = "was there already; nothing to do" if report.state == "current" else "is ready for restore"
    ended = f" ({report.reason})" if report.reason else ""
    console.print(
        f"{report.model} {done}: {report.steps} steps, {duration(report.seconds)}{ended}",
        highlight=False,
        soft_wrap=True,
    )
