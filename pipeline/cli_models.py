"""The verbs about models: what there is, what tells two apart, which is the default, and how good one is."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.console import Console

import catalog as archives
from catalog.root import Root
from catalog.sensors import sensor as sensor_table
from models.card import ModelCard
from pipeline.cli_app import Collections, Json, Sensor, app, emit, refusals, refuse, settings
from pipeline.config import EvaluateJob

ArchiveOrNone = Annotated[str | None, typer.Option("--archive", help="Root of an archive; default: built-in ones.")]
Name = Annotated[str, typer.Argument(help="Name of a model, in the archive or built in.")]

models = typer.Typer(help="Models: list them, show one, compare two, promote one.", invoke_without_command=True)
app.add_typer(models, name="models")


@models.callback()
def listed(context: typer.Context, archive: ArchiveOrNone = None, as_json: Json = False) -> None:
    """List the models that there are, those of the archive first."""
    if context.invoked_subcommand is not None:
        return
    from pipeline.models_report import models_table, overview

    with refusals():
        rows, broken = overview(_root(archive))
    if as_json:
        emit({"models": [row.to_dict() for row in rows], "broken": [str(error) for error in broken]})
    else:
        models_table(rows, Console())
    for error in broken:
        print(error, file=sys.stderr)
    raise typer.Exit(1 if broken else 0)


@models.command()
def show(name: Name, archive: ArchiveOrNone = None, as_json: Json = False) -> None:
    """Show the card of a model."""
    from pipeline.models_report import flat

    with refusals():
        card = _card(_root(archive), name)
    if as_json:
        emit(card.to_dict())
        return
    for key, value in flat(card.to_dict()).items():
        print(f"{key}: {value}")


@models.command()
def compare(a: Name, b: Name, archive: ArchiveOrNone = None, as_json: Json = False) -> None:
    """Show in what the cards and figures of two models differ."""
    from pipeline.models_report import differences, differences_table

    with refusals():
        root = _root(archive)
        found = differences(_card(root, a), _card(root, b))
    if as_json:
        emit({"differs": {key: list(pair) for key, pair in found.items()}})
    else:
        differences_table(a, b, found, Console())


@models.command()
def promote(
    name: Name,
    sensor: Annotated[str, typer.Option(help="Name of the sensor table whose scenes get it.")],
    archive: Annotated[str, typer.Option(help="Root of the archive.")],
    task: Annotated[str | None, typer.Option(help="denoise, sharpen or fuse; must be what the model is for.")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="It is the default no longer.")] = False,
    as_json: Json = False,
) -> None:
    """Make a model the default of a sensor and its task in this archive."""
    from pipeline.shelf import defaults, slot
    from pipeline.shelf import promote as put

    with refusals():
        root = archives.open(archive).root
        card = _card(root, name)
        table = sensor_table(sensor)
        place = slot(card)
        if place is None or (task is not None and place.split("-")[0] != task):
            refuse(f"model {name} is for {'nothing' if place is None else place.split('-')[0]}, not for {task}")
        if undo and defaults(root).get(table.name, {}).get(place) != name:
            refuse(f"model {name} is not the default of {table.name} for {place}; `hypermend models` shows which are")
        low, high = card.accepts_range_nm or (0.0, float("inf"))
        nm = [w for w, usable in zip(table.wavelength_nm, table.usable, strict=True) if usable]
        if not undo and (nm[0] < low or nm[-1] > high):
            refuse(f"{table.name} spans {nm[0]:.0f}-{nm[-1]:.0f} nm, model {name} accepts {low:.0f}-{high:.0f} nm")
        before = put(root, table.name, place, None if undo else name)
    said: dict[str, Any] = {"sensor": table.name, "for": place, "model": None if undo else name, "before": before}
    if as_json:
        emit(said)
    else:
        print(f"{table.name}, {place}: {said['model'] or 'the built-in default'} (before: {before or 'none promoted'})")


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
    from pipeline.evaluate import evaluate as score
    from pipeline.evaluate_report import evaluation_table, markdown

    if as_json and as_markdown:
        refuse("--json or --markdown, not both")
    people = Console(stderr=as_json or as_markdown)
    with refusals():
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


def _root(archive: str | None) -> Root | None:
    return None if archive is None else archives.open(archive).root


def _card(root: Root | None, name: str) -> ModelCard:
    from pipeline.shelf import model_card

    return model_card(root, name)
