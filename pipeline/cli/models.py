"""The verbs about models: what there is, what tells two apart, which is the default, and how good one is."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import hypermend
from hypermend.catalog.sensors import sensor as sensor_table
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.card import BadCard, ModelCard
from hypermend.models.checkpoint import task_of
from hypermend.pipeline.cli.app import Json, app, emit, refuse, user_errors
from hypermend.pipeline.registry.models import archived, defaults, model_card, shipped, slot
from hypermend.pipeline.registry.spectrum import training_spectrum

ArchiveOrNone = Annotated[str | None, typer.Option("--archive", help="Root of an archive; default: built-in ones.")]
Name = Annotated[str, typer.Argument(help="Name of a model, in the archive or built in.")]
models = typer.Typer(help="Models: list them, show one, compare two, promote one.", invoke_without_command=True)
app.add_typer(models, name="models")


@models.callback()
def listed(context: typer.Context, archive: ArchiveOrNone = None, as_json: Json = False) -> None:
    """List the models that there are, those of the archive first."""
    if context.invoked_subcommand is not None:
        return
    with user_errors():
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
    with user_errors():
        card = _card(_root(archive), name)
    if as_json:
        emit(card.to_dict())
        return
    for key, value in flat(card.to_dict()).items():
        print(f"{key}: {value}")


@models.command()
def compare(a: Name, b: Name, archive: ArchiveOrNone = None, as_json: Json = False) -> None:
    """Show in what the cards and figures of two models differ."""
    with user_errors():
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
    from hypermend.pipeline.registry.models import promote as put

    with user_errors():
        root = hypermend.open(archive).root
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


def _root(archive: str | None) -> ArchiveStore | None:
    return None if archive is None else hypermend.open(archive).root


def _card(root: ArchiveStore | None, name: str) -> ModelCard:
    return model_card(root, name)


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One model of the list."""

    card: ModelCard
    built_in: bool
    default_for: tuple[str, ...]
    """Sensors that it was promoted for; "all" where it is the built-in default."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.card.name,
            "built_in": self.built_in,
            "architecture": self.card.architecture,
            "task": task_of(self.card),
            "scale": self.card.scale,
            "accepts": accepts(self.card),
            "trained_on": list(self.card.trained_on),
            "metrics": self.card.metrics,
            "default_for": list(self.default_for),
        }


def overview(root: ArchiveStore | None) -> tuple[list[Listed], list[BadCard]]:
    """Every model, the archive's first, and the cards that cannot be read."""
    from hypermend.pipeline.registry.selection import DEFAULT_MODEL, UNTRAINED

    promoted = {} if root is None else defaults(root)
    found: list[tuple[ModelCard, bool]] = []
    broken: list[BadCard] = []
    for _, card in [] if root is None else archived(root):
        if isinstance(card, ModelCard):
            found.append((card, False))
        else:
            broken.append(card)
    names = {card.name for card, _ in found}
    found += [(card, True) for name, card in shipped() if name not in names]
    standard = {UNTRAINED, *(name.format(scale=scale) for name in DEFAULT_MODEL.values() for scale in (2, 3, 4))}
    rows = []
    for card, built_in in found:
        of = tuple(sensor for sensor, table in sorted(promoted.items()) if table.get(slot(card) or "") == card.name)
        rows.append(Listed(card=card, built_in=built_in, default_for=(*of, *["all"] * (card.name in standard))))
    return rows, broken


def accepts(card: ModelCard) -> str:
    """Which cubes the model takes, in words; and what it was trained on, where that is known."""
    said = [] if card.accepts_range_nm is None else ["{:.0f}-{:.0f} nm".format(*card.accepts_range_nm)]
    if card.accepts_spacing_nm is not None:
        said.append("every {:g}-{:g} nm".format(*card.accepts_spacing_nm))
    if card.quantity is not None:
        said.append("/".join(card.quantity))
    trained = f" (trained on {training_spectrum(card)})" if card.spectrum else ""
    return (", ".join(said) or "any") + trained


def models_table(rows: list[Listed], console: Console) -> None:
    """Name, what it is for, what it takes, how many scenes trained it, its figures, whose default it is."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("model", "for", "accepts", "trained on", "figures", "default of"):
        table.add_column(name, overflow="fold")
    for row in rows:
        card = row.card
        table.add_row(
            card.name,
            slot(card) or "-",
            accepts(card),
            f"{len(card.trained_on)} scenes" if card.trained_on else "-",
            _figure(card),
            ", ".join(row.default_for) or "-",
        )
    console.print(table)


def _figure(card: ModelCard) -> str:
    """Mean PSNR of the card's own validation, where it has one."""
    psnr = card.metrics.get("psnr_db")
    if isinstance(psnr, Mapping):
        own = [float(v) for key, v in psnr.items() if "bicubic" not in key and isinstance(v, int | float)]
        return f"{sum(own) / len(own):.2f} dB" if own else "-"
    scenes = card.metrics.get("scenes")
    if isinstance(scenes, Mapping):
        own = [float(v["fusion_psnr_db"]) for v in scenes.values() if "fusion_psnr_db" in v]
        return f"{sum(own) / len(own):.2f} dB" if own else "-"
    return "-"


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested JSON as one level: {"metrics.psnr_db.paints": 40.9}; lists stay lists."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    out: dict[str, Any] = {}
    for key, inner in value.items():
        out |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return out


def differences(a: ModelCard, b: ModelCard) -> dict[str, tuple[Any, Any]]:
    """What differs between two cards: {key: (of a, of b)}, None where one has no such key; names apart."""
    first, second = flat(a.to_dict()), flat(b.to_dict())
    keys = [*first, *(key for key in second if key not in first)]
    pairs = {key: (first.get(key), second.get(key)) for key in keys if key != "name"}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def differences_table(a: str, b: str, found: Mapping[str, tuple[Any, Any]], console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", a, b):
        table.add_column(name, overflow="fold")
    for key, (first, second) in found.items():
        table.add_row(key, _short(first), _short(second))
    console.print(table if found else "no difference but the name")


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 4:
        return f"{len(value)}: {', '.join(str(v) for v in value[:2])}, ..."
    return "-" if value is None else str(value)
