"""Run a job from the command line: progress, SIGTERM, report and exit code."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from types import FrameType
from typing import Any, Never, Protocol, TypeVar

import typer

from hypermend.catalog.documents import MALFORMED
from hypermend.catalog.errors import ArchiveError
from hypermend.pipeline.cli.app import emit, next_step, refuse
from hypermend.pipeline.config import Job
from hypermend.pipeline.formatting import plural
from hypermend.pipeline.runs.report import RunReport
from hypermend.pipeline.runs.run import Run
from hypermend.pipeline.terminal import Terminal

J = TypeVar("J", bound=Job)


def run_job(start: Callable[[J], Any], job: J, as_json: bool, *, then: Sequence[str]) -> Never:
    """Run a job to its end, print its report, and leave with its exit code.

    Args:
        then: the verb that follows, and its options beside the archive.
    """
    from hypermend.pipeline.runs.progress import summary

    console = Terminal(stderr=as_json)
    run = start(job)
    with stdout_for_json(as_json):
        report = work_through(run, job, console)
    if not report.scenes and not report.stopped:
        refuse("no scene matches; see `hypermend query` for what the archive holds")
    summary(report, console)
    for border in report.notes.get("borders", ()):
        print(f"hypermend: {border}", file=sys.stderr)
    warn_undated(report.notes.get("undated", 0), "--scene-datetime")
    if as_json:
        emit(report.to_dict())
    if report.bytes_written or report.count("failed") or report.count("skipped"):
        leave_report(job.archive, report.run)
    if report.stopped:
        print("hypermend: stopped; run the same command again to resume", file=sys.stderr)
    elif not as_json:
        verb, *words = then if report.exit_code == 0 else ("failures",)
        next_step(verb, job.archive, *words)
    raise typer.Exit(report.exit_code)


def work_through(run: Run, job: Job, console: Terminal) -> RunReport:
    """Work a run to its end and show it; start Ray where it needs it."""
    from hypermend.pipeline.runs.progress import follow

    if run.uses_ray:
        from hypermend.pipeline.engine.cluster import start_ray

        if not console.is_terminal:
            console.print("starting Ray", highlight=False)
        with console.status("starting Ray"):
            start_ray(address=job.ray_address)
    with stop_on_sigterm(run):
        return follow(run, console)


def leave_report(archive: str, run: str) -> None:
    """Write the page of a run and say where it is; a run does not fail for its page."""
    from hypermend.pipeline.report.page import write_report

    try:
        print(f"report: {write_report(archive, run)}", file=sys.stderr)
    except (ArchiveError, *MALFORMED, OSError) as error:
        print(f"hypermend: no report of {run}: {error}; `hypermend report {run}` tries again", file=sys.stderr)


def leave_learning_report(archive: str, id: str) -> None:
    """Write the page of a training or a search and say where it is; neither fails for its page."""
    from hypermend.pipeline.report.learning import write_learning_page

    try:
        print(f"report: {write_learning_page(archive, id)}", file=sys.stderr)
    except (ArchiveError, *MALFORMED, OSError) as error:
        print(f"hypermend: no report of {id}: {error}; `hypermend report {id}` tries again", file=sys.stderr)


def warn_undated(scenes: int, option: str) -> None:
    """Say once on standard error that scenes have no time, and what gives them one."""
    if scenes:
        print(f"time unknown: {plural(scenes, 'scene')}; give {option} TIME or --allow-mtime", file=sys.stderr)


class Stoppable(Protocol):
    def stop(self) -> None: ...


@contextmanager
def stop_on_sigterm(run: Stoppable) -> Iterator[None]:
    """On SIGTERM, which a scheduler or a machine that shuts down sends, let the run finish its tiles in flight.

    A second SIGTERM ends it at once. Finished tiles are kept either way.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        print("hypermend: received SIGTERM; finishing the tiles in flight", file=sys.stderr)
        run.stop()
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)

    if threading.current_thread() is not threading.main_thread():  # only there can a signal be caught
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)  # after Ray's own, which would leave at once
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def stdout_for_json(as_json: bool) -> AbstractContextManager[object]:
    """With --json, keep standard output for the JSON: send to standard error what Ray's raylet prints."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()
