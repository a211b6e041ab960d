"""The verb `train`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from hypermend.pipeline.cli.app import Json, emit
from hypermend.pipeline.cli.run_job import leave_learning_report, stdout_for_json
from hypermend.pipeline.cli.verb import verb
from hypermend.pipeline.config import TrainJob
from hypermend.pipeline.formatting import duration
from hypermend.pipeline.terminal import Terminal

if TYPE_CHECKING:
    from hypermend.pipeline.train.checkpoints import Line
    from hypermend.pipeline.train.driver import TrainReport
    from hypermend.pipeline.train.plan import TrainPlan


@verb(TrainJob, without=("tile_px", "deadline_s"))
def train(
    job: TrainJob,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """Train a model on source cubes.

    Run it again to resume after a kill.
    """
    from hypermend.pipeline.train.make_plan import plan_training

    console = Terminal(stderr=as_json)
    if dry_run:
        plan = plan_training(job)
        if as_json:
            emit({"training": plan.id, **plan.to_dict()})
        else:
            plan_lines(plan, console)
        return
    with stdout_for_json(as_json):
        report = follow(job, console)
    summary(report, console)
    leave_learning_report(job.archive, report.training)
    if as_json:
        emit(report.to_dict())
    raise typer.Exit(0 if report.model else 1)


def follow(job: TrainJob, console: Console) -> TrainReport:
    """Train and show progress: a live line on a terminal, and a line for each validation everywhere."""
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
    """Print what a training would do."""
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
    """Print the result of a training; a failure goes to standard error."""
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
