"""Training as a service: same curve on any number of workers, on after any kill, refusals, a model that restores."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner, Result

from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import create
from hypermend.catalog.cube.spec import CLOUD, VALID
from hypermend.catalog.errors import ArchiveError, Refused
from hypermend.catalog.stac.publish import put_item, source_item
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models.denoise.stas_search import random_genotype
from hypermend.models.sampling import SampleStream
from hypermend.pipeline.cli.main import app
from hypermend.pipeline.config import BadJob, TrainJob, parse
from hypermend.pipeline.registry.genotypes import StoredGenotype, put
from hypermend.pipeline.registry.models import load_model, load_pair_model
from hypermend.pipeline.registry.spectrum import Spectrum
from hypermend.pipeline.train.checkpoints import Line, TrainingStopped, TrainingStore
from hypermend.pipeline.train.driver import train
from hypermend.pipeline.train.make_plan import plan_training
from hypermend.pipeline.train.plan import TrainPlan
from hypermend.pipeline.train.publish import publish, published
from hypermend.pipeline.train.recipe import command_of, parser
from hypermend.pipeline.train.tensorboard import TensorBoardWriter
from hypermend.pipeline.train.worker import WorkerGroup, work
from tests.small_cubes import make_scene, make_spec, write_tiles

EDGE = 112
TASKS = ("sharpen", "denoise", "fuse")
SMALL: dict[str, dict[str, Any]] = {
    "sharpen": {"filters": 4, "patch_px": 16},
    "denoise": {"patch_px": 16, "freeze_norm": True},
    "fuse": {"patch_px": 24},
}


def add_scene(
    root: ArchiveStore, name: str, *, bands: int = 10, edge: int = EDGE, usable: int | None = None, **more: Any
) -> str:
    """A published source cube of smooth materials; only its first `usable` columns are usable. The key of the cube."""
    nm = np.linspace(420, 720, bands)
    spec = make_spec((bands, edge, edge), tile_px=96, wavelength_nm=nm, detector=["vnir"] * bands, **more)
    rng = np.random.default_rng([len(name), *name.encode()])
    maps = gaussian_filter(rng.normal(size=(4, edge, edge)), (0, 2, 2))
    spectra = gaussian_filter(rng.random((bands, 4)), (2, 0))
    pixels = np.tensordot(spectra, maps, 1)
    pixels = 1000 + 6000 * (pixels - pixels.min()) / np.ptp(pixels) + rng.normal(scale=4, size=pixels.shape)
    flags = np.full((edge, edge), VALID, np.uint8)
    if usable is not None:
        flags[:, usable:] = CLOUD
    key = f"source/{name}/abc.zarr"
    create(root, key, spec)
    write_tiles(Cube(root, key), pixels.astype(np.int16), flags)
    scene = make_scene(name)
    put_item(root, source_item(scene, spec, key=key, ingest_id="abc", valid_fraction=1.0), run="test")
    return key


def add_genotype(root: ArchiveStore) -> None:
    """An architecture of the archive that works on bands; its id is g."""
    numbers = dict.fromkeys(("steps", "seconds", "validation_loss", "baseline_loss"), 0)
    figures = {**numbers, "strategy": "darts", "budget": "smoke", "trials": {"finished": 1}}
    mine = StoredGenotype(
        id="g", genotype=random_genotype(1), sensor="enmap", search="g", picture="",
        figures={**figures, "domain": "bands"},
        spectrum=Spectrum(bands=10, low_nm=420, high_nm=720),
    )  # fmt: skip
    put(root, mine)


def fill(root: ArchiveStore) -> ArchiveStore:
    for name in ("one", "two", "three"):
        add_scene(root, name)
    return root


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> ArchiveStore:
    """Three scenes that no test changes; trainings of different settings do not meet."""
    return fill(ArchiveStore(tmp_path_factory.mktemp("train") / "a"))


def job(root: ArchiveStore, task: str, **more: Any) -> TrainJob:
    asked = {
        "archive": root.url, "task": task, "name": f"small-{task}", "validation_scenes": ["three"], "steps": 4,
        "batch": 4, "bf16": False, **SMALL[task], **more,
    }  # fmt: skip
    return parse(TrainJob, asked, where="test")


def start(root: ArchiveStore, asked: TrainJob) -> TrainPlan:
    """Plan, and keep the plan as the driver does."""
    plan = plan_training(asked)
    root.put_json(f"{plan.folder}/plan.json", plan.to_dict())
    return plan


# The ids of 0.1: a change of one makes every training that an archive holds begin anew.
IDS = {
    "sharpen": "sharpen-93a5754dda87",
    "denoise": "denoise-3550342c6dbf",
    "fuse": "fuse-9a9635f917e5",
}


@pytest.mark.parametrize("task", TASKS)
def test_a_training_keeps_its_id(scenes: ArchiveStore, task: str) -> None:
    assert plan_training(job(scenes, task)).id == IDS[task]


# -------------------------------------------------------------------------------------------------------- samples


class Sums:
    """all_reduce for threads: what two workers exchange, in one process."""

    def __init__(self, size: int) -> None:
        self.size, self.parts, self.barrier = size, [torch.zeros(0)] * size, Barrier(size, timeout=60)

    def of(self, rank: int) -> Callable[[torch.Tensor], None]:
        def share(flat: torch.Tensor) -> None:
            self.parts[rank] = flat.clone()
            self.barrier.wait()
            flat.copy_(torch.stack(self.parts).sum(0))
            self.barrier.wait()

        return share


def lines_of(root: ArchiveStore, plan: TrainPlan, workers: int) -> list[Line]:
    """The metrics of a training by so many workers, each a thread."""
    sums, out = Sums(workers), [list[Line]() for _ in range(workers)]

    def one(rank: int) -> None:
        share = sums.of(rank) if workers > 1 else None
        out[rank] = list(work(root, plan, WorkerGroup(rank=rank, size=workers, share=share)))

    threads = [Thread(target=one, args=(rank,)) for rank in range(workers)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all([line["loss"] for line in lines] == [line["loss"] for line in out[0]] for lines in out)
    return out[0]


@pytest.mark.slow
@pytest.mark.parametrize("task", [*(pytest.param(task, marks=pytest.mark.long) for task in TASKS[1:]), TASKS[0]])
def test_the_curve_is_that_of_the_global_batch_on_one_and_two_workers(scenes: ArchiveStore, task: str) -> None:
    # Adam's first steps are the signs of gradients, also of those that are rounding alone: hence the small rate.
    settings = {"steps": 20, "check_every": 20, "learning_rate": 3e-4}
    # Another patience is another training with the same curve.
    one, two = (lines_of(scenes, start(scenes, job(scenes, task, patience=50 + n, **settings)), n) for n in (1, 2))
    assert len(one) == len(two) == 10
    np.testing.assert_allclose([x["loss"] for x in two], [x["loss"] for x in one], rtol=5e-4)
    assert two[-1]["psnr_db"] == pytest.approx(one[-1]["psnr_db"], abs=0.02)


def test_a_sample_depends_on_seed_step_and_slot_alone() -> None:
    def stream() -> SampleStream[tuple[int, ...]]:
        return SampleStream(
            lambda rng: tuple(rng.integers(0, 1000, 2)) if rng.random() < 0.7 else None,
            lambda r, rng: (torch.tensor([*r, int(rng.integers(1000))]), torch.tensor(len(r))),
            seed=3,
            batch=4,
            every=6,
            keep=2,
        )

    whole = stream()
    batches = [whole.batch(step, range(4))[0] for step in range(30)]
    late = stream()
    assert torch.equal(late.batch(29, range(4))[0], batches[29])  # as after a restart
    odd = stream()
    assert all(torch.equal(odd.batch(step, (1, 3))[0], batches[step][[1, 3]]) for step in range(30))
    drawn = {tuple(b[slot, :2].tolist()) for b in batches for slot in range(4)}
    assert 12 <= len(drawn) <= 24, "each slot goes through new realisations, and keeps each for a while"
    assert len(whole._made) <= 4 * 2
    never = SampleStream(lambda rng: None, lambda r, rng: (r, r), seed=0, batch=1, every=1, keep=1)
    with pytest.raises(ValueError, match="50 draws of the scenes gave no training sample"):
        never.batch(0, range(1))


def test_wide_and_narrow_scenes_go_together_by_windows(tmp_path: Path) -> None:
    root = fill(ArchiveStore(tmp_path))
    add_scene(root, "wide", bands=33)
    plan = start(root, job(root, "sharpen", steps=2))
    assert (
        plan.spectrum.bands == (10, 33) and plan.spectrum.low_nm == 420 and plan.spectrum.quantity == ("reflectance",)
    )
    lines = lines_of(root, plan, 1)
    assert len(lines) == 2 and math.isfinite(lines[-1]["loss"])


# ------------------------------------------------------------------------------------------------- killed, and on


def tensors(root: ArchiveStore, plan: TrainPlan) -> dict[str, torch.Tensor]:
    ledger = TrainingStore(root, plan.folder)
    record = ledger.read()
    assert record is not None and record.state == "finished"
    state = ledger.load(record.checkpoints[-1])
    assert state is not None
    return dict(state)


@pytest.mark.fault
def test_f17_what_was_cut_off_ends_as_if_it_had_not_been(scenes: ArchiveStore) -> None:
    add_genotype(scenes)
    settings = {"steps": 6, "check_every": 2, "genotype": "g", "freeze_norm": False}
    plan = start(scenes, job(scenes, "denoise", patience=91, **settings))
    whole = lines_of(scenes, plan, 1)
    other = start(scenes, job(scenes, "denoise", patience=92, **settings))
    ledger = TrainingStore(scenes, other.folder)
    running = work(scenes, other, WorkerGroup())
    for _ in range(5):
        next(running)
    running.close()  # killed after the check of step 4
    record = ledger.read()
    assert record is not None and record.state == "running" and [c.step for c in record.checkpoints] == [2, 4]
    # A checkpoint that no record names was half of a write; one with a flipped bit gives way to the one before.
    scenes.put(f"{other.folder}/checkpoints/000000006.safetensors", b"half")
    newest = record.checkpoints[-1].key
    damaged = bytearray(scenes.get(newest))
    damaged[-5] ^= 1
    scenes.put(newest, bytes(damaged))
    again = list(work(scenes, other, WorkerGroup()))
    assert [line["step"] for line in again] == [3, 4, 5, 6]
    kept = ledger.lines()
    assert [(x["step"], x["loss"], x.get("psnr_db")) for x in kept] == [
        (x["step"], x["loss"], x.get("psnr_db")) for x in whole
    ]
    ours, theirs = tensors(scenes, other), tensors(scenes, plan)
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert not list(work(scenes, other, WorkerGroup())), "a finished training was repeated"


def test_a_training_runs_on_s3(s3_bucket: str) -> None:
    root = fill(ArchiveStore(f"s3://{s3_bucket}/a"))
    plan = start(root, job(root, "sharpen", steps=2))
    running = work(root, plan, WorkerGroup())
    next(running)
    running.close()
    assert [line["step"] for line in work(root, plan, WorkerGroup())] == [2]
    record = TrainingStore(root, plan.folder).read()
    assert record is not None and record.state == "finished"


def train_workers() -> list[int]:
    """Process ids of Ray Train's workers below this process."""
    parent: dict[int, int] = {}
    ours: list[int] = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
            words = (status.parent / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        parent[int(fields["Pid"])] = int(fields["PPid"])
        if b"RayTrainWorker" in words.split(b"\0")[0]:
            ours.append(int(fields["Pid"]))

    def below(pid: int) -> bool:
        return pid == os.getpid() or (pid in parent and below(parent[pid]))

    return [pid for pid in ours if below(pid)]


def wait_for(what: Callable[[], Any], seconds: float = 180) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


@pytest.mark.long
@pytest.mark.fault
def test_f17_worker_and_driver_are_killed_and_the_same_command_finishes(
    scenes: ArchiveStore, ray_session: None
) -> None:
    import ray

    settings = {"steps": 40, "check_every": 4, "patience": 1000}
    reference = start(scenes, job(scenes, "sharpen", **settings, learning_rate=1e-4))
    whole = lines_of(scenes, reference, 1)
    same = reference.id
    root = ArchiveStore(scenes.url + "-killed")
    shutil.copytree(scenes.url, root.url, ignore=shutil.ignore_patterns("training"), dirs_exist_ok=True)
    asked = job(root, "sharpen", **settings, learning_rate=1e-4, workers=2)
    plan = plan_training(asked)
    assert plan.id == same
    ledger = TrainingStore(root, plan.folder)
    words = [
        "--archive", root.url, "--task", "sharpen", "--name", asked.name, "--validation-scene", "three",
        "--steps", "40", "--check-every", "4", "--patience", "1000", "--batch", "4", "--no-bf16", "--filters", "4",
        "--patch-px", "16", "--learning-rate", "1e-4", "--workers", "2",
    ]  # fmt: skip
    address = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from hypermend.pipeline.cli.main import main; main()",
            "train",
            *words,
            "--address",
            address,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )

    def steps() -> int:
        record = ledger.read()
        return record.checkpoints[-1].step if record and record.checkpoints else 0

    wait_for(steps)
    victims = train_workers()
    assert len(victims) == 2
    os.kill(victims[1], signal.SIGKILL)
    before = steps()
    wait_for(lambda: steps() > before + 4)  # started again by Ray Train
    assert not set(victims) & set(train_workers())
    driver.kill()
    driver.wait()
    stood = steps()
    assert stood < 40 and not root.exists(f"models/{asked.name}/card.json")
    shown: list[Line] = []
    report = train(asked, shown.append)
    assert (report.state, report.model) == ("finished", f"models/{asked.name}")
    assert shown and shown[0]["step"] > before
    kept = ledger.lines()
    assert [x["step"] for x in kept] == [x["step"] for x in whole]
    np.testing.assert_allclose([x["loss"] for x in kept], [x["loss"] for x in whole], rtol=1e-3)
    assert report.psnr_db == pytest.approx(max(x.get("psnr_db", 0.0) for x in whole), abs=0.02)
    # Once more there is nothing to do, and nothing is written.
    versions = {e.key: e.version for e in root.list("")}
    assert train(asked, shown.append).state == "current"
    assert {e.key: e.version for e in root.list("")} == versions
    model = load_model(root, asked.name)
    assert model.card.trained_on == ("one", "two") and model.card.accepts_range_nm == (420.0, 720.0)


