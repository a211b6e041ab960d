"""The verb ``models`` with ``show``, ``compare`` and ``promote``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import hypermend
from hypermend.catalog.archive import Archive as OpenArchive
from hypermend.catalog.errors import Refused
from hypermend.catalog.sensor_tables import archive_tables
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.cli.app import Archive, Json, app, emit, refuse
from hypermend.pipeline.cli.model_tables import differences, differences_table, flat, models_table, overview
from hypermend.pipeline.registry.models import defaults, model_card
from hypermend.pipeline.registry.tasks import slot_of
from hypermend.pipeline.terminal import Terminal

OptionalArchive = Annotated[
    str | None, typer.Option("--archive", help="Root of an archive; default: only the built-in models.")
]
Name = Annotated[str, typer.Argument(help="Name of a model, in the archive or built in.")]
models = typer.Typer(help="List, show, compare and promote models.", invoke_without_command=True)
app.add_typer(models, name="models")


@models.callback()
def list_models(context: typer.Context, archive: OptionalArchive = None, as_json: Json = False) -> None:
    """List the models, those of the archive first."""
    if context.invoked_subcommand is not None:
        return
    rows, broken = overview(_root(archive))
    if as_json:
        emit({"models": [row.to_dict() for row in rows], "broken": [str(error) for error in broken]})
    else:
        models_table(rows, Terminal())
    for error in broken:
        print(error, file=sys.stderr)
    raise typer.Exit(1 if broken else 0)


@models.command()
def show(name: Name, archive: OptionalArchive = None, as_json: Json = False) -> None:
    """Show the card of a model."""
    card = model_card(_root(archive), name)
    if as_json:
        emit(card.to_dict())
        return
    for key, value in flat(card.to_dict()).items():
        print(f"{key}: {value}")


@models.command()
def compare(a: Name, b: Name, archive: OptionalArchive = None, as_json: Json = False) -> None:
    """Show the differences between the cards and scores of two models."""
    root = _root(archive)
    differing = differences(model_card(root, a), model_card(root, b))
    if as_json:
        emit({"differs": {key: list(pair) for key, pair in differing.items()}})
    else:
        differences_table(a, b, differing, Terminal())


@models.command()
def promote(
    name: Name,
    sensor: Annotated[str, typer.Option(help="Name of the sensor whose scenes get the model.")],
    archive: Archive,
    task: Annotated[str | None, typer.Option(help="denoise, sharpen or fuse; must be the task of the model.")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="The model is no longer the default.")] = False,
    as_json: Json = False,
) -> None:
    """Make a model the default of a sensor and its task in this archive."""
    from hypermend.pipeline.registry.models import promote as store

    opened = hypermend.open(archive)
    root = opened.root
    card = model_card(root, name)
    nm = _spectrum(opened, sensor)
    place = slot_of(card)
    if place is None or (task is not None and place.split("-")[0] != task):
        refuse(f"model {name} is for {'nothing' if place is None else place.split('-')[0]}, not for {task}")
    if undo and defaults(root).get(sensor, {}).get(place) != name:
        refuse(f"model {name} is not the default of {sensor} for {place}; `hypermend models` shows which are")
    low, high = card.accepts_range_nm or (0.0, float("inf"))
    if not undo and (min(nm) < low or max(nm) > high):
        refuse(f"{sensor} spans {min(nm):.0f}-{max(nm):.0f} nm, model {name} accepts {low:.0f}-{high:.0f} nm")
    model = None if undo else name
    before = store(root, sensor, place, model)
    if as_json:
        emit({"sensor": sensor, "for": place, "model": model, "before": before})
    else:
        print(f"{sensor}, {place}: {model or 'the built-in default'} (before: {before or 'none promoted'})")


def _spectrum(archive: OpenArchive, sensor: str) -> list[float]:
    """Wavelengths of a sensor's usable bands, in nm; of its first source cube where it has no table.

    Raises:
        BadSensor: no sensor of this name.
    """
    table = archive_tables(archive.root).get(sensor)
    if table is not None:
        return [w for w, usable in zip(table.wavelength_nm, table.usable, strict=True) if usable]
    scene = next(iter(archive.sources(sensor=sensor)), None)
    if scene is None:
        raise Refused(f"sensor {sensor} has no table and no source cube; ingest its scenes first")
    return [float(w) for w in scene.properties.get("hypermend:wavelength_nm", ())]


def _root(archive: str | None) -> ArchiveStore | None:
    return None if archive is None else hypermend.open(archive).root
