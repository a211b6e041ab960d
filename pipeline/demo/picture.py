"""The demo's picture: each scene in colour before and after restoration, its truth, and the change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from hypermend.models.arrays import F32, Floats, Mask


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One scene's row. Cubes are (3, y, x): red, green, blue, in the same unit."""

    title: str
    before: F32
    after: F32
    truth: F32
    usable: Mask
    """(y, x)"""
    adds: bool = False
    """Show the change as what the restoration added, not as what it removed."""


def draw(panels: Sequence[Panel], path: Path, *, made_from: str) -> int:
    """Draw the rows into a PNG; return the bytes written, 0 where the picture of the same `made_from` exists."""
    if path.exists():
        with Image.open(path) as old:
            if old.info.get("Source") == made_from:
                return 0
    from matplotlib.figure import Figure  # half a second that a second run need not spend

    shape = panels[0].usable.shape
    figure = Figure(figsize=(14, 0.4 + len(panels) * (0.3 + 3.35 * shape[0] / shape[1])), layout="constrained")
    figure.suptitle("Synthetic scenes: before | after | truth | what was changed", fontsize=11)
    axes = figure.subplots(len(panels), 4, squeeze=False)
    for row, panel in zip(axes, panels, strict=True):
        low, high = _range(panel)
        gain = _gain(panel, high - low)
        untouched = np.array_equal(panel.before[:, panel.usable], panel.after[:, panel.usable])
        removed = (
            "nothing changed" if untouched else f"{'after - before' if panel.adds else 'before - after'}, x {gain:g}"
        )
        change = (panel.after - panel.before) * (1 if panel.adds else -1)
        for axis, name, values in (
            (row[0], "before", _bright((panel.before - low) / (high - low))),
            (row[1], "after", _bright((panel.after - low) / (high - low))),
            (row[2], "truth", _bright((panel.truth - low) / (high - low))),
            (row[3], removed, 0.5 + gain * change / (high - low)),
        ):
            axis.imshow(_rgb(values, panel.usable), interpolation="nearest")
            axis.set_title(name, fontsize=9)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(panel.title, fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Source": made_from})
    return path.stat().st_size


def _range(panel: Panel) -> tuple[F32, F32]:
    """Return the 1st and 99th percentile of the truth per colour, (3, 1, 1): all four pictures share them."""
    low, high = np.percentile(panel.truth[:, panel.usable], (1, 99), axis=1).astype(np.float32)
    return low[:, None, None], np.maximum(high, low + 1e-6)[:, None, None]


def _gain(panel: Panel, span: F32) -> float:
    """Return the factor of 1, 2, 5, 10 ... that shows three standard deviations of the removed part unclipped."""
    spread = float(((panel.before - panel.after) / span)[:, panel.usable].std())
    wanted = 0.5 / max(3 * spread, 1e-3)
    return max(step for step in (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0) if step <= max(wanted, 1.0))


def _bright(values: F32) -> F32:
    """Brighten dark fields and woods, as a screen's gamma does."""
    return np.asarray(np.clip(values, 0, 1) ** 0.65, dtype=np.float32)


def _rgb(values: Floats, usable: Mask) -> F32:
    """Convert (3, y, x) to (y, x, 3) between 0 and 1; white where there is no data."""
    shown = np.where(usable, np.nan_to_num(values), 1.0)
    return np.clip(shown, 0, 1).transpose(1, 2, 0).astype(np.float32)
