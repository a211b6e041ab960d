"""Pages of a training, a search and an evaluation: curves, tables, provenance.

Trainings and searches are read as the documents that they leave, so that no torch is loaded and a damaged document
costs itself alone.
"""

from __future__ import annotations

import base64
import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypermend
from hypermend.catalog.documents import parse_json
from hypermend.catalog.errors import ArchiveError, NotFound, Refused
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.evaluate.table import HEADS, lines, remarks
from hypermend.pipeline.formatting import duration
from hypermend.pipeline.report.chart import curves
from hypermend.pipeline.report.page import put_page, rendered, write_page
from hypermend.pipeline.report.runs import document, number

if TYPE_CHECKING:
    from hypermend.pipeline.evaluate.driver import Evaluation

MOST_POINTS, MOST_ROWS, MOST_PICTURE_BYTES = 2000, 500, 2_000_000
"""Points of a curve, rows of a table, bytes of a picture."""
SIDES = (("before", "baseline_db"), ("after", "psnr_db"))
"""Classes and keys of the scores without the model and with it."""
_MARKS = {"finished": "done", "current": "done", "scored": "done", "running": "unfinished"}


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of a page."""

    title: str
    chart: str = ""
    """SVG"""
    legend: Mapping[str, str] = field(default_factory=dict)
    """Class of a line, and what it is."""
    picture: str = ""
    """Data URL"""
    alt: str = ""
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class LearningPage:
    """What a page shows."""

    kind: str
    id: str
    state: str
    reason: str = ""
    totals: Mapping[str, str]
    sections: Sequence[Section]
    facts: Mapping[str, str]
    again: str = ""

    @property
    def mark(self) -> str:
        return _MARKS.get(self.state, "failures")


def write_learning_page(archive: str, id: str, out: Path | None = None) -> str | None:
    """Make the page of a training or a search; return its path or URL, None where there is neither.

    Args:
        archive: folder or URL.
        id: of the training or the search, or how it begins.
        out: the file; None for ``report.html`` in its folder of the archive.

    Raises:
        NotFound: no such archive.
        Refused: several begin so.
        ArchiveError: the file cannot be written.
    """
    root = hypermend.open(archive).root
    every = [(kind, name) for kind in _PAGES for name in root.folders(kind)]
    found = [one for one in every if one[1] == id] or [one for one in every if one[1].startswith(id)]
    if not found:
        return None
    if len(found) > 1:
        raise Refused(f"{len(found)} begin with {id!r}, such as {found[0][1]} and {found[1][1]}; give more of the id")
    ((kind, name),) = found
    page = _PAGES[kind](root, name, shlex.join(["hypermend", "report", name, "--archive", archive]))
    return put_page(root, f"{kind}/{name}/report.html", rendered("learning.html", page=page), out)


def write_evaluation_page(evaluation: Evaluation, out: Path) -> str:
    """Make the page of an evaluation; return its path.

    Raises:
        ArchiveError: the file cannot be written.
    """
    return write_page(evaluation_page(evaluation), out)


def evaluation_page(evaluation: Evaluation) -> str:
    """Make the page of an evaluation."""
    every = list(lines(evaluation))
    levels = dict.fromkeys(row[0] for row in every)
    tables = [
        Section(title=level, heads=("scene", "method", *HEADS), rows=[row[1:] for row in every if row[0] == level])
        for level in levels
    ]
    failed = [(id, reason) for id, reason in evaluation.failed.items()]
    if failed:
        tables.append(Section(title="Not scored", heads=("scene", "reason"), rows=failed))
    scenes = {row.scene for row in evaluation.rows}
    page = LearningPage(
        kind="evaluation",
        id=evaluation.model,
        state="scored" if not failed else f"{len(failed)} not scored",
        totals={"task": evaluation.task, "scenes": str(len(scenes))},
        sections=tables,
        facts={"model": evaluation.model, "protocol": " ".join(remarks(evaluation))},
    )
    return rendered("learning.html", page=page)


def _training(root: ArchiveStore, id: str, again: str) -> LearningPage:
    folder = f"training/{id}"
    plan, record = (document(root, f"{folder}/{name}.json") for name in ("plan", "record"))
    metrics = _metrics(root, folder)
    best, scores = _mapping(record.get("best")), _mapping(record.get("scores"))
    sections = [
        Section(
            title="Loss",
            chart=curves([("after", _points(metrics, "step", "loss"))], "step"),
            legend={"after": "of the samples that it learns from"},
        ),
        Section(
            title="Score on scenes that it does not learn from",
            chart=curves([(name, _points(metrics, "step", key)) for name, key in SIDES], "step"),
            legend={"before": "without the model, PSNR in dB", "after": "with it"},
            heads=("scene", "PSNR, dB", "without", "gain"),
            rows=[(scene, *_gain(_mapping(score))) for scene, score in list(scores.items())[:MOST_ROWS]],
        ),
    ]
    settings = _mapping(plan.get("settings"))
    return LearningPage(
        kind="training",
        id=id,
        state=str(record.get("state") or "running"),
        reason=str(record.get("reason") or ""),
        totals=_texts(
            {
                "task": plan.get("task"),
                "step of the best weights": best.get("step"),
                "time": duration(seconds) if (seconds := number(best.get("seconds"))) else None,
                "score": None if (score := number(record.get("psnr_db"))) is None else f"{score:.2f} dB",
            }
        ),
        sections=[section for section in sections if section.chart or section.rows],
        facts=_texts(
            {
                "sensors": plan.get("sensors"),
                "scenes that it learns from": sorted(map(str, _mapping(plan.get("scenes")).values())),
                "scenes that it is scored on": sorted(_mapping(plan.get("held"))),
                "network": plan.get("config"),
                **settings,
            }
        ),
        again=again,
    )


def _search(root: ArchiveStore, id: str, again: str) -> LearningPage:
    plan = document(root, f"searches/{id}/plan.json")
    keys = sorted(e.key for e in root.list(f"searches/{id}/trials") if e.key.endswith(".json"))
    trials = [document(root, key) for key in keys[:MOST_ROWS]]
    found = document(root, f"genotypes/{id}.json")
    figures = _mapping(found.get("figures"))
    histories = [[_mapping(epoch) for epoch in _list(trial.get("history"))] for trial in trials]
    best = next((i for i, t in enumerate(trials) if found and t.get("number") == figures.get("trial")), None)
    drawn = [("removed", _points(h, "epoch", "validation_loss")) for i, h in enumerate(histories) if i != best]
    if best is not None:
        drawn.append(("after", _points(histories[best], "epoch", "validation_loss")))
    most = max((len(history) for history in histories), default=0)
    base = _points(next((history for history in histories if len(history) == most), []), "epoch", "baseline_loss")
    rows = [
        (
            str(t.get("number", "?")),
            str(t.get("state", "?")),
            str(len(h)),
            f"{loss:.4g}" if h and (loss := number(h[-1].get("validation_loss"))) is not None else "-",
            ", ".join(f"{k} {v:.3g}" for k, v in _mapping(t.get("settings")).items() if number(v) is not None),
            str(t.get("reason") or ""),
        )
        for t, h in zip(trials, histories, strict=True)
    ]
    states = Counter(str(t.get("state", "?")) for t in trials)
    picture = _picture(root, f"genotypes/{id}.png")
    ops = _list(_mapping(found.get("genotype")).get("ops"))
    sections = [
        Section(
            title="Validation loss of the trials",
            chart=curves([("before", base), *drawn], "epoch"),
            legend={"before": "of changing nothing", "removed": "each trial", "after": "the best one"},
            heads=("trial", "state", "epochs", "validation loss", "settings", "reason"),
            rows=rows,
            notes=("The loss is the logarithm of an error on areas that no trial learns from: less is better.",),
        ),
        Section(
            title="The architecture found",
            picture=picture,
            alt="The cell of the network",
            notes=[" ".join(map(str, ops))],
        ),
    ]
    return LearningPage(
        kind="search",
        id=id,
        state="finished" if found else "running" if not states or "running" in states else "no trial finished",
        totals=_texts({"sensor": plan.get("sensor"), **{f"trials {state}": count for state, count in states.items()}}),
        sections=[section for section in sections if section.rows or section.picture],
        facts=_texts({k: v for k, v in plan.items() if k not in ("train", "validation")}),
        again=again,
    )


_PAGES = {"training": _training, "searches": _search}


def _metrics(root: ArchiveStore, folder: str) -> list[Mapping[str, Any]]:
    """Lines of a training's metrics; those that cannot be read are left out."""
    try:
        texts = root.get(f"{folder}/metrics.jsonl").splitlines()
    except NotFound:
        return []
    found = []
    for text in texts:
        try:
            found.append(_mapping(parse_json(text)))
        except ValueError:
            continue
    return found


def _points(values: Iterable[Mapping[str, Any]], x: str, y: str) -> list[tuple[float, float]]:
    """Points of a curve, at most so many, the last one among them."""
    known = [(a, b) for v in values if (a := number(v.get(x))) is not None and (b := number(v.get(y))) is not None]
    return known[:: -max(1, -(-len(known) // MOST_POINTS))][::-1]


def _gain(score: Mapping[str, Any]) -> tuple[str, str, str]:
    with_it, without = number(score.get("psnr_db")), number(score.get("baseline_db"))
    if with_it is None or without is None:
        return "-", "-", "-"
    return f"{with_it:.2f}", f"{without:.2f}", f"{with_it - without:+.2f}"


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Values that there are, as texts."""
    return {
        str(name): value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
        if value not in (None, "", [], {})
    }


def _picture(root: ArchiveStore, key: str) -> str:
    try:
        data = root.get(key)
    except ArchiveError:
        return ""
    if not data.startswith(b"\x89PNG\r\n") or len(data) > MOST_PICTURE_BYTES:
        return ""
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
