"""Every verb that writes is killed at its n-th write or delete; the same command then ends as if undisturbed (G1)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

import hypermend
from hypermend.catalog.keys import cube_key
from hypermend.catalog.storage import leases as lease_module
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.config import IngestJob, RestoreJob, SearchJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.ingest import catalog_folder, ingest
from hypermend.pipeline.maintenance.failures import failures, jobs_to_retry, record_current
from hypermend.pipeline.maintenance.prune import prune
from hypermend.pipeline.maintenance.verify import verify
from hypermend.pipeline.registry.models import load_model, promote
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.search import driver as search_driver
from hypermend.pipeline.search.plan import BUDGETS, SearchBudget, SearchPlan
from hypermend.pipeline.search.trial import ENDED, first_record, put_record, read_record, run_trial
from hypermend.pipeline.train.checkpoints import TrainingState, TrainingStore
from hypermend.pipeline.train.driver import train
from hypermend.pipeline.train.worker import WorkerGroup, work
from tests.faults import Killed, writes_that_fail
from tests.synthetic import enmap_folder
from tests.test_pipeline_search import add_cube
from tests.test_pipeline_train import add_scene
from tests.test_pipeline_train import job as training_job
from tests.test_pipeline_train import start as start_training

pytestmark = pytest.mark.fault
TILE_PX = 16
FEW, CHEAP = 3, ("train", "promote")
"""Kills of each verb in `make test`, over all of its writes; all of them in `make test-long`."""


def catalog(archive: Path) -> None:
    catalog_folder(str(archive), archive.parent / "files", sensor="enmap")


def ingested(archive: Path, tile_px: int = TILE_PX) -> None:
    assert ingest(IngestJob(archive=str(archive), tile_px=tile_px), engine=serial).wait().exit_code == 0


def restored(archive: Path) -> None:
    job = RestoreJob(archive=str(archive), model="identity", tile_px=TILE_PX)
    assert restore(job, engine=serial).wait().exit_code == 0


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archives of one scene of four tiles, by what is done: `nothing`, `raw`, `source`, `restored`, `superseded`."""
    folder = tmp_path_factory.mktemp("kills")
    enmap_folder(folder / "files", height=2 * TILE_PX, width=2 * TILE_PX, tile_px=TILE_PX)
    steps: list[tuple[str, Callable[[Path], None]]] = [("raw", catalog), ("source", ingested), ("restored", restored)]
    (folder / "nothing").mkdir()
    before = folder / "nothing"
    for name, step in steps:
        before = Path(shutil.copytree(before, folder / name))
        step(before)
    ingested(Path(shutil.copytree(folder / "source", folder / "superseded")), 2 * TILE_PX)
    return folder


