"""Tables of `benchmarks.search`, computed from the units of `search_scaled.py`; missing units are measured.

A difference of two means is told from chance by the spread over seeds: `spread_db` is the standard deviation of a fit
over its seeds, pooled over all cells of a sensor, and a difference below two standard errors of it counts as "none".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.search_scaled import Line, Scale, Units, smaller
from hypermend.models.denoise.samples import SIGMAS
from hypermend.models.denoise.stas import OPS, Genotype
from hypermend.models.denoise.stas_search import SPATIAL, SPECTRAL, SS1, Strategy, random_genotype

RIVALS: Mapping[str, Genotype] = {"spatial": SPATIAL, "spectral": SPECTRAL, "ss1": SS1}
ONE_LEVEL = (SIGMAS[1],)
"""The noise of a search that sees one level only."""
ORDER = (("searched", "random"), ("random", "ss1"), ("random", "spatial"), ("ss1", "spectral"), ("spatial", "spectral"))
"""The paper's order of cells: each pair the better one first."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Extent of each table."""

    sensors: tuple[str, ...] = ("cave", "enmap")
    fits: int = 3
    """Seeds of a fit."""
    searches: int = 2
    """Seeds of a search."""
    random: int = 5
    """Random cells of the ranking."""
    ranked: int = 12
    """Random cells that tau is taken over."""
    few: int = 4
    many: int = 16
    """Bands, beside those of `scale`."""
    scale: Scale = field(default_factory=Scale)
    domain_scale: Scale = field(default_factory=lambda: Scale(bands=31, width=8, patch_px=24))


def cell_of(line: Line) -> Genotype:
    """The genotype of a search's line."""
    return Genotype(tuple(line["cell"]))


def difference(a: Sequence[float], b: Sequence[float], spread: float) -> dict[str, Any]:
    """Mean of `a` minus mean of `b` in dB, and what it says given the spread of one fit over seeds."""
    d = float(np.mean(a) - np.mean(b))
    error = spread * math.sqrt(1 / len(a) + 1 / len(b))
    verdict = "none" if not abs(d) > 2 * error else "better" if d > 0 else "worse"
    return {"difference_db": round(d, 3), "standard_error_db": _number(error), "verdict": verdict}


def pooled(groups: Sequence[Sequence[float]]) -> float:
    """Standard deviation within the groups; no number where none has two values."""
    free = sum(len(g) - 1 for g in groups)
    return math.sqrt(sum(float(np.var(g)) * len(g) for g in groups) / free) if free else math.nan


class _Fits:
    """Fits of one sensor, as the tables need them."""

    def __init__(self, units: Units, sensor: str, sizes: Sizes) -> None:
        self.units, self.sensor, self.sizes = units, sensor, sizes
        self.all: dict[Genotype, list[Line]] = {}

    def __call__(self, cells: Sequence[Genotype]) -> list[Line]:
        """Each cell with every seed."""
        out = []
        for cell in cells:
            seeds = range(self.sizes.fits)
            self.all[cell] = [self.units.fit(self.sensor, cell, self.sizes.scale, seed=s) for s in seeds]
            out += self.all[cell]
        return out

    @property
    def spread(self) -> float:
        return pooled([_psnr(lines) for lines in self.all.values()])


def _psnr(lines: Sequence[Line]) -> list[float]:
    return [float(line["psnr"]) for line in lines]


def _mean(lines: Sequence[Line], key: str) -> float:
    return round(float(np.mean([line[key] for line in lines])), 3)


def _searches(units: Units, sensor: str, sizes: Sizes, strategy: Strategy = "darts") -> list[Line]:
    return [units.search(sensor, sizes.scale, seed=s, strategy=strategy) for s in range(sizes.searches)]


def ranking(units: Units, sizes: Sizes) -> Iterator[Line]:
    """The searched cell against random ones and three made by hand, fitted alike."""
    for sensor in sizes.sensors:
        fits = _Fits(units, sensor, sizes)
        searched = [cell_of(line) for line in _searches(units, sensor, sizes)]
        cells = {"searched": searched, "random": [random_genotype(n) for n in range(sizes.random)]}
        cells |= {name: [cell] for name, cell in RIVALS.items()}
        lines = {name: fits(of) for name, of in cells.items()}
        for name, of in cells.items():
            own = [float(np.mean(_psnr(fits.all[cell]))) for cell in of]
            yield {
                "sensor": sensor,
                "cells": name,
                "count": len(of),
                "fits": len(lines[name]),
                "psnr": _mean(lines[name], "psnr"),
                "psnr_of_cells": [round(v, 3) for v in own],
                "sam_deg": _mean(lines[name], "sam_deg"),
                "parameters": [fits.all[cell][0]["parameters"] for cell in of],
                "fit_cpu_s": _mean(lines[name], "cpu_s"),
                "spread_db": _number(fits.spread),
                **_against("searched", name, lines, fits.spread),
            }
        pairs = {f"{a} > {b}": difference(_psnr(lines[a]), _psnr(lines[b]), fits.spread)["verdict"] for a, b in ORDER}
        yield {"sensor": sensor, "order": pairs, "target": "better", "met": set(pairs.values()) == {"better"}}


def _against(first: str, name: str, lines: Mapping[str, Sequence[Line]], spread: float) -> Line:
    if name == first:
        return {}
    found = difference(_psnr(lines[first]), _psnr(lines[name]), spread)
    return {f"{first}_{key}": value for key, value in found.items()}


