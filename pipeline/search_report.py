"""What a search found for each sensor, as a value and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.genotypes import Found
from pipeline.report import duration
from pipeline.search_trial import TrialRecord


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of one sensor."""

    sensor: str
    found: Found | None
    reused: bool
    why: str
    trials: tuple[TrialRecord, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "sensor": self.sensor,
            "genotype": self.found.to_dict() if self.found else None,
            "reused": self.reused,
            "why": self.why,
            "trials": [asdict(t) for t in self.trials],
        }


def answers_table(answers: Sequence[Answer], console: Console) -> None:
    """What a search found for each sensor."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("sensor", "genotype", "validation loss", "doing nothing", "trials", "search", "why"):
        table.add_column(name, overflow="fold")
    for a in answers:
        if a.found is None:
            table.add_row(a.sensor, "[red]none[/]", "", "", "", "", a.why)
            continue
        f = a.found.figures
        trials = ", ".join(f"{n} {state}" for state, n in f["trials"].items())
        losses = (f"{f['validation_loss']:.4g}", f"{f['baseline_loss']:.4g}")
        table.add_row(a.sensor, a.found.id, *losses, trials, duration(f["seconds"]), a.why)
    console.print(table)
    for a in answers:
        if a.found is not None and not a.reused:
            console.print(f"{a.sensor}: {' '.join(a.found.genotype.ops)}", highlight=False, soft_wrap=True)
            console.print(f"{a.sensor}: picture {a.found.picture}", highlight=False, soft_wrap=True)
