"""What a person sees of a training: one live line, a line for each validation, and what came of it."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from pipeline.config import TrainJob
from pipeline.report import duration
from pipeline.train import TrainReport, train
from pipeline.train_plan import TrainPlan
from pipeline.train_record import Line


def follow(job: TrainJob, console: Console) -> TrainReport:
    """Train, and show how far it is: on a terminal a live line, and everywhere a line for each validation."""
    with console.status("starting") as live:

        def show(line: Line) -> None:
            left = line["seconds"] / line["fraction"] * (1 - line["fraction"]) if line["fraction"] else 0.0
            text = f"step {line['step']}  loss {line['loss']:.4g}  {duration(left)} left"
            if "psnr_db" in line:
                gain = line["psnr_db"] - line["baseline_db"]
                text = f"{text}  PSNR {line['psnr_db']:.2f} dB ({gain:+.2f})"
                console.print(text, highlight=False, soft_wrap=True)
            live.update(text)

        return train(job, show)


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
