"""Cost and results of the search: `python -m benchmarks.search TABLE ... [--data DIR] [--units FILE]`.

One JSON line for each measurement; `target` is what the project asks of itself.

    merged      one edge of the super-net with its eight operations as one convolution, against eight convolutions
    ranking     the searched cell against random, spatial, spectral and separable ones
    tau         accuracy of random cells with a super-net's weights against the same cells fitted alone
    choices     which operations are taken for few and for many bands
    transfer    searched on one sensor or at one noise level, fitted on another or at all
    strategies  DARTS against SPOS
    domains     one cell on subspace coefficients and on bands, one set of weights and one per sensor
    cost        seconds of a search step, by channels and by trials at once

All but the first and the last are in a scaled space (`search_scaled.py`) and read off units, searches and fits, that
--units keeps line by line: a run that was stopped goes on, and another table uses them again.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.scenes import versions
from benchmarks.search_cost import cost
from benchmarks.search_domains import domains
from benchmarks.search_scaled import Scale, Units
from benchmarks.search_tables import Sizes, choices, ranking, strategies, tau, transfer
from hypermend.models.denoise.stas import OPS
from hypermend.models.denoise.supernet import Form, MixedEdge

EDGE = (8, 62, 40, 40)
"""Input of an edge as the paper searches at 31 bands: batch 8, M = 62, patches of 40 pixels."""
MERGEABLE: tuple[Form, ...] = ("plain", "relu_conv")
ANSWER = ("value", "input", "alpha", "parameters")
"""Tensors compared: the value, and the gradients of the others."""


def merged(turns: int) -> Iterator[dict[str, object]]:
    """Values, gradients, time and saved memory of a merged edge against a separate one."""
    for form in MERGEABLE:
        torch.manual_seed(0)
        edges = {flag: MixedEdge(EDGE[1], form=form, merged=flag) for flag in (True, False)}
        edges[False].load_state_dict(edges[True].state_dict())
        x = torch.randn(EDGE)
        weight = torch.randn(len(OPS)).softmax(0)
        answers = [_forward_backward(edge, x, weight) for edge in edges.values()]
        error = {name: float((a - b).abs().max() / b.abs().max()) for name, a, b in zip(ANSWER, *answers, strict=True)}
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(turns):
            for flag, edge in edges.items():
                begin = time.perf_counter()
                _forward_backward(edge, x, weight)
                seconds[flag].append(time.perf_counter() - begin)
        ours, reference = (statistics.median(seconds[flag]) for flag in (True, False))
        saved = {flag: _saved_bytes(edge, x, weight) for flag, edge in edges.items()}
        yield {
            "name": f"merged-against-separate-{form}",
            "shape": list(EDGE),
            "error": error,
            "ours_s": round(ours, 4),
            "reference_s": round(reference, 4),
            "speed_ratio": round(reference / ours, 2),
            "ours_saved_bytes": saved[True],
            "reference_saved_bytes": saved[False],
            "saved_ratio": round(saved[False] / saved[True], 2),
            "target": {"error": 1e-5, "speed_ratio": 2.5, "saved_ratio": 5.0},
            "met": max(error.values()) <= 1e-5 and reference / ours >= 2.5 and saved[False] / saved[True] >= 5.0,
            "turns": {"ours": [round(s, 3) for s in seconds[True]], "reference": [round(s, 3) for s in seconds[False]]},
        }


def _forward_backward(edge: MixedEdge, x: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
    """As `ANSWER`. The parameters' gradients are one vector: before a BN the true gradient of a bias is zero."""
    inputs = [x.clone().requires_grad_(), weight.clone().requires_grad_(), *edge.parameters()]
    y = edge(inputs[0], inputs[1])
    of_x, of_weight, *others = torch.autograd.grad(y.square().mean(), inputs)
    return [y.detach(), of_x, of_weight, torch.cat([g.flatten() for g in others])]


def _saved_bytes(edge: MixedEdge, x: torch.Tensor, weight: torch.Tensor) -> int:
    """Memory that autograd keeps from forward to backward, each storage once, parameters apart."""
    own = {p.untyped_storage().data_ptr() for p in edge.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        kept[t.untyped_storage().data_ptr()] = t
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = edge(x.clone().requires_grad_(), weight.clone().requires_grad_())
    total = sum(t.untyped_storage().nbytes() for pointer, t in kept.items() if pointer not in own)
    del y
    return total


TABLES: dict[str, Callable[[Units, Sizes], Iterator[dict[str, Any]]]] = {
    "ranking": ranking,
    "tau": tau,
    "choices": choices,
    "transfer": transfer,
    "strategies": strategies,
    "domains": domains,
}
MEASUREMENTS: dict[str, Callable[[int], Iterator[dict[str, Any]]]] = {"merged": merged, "cost": cost}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    ap = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__.split("\n")[0])
    ap.add_argument("tables", nargs="+", choices=[*MEASUREMENTS, *TABLES], metavar="TABLE", help="see the module")
    ap.add_argument("--turns", type=int, default=7, help="of each side of merged and cost; the median counts")
    ap.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real scenes")
    ap.add_argument("--units", type=Path, default=Path("search_units.part"), help="searches and fits, kept here")
    ap.add_argument("--steps", type=int, default=Scale.steps, help="of a search and of a fit")
    ap.add_argument("--seeds", type=int, default=Sizes.fits, help="of each fit")
    ap.add_argument("--searches", type=int, default=Sizes.searches, help="seeds of each search")
    ap.add_argument("--random", type=int, default=Sizes.random, help="random cells of the ranking")
    ap.add_argument("--sensors", nargs="+", choices=Sizes.sensors, default=list(Sizes.sensors), help="default: both")
    a = ap.parse_args(argv)
    sizes = replace(Sizes(), fits=a.seeds, searches=a.searches, random=a.random, sensors=tuple(a.sensors))
    sizes = replace(
        sizes, scale=replace(sizes.scale, steps=a.steps), domain_scale=replace(sizes.domain_scale, steps=a.steps)
    )
    units = Units(a.units, a.data)
    for table in a.tables:
        for line in MEASUREMENTS[table](a.turns) if table in MEASUREMENTS else TABLES[table](units, sizes):
            about = {"machine": platform.machine(), "date": f"{datetime.now(UTC):%Y-%m-%d}"}
            if table != "merged":
                line = {"table": table, **line}
            print(json.dumps({**line, **versions(), **about}, allow_nan=False), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
