"""The verbs `search` and `genotypes`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

import hypermend
from hypermend.pipeline.cli.app import Archive, Json, app, emit
from hypermend.pipeline.cli.run_job import leave_learning_report, stdout_for_json
from hypermend.pipeline.cli.verb import verb
from hypermend.pipeline.config import SearchJob
from hypermend.pipeline.formatting import duration
from hypermend.pipeline.terminal import Terminal

if TYPE_CHECKING:
    from hypermend.pipeline.search.driver import Answer


@verb(SearchJob, file="no", without=("bbox", "datetime", "sensor", "tile_px", "deadline_s"))
def search(job: SearchJob, as_json: Json = False) -> None:
    """Search a network architecture for each sensor.

    Run it again to resume after a kill.
    """
    from hypermend.pipeline.search.driver import search_archive

    console = Terminal(stderr=as_json)
    with stdout_for_json(as_json):
        answers = search_archive(job, lambda line: console.print(line, highlight=False, soft_wrap=True))
    answers_table(answers, console)
    for answer in answers:
        if not answer.reused:
            leave_learning_report(job.archive, answer.search)
    if as_json:
        emit({"genotypes": [a.to_dict() for a in answers]})
    raise typer.Exit(0 if all(a.found for a in answers) else 1)


@app.command()
def genotypes(archive: Archive, as_json: Json = False) -> None:
    """List the architectures that searches have found."""
    from hypermend.pipeline.registry.genotypes import StoredGenotype, stored_genotypes

    every = list(stored_genotypes(hypermend.open(archive).root))
    usable = [g for g in every if isinstance(g, StoredGenotype)]
    if as_json:
        emit({"genotypes": [g.to_dict() for g in usable]})
    else:
        for g in usable:
            print(f"{g.id}  {g.spectrum}  {g.figures['strategy']}, {g.figures['budget']}")
            print(f"    {' '.join(g.genotype.ops)}")
            print(f"    {g.picture}")
    for bad in (g for g in every if not isinstance(g, StoredGenotype)):
        print(bad, file=sys.stderr)
    if not every:
        print("no genotype yet; `hypermend search` finds them", file=sys.stderr)
    raise typer.Exit(1 if len(usable) < len(every) else 0)


def answers_table(answers: Sequence[Answer], console: Console) -> None:
    """Print the genotype of each sensor. A loss is the logarithm of an error on validation areas: less is better."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("sensor")
    table.add_column("genotype", no_wrap=True)
    for name in ("loss", "untouched", "trials", "time"):
        table.add_column(name, justify="right")
    rows = [(a, a.found) for a in answers if a.found is not None]
    for a, genotype in rows:
        f = genotype.figures
        table.add_row(
            a.sensor,
            genotype.id,
            f"{f['validation_loss']:.3f}",
            f"{f['baseline_loss']:.3f}",
            ", ".join(f"{n} {state}" for state, n in f["trials"].items()),
            duration(f["seconds"]),
        )
    if rows:
        console.print(table)
    for a in answers:
        console.print(f"{a.sensor}: {a.why}", highlight=False, soft_wrap=True)
        if a.found is not None:
            console.print(f"  {' '.join(a.found.genotype.ops)}", highlight=False, soft_wrap=True)
            console.print(f"  picture {a.found.picture}", highlight=False, soft_wrap=True)
