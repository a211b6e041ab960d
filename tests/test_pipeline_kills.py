"""Every verb that writes is killed at its n-th write or delete; the same command then ends as if undisturbed (G1)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import hypermend
from hypermend.catalog.keys import cube_key
from hypermend.catalog.storage import leases as lease_module
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.config import IngestJob, RestoreJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.ingest import catalog_folder, ingest
from hypermend.pipeline.maintenance.prune import prune
from hypermend.pipeline.maintenance.verify import verify
from hypermend.pipeline.registry.models import promote
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.train.checkpoints import TrainingState, TrainingStore
from tests.faults import Killed, writes_that_fail
from tests.synthetic import enmap_folder

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
    "train": Verb("nothing", train_records),
}


def content(archive: Path) -> dict[str, Any]:
    """Every object but logs, leases and the index, without the times at which items were published."""
    found: dict[str, Any] = {}
    for entry in ArchiveStore(archive).list(""):
        top, name = entry.key.partition("/")[0], entry.key.rpartition("/")[2]
        if top in ("runs", "leases", "index") or entry.key.endswith(".pruned"):
            continue
        data: Any = (archive / entry.key).read_bytes()
        if top == "items" and name != "catalog.json":
            data = json.loads(data)
            data["properties"].pop("updated")
        elif name == "catalog.json":  # links may be added in another order
            data = json.loads(data)
            data["links"].sort(key=lambda link: (link["rel"], link["href"]))
        found[entry.key] = data
    return found


def check_search(archive: Path) -> None:
    """A search agrees with the items, and each cube that they name opens."""
    for item in hypermend.open(archive).search():
        if item.scene.stage != "raw":
            assert (archive / cube_key(item.scene) / "zarr.json").exists()
            item.dataset()


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)], ids=["some", "all"])
@pytest.mark.parametrize("name", VERBS)
def test_g1_a_verb_killed_at_any_write_is_ended_by_the_same_command(
    stages: Path, name: str, every: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verb = VERBS[name]
    (tmp_path / "files").symlink_to(stages / "files")
    start = Path(shutil.copytree(stages / verb.stage, tmp_path / "start"))
    if verb.damage is not None:
        verb.damage(start)
    monkeypatch.setattr(lease_module, "_has_ended", lambda claim: True)  # the process of a killed one
    undisturbed = Path(shutil.copytree(start, tmp_path / "undisturbed"))
    with writes_that_fail(monkeypatch, 10**9) as count:
        verb.run(undisturbed)
    total, clean = count[0], content(undisturbed)
    step = 1 if every or name in CHEAP else max(1, total // FEW)
    for after in sorted({*range(0, total, step), total - 1}):
        archive = Path(shutil.copytree(start, tmp_path / f"{after}"))  # anew: a lease's thread outlives our kill
        with writes_that_fail(monkeypatch, after), pytest.raises(Killed):
            verb.run(archive)
        if verb.damage is None:
            check_search(archive)
        verb.run(archive)
        assert content(archive) == clean, (name, after)
        check_search(archive)
        shutil.rmtree(archive)
