"""The verbs ``inspect`` and ``sensors``, and the line of each scene that ``catalog`` and ``ingest --dry-run`` print."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

import hypermend
from hypermend.catalog.documents import visible
from hypermend.catalog.sensor_tables import tables_of
from hypermend.pipeline.cli.app import Json, app, emit, refuse
from hypermend.pipeline.cli.verb import verb
from hypermend.pipeline.config import InspectSettings
from hypermend.pipeline.terminal import Terminal

if TYPE_CHECKING:
    from hypermend.pipeline.inspect.driver import Inspected
    from hypermend.pipeline.inspect.facts import SceneFacts


@verb(InspectSettings, file="no")
def inspect(
    settings: InspectSettings,
    target: Annotated[str, typer.Argument(metavar="PATH|URL|ITEM", help="File, folder, STAC item, or an item's id.")],
    picture: Annotated[Path | None, typer.Option(help="PNG file; default: NAME-inspect.png in this folder.")] = None,
    no_picture: Annotated[bool, typer.Option("--no-picture", help="Draw no picture.")] = False,
    as_json: Json = False,
) -> None:
    """Show what files or a STAC item are taken for, and a picture.

    Every value with its source, the masks, and what is missing. Nothing else is written, and no archive is needed.
    Leaves with 0 if all would be ingested, with 1 if something would be refused.
    """
    from hypermend.pipeline.inspect.driver import inspect as look_into

    if picture is not None and (picture.suffix.lower() != ".png" or not picture.absolute().parent.is_dir()):
        refuse(f"--picture {picture}: name a .png file in a folder that exists")
    console = Terminal(stderr=as_json)
    rows: list[dict[str, Any]] = []
    refused = False
    for seen, drawn in look_into(target, settings, picture=picture, pictures=not no_picture):
        refused |= seen.facts.refusal is not None
        rows.append(to_dict(seen, drawn))
        if not as_json:
            show(seen, drawn, console)
    if not rows:
        refuse(f"{target}: no image file that a reader knows")
    if as_json:
        emit({"scenes": rows})
    raise typer.Exit(1 if refused else 0)


@app.command()
def sensors(
    archive: Annotated[
        str | None, typer.Option("--archive", help="Root of an archive, whose own tables are listed, too.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--sensors", metavar="DIR", help="Folder with sensor tables of your own.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the sensor tables: shipped, an archive's, your own."""
    tables = tables_of(None if archive is None else hypermend.open(archive).root, folder)
    rows = [
        {
            "name": table.name,
            "bands": table.bands,
            "usable": table.usable.count(True),
            "from_nm": min(table.wavelength_nm),
            "to_nm": max(table.wavelength_nm),
            "quantity": table.quantity,
            "where": tables.own[table.name].where if table.name in tables.own else "shipped",
            "source": table.source,
        }
        for table in map(tables.sensor, tables.names())
    ]
    if as_json:
        emit({"sensors": rows})
        return
    console = Terminal()
    shown = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    shown.add_column("sensor", min_width=max(len(str(row["name"])) for row in rows), no_wrap=True)
    shown.add_column("bands", justify="right", min_width=5, no_wrap=True)
    shown.add_column("nm", justify="right", min_width=10, no_wrap=True)
    shown.add_column("quantity", min_width=11, no_wrap=True)
    shown.add_column("source", no_wrap=True, overflow="ellipsis", ratio=1)
    for row in rows:
        where = "" if row["where"] == "shipped" else f"{row['where']}: "
        range_nm = f"{row['from_nm']:.0f}-{row['to_nm']:.0f}"
        shown.add_row(str(row["name"]), str(row["bands"]), range_nm, str(row["quantity"]), f"{where}{row['source']}")
    console.print(shown)


def show(seen: Inspected, drawn: Path | None, console: Console) -> None:
    """Print one scene: as tables on a terminal, else one plain line for each value."""
    before, facts, after = _about(seen), seen.facts.facts, _findings(seen, drawn)
    if not console.is_terminal:
        for name, value in before:
            print(f"{name}: {value}")
        for fact in facts:
            print(f"{fact.name}: {fact.value} [{fact.source}]")
        for name, value in after:
            print(f"{name}: {value}")
        print()
        return
    console.print(_pairs(before))
    if facts:
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(style="cyan", no_wrap=True, min_width=_NAME_WIDTH)
        table.add_column(overflow="fold", max_width=30)
        table.add_column(overflow="fold")
        for fact in facts:
            # files are named after their scene, whose name is above
            source = fact.source.replace(seen.facts.id, "\u2026")
            table.add_row(fact.name, fact.value, Text(source, "yellow" if fact.guessed else "dim"))
        console.print(table)
    console.print(_pairs(after))
    console.print()


