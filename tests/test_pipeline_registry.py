"""Which model a scene gets, the verbs about models, and what evaluate may score."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

import hypermend
from hypermend.catalog.cube.spec import VALID
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.card import ModelCard
from hypermend.models.signal import metrics
from hypermend.models.signal.bicubic import enlarge, reduce
from hypermend.models.signal.degrade import gaussian
from hypermend.pipeline.cli.main import app
from hypermend.pipeline.config import RestoreJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.evaluate.scores import restored, scores
from hypermend.pipeline.protocols.kernels import built_in
from hypermend.pipeline.registry.models import defaults, load_model, model_card
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.restore.dry_run import estimate_scenes
from tests.test_pipeline_restore import put_model, stas_card
from tests.test_pipeline_restore_fuse import cube_spec, put_source
from tests.test_pipeline_restore_sharpen import sharpener

EDGE = 48
NEAR = {"bands": 13, "low_nm": 400.0, "high_nm": 700.0}


def command(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=False)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two CAVE-like scenes without noise."""
    folder = tmp_path / "a"
    folder.mkdir()
    y, x = np.mgrid[0:EDGE, 0:EDGE] / 7
    for seed, id in enumerate(("one_ms", "two_ms")):
        weights = np.random.default_rng(seed).random((13, 3))
        cube = np.einsum("bk,kyx->byx", weights, np.stack([np.sin(y) + 1.2, np.cos(x) + 1.2, np.sin(x + y) + 1.2]))
        stored = (cube * 9000).astype(np.float32)
        flags = np.full((EDGE, EDGE), VALID, np.uint8)
        put_source(folder, id, "hs", stored, flags, cube_spec(stored.shape, px=10.0, guide=False, lab=True))
    return folder


def put_denoiser(archive: Path, name: str, **changes: Any) -> None:
    card, state = stas_card(name, window_bands=5)
    put_model(ArchiveStore(archive), replace(card, **changes), state)


def chosen(archive: Path, **settings: Any) -> list[tuple[str, str]]:
    rows = list(estimate_scenes(RestoreJob(archive=str(archive), scenes=("one_ms",), **settings)))
    assert all(row.plan is not None for row in rows), [row.reason for row in rows]
    return [(step.model, step.why) for row in rows if row.plan for step in row.plan.steps]


def test_asked_for_before_promoted_before_near_before_built_in(archive: Path) -> None:
    assert chosen(archive) == [("stas-subspace", "built-in default")]
    put_denoiser(archive, "far", spectrum={**NEAR, "high_nm": 2400.0})
    put_denoiser(archive, "silent", accepts_range_nm=(400.0, 700.0))
    put_denoiser(archive, "of-radiance", spectrum=NEAR, quantity=("radiance",))
    assert chosen(archive) == [("stas-subspace", "built-in default")]
    put_denoiser(archive, "close", spectrum={**NEAR, "bands": 12})
    put_denoiser(archive, "closest", spectrum={**NEAR, "low_nm": 390.0}, accepts_range_nm=(390.0, 700.0))
    ((model, why),) = chosen(archive)
    assert model == "closest"
    assert "nearest spectrum (13 bands, 390-700 nm; distance 0.0" in why
    assert command("models", "promote", "far", "--sensor", "cave", "--archive", archive).exit_code == 0
    assert chosen(archive) == [("far", "promoted for cave")]
    assert chosen(archive, model="identity") == [("identity", "asked for")]


def test_why_is_said_everywhere_and_is_no_part_of_the_id(archive: Path) -> None:
    put_denoiser(archive, "near", spectrum=NEAR)
    job = RestoreJob(archive=str(archive), scenes=("one_ms",))
    report = restore(job, engine=serial).wait()
    (told,) = report.scenes[0].figures["models"]
    assert told["model"] == "near"
    assert "nearest spectrum" in told["why"]
    (item,) = hypermend.open(str(archive)).search(stage="restored")
    assert any(told["why"] in note for note in item.scene.properties["hypermend:notes"])
    assert told["why"] in " ".join(command("plan", "--archive", archive).stdout.split())
    again = restore(job.model_copy(update={"model": "near"}), engine=serial).wait()
    assert (again.scenes[0].status, again.bytes_written) == ("current", 0)


