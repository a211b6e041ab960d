"""Tables of the search at tiny size: each has its lines, units are measured once, chance is told from difference."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import search, search_cost, search_domains, search_scaled
from benchmarks.scenes import F32
from benchmarks.search_scaled import Data, Line, Scale, Units
from benchmarks.search_tables import Sizes, choices, difference, pooled, ranking, strategies, tau, transfer

TINY = Scale(bands=4, width=1, cells=1, patch_px=8, patches=1, steps=2)
SIZES = Sizes(
    fits=2,
    searches=1,
    random=2,
    ranked=4,
    few=3,
    many=5,
    scale=TINY,
    domain_scale=replace(TINY, bands=31, patch_px=16),
)
Table = Callable[[Units, Sizes], Iterator[Line]]


def cube(bands: int, edge_px: int, seed: int) -> F32:
    rng = np.random.default_rng(seed)
    low = rng.random((3, edge_px // 8, edge_px // 8)).repeat(8, axis=1).repeat(8, axis=2)
    return np.tensordot(rng.random((bands, 3)) / 3, low, 1).astype(np.float32)


@pytest.fixture
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Units:
    """Nothing measured yet, and scenes that are not real."""
    a, b, c = (cube(6, 16, seed) for seed in range(3))
    monkeypatch.setattr(search_scaled, "read_data", lambda *_: Data(theta=(a,), alpha=(b,), scored=(c,)))
    monkeypatch.setattr(search_scaled, "HELD", 1)
    return Units(tmp_path / "units.jsonl", tmp_path)


@pytest.mark.parametrize(
    ("table", "keys", "count"),
    [
        (ranking, {"sensor", "cells", "psnr", "parameters", "spread_db"}, 12),
        pytest.param(tau, {"tau", "confidence_95", "cells", "inherited_psnr", "alone_psnr"}, 1, marks=pytest.mark.long),
        (choices, {"bands", "grouped_dilated", "separable", "alpha_rate"}, 6),
        pytest.param(transfer, {"searched_on", "fitted_on", "psnr"}, 5, marks=pytest.mark.long),
        pytest.param(strategies, {"strategy", "search_cpu_s", "psnr", "cell"}, 4, marks=pytest.mark.long),
    ],
)
def test_a_table_has_its_lines_and_measures_nothing_twice(
    table: Table, keys: set[str], count: int, units: Units
) -> None:
    lines = list(table(units, SIZES))
    assert len(lines) == count
    assert all(keys <= line.keys() for line in lines if "order" not in line)
    json.dumps(lines, allow_nan=False)
    kept = units.path.read_text()
    again = Units(units.path, units.data)
    assert list(table(again, SIZES)) == lines
    assert units.path.read_text() == kept


def test_the_order_of_the_paper_is_met_only_by_what_is_told_from_chance(units: Units) -> None:
    *_, order = ranking(units, replace(SIZES, sensors=("cave",), random=1))
    assert order["met"] is all(v == "better" for v in order["order"].values())
    assert difference([30.0, 30.2], [29.0, 29.2], 0.1)["verdict"] == "better"
    assert difference([29.0, 29.2], [30.0, 30.2], 0.1)["verdict"] == "worse"
    assert difference([30.0, 30.2], [30.1, 30.0], 0.1)["verdict"] == "none"
    one_seed = difference([30.0], [29.0], math.nan)  # says nothing of the spread
    assert (one_seed["verdict"], one_seed["standard_error_db"]) == ("none", None)
    assert pooled([[1.0, 3.0], [5.0, 5.0]]) == pytest.approx(1.0)


@pytest.mark.long
def test_one_cell_in_two_domains(units: Units, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = [cube(34, 64, 0)], [cube(34, 32, 1)]
    monkeypatch.setattr(search_domains, "read_pair", lambda *_: pair)
    monkeypatch.setattr(search_domains, "SENSORS", ("enmap",))
    lines = list(search_domains.domains(units, SIZES))
    seen = {(line["sensor"], line["domain"], line["weights"]) for line in lines}
    assert len(seen) == len(lines) == 7 and ("enmap", "bands", "enmap") in seen
    by = {(line["domain"], line["weights"]): line["psnr"] for line in lines if line["sensor"] == "enmap"}
    assert by["subspace", "none"] > by["bands", "none"] + 3  # the pilot alone, against the noisy cube


def test_windows_cover_every_band() -> None:
    for bands in (31, 32, 64, 102, 218):
        starts = search_domains.starts(bands)
        seen = {b for s in starts for b in range(s, s + search_domains.WINDOW)}
        assert seen == set(range(bands)) and len(starts) == math.ceil(bands / search_domains.WINDOW)


def test_a_step_is_timed_and_the_command_prints_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], units: Units
) -> None:
    assert len(search_cost.steps(2, 1, 2, patch_px=8)) == 2
    monkeypatch.setitem(search.TABLES, "choices", lambda u, s: iter([{"bands": s.scale.steps}]))
    assert search.main(["choices", "--units", str(units.path), "--steps", "7"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["table"], line["bands"]) == ("choices", 7) and {"torch", "machine", "date"} <= line.keys()


def test_no_real_data_is_said(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no scene fake_and_real_peppers"):
        search_scaled.read_data(tmp_path, "cave")
