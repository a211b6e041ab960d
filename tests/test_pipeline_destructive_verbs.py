"""`verify` and `prune` never act on a guess (G1 of docs/faults.md), and a kill in them leaves nothing that stays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import zarr

import hypermend
from hypermend.catalog.errors import Refused
from hypermend.catalog.keys import cube_key, quicklook_keys
from hypermend.catalog.storage import cube_leases
from hypermend.catalog.storage import leases as lease_module
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.catalog.storage.leases import Leases
from hypermend.pipeline.config import IngestJob, RestoreJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.ingest import catalog_folder, ingest
from hypermend.pipeline.maintenance import prune as prune_module
from hypermend.pipeline.maintenance.prune import prune
from hypermend.pipeline.maintenance.verify import verify
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.restore.plan import plan_key, read_plan
from tests.faults import Killed, make_ingested, writes_that_fail

pytestmark = pytest.mark.fault


@pytest.fixture(scope="module")
def two_cubes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with one scene and two finished source cubes of it: the first is superseded."""
    folder = tmp_path_factory.mktemp("destructive")
    make_ingested(folder)
    assert do_ingest(str(folder / "archive"), tile_px=16) == 0
    return folder / "archive"


@pytest.fixture
def archive(two_cubes: Path, tmp_path: Path) -> str:
    return str(shutil.copytree(two_cubes, tmp_path / "archive"))


def do_ingest(archive: str, tile_px: int = 32) -> int:
    """Ingest with the setting of the first cube, unless told otherwise."""
    return ingest(IngestJob(archive=archive, tile_px=tile_px), engine=serial).wait().exit_code


def do_restore(archive: str, **options: Any) -> int:
    job = RestoreJob(archive=archive, **({"model": "identity", "tile_px": 16} | options))
    return restore(job, engine=serial).wait().exit_code


def source_cubes(archive: str) -> tuple[str, str]:
    """The source cube that the item names, and the other one."""
    (item,) = hypermend.open(archive).search(stage="source")
    named = cube_key(item.scene)
    folder = named.rpartition("/")[0]
    (other,) = {f"{folder}/{p.name}" for p in Path(archive, folder).glob("*.zarr")} - {named}
    return named, other


def all_files(archive: str) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in Path(archive).rglob("*") if p.is_file()}


# ------------------------------------------------------------------------------------------------------------ prune


@pytest.mark.parametrize("kind", ["ingest", "restore-fuse", "restore-sharpen", "restore-denoise-sharpen", "of-2030"])
def test_g1_prune_leaves_a_scene_that_any_kind_of_driver_has(archive: str, kind: str) -> None:
    _, old = source_cubes(archive)
    scene = cube_leases.scene_folder(old)
    driver = Leases(ArchiveStore(archive), what="a driver")
    assert driver.take(f"leases/{kind}/{scene}.json") is None
    assert prune(archive, older_than_hours=0).removed == ()
    driver.close()
    assert [one.cube for one in prune(archive, older_than_hours=0).removed] == [old]


def test_g1_prune_leaves_a_cube_that_a_training_or_a_fusion_reads(archive: str) -> None:
    _, old = source_cubes(archive)
    with cube_leases.reading(ArchiveStore(archive), [old], what="a training"):
        assert prune(archive, older_than_hours=0).removed == ()
    assert [one.cube for one in prune(archive, older_than_hours=0).removed] == [old]


def test_g1_prune_between_two_tiles_of_a_restoration_removes_nothing(archive: str) -> None:
    events = iter(restore(RestoreJob(archive=archive, model="identity", tile_px=16), engine=serial))
    next(events), next(events)
    named, _ = source_cubes(archive)
    assert do_ingest(archive, tile_px=48) == 0  # the cube that is being read is superseded now
    assert prune(archive, older_than_hours=0).removed == ()
    assert [event.kind for event in events][-1] == "published"
    assert Path(archive, named, "zarr.json").exists()