def test_a_scale_has_its_own_default(archive: Path) -> None:
    for scale in (2, 3):
        put_model(ArchiveStore(archive), *sharpener(f"mine-x{scale}", scale))
        assert command("models", "promote", f"mine-x{scale}", "--sensor", "cave", "--archive", archive).exit_code == 0
    assert chosen(archive, task="sharpen") == [("mine-x2", "promoted for cave")]
    assert chosen(archive, task="sharpen", scale=3) == [("mine-x3", "promoted for cave")]
    assert defaults(ArchiveStore(archive)) == {"cave": {"sharpen-x2": "mine-x2", "sharpen-x3": "mine-x3"}}


def test_promote_and_undo(archive: Path) -> None:
    put_denoiser(archive, "mine")
    words = ("models", "promote", "mine", "--sensor", "cave", "--task", "denoise", "--archive", archive)
    assert json.loads(command(*words, "--json").stdout)["before"] is None
    listed = json.loads(command("models", "--archive", archive, "--json").stdout)["models"]
    assert {m["name"]: m["default_for"] for m in listed}["mine"] == ["cave"]
    assert command(*words, "--undo").exit_code == 0
    assert json.loads((archive / "models" / "defaults.json").read_text()) == {}  # a delete cannot have a condition
    refused = command(*words, "--undo")
    assert (refused.exit_code, len(refused.stderr.strip().splitlines())) == (2, 1)
    assert "is for denoise, not for sharpen" in command(*words, "--task", "sharpen").stderr


def test_list_show_and_compare(archive: Path) -> None:
    put_denoiser(archive, "mine", trained_on=("one_ms",))
    (archive / "models" / "broken").mkdir()
    (archive / "models" / "broken" / "card.json").write_text('{"name": "broken"}')
    result = command("models", "--archive", archive)
    assert result.exit_code == 1
    assert "mine" in result.stdout and "stas-subspace" in result.stdout
    assert "'architecture' must be" in result.stderr
    assert json.loads(command("models", "show", "mine", "--archive", archive, "--json").stdout)["trained_on"] == [
        "one_ms"
    ]
    differs = json.loads(command("models", "compare", "mine", "stas-subspace", "--archive", archive, "--json").stdout)
    assert differs["differs"]["config.domain"] == ["bands", "subspace"]
    assert "no built-in model 'mine'" in command("models", "show", "mine").stderr


def test_a_copied_folder_has_its_own_name(archive: Path) -> None:
    put_denoiser(archive, "mine")
    (archive / "models" / "mine").rename(archive / "models" / "yours")
    assert model_card(ArchiveStore(archive), "yours").name == "yours"
    assert chosen(archive, model="yours") == [("yours", "asked for")]


def test_evaluate_scores_as_the_benchmarks_do(archive: Path) -> None:
    put_model(ArchiveStore(archive), *sharpener("up"))
    page = archive.parent / "page.html"
    words = ("--archive", archive, "--model", "up", "--task", "sharpen", "--report", page, "--json")
    result = command("evaluate", *words)
    assert result.exit_code == 0 and f"report: {page}" in result.stderr, result.output
    found = json.loads(result.stdout)
    assert all(f"<td>{row['psnr']:.2f}</td>" in page.read_text() for row in found["rows"])
    assert [(r["scene"], r["method"]) for r in found["rows"]] == [
        ("one_ms", "bicubic"), ("one_ms", "up"), ("two_ms", "bicubic"), ("two_ms", "up"),
    ]  # fmt: skip
    item = hypermend.open(str(archive)).search(stage="source")[0]
    truth = (item.dataset()["reflectance"].values / 65535).astype(np.float32)
    coarse = reduce(torch.from_numpy(truth), 2)
    plain = scores(truth, enlarge(coarse, 2).numpy(), ratio=2)
    assert found["rows"][0]["psnr"] == pytest.approx(plain["psnr"], abs=1e-3)
    ours = restored(load_model(ArchiveStore(archive), "up"), coarse.numpy())
    assert found["rows"][1]["psnr"] == pytest.approx(metrics.psnr(truth, np.clip(ours, 0, 1)), abs=1e-3)
    means = {m["method"]: m["psnr"] for m in found["means"]}
    assert means["up"] == pytest.approx((found["rows"][1]["psnr"] + found["rows"][3]["psnr"]) / 2)