def _number(x: float) -> float | None:
    return round(x, 3) if math.isfinite(x) else None


def tau(units: Units, sizes: Sizes) -> Iterator[Line]:
    """Random cells with the weights of a super-net (SPOS) against the same cells fitted alone."""
    sensor = sizes.sensors[0]
    cells = [random_genotype(n) for n in range(sizes.ranked)]
    alone = [units.fit(sensor, cell, sizes.scale, seed=0)["psnr"] for cell in cells]
    line = units.search(sensor, sizes.scale, seed=0, strategy="spos")
    inherited = [-10 / math.log(10) * loss for loss in line["inherited"][: sizes.ranked]]
    found = stats.kendalltau(inherited, alone)
    low, high = _bootstrap(inherited, alone)
    yield {
        "sensor": sensor,
        "cells": len(cells),
        "tau": round(float(found.statistic), 3),
        "p": round(float(found.pvalue), 4),
        "confidence_95": [low, high],
        "inherited_psnr": [round(v, 3) for v in inherited],
        "alone_psnr": alone,
    }


def _bootstrap(a: Sequence[float], b: Sequence[float], resamples: int = 2000) -> tuple[float, float]:
    """Central 95 % of Kendall's tau over cells drawn with replacement."""
    rng, pairs = np.random.default_rng(0), np.array([a, b])
    taus = []
    for _ in range(resamples):
        drawn = pairs[:, rng.integers(pairs.shape[1], size=pairs.shape[1])]
        if (value := stats.kendalltau(*drawn).statistic) == value:  # no tau where one cell was drawn throughout
            taus.append(value)
    low, high = np.quantile(taus, (0.025, 0.975)) if taus else (-1.0, 1.0)
    return round(float(low), 3), round(float(high), 3)


def choices(units: Units, sizes: Sizes) -> Iterator[Line]:
    """Which operations DARTS takes, for few and for many bands of the same sensor."""
    for sensor in sizes.sensors:
        for bands in (sizes.few, sizes.scale.bands, sizes.many):
            at = smaller(sizes.scale, bands=bands)
            lines = [units.search(sensor, at, seed=s) for s in range(sizes.searches)]
            ops = [op for line in lines for op in line["cell"]]
            share = {name: round(ops.count(name) / len(ops), 3) for name in OPS}
            yield {
                "sensor": sensor,
                "bands": bands,
                "searches": len(lines),
                "grouped_dilated": share["conv3_dil_grouped"],
                "separable": round(share["sep3_dil"] + share["sep3_dil_grouped"], 3),
                "of_each": share,
                "lead": _mean(lines, "lead"),
                "alpha_rate": lines[0]["alpha_rate"],
            }


def transfer(units: Units, sizes: Sizes) -> Iterator[Line]:
    """Searched on one sensor, fitted on the other; searched at one noise level, scored at all."""
    found = {sensor: cell_of(units.search(sensor, sizes.scale, seed=0)) for sensor in sizes.sensors}
    for sensor in sizes.sensors:
        fits = _Fits(units, sensor, sizes)
        own = _psnr(fits([found[sensor]]))
        fits([random_genotype(n) for n in range(sizes.random)])  # for the spread
        for source, cell in found.items():
            lines = fits([cell])
            versus = {} if source == sensor else difference(own, _psnr(lines), fits.spread)
            yield {"searched_on": source, "fitted_on": sensor, **_figures(lines), **_prefixed("own_", versus)}
    sensor = sizes.sensors[0]
    fits = _Fits(units, sensor, sizes)
    fits([random_genotype(n) for n in range(sizes.random)])
    one = cell_of(units.search(sensor, sizes.scale, seed=0, sigmas=ONE_LEVEL))
    lines, own = fits([one]), _psnr(fits([found[sensor]]))
    same = sum(a == b for a, b in zip(one.ops, found[sensor].ops, strict=True))
    yield {
        "searched_on": f"{sensor}, sigma 50 alone",
        "fitted_on": sensor,
        "edges_alike": same,
        **_figures(lines),
        **_prefixed("own_", difference(own, _psnr(lines), fits.spread)),
    }


def _figures(lines: Sequence[Line]) -> Line:
    return {"fits": len(lines), "psnr": _mean(lines, "psnr"), "sam_deg": _mean(lines, "sam_deg")}


def _prefixed(prefix: str, line: Line) -> Line:
    return {prefix + key: value for key, value in line.items()}


def strategies(units: Units, sizes: Sizes) -> Iterator[Line]:
    """DARTS against SPOS: what the cell of each is worth, and what it cost."""
    for sensor in sizes.sensors:
        fits = _Fits(units, sensor, sizes)
        fits([random_genotype(n) for n in range(sizes.random)])
        searches = {s: units.search(sensor, sizes.scale, seed=0, strategy=s) for s in ("darts", "spos")}
        lines = {s: fits([cell_of(line)]) for s, line in searches.items()}
        for s, line in searches.items():
            versus = difference(_psnr(lines["darts"]), _psnr(lines[s]), fits.spread) if s != "darts" else {}
            yield {
                "sensor": sensor,
                "strategy": s,
                "search_cpu_s": line["cpu_s"],
                "cell": line["cell"],
                **_figures(lines[s]),
                **_prefixed("darts_", versus),
            }