def test_g1_prune_looks_again_at_what_is_published_before_it_removes(
    archive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, old = source_cubes(archive)
    real: Callable[..., Any] = prune_module._leased

    def busy(*args: Any, **options: Any) -> Any:  # a driver publishes the old cube again while prune is elsewhere
        monkeypatch.undo()
        assert do_ingest(archive) == 0
        return real(*args, **options)

    monkeypatch.setattr(prune_module, "_leased", busy)
    removed = prune(archive, older_than_hours=0).removed
    assert source_cubes(archive)[0] == old
    assert removed == ()
    assert verify(archive).torn == ()


def test_g1_a_driver_does_not_publish_a_cube_that_is_being_removed(archive: str) -> None:
    _, old = source_cubes(archive)
    pruning = Leases(ArchiveStore(archive), what="prune")
    assert pruning.take(cube_leases.prune_key(cube_leases.scene_folder(old))) is None
    report = ingest(IngestJob(archive=archive, tile_px=32), engine=serial).wait()
    assert [scene.status for scene in report.scenes] == ["held"]
    pruning.close()
    assert do_ingest(archive) == 0


def test_g1_prune_follows_no_link(archive: str, tmp_path: Path) -> None:
    named, old = source_cubes(archive)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    folder = Path(archive, named).parent
    (folder / "0123456789abcdef.zarr").symlink_to(tmp_path / "mine")
    (folder / "0123456789abcdef.zarr.done.json").write_text('{"marks": []}')
    (Path(archive, old) / "valid" / "more").symlink_to(tmp_path / "mine")
    report = prune(archive, older_than_hours=0)
    assert (report.removed, len(report.refused)) == ((), 2)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"
    (Path(archive, old) / "valid" / "more").unlink()
    assert [one.cube for one in prune(archive, older_than_hours=0).removed] == [old]


def finish_unpublished(archive: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> str:
    """Restore a scene, killed between the last tile and the item; the key of the cube."""
    before = set(Path(archive).glob("restored/*/*.zarr"))

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("hypermend.pipeline.restore.driver.put_item", killed)
        do_restore(archive, **options)
    (cube,) = set(Path(archive).glob("restored/*/*.zarr")) - before
    return str(cube.relative_to(archive))


def test_g1_prune_leaves_a_cube_that_was_finished_and_not_published(
    archive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The item that is there is that of an older cube, which replaces nothing."""
    _, old = source_cubes(archive)
    assert do_restore(archive) == 0
    cube = finish_unpublished(archive, monkeypatch, tile_px=32)
    monkeypatch.setattr(lease_module, "_has_ended", lambda claim: True)  # the process of a killed one
    report = prune(archive, older_than_hours=0)
    assert [one.cube for one in report.removed] == [old]
    assert [line.partition(";")[0] for line in report.refused] == [
        f"{cube} is finished and nothing that was published since takes its place: the command that made it publishes "
        "it"
    ]
    (before,) = hypermend.open(archive).search(stage="restored")
    assert do_restore(archive, tile_px=32) == 0
    assert [one.cube for one in prune(archive, older_than_hours=0).removed] == [cube_key(before.scene)]


def test_g1_prune_leaves_a_cube_of_a_task_that_nothing_was_published_of(
    archive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cube = finish_unpublished(archive, monkeypatch, tile_px=32)
    plan = Path(archive, plan_key(cube))
    plan.write_text(plan.read_text().replace('"task": "denoise"', '"task": "sharpen"'))
    assert read_plan(ArchiveStore(archive), plan_key(cube)).task == "sharpen"
    monkeypatch.setattr(lease_module, "_has_ended", lambda claim: True)
    assert do_restore(archive) == 0  # of another task, and later
    assert not [one for one in prune(archive, older_than_hours=0).removed if one.cube.startswith("restored")]
    assert Path(archive, cube, "zarr.json").exists()


kill_at_each = pytest.mark.parametrize("step", [6, pytest.param(1, marks=pytest.mark.long)])


def every_kill(two_cubes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> Iterator[str]:
    """A copy of the archive after each possible kill of prune, or after every `step`-th."""
    for count in range(0, 200, step):
        archive = str(shutil.copytree(two_cubes, tmp_path / str(count)))
        with writes_that_fail(monkeypatch, count), suppress(Killed):
            prune(archive, older_than_hours=0)
            return
        shutil.rmtree(Path(archive, "leases", "prune"), ignore_errors=True)  # what a dead process holds, nobody holds
        yield archive
        shutil.rmtree(archive)
    raise AssertionError("prune did not end")


@kill_at_each
def test_g1_after_any_kill_of_prune_the_old_setting_works_again(
    two_cubes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    kills = 0
    for archive in every_kill(two_cubes, tmp_path, monkeypatch, step):
        kills += 1
        assert do_ingest(archive) == 0, kills
        assert verify(archive).torn == (), kills
        (item,) = hypermend.open(archive).search(stage="source")
        assert float(item.dataset().reflectance.mean()) > 0, kills
    assert kills * step > 20


@kill_at_each
def test_g1_after_any_kill_of_prune_the_next_one_ends_it(
    two_cubes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    for archive in every_kill(two_cubes, tmp_path, monkeypatch, step):
        (item,) = hypermend.open(archive).search(stage="source")
        named = cube_key(item.scene)
        prune(archive, older_than_hours=0)
        folder = Path(archive, named).parent
        kept = (named, f"{named}.done.json", *quicklook_keys(named).values())
        left = {p.name for p in folder.iterdir()} - {Path(key).name for key in kept}
        assert all(name.endswith(".pruned") for name in left)  # the empty mark of a removal killed at its last delete
        assert verify(archive).torn == ()


# ----------------------------------------------------------------------------------------------------------- verify


@pytest.mark.parametrize("repair", [False, True])
def test_g1_verify_leaves_a_cube_of_a_newer_version(archive: str, repair: bool) -> None:
    named, _ = source_cubes(archive)
    group = Path(archive, named, "zarr.json")
    document = json.loads(group.read_text())
    spec = json.loads(document["attributes"]["hypermend:spec"])
    document["attributes"]["hypermend:spec"] = json.dumps({**spec, "added_in_0_9": None})
    group.write_text(json.dumps(document))
    before = all_files(archive)
    report = verify(archive, repair=repair)
    assert report.torn == ()
    assert ["newer version" in unread.reason for unread in report.unread] == [True]
    assert all_files(archive) == before


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), ValueError("odd"), MemoryError()])
def test_g1_verify_leaves_sound_metadata_that_this_machine_cannot_open(
    archive: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def cannot(*_: Any, **__: Any) -> None:
        raise error

    before = all_files(archive)
    monkeypatch.setattr(zarr, "open_array", cannot)
    if isinstance(error, MemoryError):
        with pytest.raises(MemoryError):
            verify(archive)
    else:
        assert [unread.repair_with for unread in verify(archive).unread] == ["ingest"]
    monkeypatch.undo()
    assert all_files(archive) == before
    assert verify(archive).unread == ()


def test_g1_what_repair_sets_aside_is_kept_until_the_cube_is_whole(archive: str) -> None:
    assert do_restore(archive) == 0
    (item,) = hypermend.open(archive).search(stage="restored")
    group = Path(archive, cube_key(item.scene), "zarr.json")
    sound = group.read_bytes()
    document = json.loads(sound)
    document["consolidated_metadata"]["metadata"]["reflectance"]["shape"] = "odd"
    damaged = json.dumps(document).encode()
    group.write_bytes(damaged)
    assert [unread.repair_with for unread in verify(archive).unread] == ["restore"]
    assert len(verify(archive, repair=True).torn) == 1
    aside = Path(archive, "set-aside", cube_key(item.scene), "zarr.json")
    assert aside.read_bytes() == damaged
    assert do_restore(archive) == 0
    assert (group.read_bytes(), aside.exists()) == (sound, True)
    assert (verify(archive).torn, aside.exists()) == ((), False)


# ------------------------------------------------------------------------------------------------------------ index


@pytest.mark.parametrize("name", ["index", "catalog", "ingest"])
def test_g1_the_catalog_of_somebody_else_is_not_touched(two_cubes: Path, tmp_path: Path, name: str) -> None:
    """A static catalog has a folder `items` as an archive has; of its items none lies where those of an archive do."""
    verbs: dict[str, Callable[[], Any]] = {
        "index": lambda: hypermend.open(tmp_path).reindex(),
        "catalog": lambda: catalog_folder(str(tmp_path), two_cubes.parent / "files", sensor="enmap"),
        "ingest": lambda: ingest(IngestJob(archive=str(tmp_path), stac=str(two_cubes)), engine=serial).wait(),
    }
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "a.json").write_text('{"type": "Feature", "id": "a"}')
    link = {"rel": "item", "href": "./items/a.json"}
    (tmp_path / "catalog.json").write_text(
        json.dumps({"type": "Catalog", "id": "mine", "stac_version": "1.0.0", "links": [link]})
    )
    before = all_files(str(tmp_path))
    with pytest.raises(Refused, match="is the catalog 'mine', not that of an archive of Hypermend"):
        verbs[name]()
    assert all_files(str(tmp_path)) == before