def test_evaluate_leaves_out_what_was_trained_on(archive: Path) -> None:
    put_denoiser(archive, "mine", trained_on=("one",))
    words = ("evaluate", "--archive", archive, "--model", "mine", "--sigma", 30, "--json")
    found = json.loads(command(*words).stdout)
    assert found["left_out"] == ["one_ms"]
    assert {r["scene"] for r in found["rows"]} == {"two_ms"}
    assert [r["method"] for r in found["rows"]] == ["noisy", "svd", "mine"]
    refused = command(*words, "--scene", "one_ms")
    assert refused.exit_code == 2
    assert "was trained on one_ms" in refused.stderr
    marked = json.loads(command(*words, "--trained-on-too").stdout)
    assert {r["scene"]: r["trained_on"] for r in marked["rows"]} == {"one_ms": True, "two_ms": False}
    table = command(*words[:-1], "--trained-on-too", "--markdown").stdout
    assert "| sigma 30 | one_ms * | noisy |" in table
    assert "2 scenes" not in table


def test_evaluate_of_another_task_is_refused(archive: Path) -> None:
    result = command("evaluate", "--archive", archive, "--model", "stas-subspace", "--task", "sharpen")
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_denoiser_is_scored_on_the_scene_divided_by_its_largest_value(archive: Path) -> None:
    put_denoiser(archive, "mine")
    words = ("evaluate", "--archive", archive, "--model", "mine", "--sigma", 30, "--scene", "one_ms", "--json")
    noisy = json.loads(command(*words).stdout)["rows"][0]
    stored = hypermend.open(str(archive)).search(stage="source", ids=("one_ms",))[0].dataset()["reflectance"].values
    truth = (stored / stored.max()).astype(np.float32)
    spoilt = gaussian(truth, 30 / 255, np.random.default_rng([0, 30]))
    assert noisy["psnr"] == pytest.approx(metrics.psnr(truth, spoilt.clip(0, 1)), abs=1e-3)


def test_evaluate_of_a_fusion_makes_its_own_pairs(archive: Path) -> None:
    words = ("evaluate", "--archive", archive, "--model", "least-squares", "--task", "fuse", "--scale", 4, "--json")
    found = json.loads(command(*words, "--scene", "one_ms").stdout)
    psnr = {(r["level"], r["method"]): r["psnr"] for r in found["rows"]}
    levels = [f"x4 {kernel}" for kernel in built_in()]
    assert list(psnr) == [(level, method) for level in levels for method in ("bicubic", "least-squares")]
    # The scene is smooth: enlarging alone is nearly right, but for the blurs that move it.
    gain = [psnr[level, "least-squares"] - psnr[level, "bicubic"] for level in levels]
    assert np.mean(gain) > 3, gain
    assert not found["failed"]
    refused = command(*words, "--guide-sensor", "nobody")
    assert refused.exit_code == 2
    assert refused.stderr.count("\n") == 1


def test_a_card_keeps_its_spectrum(tmp_path: Path) -> None:
    card = ModelCard(name="a", architecture="stas", spectrum=NEAR)
    card.write(tmp_path / "card.json")
    assert ModelCard.read(tmp_path / "card.json") == card
