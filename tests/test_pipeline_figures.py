"""Figures of a restoration: of known noise and angles, the same for any order of tiles, in marks, items and lines."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hypermend
from hypermend.catalog.cube.marks import DoneMarks
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.config import RestoreJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.registry.models import load_model
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.restore.messages import Finish, RestoreTile
from hypermend.pipeline.restore.worker import RestoreWorker
from hypermend.pipeline.runs.progress import scene_lines, summary
from hypermend.pipeline.runs.report import RunReport, SceneResult
from hypermend.pipeline.terminal import Terminal
from hypermend.pipeline.tiling.figures import all_bands, brief_figures, scene_figures, tile_figures
from hypermend.pipeline.tiling.pixels import Mask, Stored
from tests.faults import restore_here
from tests.small_cubes import make_spec
from tests.test_models_denoise import SUBSPACE
from tests.test_pipeline_repair import put_source, put_stas, restore_tiles

BANDS, EDGE = 16, 128
SIGMA = np.linspace(20, 80, BANDS)
"""Noise of each band, stored numbers."""


def pixels(*, removed: float = 0.0, left: float = 0.6) -> Stored:
    """Three materials and two independent noises, together of ``SIGMA``: one that a restoration removes, one it leaves.

    Args:
        removed: share of the first that is gone.
        left: size of the second.
    """
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0:EDGE, 0:EDGE] / 9
    materials = np.stack([np.sin(y) + 2, np.cos(1.3 * x) + 2, np.sin(x + y) + 2])
    stored = np.einsum("bk,kyx->byx", rng.random((BANDS, 3)) + 0.2, materials) * 1000
    first, second = rng.standard_normal((2, *stored.shape))
    noise = math.sqrt(1 - left**2) * (1 - removed) * first + left * second
    return np.rint(stored + SIGMA[:, None, None] * noise).astype(np.int16)


def known(edge: int = EDGE) -> Mask:
    there = np.ones((edge, edge), bool)
    there[:5, :9] = False
    return there


def test_noise_angle_and_change_are_those_that_were_made() -> None:
    before, after, there = pixels(), pixels(removed=1), known()
    before[:, ~there], after[:, ~there] = -32768, -32768  # counted nowhere
    spec = make_spec(before.shape, dtype="int16", scale_factor=1e-4)
    scene = scene_figures([tile_figures(before, after, there, spec)], BANDS)
    np.testing.assert_allclose(scene["noise_before"], SIGMA * 1e-4, rtol=0.12)
    np.testing.assert_allclose(scene["noise_after"], SIGMA * 0.6e-4, rtol=0.2)
    np.testing.assert_allclose(scene["noise_removed"], SIGMA * 0.8e-4, rtol=0.05)
    x, y = (values[:, there].astype(float) * 1e-4 for values in (before, after))  # all pixels, not a sample
    assert scene["change"] == pytest.approx(((x - y) ** 2).sum() / (x**2).sum(), rel=0.02)
    cosine = (x * y).sum(axis=0) / np.linalg.norm(x, axis=0) / np.linalg.norm(y, axis=0)
    assert scene["angle_deg"] == pytest.approx(np.degrees(np.arccos(np.minimum(cosine, 1))).mean(), rel=0.02)
    assert scene["signal"] == pytest.approx(np.sqrt((x**2).mean()), rel=0.01)
    assert scene["pixels"] == there.sum()
    brief = brief_figures(scene)
    assert brief["bands_losing_signal"] == 0
    assert brief["noise_share_before"] == pytest.approx(np.median(SIGMA) * 1e-4 / scene["signal"], rel=0.12)
    assert not any(isinstance(value, list) for value in brief.values())


def test_noise_after_the_denoiser_is_about_its_true_error(tmp_path: Path) -> None:
    """An estimate from the result itself finds a hundredth of it: the result lies in the signal subspace."""
    rng, edge, bands, sigma = np.random.default_rng(0), 64, 24, 150.0
    y, x = np.mgrid[0:edge, 0:edge] / 9
    materials = np.stack([np.sin(y) + 2, np.cos(1.3 * x) + 2, np.sin(x + y) + 2])
    truth = np.einsum("bk,kyx->byx", rng.random((bands, 3)) + 0.1, materials) * 1000
    noisy = (truth + sigma * rng.standard_normal(truth.shape)).astype(np.float32)
    spec = make_spec(noisy.shape, dtype="float32")
    model = load_model(ArchiveStore(tmp_path), "stas-subspace")
    valid = np.ones((edge, edge), bool)
    restorer = model.bind(model.estimate([(noisy, valid)]))
    padded = np.pad(noisy, ((0, 0), (restorer.halo,) * 2, (restorer.halo,) * 2), mode="reflect")
    inner = slice(restorer.halo, -restorer.halo)
    got = restorer(torch.from_numpy(padded)[None])[0].numpy()[:, inner, inner]
    scene = scene_figures([tile_figures(noisy, got, valid, spec)], bands)
    error = np.sqrt(np.square(got - truth).mean(axis=(1, 2))) * spec.scale_factor
    assert 0.5 < np.median(np.array(scene["noise_after"]) / error) < 2
    assert np.median(error) < 0.5 * sigma * spec.scale_factor


def test_more_removed_than_there_was_noise_is_signal_lost() -> None:
    before = pixels()
    blurred = before.copy()
    blurred[:4, :, 1:-1] = (before[:4, :, 2:].astype(int) + before[:4, :, :-2]) // 2
    blurred[0] = before[0].mean()
    scene = scene_figures([tile_figures(before, blurred, known(), make_spec(before.shape))], BANDS)
    assert 1 <= brief_figures(scene)["bands_losing_signal"] <= 4
    assert scene["noise_after"][0] == 0 and scene["noise_removed"][-1] == 0


def test_an_unchanged_tile_changes_nothing_and_a_finer_one_is_compared_by_its_means() -> None:
    before, there = pixels(), known()
    same = scene_figures([tile_figures(before, before, there, make_spec(before.shape))], BANDS)
    assert (same["change"], same["angle_deg"], same["noise_after"]) == (0, 0, same["noise_before"])
    fine = before.repeat(2, axis=1).repeat(2, axis=2).astype(np.int16)
    fine[:, ::2] += 7
    fine[:, 1::2] -= 7  # a texture within the pixels of the source
    finer = scene_figures([tile_figures(before, fine, there, make_spec(fine.shape))], BANDS)
    assert (finer["change"], finer["noise_after"]) == (0, same["noise_before"])
    assert finer["angle_deg"] < 1e-5


def test_bad_bands_and_holes_do_not_count() -> None:
    before, after, there = pixels(), pixels(removed=0.5), known()
    good = [band not in (3, 9) for band in range(BANDS)]
    spec = make_spec(before.shape, good=good)
    figures = tile_figures(before, after, there, spec)
    before[[3, 9]], after[[3, 9]] = 30000, -30000
    assert tile_figures(before, after, there, spec) == figures
    spread = all_bands(scene_figures([figures], sum(good)), good)
    assert [i for i, value in enumerate(spread["noise_before"]) if value is None] == [3, 9]
    assert tile_figures(before, after, np.zeros_like(there), spec) == {"pixels": 0}


def test_numbers_without_a_finite_square_have_no_figures() -> None:
    values = np.full((BANDS, 32, 32), 1e200)
    assert tile_figures(values, values * 2, known(32), make_spec(values.shape, dtype="float64")) == {}


@pytest.mark.parametrize("bands", [2, 5])
def test_few_bands_have_no_noise_of_their_own(bands: int) -> None:
    before = pixels()[:bands]
    scene = scene_figures([tile_figures(before, before, known(), make_spec(before.shape))], bands)
    assert "noise_before" not in scene and scene["pixels"] == known().sum()


def tiles_of(edge: int = 32) -> list[dict[str, Any]]:
    before, after, there = pixels(), pixels(removed=0.7), known()
    spec = make_spec(before.shape)
    starts = range(0, EDGE, edge)
    cores = [(slice(y, y + edge), slice(x, x + edge)) for y in starts for x in starts]
    return [tile_figures(before[(..., *core)], after[(..., *core)], there[core], spec) for core in cores]


def test_any_order_of_tiles_gives_the_same_to_the_last_bit_and_tiles_what_the_whole_gives() -> None:
    tiles = tiles_of()
    scene = scene_figures(tiles, BANDS)
    shuffled = [json.loads(json.dumps(tile)) for tile in tiles]
    for seed in range(5):
        random.Random(seed).shuffle(shuffled)
        assert scene_figures(shuffled, BANDS) == scene
    (whole,) = tiles_of(EDGE)
    for name, value in scene_figures([whole], BANDS).items():
        np.testing.assert_allclose(scene[name], value, rtol=0.2 if name.startswith("noise") else 0.02)


@pytest.mark.parametrize(
    "damage",
    [lambda t: t.clear(), lambda t: t.pop("signal"), lambda t: t.update(change="much"), lambda t: t.update(noise=5)],
)
def test_a_tile_without_figures_leaves_its_scene_without(damage: Any) -> None:
    """Marks of earlier versions have none: part of a scene is not passed off as all of it."""
    tiles = tiles_of()
    damage(tiles[3])
    assert scene_figures(tiles, BANDS) == {}


def test_a_resumed_scene_and_one_in_one_go_have_the_same_figures(tmp_path: Path) -> None:
    root = ArchiveStore(tmp_path)
    put_source(root)
    put_stas(root, "small", SUBSPACE)
    plan, worker = restore_tiles(root, "small", 48)
    totals = [worker(Finish(unit="c/s", plan=plan.key))]
    for index in [*plan.grid.indices()][2:]:
        DoneMarks(root, plan.target).unmark(index)
        RestoreWorker(root.url)(RestoreTile(unit="c/s", plan=plan.key, index=index))
    totals.append(worker(Finish(unit="c/s", plan=plan.key)))
    assert totals[0] == totals[1]
    figures = totals[0].item_figures
    assert (figures["dead_columns"], figures["bands_with_spikes"]) == (4, [])
    assert figures["repaired"] == totals[0].figures["repaired"] > 0
    assert figures["change"] > 0 and figures["angle_deg"] > 0
    assert "noise_before" in figures and "noise_before" not in totals[0].figures["changes"]


def test_the_item_tells_the_figures_and_a_rerun_writes_nothing(archive: str) -> None:
    report = restore_here(archive)
    (item,) = hypermend.open(archive).search(stage="restored")
    figures = item.scene.properties["hypermend:figures"]
    assert (figures["change"], figures["angle_deg"]) == (0, 0)  # of the identity
    assert report.scenes[0].figures["changes"]["pixels"] == figures["pixels"] > 0
    assert restore_here(archive).bytes_written == 0


def test_marks_of_an_earlier_version_give_an_item_without_figures(archive: str) -> None:
    restore_here(archive)
    root = ArchiveStore(archive)
    (folded,) = [entry.key for entry in root.list("restored") if entry.key.endswith(".zarr.done.json")]
    marks = root.get_json(folded)
    for mark in marks["marks"]:
        del mark["extra"]["figures"]
    root.put_json(folded, marks)
    report = restore(RestoreJob(archive=archive, model="identity", tile_px=16), engine=serial).wait()
    assert report.exit_code == 0 and "changes" not in report.scenes[0].figures
    (item,) = hypermend.open(archive).search(stage="restored")
    assert "hypermend:figures" not in item.scene.properties


def result(scene: str, **figures: Any) -> SceneResult:
    return SceneResult(scene=scene, collection="c", status="published", figures=figures)


CHANGES = {"change": 6.2e-5, "angle_deg": 1.0093, "noise_share_before": 0.0032, "noise_share_after": 0.0018}


def test_two_lines_of_eighty_columns_tell_a_scene() -> None:
    many = {"repaired": 123456, "defects": {"dead_columns": 12, "bands_with_spikes": [1, 2]}, "stripes": {"columns": 4}}
    first, second = scene_lines(result("A", changes=CHANGES, repaired=5, defects={"dead_columns": 1}))
    assert first == "A: noise 0.32 % -> 0.18 %, spectra turned by 1 deg"
    assert second == "  0.0062 % of the signal's energy removed; repaired 5 numbers, 1 dead column"
    for name in ("x" * 1000, "\x1b[31mred" * 9):
        lines = list(scene_lines(result(name, changes=CHANGES, **many, blocks_adapted=3, blocks_fallen_back=9)))
        assert len(lines) == 2 and all(len(line) <= 80 and "\x1b" not in line for line in lines)
        assert lines[1].endswith("; repaired 123456 numbers, 5 more")
    unknown = {"change": 0.0, "angle_deg": 0.0}
    assert list(scene_lines(result("A", changes=unknown))) == [
        "A: noise unknown, spectra turned by 0 deg", "  0 % of the signal's energy removed; no defect found"
    ]  # fmt: skip


def test_a_run_ends_with_its_first_scenes(capsys: pytest.CaptureFixture[str]) -> None:
    scenes = [result(f"S{i:02}", changes=CHANGES) for i in range(12)] + [SceneResult(scene="old", status="published")]
    summary(RunReport(run="r", scenes=scenes), Terminal())
    out = capsys.readouterr().out
    assert out.count("of the signal's energy removed") == 10 and "S09: noise" in out and "S10" not in out
    assert "and 2 scenes more" in out
