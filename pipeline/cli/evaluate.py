"""The verb `evaluate`: score a model on source cubes of an archive."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from hypermend.pipeline.cli.app import Collections, Json, Sensor, app, emit, refuse, settings, user_errors
from hypermend.pipeline.config import EvaluateJob

if TYPE_CHECKING:
    from hypermend.pipeline.evaluate.driver import Evaluation


@app.command()
def evaluate(
    archive: Annotated[str, typer.Option(help="Root of the archive whose source cubes are the truth.")],
    model: Annotated[str, typer.Option(help="Name of a model, in the archive or built in.")],
    task: Annotated[str | None, typer.Option(help="denoise (default), sharpen or fuse")] = None,
    sigma: Annotated[list[int] | None, typer.Option(help="Denoise: noise, of 255. Repeatable; 30, 50, 70.")] = None,
    scale: Annotated[int | None, typer.Option(help="Sharpen: the model's. Fuse: coarse over fine pixels; 8.")] = None,
    guide_sensor: Annotated[str | None, typer.Option(help="Fuse: whose bands the guide has.")] = None,
    scene: Annotated[list[str] | None, typer.Option(help="Id of a scene. Repeatable; default all.")] = None,
    collection: Collections = None,
    sensor: Sensor = None,
    crop_px: Annotated[int | None, typer.Option(help="Edge of what is scored; default: the protocol's.")] = None,
    trained_on_too: Annotated[bool, typer.Option("--trained-on-too", help="Score them all the same.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="The table as Markdown.")] = False,
    as_json: Json = False,
) -> None:
    """Score a model on source cubes, with what needs no training beside it."""
    from hypermend.pipeline.evaluate.driver import evaluate as score

    if as_json and as_markdown:
        refuse("--json or --markdown, not both")
    people = Console(stderr=as_json or as_markdown)
    with user_errors():
        asked = settings(
            None, EvaluateJob, archive=archive, model=model, task=task, sigma=sigma, scale=scale, scenes=scene,
            guide_sensor=guide_sensor, collections=collection, sensor=sensor, crop_px=crop_px,
            trained_on_too=trained_on_too or None,
        )  # fmt: skip
        with people.status("scoring") as status:
            found = score(asked, lambda id: status.update(f"scored {id}"))
    if as_json:
        emit(found.to_dict())
    elif as_markdown:
        print(markdown(found))
    else:
        evaluation_table(found, people)
    for id, reason in found.failed.items():
        print(f"{id}: {reason}", file=sys.stderr)
    raise typer.Exit(1 if found.failed else 0)


HEADS = ("PSNR", "SSIM", "SAM", "ERGAS", "RMSE")
DIGITS = (2, 4, 2, 2, 4)
MEAN = "mean"
TRAINED = " *"


def lines(found: Evaluation) -> Iterator[tuple[str, ...]]:
    """(level, scene, method, figures ...) of every row, then the means of each level."""
    from hypermend.pipeline.evaluate.protocols import FIGURES

    for level in dict.fromkeys(row.level for row in found.rows):
        for row in found.rows:
            if row.level == level:
                scene = row.scene + TRAINED * row.trained_on
                yield (level, scene, row.method, *(_shown(row.figures[n], i) for i, n in enumerate(FIGURES)))
        for mean in found.means():
            if mean["level"] == level:
                yield (level, MEAN, mean["method"], *(_shown(mean[n], i) for i, n in enumerate(FIGURES)))


def _shown(value: float | None, column: int) -> str:
    return "-" if value is None else f"{value:.{DIGITS[column]}f}"


def evaluation_table(found: Evaluation, console: Console) -> None:
    """One table for each level."""
    every = list(lines(found))
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
    for remark in remarks(found):
        console.print(remark, highlight=False, soft_wrap=True)


def markdown(found: Evaluation) -> str:
    """The same as one Markdown table."""
    heads = ("level", "scene", "method", *HEADS)
    rows = [heads, ("---",) * 3 + ("---:",) * len(HEADS), *lines(found)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"{table}\n\n" + "\n".join(remarks(found))


def remarks(found: Evaluation) -> Iterator[str]:
    """What must stand under the table."""
    yield f"{found.model}, {found.task}: {found.protocol}. PSNR dB, SAM degrees."
    if any(row.trained_on for row in found.rows):
        yield "* the model was trained on this scene: the figure says nothing of others."
    if found.left_out:
        yield f"Left out, because the model was trained on them: {', '.join(found.left_out)}."