def test_of_two_drivers_the_earlier_stops(scenes: ArchiveStore) -> None:
    plan = start(scenes, job(scenes, "sharpen", steps=4, patience=71))
    ledger = TrainingStore(scenes, plan.folder)
    ledger.take("first")
    running = work(scenes, plan, WorkerGroup(), driver="first")
    next(running)
    ledger.take("second")
    with pytest.raises(TrainingStopped, match="taken over by another driver"):
        next(running)


# ------------------------------------------------------------------------------------------------------- bad input


def hypermend(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=False)


def refused(root: ArchiveStore, *words: object) -> str:
    """The one line of a refused training."""
    name = () if "--name" in words else ("--name", "m")
    result = hypermend("train", "--archive", root.url, *name, "--steps", 2, *words)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.stderr
    return str(result.stderr)


def test_what_cannot_be_trained_is_refused_in_one_line(scenes: ArchiveStore, tmp_path: Path) -> None:
    words = ("--task", "sharpen")
    both = refused(scenes, *words, "--scene", "one", "--validation-scene", "one")
    assert "scene(s) one are among the training and the validation scenes" in both
    assert "no source cube of scene 'four'" in refused(scenes, *words, "--scene", "four")
    few = refused(scenes, *words, "--patch-px", 56)
    assert "4 squares of 112 x 112 usable pixels are needed, 2 are in 2 training scene(s)" in few
    assert "9 workers share a batch of 4 samples" in refused(scenes, *words, "--workers", 9)
    assert "no genotype 'x'" in refused(scenes, "--task", "denoise", "--genotype", "x")
    assert "genotype belongs to task 'denoise'" in refused(scenes, *words, "--genotype", "x")
    assert "no scene of guide collection 'g'" in refused(scenes, "--task", "fuse", "--guide-collection", "g")
    assert "'blur' " not in (unknown := refused(scenes, "--task", "blur")) and "task" in unknown
    with pytest.raises(BadJob, match="needs an end: give steps, minutes or both"):
        parse(TrainJob, {"archive": "a", "task": "fuse", "name": "m"}, where="test")
    lonely = ArchiveStore(tmp_path)
    add_scene(lonely, "one", edge=128)
    assert "1 source cube(s) match" in refused(lonely, *words)
    add_scene(lonely, "two", usable=20)
    assert "has no square of 64 x 64 usable pixels" in refused(lonely, *words, "--validation-scene", "two")


