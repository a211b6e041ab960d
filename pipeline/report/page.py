"""The report of a run: one HTML file that needs no network, from a template whose every value is escaped.

Its Content-Security-Policy names the style and the script of this package by their hashes: nothing else of the page
runs or loads, whatever an id or a reason says.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import hypermend
from hypermend.catalog.documents import MALFORMED, visible
from hypermend.catalog.errors import ArchiveError
from hypermend.catalog.stac.fields import parse_time
from hypermend.catalog.storage.archive_store import ArchiveStore, error_of_disk
from hypermend.models.card import BadCard, ModelCard
from hypermend.models.checkpoint import BadCheckpoint
from hypermend.pipeline.formatting import duration, percent, plural, size
from hypermend.pipeline.maintenance.failures import failures
from hypermend.pipeline.registry.models import model_card
from hypermend.pipeline.report.chart import PARTS, timeline
from hypermend.pipeline.report.runs import RunRecord, find_run, number, receipts
from hypermend.pipeline.report.scenes import SceneView, scene_views

MOST_ROWS, MOST_FAILURES, MOST_SETTINGS, MOST_TEXT, MOST_TASKS = 1000, 200, 200, 400, 2000
"""Rows of the table of scenes, failures, settings, characters of a text from outside, and tasks of the timeline."""
_HERE = Path(__file__).parent


def write_report(archive: str, run: str, out: Path | None = None) -> str:
    """Make the report of a run; return its path or URL.

    Args:
        archive: folder or URL.
        run: id of the run, or how it begins.
        out: the file; None for ``runs/<run>/report.html`` of the archive.

    Raises:
        NotFound, Refused: as ``find_run``.
        ArchiveError: the file cannot be written.
    """
    record = find_run(archive, run)
    return put_page(ArchiveStore(archive), f"runs/{record.run}/report.html", report_page(archive, record), out)


def put_page(root: ArchiveStore, key: str, page: str, out: Path | None) -> str:
    """Write a page into an archive, or to a file if one is given; return its path or URL.

    Raises:
        ArchiveError: the file cannot be written.
    """
    if out is not None:
        return write_page(page, out)
    root.put_if_changed(key, page.encode())
    return root.href(key)


def write_page(page: str, out: Path) -> str:
    """Write a page to a file; return its path.

    Raises:
        ArchiveError: the file cannot be written.
    """
    try:
        out.write_bytes(page.encode())
    except OSError as error:
        raise (error_of_disk(error) or ArchiveError)(f"{out} cannot be written ({error.strerror})") from error
    return str(out)


def report_page(archive: str, record: RunRecord) -> str:
    """Make the page of a run."""
    scenes = scene_views(archive, record)
    failed = failures(archive, run=record.run, include_published=True)
    return rendered(
        "page.html",
        script=drawing_script() + (_HERE / "page.js").read_text(),
        run=record,
        archive=archive,
        scenes=scenes[:MOST_ROWS],
        left_out=len(scenes) - min(len(scenes), MOST_ROWS),
        shown=[scene for scene in scenes if scene.shown],
        failures=failed[:MOST_FAILURES],
        failures_left_out=max(0, len(failed) - MOST_FAILURES),
        retry=shlex.join(["hypermend", "retry", "--archive", archive, "--run", record.run]),
        again=shlex.join(["hypermend", "report", record.run, "--archive", archive]),
        work=_work(ArchiveStore(archive), record, scenes),
        settings=list(_settings(record)),
        models=_models(archive, scenes),
        plural=plural,
    )


def rendered(template: str, *, script: str = "", **values: Any) -> str:
    """Make a page of a template of this package, in its style and with its policy; every value is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, finalize=_shown,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"duration": duration, "percent": percent, "size": size}
    style = page_style()
    policy = content_policy(style, script)
    return environment.get_template(template).render(style=style, script=script, policy=policy, **values)


def _shown(value: Any) -> Any:
    """A text that steers nothing, and does not fill the page; what this package marked as HTML stays."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return visible(value if len(value) <= MOST_TEXT else f"{value[:MOST_TEXT]}...")


def content_policy(style: str, script: str, *, sources: str = "img-src data:") -> str:
    """The Content-Security-Policy of a page that has one style and one script, and loads nothing but `sources`."""
    styles, scripts = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") for text in (style, script)
    )
    return (
        f"default-src 'none'; {sources}; style-src 'sha256-{styles}'; script-src 'sha256-{scripts}'; "
        "base-uri 'none'; form-action 'none'"
    )


def drawing_script() -> str:
    """The functions of the page that draw spectra and compare pictures."""
    return (_HERE / "drawing.js").read_text()


def page_style() -> str:
    """The style of the page."""
    return (_HERE / "page.css").read_text()


def _settings(record: RunRecord) -> Iterator[tuple[str, str]]:
    """What was asked for, and the notes of the run."""
    for name, value in islice((*record.job.items(), *record.notes.items()), MOST_SETTINGS):
        if name not in ("archive", "stopped"):
            yield name, value if isinstance(value, str) else json.dumps(value)


def _work(root: ArchiveStore, record: RunRecord, scenes: Sequence[SceneView]) -> dict[str, Any]:
    """Worker seconds of a run by what they went into, beside those that a benchmark took; tasks by machine."""
    seconds, machines, attempts = Counter[str](), Counter[str](), 0
    tasks: list[tuple[str, float, list[float]]] = []
    for receipt in receipts(root, record.run):
        parts = [max(0.0, number(receipt.get(f"{part}_s")) or 0.0) for part in PARTS]
        for part, value in zip(PARTS, parts, strict=True):
            seconds[f"{part}_s"] += value  # type: ignore[assignment]
        machine = str(receipt.get("node") or "this machine")
        machines[machine] += 1
        with contextlib.suppress(*MALFORMED):
            tasks.append((machine, parse_time(str(receipt.get("time"))).timestamp(), parts))
        tries = receipt.get("attempts")
        attempts += isinstance(tries, int) and tries > 1
    rates = [scene.usual_s_per_sample for scene in scenes if scene.usual_s_per_sample]
    return {
        "seconds": dict(seconds),
        "worker_s": record.worker_s,
        "usual_s": record.samples * sum(rates) / len(rates) if rates else 0.0,
        "machines": machines.most_common(20),
        "timeline": timeline(tasks[:MOST_TASKS]),
        "repeated": attempts,
        "samples_per_s": record.samples / record.seconds if record.seconds else 0.0,
        "workers": record.worker_s / record.seconds if record.seconds else 0.0,
    }


def _models(archive: str, scenes: list[SceneView]) -> list[tuple[Mapping[str, str], ModelCard | None]]:
    """Models of the scenes that are shown, with their cards."""
    used = {(step["model"], step["weights"]): step for scene in scenes for step in scene.models}
    root = hypermend.open(archive).root
    cards: list[tuple[Mapping[str, str], ModelCard | None]] = []
    for step in used.values():
        try:
            card = model_card(root, step["model"])
        except (ArchiveError, BadCard, BadCheckpoint):
            card = None
        cards.append((step, card if card is None or card.weights_sha256 == step["weights"] else None))
    return cards
