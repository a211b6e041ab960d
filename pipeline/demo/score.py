"""Accuracy of the demo's scenes against their truth, before and after restoration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from hypermend.models.arrays import F32, Floats, Mask
from hypermend.models.signal.metrics import psnr, sam
from hypermend.pipeline.demo.picture import Panel

RED_GREEN_BLUE_NM = (650.0, 550.0, 470.0)


@dataclass(frozen=True, kw_only=True)
class Score:
    """PSNR and SAM over the good bands and valid pixels of a scene; the peak is the truth's maximum."""

    scene: str
    sensor: str
    task: str
    psnr_before_db: float
    psnr_after_db: float
    sam_before_deg: float
    sam_after_deg: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A scene before and after restoration and its truth: (band, y, x), in one unit and order of bands."""

    scene: str
    sensor: str
    task: str
    plan: str
    """Id of the restored cube's plan."""
    title: str
    wavelength_nm: Floats
    good: Mask
    usable: Mask
    """(y, x)"""
    before: F32
    after: F32
    truth: F32
    adds: bool = False
    """The restoration adds detail; otherwise it removes noise."""

    def score(self) -> Score:
        truth, before, after = (cube[self.good] for cube in (self.truth, self.before, self.after))
        peak = float(truth[:, self.usable].max())
        return Score(
            scene=self.scene,
            sensor=self.sensor,
            task=self.task,
            psnr_before_db=psnr(truth, before, self.usable, peak=peak),
            psnr_after_db=psnr(truth, after, self.usable, peak=peak),
            sam_before_deg=sam(truth, before, self.usable).degrees,
            sam_after_deg=sam(truth, after, self.usable).degrees,
        )

    def panel(self) -> Panel:
        distances = [np.where(self.good, np.abs(self.wavelength_nm - nm), np.inf) for nm in RED_GREEN_BLUE_NM]
        bands = [int(np.argmin(a)) for a in distances]
        return Panel(
            title=self.title,
            before=self.before[bands],
            after=self.after[bands],
            truth=self.truth[bands],
            usable=self.usable,
            adds=self.adds,
        )


def score_table(scores: list[Score], console: Console) -> None:
    """Print one row for each scene."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("scene", overflow="fold")
    table.add_column("task")
    for name in ("PSNR before", "after", "SAM before", "after"):
        table.add_column(name, justify="right")
    for s in scores:
        table.add_row(
            s.scene,
            s.task,
            f"{s.psnr_before_db:.2f} dB",
            f"{s.psnr_after_db:.2f} dB",
            f"{s.sam_before_deg:.2f} deg",
            f"{s.sam_after_deg:.2f} deg",
        )
    console.print(table)