def test_a_genotype_on_bands_needs_scenes_of_one_kind(tmp_path: Path) -> None:
    root = fill(ArchiveStore(tmp_path))
    add_genotype(root)
    plan = start(root, job(root, "denoise", genotype="g", steps=2))
    assert plan.config["channels"] == 10 and len(lines_of(root, plan, 1)) == 2
    add_scene(root, "wide", bands=12)
    with pytest.raises(Refused, match="works on bands, and the training scenes have from 10 to 12"):
        plan_training(job(root, "denoise", genotype="g"))


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    root = fill(ArchiveStore(tmp_path))
    plan = start(root, job(root, "sharpen", steps=1))
    ledger = TrainingStore(root, plan.folder)
    list(work(root, plan, WorkerGroup()))
    record = ledger.read()
    assert record is not None
    publish(root, "taken", plan, ledger, record)
    assert published(root, "taken", plan) and not published(root, "free", plan)
    said = refused(root, "--task", "sharpen", "--name", "taken", "--seed", 5, "--patch-px", 16)
    assert f"models/taken of {root.url} was made by {plan.id}" in said


@pytest.mark.fault
def test_g2_of_two_trainings_for_one_name_the_first_to_end_gets_it(scenes: ArchiveStore) -> None:
    """Both asked when they began, and the name was free."""
    plans = [start(scenes, job(scenes, "sharpen", steps=1, seed=seed)) for seed in (11, 12)]
    ledgers = [TrainingStore(scenes, plan.folder) for plan in plans]
    for plan in plans:
        list(work(scenes, plan, WorkerGroup()))
        assert not published(scenes, "contested", plan)
    first, second = (ledger.read() for ledger in ledgers)
    assert first is not None and second is not None
    card = publish(scenes, "contested", plans[0], ledgers[0], first)
    with pytest.raises(Refused, match=f"models/contested of .* was made by {plans[0].id}"):
        publish(scenes, "contested", plans[1], ledgers[1], second)
    assert load_model(scenes, "contested").card == card


