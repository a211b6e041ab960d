"""What every verb of the command shares: the app, its options, and how a job is parsed, carried out and refused."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Never, Protocol, TypeVar

import typer
from rich.console import Console

from hypermend.catalog.errors import ArchiveError
from hypermend.models.card import BadCard
from hypermend.models.checkpoint import BadCheckpoint
from hypermend.pipeline.config import BadJob, Job, load_job, parse

J = TypeVar("J", bound=Job)
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Restore archives of hyperspectral images: STAC in, restored Zarr cubes and STAC items out, on Ray.",
)
Archive = Annotated[str | None, typer.Option(help="Root of the archive: a folder or s3://bucket/prefix.")]
Bbox = Annotated[tuple[float, float, float, float] | None, typer.Option(metavar="W S E N", help="Degrees.")]
When = Annotated[str | None, typer.Option("--datetime", help="RFC 3339 instant or interval; open ends as '..'.")]
Sensor = Annotated[str | None, typer.Option(help="Name of a sensor table: enmap, hyperion, sentinel2a, cave, ...")]
Collections = Annotated[list[str] | None, typer.Option("--collection", help="Repeatable.")]
Workers = Annotated[int | None, typer.Option(help="Ray actors; default one per GPU, else one per CPU.")]
Address = Annotated[str | None, typer.Option(help="A running Ray cluster; default: an embedded one.")]
Memory = Annotated[float | None, typer.Option(help="What one worker may take; default: its share of this machine.")]
TilePx = Annotated[int | None, typer.Option(help="Edge of a tile in pixels, a multiple of 16.")]
GuideCollection = Annotated[str | None, typer.Option(help="Fuse: collection of the sharper images.")]
BudgetSteps = Annotated[int | None, typer.Option(help="Fuse: most steps that a block adapts; 0 for none.")]
BudgetSeconds = Annotated[float | None, typer.Option(help="Fuse: longest time that a block adapts, in seconds.")]
TaskName = Annotated[str | None, typer.Option("--task", help="denoise, sharpen, fuse, or denoise,sharpen.")]
ModelName = Annotated[
    str | None,
    typer.Option("--model", help="Name of a model, of a chain one each with commas; default: chosen for each scene."),
]
Scale = Annotated[int | None, typer.Option(help="Sharpen: how many times finer; default the model's, or 2.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
JobFile = Annotated[Path | None, typer.Argument(help="A TOML job; options given beside it win over it.")]


def settings(file: Path | None, kind: type[J], **options: Any) -> J:
    """The job of a file and of the options given beside it; options that were not given are left out."""
    given = {key: value for key, value in options.items() if value not in (None, [])}
    if file is not None:
        return load_job(file, kind, **given)
    return parse(kind, given, where=f"options of {kind.__name__.removesuffix('Job').lower()}")


def run_job(start: Callable[[J], Any], job: J, as_json: bool) -> Never:
    """Run a job to its end, show it, and leave with its exit code."""
    from hypermend.pipeline.engine.cluster import start_ray
    from hypermend.pipeline.runs.progress import follow, summary

    console = Console(stderr=as_json)
    run = start(job)
    with kept_for_json(as_json):
        with console.status("starting Ray"):
            start_ray(address=job.ray_address)
        with until_told_to_stop(run):
            report = follow(run, console)
    if not report.scenes and not report.stopped:
        refuse("no scene matches; see `hypermend query` for what the archive holds")
    summary(report, console)
    if as_json:
        emit(report.to_dict())
    if report.stopped:
        print("hypermend: stopped; run the same command again to go on", file=sys.stderr)
    raise typer.Exit(report.exit_code)


class Stoppable(Protocol):
    def stop(self) -> None: ...


@contextmanager
def until_told_to_stop(run: Stoppable) -> Iterator[None]:
    """On SIGTERM the run finishes its tiles in flight and ends: so a scheduler or a leaving machine asks. A second one
    ends it at once; whatever is done is kept either way.
    """

    def told(number: int, frame: FrameType | None) -> None:
        print("hypermend: told to stop; finishing the tiles in flight", file=sys.stderr)
        run.stop()
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)

    if threading.current_thread() is not threading.main_thread():  # only there can a signal be caught
        yield
        return
    before = signal.signal(signal.SIGTERM, told)  # after Ray's own, which would leave at once
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def kept_for_json(as_json: bool) -> AbstractContextManager[object]:
    """With --json, standard output is left alone: Ray prints there what its raylet has to say."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


def emit(value: Any) -> None:
    """One JSON object on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=list))


def refuse(message: str) -> Never:
    print(f"hypermend: {message}", file=sys.stderr)
    raise typer.Exit(2)


@contextmanager
def user_errors() -> Iterator[None]:
    """Errors that a person can act on, as one line; anything else is a bug and keeps its traceback."""
    try:
        yield
    except _user_error_types() as error:
        refuse(str(error))


def _user_error_types() -> tuple[type[Exception], ...]:
    """Asked for only where something was raised: what makes plans takes longer to import than most verbs take."""
    from hypermend.pipeline.engine.outcome import NoWorkers

    return ArchiveError, BadJob, BadCard, BadCheckpoint, NoWorkers
