"""The search over an archive: plans without overlap, trials that go on after a kill, one genotype for each sensor."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner, Result

from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import create
from hypermend.catalog.cube.spec import CLOUD, VALID
from hypermend.catalog.errors import BadSensor, Refused
from hypermend.catalog.stac.publish import put_item, source_item
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.denoise.stas import Genotype
from hypermend.models.denoise.stas_search import random_genotype
from hypermend.pipeline.cli.main import app
from hypermend.pipeline.config import SearchJob
from hypermend.pipeline.registry.genotypes import BadGenotype, StoredGenotype, nearest, put, read, stored_genotypes
from hypermend.pipeline.registry.spectrum import NEAR_DISTANCE, Spectrum
from hypermend.pipeline.search.cell_picture import draw_cell
from hypermend.pipeline.search.driver import goes_on, run_plans, rungs, sampled_settings, search_archive
from hypermend.pipeline.search.plan import BUDGETS, SearchBudget, SearchPlan, make_plan
from hypermend.pipeline.search.trial import (
    TrialRecord,
    first_record,
    put_record,
    read_areas,
    read_record,
    record_key,
    run_trial,
)
from hypermend.pipeline.train.areas import Area
from tests.small_cubes import make_scene, make_spec, write_tiles

TINY = SearchBudget(trials=2, seeds=2, epochs=4, steps=2, width=1, channels=6, patch_px=16, patches=2, areas=8)
HEIGHT, WIDTH = 130, 180


def add_cube(root: ArchiveStore, sensor: str, *, bands: int, low_nm: float, high_nm: float, cloud: bool = False) -> str:
    """A published source cube of smooth materials; the key of the cube."""
    nm = np.linspace(low_nm, high_nm, bands)
    spec = make_spec((bands, HEIGHT, WIDTH), tile_px=96, wavelength_nm=nm, detector=["vnir"] * bands, sensor=sensor)
    rng = np.random.default_rng(bands)
    maps = gaussian_filter(rng.normal(size=(4, HEIGHT, WIDTH)), (0, 4, 4))
    spectra = gaussian_filter(rng.random((bands, 4)), (2, 0))
    pixels = np.tensordot(spectra, maps, 1)
    pixels = 1000 + 6000 * (pixels - pixels.min()) / np.ptp(pixels) + rng.normal(scale=8, size=pixels.shape)
    flags = np.full((HEIGHT, WIDTH), VALID, np.uint8)
    if cloud:
        flags[:, 10] = CLOUD
    key = f"source/{sensor}-scene/abc.zarr"
    create(root, key, spec)
    write_tiles(Cube(root, key), pixels.astype(np.int16), flags)
    scene = make_scene(f"{sensor}-scene", sensor=sensor, collection=sensor)
    put_item(root, source_item(scene, spec, key=key, ingest_id="abc", valid_fraction=1.0), run="test")
    return key


@pytest.fixture
def root(tmp_path: Path) -> ArchiveStore:
    """An archive with a narrow and a wide sensor."""
    root = ArchiveStore(tmp_path / "a")
    add_cube(root, "cave", bands=10, low_nm=400, high_nm=700)
    add_cube(root, "enmap", bands=30, low_nm=420, high_nm=2450)
    return root


def plan_for(root: ArchiveStore, sensor: str = "cave", **changes: Any) -> SearchPlan:
    options: dict[str, Any] = {
        "sensor": sensor, "strategy": "darts", "domain": "subspace", "budget_name": "tiny", "budget": TINY,
        "trials": None,
    }  # fmt: skip
    return make_plan(root, {f"source/{sensor}-scene/abc.zarr": "abc"}, **(options | changes))


# ------------------------------------------------------------------------------------------------------------ plan


def test_areas_are_usable_and_disjoint_and_the_plan_is_a_value(root: ArchiveStore) -> None:
    plan = plan_for(root)
    areas = [*plan.train, *plan.validation]
    assert len(areas) == 2 * 3 and len(plan.validation) == 1  # squares of 48 pixels in 130 x 180
    assert not any(a.overlaps(b) for i, a in enumerate(areas) for b in areas[:i])
    assert SearchPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert plan.id.startswith("cave-") and plan.id == plan_for(root).id != plan_for(root, strategy="spos").id
    assert (plan.spectrum, plan.channels) == (Spectrum(bands=10, low_nm=400, high_nm=700), 6)
    assert plan_for(root, domain="bands").channels == 10
    scenes = read_areas(root, plan.train)
    assert all(s.cube.shape == (10, 48, 48) and 0.3 < s.cube.max() < 1.2 and s.least_noise < 0.02 for s in scenes)


def test_what_cannot_be_searched_says_what_is_missing(root: ArchiveStore, monkeypatch: pytest.MonkeyPatch) -> None:
    clouded = ArchiveStore(root.url + "-clouded")
    key = add_cube(clouded, "cave", bands=10, low_nm=400, high_nm=700, cloud=True)
    assert all(a.x0 > 0 for a in plan_for(clouded).train)
    wide = replace(TINY, patch_px=90)
    assert plan_for(clouded, budget=wide).budget.patch_px == 24  # 56 pixels fit twice, the first column is clouded
    monkeypatch.setattr("hypermend.pipeline.search.plan.LEAST_AREAS", 10)
    with pytest.raises(Refused, match=r"10 areas of 48 x 48 usable pixels are needed, 4 are in 1 source cube"):
        plan_for(clouded, budget=wide)
    monkeypatch.undo()
    with pytest.raises(Refused, match=r"has 70 good bands.*at most 64"):
        add_cube(root, "muufl", bands=70, low_nm=400, high_nm=900)
        plan_for(root, "muufl", domain="bands")
    plan = plan_for(root)
    with pytest.raises(Refused, match="overlaps the training area"):
        replace(plan, validation=(Area(cube=key, y0=plan.train[0].y0 + 47, x0=plan.train[0].x0, edge_px=48),))


def test_unknown_sensors_and_empty_archives_are_refused(root: ArchiveStore) -> None:
    with pytest.raises(BadSensor, match="unknown sensor 'cove': did you mean 'cave'"):
        search_archive(SearchJob(archive=root.url, sensors=("cove",)), print)
    with pytest.raises(Refused, match="no source cube of sensor 'prisma'"):
        search_archive(SearchJob(archive=root.url, sensors=("prisma",)), print)


# ------------------------------------------------------------------------------------------------------- genotypes


FIGURES: dict[str, Any] = {
    "strategy": "darts", "domain": "subspace", "budget": "full", "steps": 10_000, "validation_loss": 0.5,
    "baseline_loss": 0.9, "seconds": 60.0, "trials": {"finished": 8},
}  # fmt: skip


def found(id: str, spectrum: Spectrum, **figures: Any) -> StoredGenotype:
    return StoredGenotype(
        id=id,
        genotype=random_genotype(1),
        sensor="cave",
        spectrum=spectrum,
        search=id,
        picture="",
        figures=FIGURES | figures,
    )


def test_the_nearest_genotype_is_that_of_the_nearest_spectrum() -> None:
    cave = Spectrum(bands=31, low_nm=400, high_nm=700)
    assert cave.distance(cave) == 0
    pavia, enmap = Spectrum(bands=102, low_nm=430, high_nm=860), Spectrum(bands=200, low_nm=420, high_nm=2450)
    prisma = Spectrum(bands=220, low_nm=402, high_nm=2497)
    assert prisma.distance(enmap) == pytest.approx(enmap.distance(prisma))
    assert prisma.distance(enmap) < NEAR_DISTANCE < cave.distance(pavia)
    best = nearest([found("a", cave), found("b", enmap), found("c", pavia)], prisma)
    assert best is not None and best[0].id == "b"
    assert nearest([], cave) is None
    assert Spectrum(bands=1, low_nm=500, high_nm=500).distance(Spectrum(bands=1, low_nm=500, high_nm=500)) == 0


def test_a_genotype_is_kept_and_one_of_another_space_says_so(tmp_path: Path) -> None:
    root = ArchiveStore(tmp_path)
    mine = found("cave-1", Spectrum(bands=31, low_nm=400, high_nm=700))
    put(root, mine)
    assert read(root, "cave-1") == mine
    other = mine.to_dict() | {"id": "cave-2", "genotype": {"space": 9, "ops": list(mine.genotype.ops)}}
    root.put_json("genotypes/cave-2.json", other)
    root.put("genotypes/cave-3.json", b"{")
    good, other_space, torn = stored_genotypes(root)
    assert good == mine
    assert isinstance(other_space, BadGenotype) and "space 9; this code builds space 1" in str(other_space)
    assert isinstance(torn, BadGenotype)


def test_a_cell_is_drawn_and_the_same_genotype_gives_the_same_bytes() -> None:
    genotype = random_genotype(2)
    svg = draw_cell(genotype, title="x", kind="svg")
    assert draw_cell(genotype, title="x")[:4] == b"\x89PNG"
    assert all(op.encode() in svg for op in set(genotype.ops))


def hypermend(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=False)


def test_a_near_genotype_is_proposed_instead_of_a_search(root: ArchiveStore) -> None:
    near = Spectrum(bands=11, low_nm=400, high_nm=700)
    put(root, found("cave-1", near))
    # As near, but found with less work than is asked for, or elsewhere.
    put(root, found("cave-0", near, steps=20))
    put(root, found("cave-00", near, domain="bands"))
    result = hypermend("search", "--archive", root.url, "--sensor", "cave", "--json")
    (answer,) = json.loads(result.stdout)["genotypes"]
    assert result.exit_code == 0 and answer["reused"] and answer["genotype"]["id"] == "cave-1"
    assert "found on 11 bands, 400-700 nm, at a distance of 0.138 from 10 bands" in answer["why"]
    assert not list(root.list("searches"))
    listed = hypermend("genotypes", "--archive", root.url)
    assert listed.exit_code == 0 and "cave-1  11 bands, 400-700 nm  darts, full" in listed.stdout
    root.put("genotypes/cave-2.json", b"{}")
    listed = hypermend("genotypes", "--archive", root.url, "--json")
    assert listed.exit_code == 1 and "key 'id' is missing" in listed.stderr
    assert [g["id"] for g in json.loads(listed.stdout)["genotypes"]] == ["cave-0", "cave-00", "cave-1"]
    refused = hypermend("search", "--archive", root.url, "--sensor", "cove")
    assert refused.exit_code == 2 and "unknown sensor 'cove'" in refused.stderr


# ---------------------------------------------------------------------------------------------------------- trials


def outcome(record: TrialRecord) -> dict[str, Any]:
    """What must not depend on where and how fast a trial ran."""
    kept = asdict(record)
    del kept["where"]
    kept["history"] = [{k: v for k, v in line.items() if k != "seconds"} for line in kept["history"]]
    return kept


@pytest.mark.parametrize(
    ("strategy", "domain"), [("darts", "subspace"), pytest.param("spos", "bands", marks=pytest.mark.long)]
)
def test_a_trial_that_was_cut_off_ends_as_if_it_had_not_been(root: ArchiveStore, strategy: str, domain: str) -> None:
    plan = plan_for(root, strategy=strategy, domain=domain, budget=replace(TINY, epochs=2))
    whole = [*run_trial(root, plan, first_record(plan, 0))][-1]
    assert (whole.state, whole.epoch, len(whole.history)) == ("finished", 2, 2)
    assert whole.genotype is not None and Genotype.from_dict(whole.genotype)
    other = replace(plan, budget_name="cut off")
    cut = run_trial(root, other, first_record(other, 0))
    next(cut)
    cut.close()  # killed
    kept = read_record(root, other.id, 0)
    assert kept is not None and (kept.state, kept.epoch) == ("running", 1)
    assert outcome([*run_trial(root, other, kept)][-1]) == outcome(whole)
    left = [e.key for e in root.list(f"searches/{other.id}/trials")]
    assert left == [record_key(other.id, 0)]


def test_a_trial_of_an_older_record_resumes_and_one_with_damaged_weights_begins_again(root: ArchiveStore) -> None:
    plan = plan_for(root, budget=replace(TINY, epochs=3, steps=1))
    running = run_trial(root, plan, first_record(plan, 0))
    next(running)
    running.close()
    kept = read_record(root, plan.id, 0)
    assert kept is not None and kept.weights is not None and kept.weights.sha256
    data = root.get_json(record_key(plan.id, 0))
    del data["weights"]  # as 0.1 wrote it
    root.put_json(record_key(plan.id, 0), data)
    older = read_record(root, plan.id, 0)
    assert older is not None and older.weights is not None
    assert (older.weights.key, older.weights.sha256) == (kept.weights.key, "")
    running = run_trial(root, plan, older)
    assert next(running).history[:1] == kept.history
    running.close()
    later = read_record(root, plan.id, 0)
    assert later is not None and later.weights is not None and later.epoch == 2
    damaged = bytearray(root.get(later.weights.key))
    damaged[-5] ^= 1
    root.put(later.weights.key, bytes(damaged))
    assert next(run_trial(root, plan, later)).epoch == 1


def test_a_trial_runs_on_s3(s3_bucket: str) -> None:
    root = ArchiveStore(f"s3://{s3_bucket}/a")
    add_cube(root, "cave", bands=10, low_nm=400, high_nm=700)
    plan = plan_for(root, budget=replace(TINY, epochs=2, steps=1))
    cut = run_trial(root, plan, first_record(plan, 0))
    next(cut)
    cut.close()
    kept = read_record(root, plan.id, 0)
    assert kept is not None and kept.epoch == 1
    assert [*run_trial(root, plan, kept)][-1].state == "finished"


def test_a_trial_that_diverges_ends_with_its_reason(root: ArchiveStore) -> None:
    plan = plan_for(root)
    wild = replace(first_record(plan, 0), settings={"learning_rate": 1e30, "alpha_rate": 1e-3})
    (*_, last) = run_trial(root, plan, wild)
    assert last.state == "diverged" and "lower the learning rate" in last.reason
    assert read_record(root, plan.id, 0) == last


def test_halving_compares_at_its_rungs() -> None:
    assert rungs(2) == () and rungs(8) == (2, 4) and rungs(100) == (25, 50)
    assert goes_on(5.0, []) and goes_on(1.0, [2.0, 3.0, 4.0]) and goes_on(2.0, [1.0, 3.0, 4.0])
    assert not goes_on(3.0, [1.0, 2.0, 4.0]) and not goes_on(math.nan, [1.0])


def test_settings_are_drawn_near_the_default_and_repeatably(root: ArchiveStore) -> None:
    default = {"learning_rate": 1e-3, "alpha_rate": 1e-2}
    ended = [TrialRecord(number=n, seed=n, settings=default, history=({"validation_loss": 1.0},)) for n in range(5)]
    drawn = sampled_settings(default, ended, seed=7)
    assert drawn == sampled_settings(default, ended, seed=7) != sampled_settings(default, ended, seed=8)
    assert all(default[k] / 3 <= v <= default[k] * 3 for k, v in drawn.items())


# ------------------------------------------------------------------------------------------------------------- Ray


@pytest.mark.parametrize("sensors", [("cave",), pytest.param(("cave", "enmap"), marks=pytest.mark.long)])
def test_some_sensors_at_once_then_nothing_to_do(
    root: ArchiveStore, ray_session: None, monkeypatch: pytest.MonkeyPatch, sensors: tuple[str, ...]
) -> None:
    monkeypatch.setitem(BUDGETS, "smoke", replace(TINY, seeds=1))  # type: ignore[arg-type]
    said: list[str] = []
    job = SearchJob(archive=root.url, sensors=sensors, budget="smoke")
    answers = search_archive(job, said.append)
    assert [a.sensor for a in answers] == list(sensors) and not any(a.reused for a in answers)
    for answer in answers:
        assert answer.found is not None and answer.found == read(root, answer.found.id)
        assert root.exists(answer.found.picture)
        assert {r.state for r in answer.trials} <= {"finished", "stopped"} and len(answer.trials) == 2
        assert answer.trials[0].settings != answer.trials[1].settings  # one seed, then Optuna's
    assert any("trial 0 finished" in line for line in said)
    before = {e.key: e.version for e in root.list("")}
    again = search_archive(job, said.append)
    assert all(a.reused and "distance of 0.000" in a.why for a in again)
    anew = search_archive(job.model_copy(update={"anew": True}), said.append)
    assert [a.found for a in anew] == [a.found for a in answers]
    assert {e.key: e.version for e in root.list("")} == before, "finished trials were repeated"


@pytest.mark.long
@pytest.mark.fault
def test_f16_a_killed_worker_goes_on_and_bad_trials_stop_alone(root: ArchiveStore, ray_session: None) -> None:
    plan = plan_for(root, budget=replace(TINY, epochs=3, steps=1), trials=3)
    put_record(root, plan.id, replace(first_record(plan, 2), settings={"learning": 1.0}))
    wild = replace(first_record(plan, 1), settings={"learning_rate": 1e30, "alpha_rate": 1e-3})
    put_record(root, plan.id, wild)
    root.put_json(plan.key, plan.to_dict())
    killed: list[int] = []

    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.05) and not killed:
            record = read_record(root, plan.id, 0)
            if record is not None and record.epoch:
                killed.append(int(record.where["pid"]))
                os.kill(killed[0], signal.SIGKILL)

    watcher = threading.Thread(target=watch)
    watcher.start()
    said: list[str] = []
    run_plans(root, [plan], workers=None, address=None, say=said.append)
    stop.set()
    watcher.join()
    first, second, third = (read_record(root, plan.id, n) for n in range(3))
    assert killed and first is not None and first.state == "finished" and first.where["pid"] != killed[0]
    assert second is not None and second.state == "diverged"
    assert third is not None and third.state == "failed" and "'learning'" in third.reason
    assert f"cave: trial 2 failed: {third.reason}" in said
    reference = replace(plan, budget_name="undisturbed")
    own = torch.get_num_threads()
    torch.set_num_threads(first.where["threads"])  # sums over more threads differ in their last bit
    try:
        (*_, whole) = run_trial(root, reference, first_record(reference, 0))
    finally:
        torch.set_num_threads(own)
    assert outcome(first) == outcome(whole)


DRIVER = """
import sys
from dataclasses import replace
from hypermend.pipeline.cli.main import app
from hypermend.pipeline.config import SearchJob
from hypermend.pipeline.search.driver import search_archive
from hypermend.pipeline.search.plan import BUDGETS, SearchBudget
BUDGETS["smoke"] = SearchBudget(**eval(sys.argv[2]))
search_archive(SearchJob(archive=sys.argv[1], sensors=("cave",), budget="smoke"), print)
"""


@pytest.mark.long
@pytest.mark.fault
def test_f16_a_killed_driver_repeats_nothing(
    root: ArchiveStore, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = replace(TINY, epochs=3, steps=1)
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, root.url, str(asdict(budget))], start_new_session=True)
    try:
        plan = plan_for(root, budget=budget, budget_name="smoke")
        deadline = time.monotonic() + 200
        while (cut := read_record(root, plan.id, 0)) is None or cut.epoch == 0:
            assert time.monotonic() < deadline and driver.poll() is None
            time.sleep(0.05)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    cut = read_record(root, plan.id, 0)
    assert cut is not None and cut.state == "running" and cut.epoch < 3
    monkeypatch.setitem(BUDGETS, "smoke", budget)  # type: ignore[arg-type]
    (answer,) = search_archive(SearchJob(archive=root.url, sensors=("cave",), budget="smoke"), print)
    trial = answer.trials[0]
    assert answer.found is not None and [r.state for r in answer.trials] == ["finished", "finished"]
    assert trial.history[: cut.epoch] == cut.history, "an epoch was repeated"  # its seconds are in it