def test_a_checkpoint_of_another_network_is_refused(scenes: ArchiveStore) -> None:
    plan = start(scenes, job(scenes, "sharpen", steps=2, patience=61))
    other = start(scenes, job(scenes, "sharpen", steps=2, patience=61, filters=5))
    running = work(scenes, plan, WorkerGroup())
    next(running)
    running.close()
    record = TrainingStore(scenes, plan.folder).read()
    assert record is not None
    TrainingStore(scenes, other.folder).put(record)
    with pytest.raises(TrainingStopped, match="checkpoint at step 1 is of another network"):
        list(work(scenes, other, WorkerGroup()))


def test_a_loss_that_is_no_number_stops_with_step_scenes_and_windows(scenes: ArchiveStore) -> None:
    plan = start(scenes, job(scenes, "sharpen", steps=6, learning_rate=1e30))
    said = r"(loss|PSNR) is \w+ at step \d+: lower.*batch: (one|two) y \d+-\d+ x \d"
    with pytest.raises(TrainingStopped, match=said):
        list(work(scenes, plan, WorkerGroup()))
    record = TrainingStore(scenes, plan.folder).read()
    assert record is not None and record.state == "diverged"
    result = hypermend(
        "train", "--archive", scenes.url, "--name", "d", "--task", "sharpen", "--steps", 6, "--batch", 4, "--no-bf16",
        "--filters", 4, "--patch-px", 16, "--validation-scene", "three", "--learning-rate", "1e30",
    )  # fmt: skip
    said, page = result.stderr.splitlines()
    assert result.exit_code == 1 and "diverged: " in said and page.startswith("report: ")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_stops_every_worker(scenes: ArchiveStore, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = start(scenes, job(scenes, "sharpen", steps=2, patience=51 + rank))

    def full(self: ArchiveStore, key: str, data: bytes) -> str:
        raise ArchiveError(f"write {self.href(key)}: No space left on device")

    monkeypatch.setattr(ArchiveStore, "put", full)
    share = {0: None, 1: lambda flat: flat.copy_(torch.ones_like(flat))}[rank]  # worker 1 hears that worker 0 failed
    said = "No space left on device" if rank == 0 else "worker 0 could not keep the training"
    with pytest.raises(TrainingStopped, match=said):
        list(work(scenes, plan, WorkerGroup(rank=rank, size=1 + rank, share=share)))


def test_early_stop_and_minutes_end_a_training(scenes: ArchiveStore) -> None:
    plan = start(scenes, job(scenes, "sharpen", steps=50, check_every=1, patience=2, learning_rate=1e-12))
    lines = lines_of(scenes, plan, 1)
    record = TrainingStore(scenes, plan.folder).read()
    assert len(lines) < 10 and record is not None and record.reason == "no gain in 2 validations"
    short = start(scenes, job(scenes, "sharpen", steps=None, minutes=1e-4, check_every=1))
    assert lines_of(scenes, short, 1)[-1]["fraction"] == 1.0


def test_a_recipe_names_its_command_without_the_users_folders() -> None:
    words = ["sharpen", "--data", "/home/me/data", "--out", "/home/me/out", "--scale", "3", "--plain", "--seed", "7"]
    options = parser().parse_args(words)
    command = "python -m hypermend.pipeline.train.recipe sharpen --data DIR --out DIR --seed 7 --scale 3 --plain"
    assert command_of(options) == command
    options = parser().parse_args(["fuse", *words[1:5], "--held-out", "a", "b"])
    assert command_of(options).endswith("recipe fuse --data DIR --out DIR --held-out a b")


# ------------------------------------------------------------------------------------------------------ the verb


def test_the_plan_is_shown_and_is_a_value(scenes: ArchiveStore) -> None:
    # The collection is that of the scenes, as `ingest` and `restore` have it.
    words = (
        "train", "--archive", scenes.url, "--task", "fuse", "--name", "m", "--collection", "enmap", "--patch-px", 24,
        "--dry-run", "--minutes", 5,
    )  # fmt: skip
    shown = hypermend(*words, "--json")
    data = json.loads(shown.stdout)
    training = data.pop("training")
    assert TrainPlan.from_dict(data).id == training and set(data["held"]) < {"one", "two", "three"}
    text = hypermend(*words).stdout
    assert f"training {training}" in text and "\n5 minutes, batches" in text
    assert "\n7 steps or 5 minutes, batches" in hypermend(*words, "--steps", 7).stdout
    assert "\n7 steps, batches" in hypermend(*words[:-2], "--steps", 7).stdout
    assert not scenes.exists(f"training/{training}/plan.json")


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_what_was_trained_becomes_a_model(scenes: ArchiveStore, task: str, tmp_path: Path) -> None:
    plan = start(scenes, job(scenes, task, steps=2, patience=31))
    list(work(scenes, plan, WorkerGroup()))
    ledger = TrainingStore(scenes, plan.folder)
    record = ledger.read()
    assert record is not None
    card = publish(scenes, f"m-{task}", plan, ledger, record)
    model = (load_pair_model if task == "fuse" else load_model)(scenes, card.name)
    assert model.card == card and card.recipe["training"] == plan.id
    ledger.forget(record)
    versions = {e.key: e.version for e in scenes.list("")}
    again = train(job(scenes, task, steps=2, patience=31, name=card.name), lambda line: None)
    assert (again.state, again.model) == ("current", f"models/{card.name}")
    assert {e.key: e.version for e in scenes.list("")} == versions, "a finished training was touched"
    board = TensorBoardWriter(tmp_path, plan.id)
    board.show(ledger.lines())
    board.close()
    assert list((tmp_path / plan.id).glob("events.out.tfevents.*"))


@pytest.mark.slow
def test_a_filter_of_one_pair_of_sensors_is_trained_and_resumed(tmp_path: Path) -> None:
    root = fill(ArchiveStore(tmp_path / "a"))
    put_guides(root, "nikon-d700")
    more: dict[str, Any] = {"patch_px": 48, "pair_scale": 4, "guide_collection": "guides", "check_every": 1}
    plan = start(root, job(root, "fuse", steps=3, batch=2, **more))
    assert plan.id != IDS["fuse"] and plan.config["scale"] == 4 and len(plan.config["response"]) == 3
    whole = [line["loss"] for line in work(root, plan, WorkerGroup())]
    record = TrainingStore(root, plan.folder).read()
    assert record is not None and record.state == "finished"
    assert whole[0] == pytest.approx(1.0)  # before the first sample the filter is zero
    assert record.scores["three"]["psnr_db"] > record.scores["three"]["baseline_db"]
    again = fill(ArchiveStore(tmp_path / "b"))
    put_guides(again, "nikon-d700")
    assert start(again, job(again, "fuse", steps=3, batch=2, **more)).id == plan.id
    killed = work(again, plan, WorkerGroup())
    resumed = [next(killed)["loss"]]
    killed.close()
    resumed += [line["loss"] for line in work(again, plan, WorkerGroup())]
    np.testing.assert_allclose(resumed, whole)
    card = publish(root, "pair", plan, TrainingStore(root, plan.folder), record)
    model = load_pair_model(root, card.name)
    assert model.card.architecture == "pair-filter" and card.config == dict(plan.config)


def test_what_is_no_one_pair_of_sensors_is_refused(tmp_path: Path) -> None:
    root = fill(ArchiveStore(tmp_path / "a"))
    words = ("--task", "fuse", "--name", "m", "--pair-scale", 4, "--steps", 1)
    assert "--guide-collection names guides of none" in refused(root, *words)
    put_guides(root, "nikon-d700", "sentinel2a")
    assert "guides of nikon-d700, sentinel2a" in refused(root, *words, "--guide-collection", "guides")


def put_guides(root: ArchiveStore, *sensors: str) -> None:
    """Items of a collection of guides, without cubes."""
    for name in sensors:
        put_item(root, make_scene(f"of-{name}", collection="guides", sensor=name), run="test")


def test_without_tensorboard_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(Refused, match=r"pip install 'hypermend\[tensorboard\]'"):
        TensorBoardWriter(tmp_path, "x")
