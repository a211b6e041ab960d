"""The table of an evaluation, on a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from pipeline.evaluate import FIGURES, Evaluation

HEADS = ("PSNR", "SSIM", "SAM", "ERGAS", "RMSE")
DIGITS = (2, 4, 2, 2, 4)
MEAN = "mean"
TRAINED = " *"


def lines(found: Evaluation) -> Iterator[tuple[str, ...]]:
    """(level, scene, method, figures ...) of every row, then the means of each level."""
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
