"""The command's app, the options and errors that all verbs share."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, Never

import typer
from typer.core import TyperGroup

from hypermend.catalog.errors import ArchiveError
from hypermend.models.card import BadCard
from hypermend.models.checkpoint import BadCheckpoint
from hypermend.pipeline.config import BadJob
from hypermend.pipeline.engine.outcome import NoWorkers

Archive = Annotated[str, typer.Option("--archive", help="Root of the archive: a folder or s3://bucket/prefix.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
USER_ERRORS = (ArchiveError, BadJob, BadCard, BadCheckpoint, NoWorkers)
"""Errors that the user can act on; any other is a bug and keeps its traceback."""


class _Verbs(TyperGroup):
    """All verbs: an error that the user can act on is one line on standard error and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except USER_ERRORS as error:
            refuse(str(error))


app = typer.Typer(
    cls=_Verbs,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Restore archives of hyperspectral images: STAC in, restored Zarr cubes and STAC items out, on Ray.",
)


def emit(value: Any) -> None:
    """Print one JSON object on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=list))


def refuse(message: str) -> Never:
    """Print why nothing is done, and leave with exit code 2."""
    print(f"hypermend: {message}", file=sys.stderr)
    raise typer.Exit(2)
