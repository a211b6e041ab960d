"""What a person sees: progress while a run goes on, a table when it has ended. Machines get the same as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import get_args

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from pipeline.forecast import PlannedScene
from pipeline.job import Run
from pipeline.run_report import Event, RunReport, Status, unit_id

SIGNS = {"published": "[green]published[/]", "current": "[dim]current[/]", "failed": "[red]failed[/]"}


def follow(run: Run, console: Console) -> RunReport:
    """Work to the end of ``run``: on a terminal a bar for all scenes and one for each open scene, and everywhere a line
    for each scene that has ended.
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
    """The closing lines of a run: how many scenes ended how, and each one that did not end well."""
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


def plan_table(planned: Sequence[PlannedScene], console: Console) -> None:
    """Scenes, tiles, bytes, memory and time of a restoration before it runs."""
    several = len({row.collection for row in planned}) > 1
    names = [unit_id(row.collection, row.scene) if several else row.scene for row in planned]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("scene", overflow="fold")
    for name in ("pixels", "bands", "tiles to do", "read", "tile memory", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in zip(names, planned, strict=True):
        if row.plan is None:
            table.add_row(name, "", "", "[red]refused[/]")
            continue
        spec = row.plan.spec
        table.add_row(
            name,
            f"{spec.width} x {spec.height}",
            str(spec.bands),
            f"{row.tiles_to_do} of {len(row.plan.grid)}",
            size(row.read_bytes),
            size(row.plan.tile_bytes),
            "-" if row.tiles_to_do == 0 else duration(row.seconds) if row.seconds is not None else "?",
        )
    console.print(table)
    todo = [row for row in planned if row.plan is not None and row.tiles_to_do]
    known = [row.seconds for row in todo if row.seconds is not None]
    time_left = f", about {duration(sum(known))} of one worker" if known else ""
    tiles = plural(sum(row.tiles_to_do for row in todo), "tile")
    console.print(f"{plural(len(planned), 'scene')}, {tiles} to do{time_left}", highlight=False)
    for line, count in Counter(_models(row) for row in planned if row.plan is not None).items():
        console.print(f"{plural(count, 'scene')}: {line}", highlight=False, soft_wrap=True)
    for name, row in zip(names, planned, strict=True):
        if row.plan is not None and row.plan.guide is not None:
            blocks = plural(len(row.plan.blocks), "block") if row.plan.blocks else "no block"
            guide = f"{row.plan.guide.collection}/{row.plan.guide.scene_id}"
            console.print(f"{name}: guide {guide}, scale {row.plan.scale}, {blocks} to adapt to", highlight=False)
    for row in planned:
        if row.plan is None:
            console.print(f"[red]refused[/]: {row.reason}", highlight=False, soft_wrap=True)
    warned = (f"{n}: {w}" for n, row in zip(names, planned, strict=True) if row.plan for w in row.plan.warnings)
    for line in dict.fromkeys(warned):
        console.print(f"[yellow]{line}[/]", highlight=False, soft_wrap=True)


def _models(row: PlannedScene) -> str:
    """The models of a planned scene, and why they."""
    assert row.plan is not None
    return ", then ".join(f"{s.task} with {s.model} ({s.why})" for s in row.plan.steps)


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def size(count: float) -> str:
    """Bytes as people write them: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float) -> str:
    """Seconds as people write them: 1 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
