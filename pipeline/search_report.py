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
    """What a search found for each sensor; losses, logarithms of an error on validation areas: less is better."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("sensor")
    table.add_column("genotype", no_wrap=True)
    for name in ("loss", "untouched", "trials", "time"):
        table.add_column(name, justify="right")
    found = [(a, a.found) for a in answers if a.found is not None]
    for a, genotype in found:
        f = genotype.figures
        table.add_row(
            a.sensor,
            genotype.id,
            f"{f['validation_loss']:.3f}",
            f"{f['baseline_loss']:.3f}",
            ", ".join(f"{n} {state}" for state, n in f["trials"].items()),
            duration(f["seconds"]),
        )
    if found:
        console.print(table)
    for a in answers:
        console.print(f"{a.sensor}: {a.why}", highlight=False, soft_wrap=True)
        if a.found is not None:
            console.print(f"  {' '.join(a.found.genotype.ops)}", highlight=False, soft_wrap=True)
            console.print(f"  picture {a.found.picture}", highlight=False, soft_wrap=True)