_NAME_WIDTH = 10
_STYLES = {"scene": "bold", "refused": "red", "missing": "yellow", "note": "yellow"}


def _pairs(rows: Iterable[tuple[str, str]]) -> Table:
    """Names and values whose lines go on below the value."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True, min_width=_NAME_WIDTH)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value, _STYLES.get(name, "")))
    return table


def _about(seen: Inspected) -> list[tuple[str, str]]:
    """What a scene is."""
    facts = seen.facts
    rows = [("scene", facts.id)]
    if facts.size is not None:
        bands, height, width = facts.size
        rows += [
            ("product", facts.product or "none that is known; read by its format"),
            ("size", f"{bands} bands, {width} x {height} pixels"),
            ("place", facts.place),
        ]
    return rows


def _findings(seen: Inspected, drawn: Path | None) -> list[tuple[str, str]]:
    """Masks, and what is missing, remarkable or refused."""
    facts = seen.facts
    rows = [] if seen.view is None else [("masks", masks_text(seen))]
    if seen.spectrum is not None and seen.spectrum.defects is not None:
        from hypermend.pipeline.inspect.picture import share

        rows.append(("defects", f"{share(seen.spectrum.defects)} of the numbers of a sample of windows"))
    rows += [("missing", f"{missing.name}: {missing.remedy}") for missing in facts.missing]
    rows += [("note", note) for note in facts.notes]
    if drawn is not None:
        rows.append(("picture", str(drawn)))
    if facts.refusal is not None:
        rows.append(("refused", facts.refusal))
    return rows


def masks_text(seen: Inspected) -> str:
    """Shares of the pixels by reason."""
    assert seen.view is not None
    return f"{_shares(seen.view.shares)} {seen.view.part}".rstrip()


def _shares(shares: Mapping[str, float]) -> str:
    from hypermend.pipeline.inspect.picture import share

    return ", ".join(f"{name} {share(part)}" for name, part in shares.items())


def to_dict(seen: Inspected, drawn: Path | None = None) -> dict[str, Any]:
    """A scene that was looked at, as JSON."""
    view, found = seen.view, seen.spectrum
    return {
        **facts_json(seen.facts),
        "masks": None if view is None else {name: round(part, 6) for name, part in view.shares.items()},
        "masks_of": None if view is None else view.part or "all pixels",
        "defects": None if found is None else found.defects,
        "picture": None if drawn is None else str(drawn),
    }


def facts_json(facts: SceneFacts) -> dict[str, Any]:
    """The facts of a scene as JSON."""
    return {
        "id": facts.id,
        "ingested": facts.refusal is None,
        "refused": facts.refusal,
        "product": facts.product,
        "sensor": facts.sensor,
        "datetime": facts.time,
        "quantity": facts.quantity,
        "size": None if facts.size is None else dict(zip(("bands", "y", "x"), facts.size, strict=True)),
        "place": facts.place,
        "files": list(facts.files),
        "fields": {f.name: {"value": f.value, "source": f.source, "guessed": f.guessed} for f in facts.facts},
        "missing": {missing.name: missing.remedy for missing in facts.missing},
        "notes": list(facts.notes),
    }


def line(facts: SceneFacts) -> str:
    """One scene in one line: id, product and sensor, size, quantity and who says its scale, time, masks."""
    if facts.refusal is not None:
        return visible(f"{facts.id}  refused: {facts.refusal}")
    bands, height, width = facts.size or (0, 0, 0)
    product = f"{facts.product}, {facts.sensor}" if facts.product else str(facts.sensor)
    said = facts.fact("scale") or facts.fact("quantity")
    source = re.sub(r" \(.*", "", said.source) if said is not None else "guess"
    parts = (
        facts.id,
        product,
        f"{bands} bands {width} x {height}",
        f"{facts.quantity} ({source})",
        "time unknown" if facts.time is None else f"{facts.time[:19]}Z",  # no fractions of a second
        _shares(facts.sampled),
        *facts.notes,
    )
    return visible("  ".join(part for part in parts if part))
