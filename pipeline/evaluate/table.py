"""The rows and remarks of an evaluation's table, as the terminal, Markdown and the page show them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hypermend.pipeline.evaluate.driver import Evaluation

HEADS = ("PSNR", "SSIM", "SAM", "ERGAS", "RMSE")
DIGITS = (2, 4, 2, 2, 4)
MEAN = "mean"
TRAINED = " *"


def lines(evaluation: Evaluation) -> Iterator[tuple[str, ...]]:
    """Yield (level, scene, method, figures ...) of every row, then the means of each level."""
    from hypermend.pipeline.evaluate.protocols import FIGURES  # loads torch

    for level in dict.fromkeys(row.level for row in evaluation.rows):
        for row in evaluation.rows:
            if row.level == level:
                scene = row.scene + TRAINED * row.trained_on
                yield (level, scene, row.method, *(_shown(row.figures[n], i) for i, n in enumerate(FIGURES)))
        for mean in evaluation.means():
            if mean["level"] == level:
                yield (level, MEAN, mean["method"], *(_shown(mean[n], i) for i, n in enumerate(FIGURES)))


def _shown(value: float | None, column: int) -> str:
    return "-" if value is None else f"{value:.{DIGITS[column]}f}"


def remarks(evaluation: Evaluation) -> Iterator[str]:
    """Yield the notes below the table."""
    yield f"{evaluation.model}, {evaluation.task}: {evaluation.protocol}. PSNR dB, SAM degrees."
    if any(row.trained_on for row in evaluation.rows):
        yield "* the model was trained on this scene: the figure says nothing of others."
    if evaluation.left_out:
        yield f"Left out, because the model was trained on them: {', '.join(evaluation.left_out)}."
