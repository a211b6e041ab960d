"""The verb `evaluate`: score a model on source cubes of an archive."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from hypermend.catalog.documents import visible
from hypermend.pipeline.cli.app import Json, emit, refuse
from hypermend.pipeline.cli.verb import verb
from hypermend.pipeline.config import EvaluateJob
from hypermend.pipeline.evaluate.table import HEADS, lines, remarks
from hypermend.pipeline.terminal import Terminal

if TYPE_CHECKING:
    from hypermend.pipeline.evaluate.driver import Evaluation


@verb(EvaluateJob, file="no", without=("bbox", "datetime", "tile_px", "workers", "ray_address", "deadline_s"))
def evaluate(
    job: EvaluateJob,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="The table as Markdown.")] = False,
    page: Annotated[Path | None, typer.Option("--report", help="A file for the tables as an HTML page.")] = None,
    as_json: Json = False,
) -> None:
    """Score a model beside baselines without training."""
    from hypermend.pipeline.evaluate.driver import evaluate as score

    if as_json and as_markdown:
        refuse("--json or --markdown, not both")
    console = Terminal(stderr=as_json or as_markdown)
    with console.status("scoring") as status:
        evaluation = score(job, lambda id: status.update(f"scored {id}"))
    if page is not None:
        from hypermend.pipeline.report.learning import write_evaluation_page

        print(f"report: {write_evaluation_page(evaluation, page)}", file=sys.stderr)
    if as_json:
        emit(evaluation.to_dict())
    elif as_markdown:
        print(markdown(evaluation))
    else:
        evaluation_table(evaluation, console)
    for id, reason in evaluation.failed.items():
        print(visible(f"{id}: {reason}"), file=sys.stderr)
    raise typer.Exit(1 if evaluation.failed else 0)


def evaluation_table(evaluation: Evaluation, console: Console) -> None:
    """Print one table for each level."""
    every = list(lines(evaluation))
    for level in dict.fromkeys(line[0] for line in every):
        table = Table(box=None, pad_edge=False, header_style="bold", title=level, title_justify="left")
        for name in ("scene", "method"):
            table.add_column(name, overflow="fold")
        for name in HEADS:
            table.add_column(name, justify="right", no_wrap=True)
        before = ""
        for _, scene, *rest in (line for line in every if line[0] == level):
            table.add_row("" if scene == before else scene, *rest)
            before = scene
        console.print(table)
    for remark in remarks(evaluation):
        console.print(remark, highlight=False, soft_wrap=True)


def markdown(evaluation: Evaluation) -> str:
    """Return all levels as one Markdown table."""
    heads = ("level", "scene", "method", *HEADS)
    texts = (tuple(map(_in_page, line)) for line in lines(evaluation))
    rows = [heads, ("---",) * 3 + ("---:",) * len(HEADS), *texts]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"{table}\n\n" + "\n".join(map(_in_page, remarks(evaluation)))


def _in_page(text: str) -> str:
    """A text that is itself in Markdown, and in the page that is made of it: no cell, link, picture or tag."""
    return re.sub(r"([\\`|\[\]!])", r"\\\1", html.escape(visible(text), quote=False))