def torn(archive: Path) -> None:
    """Tear a shard and the plan of a restored cube, and lose a shard of its source cube."""
    (shard, *_) = sorted(archive.glob("restored/*/*.zarr/reflectance/c/0/*/*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    (shard, *_) = sorted(archive.glob("source/*/*.zarr/reflectance/c/0/*/*"))
    shard.unlink()
    (plan,) = archive.glob("restored/*/*.plan.json")
    plan.write_bytes(plan.read_bytes()[:-9])


def odd(archive: Path) -> None:
    """Damage the group of a restored cube and the marks of its source cube so that they still parse."""
    (group,) = archive.glob("restored/*/*.zarr/zarr.json")
    document = json.loads(group.read_text())
    document["consolidated_metadata"]["metadata"]["reflectance"]["shape"] = "odd"
    group.write_text(json.dumps(document))
    (marks,) = archive.glob("source/*/*.zarr.done.json")
    marks.write_text('{"marks": 5}')


def verified(archive: Path, *, repair: bool = False) -> None:
    """Verify, and then run the commands that it names."""
    verify(str(archive), repair=repair)
    ingested(archive)
    restored(archive)
    report = verify(str(archive))
    assert (report.torn, report.unread) == ((), ())


def failed_before(archive: Path) -> None:
    """A restore that failed for want of a shard, which is there again."""
    (shard, *_) = sorted(archive.glob("source/*/*.zarr/reflectance/c/0/*/*"))
    moved = shard.rename(archive.parent / "shard")
    job = RestoreJob(archive=str(archive), model="identity", tile_px=TILE_PX)
    assert restore(job, engine=serial).wait().exit_code == 1
    moved.rename(shard)


def retried(archive: Path) -> None:
    """Retry, and then the job that failed, which completes the catalogs for browsers: a retry ends with the items."""
    failed = failures(str(archive))
    for job in jobs_to_retry(str(archive), failed):
        assert isinstance(job, RestoreJob)
        report = restore(job, engine=serial).wait()
        assert report.exit_code == 0
        record_current(str(archive), report)
    assert failures(str(archive)) == []
    restored(archive)


def train_records(archive: Path) -> None:
    """The writes of a training that validates twice, from where its records say that it stands."""
    store = TrainingStore(ArchiveStore(archive), "training/t")
    store.take("me")
    record = store.read() or TrainingState()
    resumed = store.resume(record)
    assert resumed is not None or not record.checkpoints, "a record names what is not there"
    if record.best is not None:
        assert store.load(record.best) is not None, "a record names weights that are not there"
    for step in range(1 if resumed is None else resumed.step + 1, 5):
        state = {"w": torch.full((3,), float(step))}
        store.put_lines([{"step": n} for n in range(step)])
        if step % 2 == 0:
            record = store.better(record, state, step=step, seconds=1.0)
        record = store.checkpoint(record, state, step=step, seconds=1.0)
    store.forget(record)


@dataclass(frozen=True)
class Verb:
    """The archive on which a verb begins, and the command that is killed and then run again."""

    stage: str
    run: Callable[[Path], Any]
    damage: Callable[[Path], None] | None = None


VERBS = {
    "catalog": Verb("nothing", catalog),
    "ingest": Verb("raw", ingested),
    "restore": Verb("source", restored),
    "verify": Verb("restored", verified, torn),
    "repair": Verb("restored", lambda archive: verified(archive, repair=True), odd),
    "prune": Verb("superseded", lambda archive: prune(str(archive), older_than_hours=0)),
    "promote": Verb("raw", lambda archive: promote(ArchiveStore(archive), "enmap", "denoise", "identity")),
    "index": Verb("restored", lambda archive: hypermend.open(archive).reindex()),
    "retry": Verb("source", retried, failed_before),
    "train": Verb("nothing", train_records),
}


def content(archive: Path, without: Sequence[str]) -> dict[str, Any]:
    """Every object but logs, leases and the index; of JSON without these keys."""
    found: dict[str, Any] = {}
    for entry in ArchiveStore(archive).list(""):
        top, name = entry.key.partition("/")[0], entry.key.rpartition("/")[2]
        if top in ("runs", "leases", "index") or entry.key.endswith(".pruned"):
            continue
        data: Any = (archive / entry.key).read_bytes()
        if name.endswith(".json"):
            data = stripped(json.loads(data), without)
        if name == "catalog.json":  # links may be added in another order
            data["links"].sort(key=lambda link: (link["rel"], link["href"]))
        found[entry.key] = data
    return found


def stripped(value: Any, without: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return {key: stripped(inner, without) for key, inner in value.items() if key not in without}
    return [stripped(inner, without) for inner in value] if isinstance(value, list) else value


def check_search(archive: Path) -> None:
    """A search agrees with the items, and each cube that they name opens."""
    for item in hypermend.open(archive).search():
        if item.scene.stage != "raw":
            assert (archive / cube_key(item.scene) / "zarr.json").exists()
            item.dataset()


def check_kills(
    verb: Verb, start: Path, copies: Path, monkeypatch: pytest.MonkeyPatch, *, few: int | None, without: Sequence[str]
) -> None:
    """Kill the verb at its n-th write, and run it again: the archive must be as after a run that nothing disturbed.

    Args:
        few: kills over all of its writes; None for one at each.
        without: keys of JSON that differ from run to run.
    """
    monkeypatch.setattr(lease_module, "_has_ended", lambda claim: True)  # the process of a killed one
    undisturbed = Path(shutil.copytree(start, copies / "undisturbed"))
    with writes_that_fail(monkeypatch, 10**9) as count:
        verb.run(undisturbed)
    total, clean = count[0], content(undisturbed, without)
    step = 1 if few is None else max(1, total // few)
    for after in sorted({*range(0, total, step), total - 1}):
        archive = Path(shutil.copytree(start, copies / f"{after}"))  # anew: a lease's thread outlives our kill
        with writes_that_fail(monkeypatch, after), pytest.raises(Killed):
            verb.run(archive)
        if verb.damage is None:
            check_search(archive)
        verb.run(archive)
        assert content(archive, without) == clean, after
        check_search(archive)
        shutil.rmtree(archive)


EVERY = pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)], ids=["some", "all"])


@EVERY
@pytest.mark.parametrize("name", VERBS)
def test_g1_a_verb_killed_at_any_write_is_ended_by_the_same_command(
    stages: Path, name: str, every: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verb = VERBS[name]
    (tmp_path / "files").symlink_to(stages / "files")
    start = Path(shutil.copytree(stages / verb.stage, tmp_path / "start"))
    if verb.damage is not None:
        verb.damage(start)
    few = None if every or name in CHEAP else FEW
    check_kills(verb, start, tmp_path, monkeypatch, few=few, without=("updated",))


@EVERY
def test_g1_an_ingest_killed_at_any_write_takes_the_files_as_they_are_then(
    stages: Path, every: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the killed one planned, wrote or marked of the file as it was before is in no cube that is published."""
    shutil.copytree(stages / "files", tmp_path / "files")
    start = Path(shutil.copytree(stages / "nothing", tmp_path / "start"))
    catalog(start)
    files = sorted((tmp_path / "files").glob("*_tile_*.tif"))
    before, after_kill = {path: path.read_bytes() for path in files}, {}
    for path in files:
        with rasterio.open(path) as image:
            pixels, profile = image.read(), image.profile
        with rasterio.open(path, "w", **profile) as image:
            image.write(np.where(pixels == profile["nodata"], pixels, pixels + 1))
        after_kill[path] = path.read_bytes()

    def put(files: dict[Path, bytes]) -> None:
        for path, data in files.items():
            path.write_bytes(data)

    def pixels_of(archive: Path) -> Any:
        (item,) = hypermend.open(archive).search(stage="source")
        return item.dataset()["reflectance"].values

    undisturbed = Path(shutil.copytree(start, tmp_path / "undisturbed"))
    ingested(undisturbed)
    clean = pixels_of(undisturbed)
    put(before)
    with writes_that_fail(monkeypatch, 10**9) as count:
        ingested(Path(shutil.copytree(start, tmp_path / "old")))
    assert not np.array_equal(pixels_of(tmp_path / "old"), clean, equal_nan=True)
    monkeypatch.setattr(lease_module, "_has_ended", lambda claim: True)
    step = 1 if every else count[0] // FEW
    for after in sorted({*range(0, count[0], step), count[0] - 1}):
        put(before)
        archive = Path(shutil.copytree(start, tmp_path / f"{after}"))
        with writes_that_fail(monkeypatch, after), pytest.raises(Killed):
            ingested(archive)
        put(after_kill)
        ingested(archive)
        assert np.array_equal(pixels_of(archive), clean, equal_nan=True), after
        shutil.rmtree(archive)


@pytest.mark.long
def test_g1_a_search_killed_at_any_write_is_ended_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trials run here, one after the other, in place of Ray's processes."""

    def run_here(root: ArchiveStore, plans: Sequence[SearchPlan], **_: Any) -> None:
        for plan in plans:
            for number in range(plan.trials):
                record = read_record(root, plan.id, number) or put_record(root, plan.id, first_record(plan, number))
                if record.state not in ENDED:
                    list(run_trial(root, plan, record))

    tiny = SearchBudget(trials=2, seeds=2, epochs=1, steps=1, width=1, channels=6, patch_px=16, patches=1, areas=4)
    monkeypatch.setitem(BUDGETS, "smoke", tiny)  # type: ignore[arg-type]
    monkeypatch.setattr(search_driver, "run_plans", run_here)
    start = tmp_path / "start"
    add_cube(ArchiveStore(start), "cave", bands=10, low_nm=400, high_nm=700)

    def search(archive: Path) -> None:
        job = SearchJob(archive=str(archive), sensors=("cave",), budget="smoke")
        (answer,) = search_driver.search_archive(job, lambda line: None)
        assert answer.found is not None

    check_kills(
        Verb("", search), start, tmp_path, monkeypatch, few=None, without=("updated", "where", "seconds", "sha256")
    )


@EVERY
def test_g1_a_model_killed_at_any_write_is_ended_by_the_same_command(
    every: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a training: weights, card, and the checkpoints that are no longer needed."""
    start = tmp_path / "start"
    root = ArchiveStore(start)
    for name in ("one", "three"):
        add_scene(root, name)
    list(work(root, start_training(root, training_job(root, "sharpen", steps=2)), WorkerGroup()))

    def finish(archive: Path) -> None:
        report = train(training_job(ArchiveStore(archive), "sharpen", steps=2), lambda line: None)
        assert report.state in ("finished", "current")
        load_model(ArchiveStore(archive), "small-sharpen")

    few = None if every else FEW
    check_kills(Verb("", finish), start, tmp_path, monkeypatch, few=few, without=("updated",))
