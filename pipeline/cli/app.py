"""The command's app, the options and errors that all verbs share."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from importlib import metadata
from types import FrameType
from typing import Annotated, Any, Never

import typer
from typer.core import TyperGroup

from hypermend.catalog.errors import ArchiveError
from hypermend.models.card import BadCard
from hypermend.models.checkpoint import BadCheckpoint
from hypermend.pipeline.config import BadJob
from hypermend.pipeline.engine.outcome import NoWorkers
from hypermend.pipeline.terminal import safe_streams, to_json

ARCHIVE_VARIABLE = "HYPERMEND_ARCHIVE"
"""The archive of verbs that are given none."""
Archive = Annotated[
    str,
    typer.Option(
        "--archive",
        envvar=ARCHIVE_VARIABLE,
        show_envvar=False,
        help=f"Root of the archive: a folder or s3://bucket/prefix; default: ${ARCHIVE_VARIABLE}.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
USER_ERRORS = (ArchiveError, BadJob, BadCard, BadCheckpoint, NoWorkers)
"""Errors that the user can act on; any other is a bug and keeps its traceback."""


GROUPS = {
    "Start": ("inspect", "demo", "catalog", "ingest", "query", "serve", "export", "sensors"),
    "Restore": ("plan", "restore", "evaluate", "models"),
    "Learn": ("train", "search", "genotypes"),
    "Operate": ("nightly", "runs", "report", "submit", "jobs", "failures", "retry", "verify", "index", "prune"),
}
"""The verbs as the help lists them."""


class _Verbs(TyperGroup):
    """All verbs: an error that the user can act on is one line on standard error and exit code 2."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the verbs by group, each with the first sentence of its help."""
        for group, names in GROUPS.items():
            with formatter.section(group):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(limit=200)) for name in names])

    def invoke(self, ctx: Any) -> Any:
        with safe_streams():
            try:
                with _sigterm_interrupts():
                    return super().invoke(ctx)
            except USER_ERRORS as error:
                refuse(str(error))
            except OSError as error:  # of a file beside the archive; the archive's are ArchiveErrors
                if error.errno in (None, errno.EPIPE):
                    raise
                refuse(": ".join(str(part) for part in (error.filename, error.strerror) if part))
            except KeyboardInterrupt:
                print("hypermend: interrupted; run the same command again to resume", file=sys.stderr)
                raise typer.Exit(130) from None


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, also while Ray starts; a run sets a handler of its own (`run_job`)."""

    def interrupt(number: int, frame: FrameType | None) -> Never:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only there can a signal be caught
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except SystemExit as left:  # Ray's own handler, which it sets as it starts
        if left.code != signal.SIGTERM:
            raise
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(given: bool) -> None:
    if given:
        print(f"hypermend {metadata.version('hypermend')}")
        raise typer.Exit(0)


VERSION = typer.Option("--version", is_eager=True, callback=_version, help="Show the version.")


@app.callback()
def options(version: Annotated[bool, VERSION] = False) -> None:
    """Restore archives of hyperspectral images: STAC in, restored Zarr cubes and STAC items out."""


def emit(value: Any) -> None:
    """Print one JSON object on standard output."""
    print(to_json(value))


def next_step(verb: str, archive: str, *words: str) -> None:
    """Show on standard error the command that follows."""
    where = [] if os.environ.get(ARCHIVE_VARIABLE) == archive else ["--archive", archive]
    print(f"next: {shlex.join(['hypermend', verb, *where, *words])}", file=sys.stderr)


def refuse(message: str) -> Never:
    """Print why nothing is done, and leave with exit code 2."""
    print(f"hypermend: {message}", file=sys.stderr)
    raise typer.Exit(2)
