"""The pages of a training, a search and an evaluation: what they tell is what the archive holds, whatever its shape."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.cli.main import app
from hypermend.pipeline.evaluate.driver import Evaluation
from hypermend.pipeline.evaluate.protocols import Row
from hypermend.pipeline.report.chart import curves
from hypermend.pipeline.report.learning import evaluation_page, write_learning_page
from hypermend.pipeline.search.driver import _settle
from hypermend.pipeline.search.trial import first_record, run_trial
from hypermend.pipeline.train.checkpoints import TrainingStore
from hypermend.pipeline.train.worker import WorkerGroup, work
from tests.test_pipeline_report import HOSTILE, Page, chromium, shown
from tests.test_pipeline_search import TINY, add_cube, plan_for
from tests.test_pipeline_train import fill, job, start

assert chromium  # a fixture


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[ArchiveStore, str, str]:
    """An archive with a training and a search that have ended, and their ids."""
    root = fill(ArchiveStore(tmp_path_factory.mktemp("learning") / "a"))
    training = start(root, job(root, "sharpen", steps=3))
    assert list(work(root, training, WorkerGroup()))
    add_cube(root, "cave", bands=10, low_nm=400, high_nm=700)
    search = plan_for(root, budget=replace(TINY, epochs=2))
    root.put_json(search.key, search.to_dict())
    for number in range(2):
        list(run_trial(root, search, first_record(search, number)))
    assert _settle(root, search).found
    return root, training.id, search.id


def page_of(root: ArchiveStore, id: str) -> str:
    path = write_learning_page(root.url, id)
    assert path is not None and path.endswith(f"{id}/report.html")
    return Path(path).read_text()


def test_a_page_of_a_training_has_its_curves_and_scores(archive: tuple[ArchiveStore, str, str]) -> None:
    root, id, _ = archive
    text, store = page_of(root, id), TrainingStore(root, f"training/{id}")
    record = store.read()
    assert record is not None and 'class="state done"' in text and "finished" in text
    (scene, score), *_ = record.scores.items()
    gain = score["psnr_db"] - score["baseline_db"]
    for told in (
        scene,
        f"{score['psnr_db']:.2f}",
        f"{gain:+.2f}",
        f"{record.psnr_db:.2f} dB",
        f"hypermend report {id}",
    ):
        assert told in Page(text).text
    losses = [line["loss"] for line in store.lines() if "loss" in line]
    path = re.search(r'<path class="after" d="M([^"]*)"', text)
    assert path is not None and len(path[1].split("L")) == len(losses) > 1


def test_a_page_of_a_search_has_its_trials_and_the_architecture(archive: tuple[ArchiveStore, str, str]) -> None:
    root, _, id = archive
    text = page_of(root, id)
    found = root.get_json(f"genotypes/{id}.json")
    assert (
        " ".join(found["genotype"]["ops"]) in Page(text).text and f"{found['figures']['validation_loss']:.4g}" in text
    )
    assert [text.count(f'<path class="{name}"') for name in ("before", "removed", "after")] == [1, 1, 1]
    assert 'src="data:image/png;base64,' in text and "default-src &#39;none&#39;" in text


def test_report_makes_them_again_by_the_begin_of_their_id(
    archive: tuple[ArchiveStore, str, str], tmp_path: Path
) -> None:
    root, training, search = archive
    for id in (training, search):
        made = CliRunner().invoke(app, ["report", id[:-3], "--archive", root.url, "--out", str(tmp_path / "p.html")])
        assert made.exit_code == 0 and id in (tmp_path / "p.html").read_text()
    unknown = CliRunner().invoke(app, ["report", "zzz", "--archive", root.url])
    assert unknown.exit_code == 2 and "hypermend runs" in unknown.stderr


ODD: list[Any] = [
    5,
    [],
    "x",
    {"state": 7, "scores": [1], "best": "y", "psnr_db": "z", "reason": {}},
    {"scores": {HOSTILE: {"psnr_db": HOSTILE}, "a": 3}, "state": HOSTILE, "history": [1, {"epoch": "x"}]},
    {"history": {"a": 1}, "settings": [2], "number": HOSTILE, "state": [1], "sensor": HOSTILE, "genotype": 5},
    {"history": [{"epoch": 1e300, "validation_loss": -1e17}, {"epoch": 2, "validation_loss": 1e17}], "held": 5},
    {"figures": 9, "scenes": [1], "settings": {"a": "b", HOSTILE: 2}, "reason": HOSTILE, "cubes": {HOSTILE: 1}},
]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_g3_an_odd_document_costs_itself_alone_and_is_text(tmp_path: Path, odd: Any) -> None:
    root = ArchiveStore(tmp_path / "a")
    text = json.dumps(odd).encode()
    for key in ("training/t/plan.json", "training/t/record.json", "training/t/metrics.jsonl"):
        root.put(key, text)
    for key in ("searches/s/plan.json", "searches/s/trials/000.json", "genotypes/s.json", "genotypes/s.png"):
        root.put(key, text)
    for id in "ts":
        page = Page(page_of(root, id))
        assert not [a for _, a in page.tags if any(name.startswith("on") or name == "style" for name in a)]
        assert sum(tag == "script" for tag, _ in page.tags) == 0


def test_a_page_of_an_evaluation_has_the_rows_of_the_terminal(tmp_path: Path) -> None:
    figures = {"psnr": 40.123, "ssim": 0.98765, "sam_deg": 2.5, "ergas": None, "rmse": 0.01}
    rows = [
        Row(scene=scene, level="sigma 30", method=m, figures=figures, seconds=1.0)
        for scene in ("a", HOSTILE)
        for m in ("noisy", "x")
    ]
    evaluation = Evaluation(model="m", task="denoise", protocol="its centre", rows=rows, failed={"b": "too dark"})
    page = Page(evaluation_page(evaluation))
    for told in ("40.12", "0.9877", "2.50", HOSTILE, "mean", "too dark", "its centre", "1 not scored"):
        assert told in page.text
    assert sum(tag == "tr" for tag, _ in page.tags) == 1 + 4 + 2 + 2


def test_curves_lie_inside_and_odd_ones_are_none() -> None:
    drawn = curves([("after", [(0, 1.0), (5, 2.0), (10, -3.0)]), ("before", [])], "step")
    numbers = [float(n) for part in re.findall(r'd="M([^"]*)"', drawn) for n in re.split("[L ]", part)]
    assert len(numbers) == 6 and all(0 <= n <= 640 for n in numbers) and drawn.count("<path") == 1
    assert curves([("after", [(1, 1.0)])], "step") == curves([], "step") == curves([("a", [(1, 1), (1, 2)])], "x") == ""
    assert "<path" in curves([("after", [(0, 5.0), (1, 5.0)])], "step")
    assert "<path" in curves([("after", [(0, -1e17), (1, 1e17)])], "step")


def test_a_browser_shows_them_and_blocks_nothing_of_them(
    chromium: str, archive: tuple[ArchiveStore, str, str], tmp_path: Path
) -> None:
    for id in archive[1:]:
        path = tmp_path / f"{id}.html"
        path.write_text(page_of(archive[0], id))
        dom, log = shown(chromium, path)
        assert id in dom and "Content Security Policy" not in log and "Uncaught" not in log
