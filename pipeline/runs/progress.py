"""Terminal output of a run: progress while it works, a summary at its end. Programs get the same facts as JSON."""

from __future__ import annotations

from typing import get_args

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from hypermend.pipeline.formatting import duration, plural, size
from hypermend.pipeline.runs.report import Event, RunReport, Status
from hypermend.pipeline.runs.run import Run

SIGNS = {"published": "[green]published[/]", "current": "[dim]current[/]", "failed": "[red]failed[/]"}


def follow(run: Run, console: Console) -> RunReport:
    """Work to the end of ``run`` and print one line for each scene that has ended.

    A terminal also shows a bar for all scenes and one for each open scene.
    """
    with _progress(console) as progress:
        bars = _Bars(console, progress, run.scenes)
        for event in run:
            bars.show(event)
    return run.report


class _Bars:
    def __init__(self, console: Console, progress: Progress, scenes: int | None) -> None:
        self._console = console
        self._progress = progress
        self._all = progress.add_task("all scenes", total=scenes, unit="scenes")
        self._open: dict[str, TaskID] = {}

    def show(self, event: Event) -> None:
        if event.kind in ("opened", "block", "tile"):
            if event.scene not in self._open:
                self._open[event.scene] = self._progress.add_task(event.scene, total=event.total, unit="tiles")
            unit = "blocks" if event.kind == "block" else "tiles"
            self._progress.update(self._open[event.scene], completed=event.done, total=event.total, unit=unit)
            if event.kind == "opened" and event.message:
                self._console.print(f"{event.scene}: [yellow]{event.message}[/]", highlight=False)
            return
        if event.scene in self._open:
            self._progress.remove_task(self._open.pop(event.scene))
        self._progress.advance(self._all)
        sign = SIGNS.get(event.kind, f"[yellow]{event.kind}[/]")
        reason = f": {event.message}" if event.message else ""
        self._console.print(f"{sign} {event.scene}{reason}", highlight=False, soft_wrap=True)


def _progress(console: Console) -> Progress:
    # A long name gives way to the figures: they take 55 columns.
    name = Column(no_wrap=True, overflow="ellipsis", max_width=max(12, console.width - 55))
    return Progress(
        TextColumn("{task.description}", table_column=name),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}, left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def summary(report: RunReport, console: Console) -> None:
    """Print the closing lines of a run: the number of scenes by status, bytes and time, and where the failures are."""
    counts = ", ".join(f"{n} {status}" for status in get_args(Status) if (n := report.count(status)))
    counts = counts or ("no scene ended" if report.stopped else "nothing to do")
    console.print(
        f"{counts}; {plural(report.tiles_written, 'tile')}, {size(report.bytes_written)} written "
        f"in {duration(report.seconds)}",
        highlight=False,
    )
    if "stopped" in report.notes:
        console.print(f"[red]stopped[/]: {report.notes['stopped']}", highlight=False, soft_wrap=True)
    if report.exit_code == 1:
        console.print(f"failures: runs/{report.run}/failures in the archive", highlight=False)
