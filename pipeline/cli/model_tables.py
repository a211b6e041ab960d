"""Tables of the verb ``models``: the list of models, and the differences between two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from hypermend.catalog.documents import MALFORMED
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.card import BadCard, ModelCard
from hypermend.models.checkpoint import task_of
from hypermend.pipeline.registry.models import archived, defaults, shipped
from hypermend.pipeline.registry.spectrum import training_spectrum
from hypermend.pipeline.registry.tasks import TASKS, slot_of


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """One model in the list."""

    card: ModelCard
    built_in: bool
    default_for: tuple[str, ...]
    """Sensors whose default it is; "all" for a built-in default."""

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


def overview(root: ArchiveStore | None) -> tuple[list[ModelRow], list[BadCard]]:
    """Return every model, the archive's first, and the cards that cannot be read."""
    promoted = {} if root is None else defaults(root)
    cards: list[tuple[ModelCard, bool]] = []
    broken: list[BadCard] = []
    for _, card in [] if root is None else archived(root):
        if isinstance(card, ModelCard):
            cards.append((card, False))
        else:
            broken.append(card)
    names = {card.name for card, _ in cards}
    cards += [(card, True) for name, card in shipped() if name not in names]
    standard = {task.builtins[0].format(scale=scale) for task in TASKS.values() for scale in (2, 3, 4)}
    rows = []
    for card, built_in in cards:
        default_for = [name for name, table in sorted(promoted.items()) if table.get(slot_of(card) or "") == card.name]
        if card.name in standard:
            default_for.append("all")
        rows.append(ModelRow(card=card, built_in=built_in, default_for=tuple(default_for)))
    return rows, broken


def accepts(card: ModelCard) -> str:
    """Describe the cubes that the model accepts, and the spectrum that it was trained on, where that is known."""
    parts = [] if card.accepts_range_nm is None else ["{:.0f}-{:.0f} nm".format(*card.accepts_range_nm)]
    if card.accepts_spacing_nm is not None:
        parts.append("every {:g}-{:g} nm".format(*card.accepts_spacing_nm))
    if card.quantity is not None:
        parts.append("/".join(card.quantity))
    trained = f" (trained on {training_spectrum(card)})" if card.spectrum else ""
    return (", ".join(parts) or "any") + trained


def models_table(rows: list[ModelRow], console: Console) -> None:
    """Print one row per model."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("model", "for", "accepts", "trained on", "figures", "default of"):
        table.add_column(name, overflow="fold")
    for row in rows:
        card = row.card
        table.add_row(
            card.name,
            slot_of(card) or "-",
            accepts(card),
            f"{len(card.trained_on)} scenes" if card.trained_on else "-",
            _figure(card),
            ", ".join(row.default_for) or "-",
        )
    console.print(table)


def _figure(card: ModelCard) -> str:
    """Mean PSNR of the card's own validation, where it has one."""
    try:
        return _mean_psnr(card)
    except MALFORMED:  # no rule says what a card's metrics hold
        return "-"


def _mean_psnr(card: ModelCard) -> str:
    psnr = card.metrics.get("psnr_db")
    if isinstance(psnr, Mapping):
        scores = [float(v) for key, v in psnr.items() if "bicubic" not in key and isinstance(v, int | float)]
        return f"{sum(scores) / len(scores):.2f} dB" if scores else "-"
    scenes = card.metrics.get("scenes")
    if isinstance(scenes, Mapping):
        scores = [float(v["fusion_psnr_db"]) for v in scenes.values() if "fusion_psnr_db" in v]
        return f"{sum(scores) / len(scores):.2f} dB" if scores else "-"
    return "-"


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested JSON: {"metrics.psnr_db.paints": 40.9}; lists stay lists."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    out: dict[str, Any] = {}
    for key, inner in value.items():
        out |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return out


def differences(a: ModelCard, b: ModelCard) -> dict[str, tuple[Any, Any]]:
    """Return {key: (value of a, value of b)} where two cards differ, None for a missing key; names are not compared."""
    first, second = flat(a.to_dict()), flat(b.to_dict())
    keys = [*first, *(key for key in second if key not in first)]
    pairs = {key: (first.get(key), second.get(key)) for key in keys if key != "name"}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def differences_table(a: str, b: str, differing: Mapping[str, tuple[Any, Any]], console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", a, b):
        table.add_column(name, overflow="fold")
    for key, (first, second) in differing.items():
        table.add_row(key, _short(first), _short(second))
    console.print(table if differing else "no difference but the name")


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 4:
        return f"{len(value)}: {', '.join(str(v) for v in value[:2])}, ..."
    return "-" if value is None else str(value)
