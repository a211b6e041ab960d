"""Timing of two alternatives in turn, and the JSON line of a measurement."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from hypermend.pipeline.runs.report import RunReport
from hypermend.pipeline.runs.run import Run

Clock = Callable[[], float]
"""Seconds: `time.perf_counter`, or `time.process_time` on a machine that others use at the same time."""


def timed(work: Callable[[], Any], clock: Clock = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


def after_opening(run: Run, clock: Clock = time.perf_counter) -> float:
    """Seconds from the first scene opened to the end of the run: start-up and whole-scene estimates apart."""
    start = 0.0
    for event in run:
        if event.kind == "opened" and start == 0.0:
            start = clock()
    finished(run.report)
    return clock() - start


def finished(report: RunReport) -> RunReport:
    """The report of a run that must have published its scene; a benchmark of failures measures nothing."""
    if report.exit_code or not report.count("published"):
        raise RuntimeError(f"the run did not publish: {[(s.scene, s.status, s.reason) for s in report.scenes]}")
    return report


def in_turn(ours: Callable[[], float], reference: Callable[[], float], turns: int) -> tuple[list[float], list[float]]:
    """Time both sides `turns` times, the reference first."""
    pairs = [(reference(), ours()) for _ in range(turns)]
    return [mine for _, mine in pairs], [bare for bare, _ in pairs]


def rounded(values: list[float]) -> list[float]:
    return [round(v, 3) for v in values]


def line(
    name: str, ours: float, reference: float, *, target: float, lower_is_better: bool, **more: Any
) -> dict[str, Any]:
    ratio = ours / reference
    return {
        "name": name,
        "ours": round(ours, 4),
        "reference": round(reference, 4),
        "ratio": round(ratio, 3),
        "target": round(target, 3),
        "met": ratio <= target if lower_is_better else ratio >= target,
        **more,
        "versions": {p: version(p) for p in ("zarr", "xarray", "torch", "ray", "rasterio", "odc-stac")},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }
