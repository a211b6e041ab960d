"""Terminal output of a run: progress while it works, a summary at its end. Programs get the same facts as JSON."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import get_args

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from hypermend.catalog.documents import visible
from hypermend.pipeline.formatting import duration, percent, plural, size
from hypermend.pipeline.runs.report import Event, RunReport, SceneResult, Status
from hypermend.pipeline.runs.run import Run

STYLES = {"published": "green", "current": "dim", "failed": "red"}


def follow(run: Run, console: Console) -> RunReport:
    """Work to the end of ``run`` and print one line for each scene that has ended.

    A terminal also shows a bar for all scenes and one for each open scene; a file or a pipe gets a line every ten
    seconds that says how far the run is.
    """
    with _progress(console) as progress:
        bars = _Bars(console, progress, run.scenes)
        with nullcontext() if console.is_terminal else _lines(bars, console):
            for event in run:
                bars.show(event)
    return run.report


LINE_S = 10.0
"""Interval of the lines."""


@contextmanager
def _lines(bars: _Bars, console: Console) -> Iterator[None]:
    ended = threading.Event()

    def print_lines() -> None:
        while not ended.wait(LINE_S):
            console.print(bars.line(), highlight=False, soft_wrap=True, markup=False)

    thread = threading.Thread(target=print_lines, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class _Bars:
    def __init__(self, console: Console, progress: Progress, scenes: int | None) -> None:
        self._console = console
        self._progress = progress
        self._all = progress.add_task("all scenes", total=scenes, unit="scenes")
        self._open: dict[str, TaskID] = {}
        self._done: dict[str, float] = {}
        """share of each open scene"""
        self._scenes, self._ended, self._began = scenes, 0, time.monotonic()

    def line(self) -> str:
        """How far the run is, and how long it will take, in one line."""
        shares = list(self._done.values())
        of = "" if self._scenes is None else f" of {self._scenes}"
        at_work = f", {len(shares)} open ({sum(shares) / len(shares):.0%})" if shares else ""
        seconds = time.monotonic() - self._began
        fraction = (self._ended + sum(shares)) / self._scenes if self._scenes else 0.0
        left = f", about {duration(seconds * (1 - fraction) / fraction)} left" if 0 < fraction < 1 else ""
        return f"{self._ended}{of} scenes ended{at_work}; {duration(seconds)}{left}"

    def show(self, event: Event) -> None:
        if event.kind in ("opened", "block", "tile"):
            if event.scene not in self._open:
                self._open[event.scene] = self._progress.add_task(event.scene, total=event.total, unit="tiles")
            self._done[event.scene] = event.done / event.total if event.total else 0.0
            unit = "blocks" if event.kind == "block" else "tiles"
            self._progress.update(self._open[event.scene], completed=event.done, total=event.total, unit=unit)
            if event.kind == "opened" and event.message:
                self._console.print(Text.assemble(f"{event.scene}: ", (visible(event.message), "yellow")))
            return
        if event.scene in self._open:
            self._progress.remove_task(self._open.pop(event.scene))
        self._progress.advance(self._all)
        self._done.pop(event.scene, None)
        self._ended += 1
        sign = event.kind, STYLES.get(event.kind, "yellow")
        reason = f": {event.message}" if event.message else ""
        self._console.print(Text.assemble(sign, visible(f" {event.scene}{reason}")), soft_wrap=True)


def _progress(console: Console) -> Progress:
    # A long name gives way to the figures: they take 55 columns.
    name = Column(no_wrap=True, overflow="ellipsis", max_width=max(12, console.width - 55))
    return Progress(
        TextColumn("{task.description}", table_column=name, markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}, left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


COLUMNS = 80
TOLD_SCENES = 10
"""Scenes of a run whose figures are printed."""


def scene_lines(result: SceneResult) -> Iterator[str]:
    """Say in two lines of at most 80 columns what was done to a scene."""
    figures, changes = result.figures, result.figures["changes"]
    noise = [changes.get(f"noise_share_{side}") for side in ("before", "after")]
    told = "unknown" if None in noise else " -> ".join(map(percent, noise))
    line = f": noise {told}, spectra turned by {changes['angle_deg']:.2g} deg"
    name = visible(result.scene)
    yield (name if len(name) + len(line) <= COLUMNS else f"{name[: COLUMNS - len(line) - 3]}...") + line
    defects, stripes = figures.get("defects", {}), figures.get("stripes", {})
    counts = (
        (changes.get("bands_losing_signal", 0), "{} losing signal", "band"),
        (figures.get("repaired", 0), "repaired {}", "number"),
        (defects.get("dead_columns", 0), "{}", "dead column"),
        (len(defects.get("bands_with_spikes", ())), "spikes in {}", "band"),
        (stripes.get("columns", 0), "{}", "striped column"),
        (len(figures.get("filled_bands", ())), "filled {}", "bad band"),
        (figures.get("blocks_adapted", 0), "{}", "adapted block"),
        (figures.get("blocks_fallen_back", 0), "{} not adapted", "block"),
    )
    done = [text.format(plural(count, noun)) for count, text, noun in counts if count]
    begin = f"  {percent(changes['change'])} of the signal's energy removed; "
    shown = len(done)
    while (line := begin + _enumerated(done, shown)) and len(line) > COLUMNS and shown:
        shown -= 1
    yield line


def _enumerated(facts: Sequence[str], shown: int) -> str:
    """Name the first facts, and how many more there are, for which the report has room."""
    more = [f"{len(facts) - shown} more"] if shown < len(facts) else []
    return ", ".join([*facts[:shown], *more]) or "no defect found"


def summary(report: RunReport, console: Console) -> None:
    """Print the closing lines of a run: the number of scenes by status, bytes and time, and where the failures are."""
    counts = ", ".join(f"{n} {status}" for status in get_args(Status) if (n := report.count(status)))
    counts = counts or ("no scene ended" if report.stopped else "nothing to do")
    console.print(
        f"{counts}; {plural(report.tiles_written, 'tile')}, {size(report.bytes_written)} written "
        f"in {duration(report.seconds)}",
        highlight=False,
    )
    told = [result for result in report.scenes if result.status == "published" and "changes" in result.figures]
    for result in told[:TOLD_SCENES]:
        for line in scene_lines(result):
            console.print(visible(line), highlight=False, soft_wrap=True)
    if len(told) > TOLD_SCENES:
        console.print(f"and {plural(len(told) - TOLD_SCENES, 'scene')} more, in the report", highlight=False)
    if "stopped" in report.notes:
        console.print(Text.assemble(("stopped", "red"), f": {report.notes['stopped']}"), soft_wrap=True)
    if report.exit_code == 1:
        console.print(f"failures: runs/{report.run}/failures in the archive", highlight=False)
