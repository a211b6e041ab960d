"""What a person sees of models: the list, a card line by line, what tells two cards apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from catalog.root import Root
from models.card import BadCard, ModelCard
from models.checkpoint import task_of
from pipeline.choose import DEFAULT_MODEL, spectrum_of
from pipeline.fuse import UNTRAINED
from pipeline.shelf import archived, defaults, shipped, slot


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


def overview(root: Root | None) -> tuple[list[Listed], list[BadCard]]:
    """Every model, the archive's first, and the cards that cannot be read."""
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
    trained = f" (trained on {spectrum_of(card)})" if card.spectrum else ""
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
