"""A link in an archive is refused by name or not followed, at every door and by every verb (G1 of docs/faults.md)."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from typer.testing import CliRunner
from zarr.core.buffer import default_buffer_prototype
from zarr.core.buffer.cpu import Buffer
from zarr.core.sync import sync

import hypermend
from hypermend.catalog.cube.stores import zarr_store
from hypermend.catalog.errors import ArchiveError, Refused
from hypermend.catalog.storage.archive_store import LINK, ArchiveStore
from hypermend.catalog.storage.leases import Leases
from hypermend.pipeline.cli.main import app
from hypermend.pipeline.config import IngestJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.ingest import catalog_folder, ingest
from hypermend.pipeline.maintenance.prune import prune
from hypermend.pipeline.maintenance.verify import verify
from tests.faults import make_ingested, restore_here

pytestmark = pytest.mark.fault
GOOD = "enmap_synthetic-20220724T104526"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with two source cubes of a scene, one superseded, a restored cube, logs, and a default model."""
    folder = tmp_path_factory.mktemp("links")
    archive = make_ingested(folder)
    assert restore_here(str(archive)).exit_code == 0
    assert do_ingest(archive, 16) == 0
    run(archive, "models", "promote", "identity", "--sensor", "enmap")
    (archive / "leases" / ".lock").touch()
    (archive / "set-aside" / "source").mkdir(parents=True)
    (archive / "set-aside" / "source" / "note.json").write_text("{}")
    return archive


def do_ingest(archive: Path, tile_px: int) -> int:
    return ingest(IngestJob(archive=str(archive), tile_px=tile_px), engine=serial).wait().exit_code


def run(archive: Path, *words: str) -> None:
    verb, *rest = words
    at = 2 if verb == "models" and rest else 1
    line = [*words[:at], "--archive", str(archive), *words[at:]]
    result = CliRunner().invoke(app, line)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception


def cli(*words: str) -> Callable[[Path], Any]:
    return lambda archive: run(archive, *words)


VERBS: dict[str, Callable[[Path], Any]] = {
    "query": cli("query", "--json"),
    "failures": cli("failures", "--all"),
    "retry": cli("retry", "--dry-run"),
    "models": cli("models", "--json"),
    "genotypes": cli("genotypes"),
    "sensors": cli("sensors"),
    "plan": cli("plan", "--task", "denoise"),
    "inspect": cli("inspect", GOOD, "--no-picture"),
    "export": lambda archive: run(
        archive, "export", f"enmap-denoise/{GOOD}", "--format", "envi", "--out", str(archive.parent / "out.img")
    ),
    "verify": cli("verify"),
    "repair": cli("verify", "--repair"),
    "prune": lambda archive: prune(str(archive), older_than_hours=0),
    "catalog": lambda archive: catalog_folder(str(archive), archive.parent / "files", sensor="enmap"),
    "ingest": lambda archive: do_ingest(archive, 16),
    "another ingest": lambda archive: do_ingest(archive, 32),
    "restore": lambda archive: restore_here(str(archive)),
    "promote": cli("models", "promote", "identity", "--sensor", "emit"),
    "index": cli("index"),
}


def doors(archive: Path) -> list[str]:
    """Every file and folder of the archive, relative to it."""
    return sorted(str(path.relative_to(archive)) for path in archive.rglob("*"))


def kinds(archive: Path) -> list[str]:
    """One of each kind: of doors that differ in ids and numbers alone, and of arrays of coordinates, the first."""
    seen: dict[str, str] = {}
    for door in doors(archive):
        if not re.search(r"zarr/(?!valid|reflectance|band|zarr.json)", door):
            seen.setdefault(re.sub(r"[0-9a-f]{16}|\d+", "", door.partition("/runs/")[0]), door)
    return list(seen.values())


def all_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content of every file, with the time at which it was last read: now it has been."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            read_at = path.stat().st_atime_ns
            found[str(path.relative_to(folder))] = path.read_bytes(), read_at
            os.utime(path, ns=(read_at, path.stat().st_mtime_ns))
        else:
            found[f"{path.relative_to(folder)}/"] = b"", 0
    return found


def moved_outside(archive: Path, door: str, outside: Path) -> None:
    """Put a link in place of a file or folder of the archive, and more files where it points to."""
    outside.mkdir()
    there = outside / "there"
    (archive / door).rename(there)
    (archive / door).symlink_to(there)
    if there.is_dir():
        (there / "thesis").mkdir()
        (there / "thesis" / "chapter.txt").write_text("mine")
        for name in ("0.safetensors", "0-0.json", "x#1"):
            if not (there / name).exists():
                (there / name).write_text("mine")
    for path in outside.rglob("*"):
        os.utime(path, ns=(0, 10**18))  # a read changes the first, where the file system keeps it


def check_door(whole: Path, tmp_path: Path, door: str, verb: str) -> None:
    archive, outside = Path(shutil.copytree(whole, tmp_path / "archive")), tmp_path / "outside"
    moved_outside(archive, door, outside)
    before = all_of(outside)
    try:
        VERBS[verb](archive)
    except ArchiveError:
        pass
    except Exception as error:
        raise AssertionError(f"{verb} with a link at {door}: {error!r}") from error
    assert all_of(outside) == before, (verb, door)
    for made in (archive, outside):
        shutil.rmtree(made)
    for made in tmp_path.glob("out.*"):
        made.unlink()


@pytest.mark.long
@pytest.mark.parametrize("verb", VERBS)
def test_g1_no_verb_follows_a_link_of_any_kind(whole: Path, tmp_path: Path, verb: str) -> None:
    shutil.copytree(whole.parent / "files", tmp_path / "files")
    for door in kinds(whole):
        check_door(whole, tmp_path, door, verb)


@pytest.mark.parametrize(
    ("door", "verb"),
    [
        ("items", "catalog"),
        ("items/enmap-source/2022-07-24", "query"),
        ("items/enmap-source/2022-07-24/*T104526.json", "ingest"),
        ("index/enmap-source", "index"),
        ("source", "another ingest"),
        ("source/*/*.zarr/reflectance", "another ingest"),
        ("source/*/*.zarr.done.json", "repair"),
        ("source/*/*.zarr/valid/c/0", "prune"),
        ("restored/*/*.plan.json", "verify"),
        ("restored/*/*.zarr/reflectance/c/0/1/1", "export"),
        ("runs", "restore"),
        ("runs/*/failures", "failures"),
        ("leases", "another ingest"),
        ("leases/.lock", "promote"),
        ("models", "promote"),
    ],
)
def test_g1_no_verb_follows_a_link(whole: Path, tmp_path: Path, door: str, verb: str) -> None:
    shutil.copytree(whole.parent / "files", tmp_path / "files")
    for path in sorted(whole.glob(door)):
        check_door(whole, tmp_path, str(path.relative_to(whole)), verb)


def test_g1_an_item_that_is_a_link_is_named_and_the_others_go_on(whole: Path, tmp_path: Path) -> None:
    """Without it, `prune` would not know which cubes of its scene are in use."""
    archive = Path(shutil.copytree(whole, tmp_path / "archive"))
    (item,) = archive.glob("items/enmap-source/*/*T104526.json")
    moved_outside(archive, str(item.relative_to(archive)), tmp_path / "outside")
    found = hypermend.open(archive).search()
    assert sorted(one.scene.stage for one in found) == ["raw", "restored"]
    assert [unread.key for unread in verify(str(archive)).unread] == [str(item.relative_to(archive))]
    assert prune(str(archive), older_than_hours=0).removed == ()
    assert "is a link" in ingest(IngestJob(archive=str(archive)), engine=serial).wait().scenes[0].reason


METHODS: dict[str, Callable[[ArchiveStore, str], Any]] = {
    "get": lambda root, key: root.get(key),
    "get_versioned": lambda root, key: root.get_versioned(key),
    "stat": lambda root, key: root.stat(key),
    "put": lambda root, key: root.put(key, b"new"),
    "put_if_absent": lambda root, key: root.put_if_absent(key, b"new"),
    "put_if": lambda root, key: root.put_if(key, b"new", "1"),
    "put_if of a new one": lambda root, key: root.put_if(key, b"new", None),
    "age_s": lambda root, key: root.age_s(key, "1"),
    "delete": lambda root, key: root.delete(key),
    "delete_prefix": lambda root, key: root.delete_prefix(key),
    "list": lambda root, key: list(root.list(key)),
    "folders": lambda root, key: root.folders(key),
    "local_path": lambda root, key: root.local_path(key),
    "zarr get": lambda root, key: sync(zarr_store(root, "a", read_only=True).get(key[2:], default_buffer_prototype())),
    "zarr set": lambda root, key: sync(zarr_store(root, "a", read_only=False).set(key[2:], Buffer.from_bytes(b"new"))),
    "zarr delete": lambda root, key: sync(zarr_store(root, "a", read_only=False).delete(key[2:])),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("key", ["a/folder/x/y", "a/folder/new", "a/folder", "a/file", "a/nowhere"])
def test_g1_every_door_of_a_store_refuses_a_link(tmp_path: Path, method: str, key: str) -> None:
    archive, outside = tmp_path / "archive", tmp_path / "outside"
    (outside / "x" / "y").mkdir(parents=True)
    (outside / "x" / "y" / "thesis.txt").write_text("mine")
    (archive / "a").mkdir(parents=True)
    (archive / "a" / "folder").symlink_to(outside)
    (archive / "a" / "file").symlink_to(outside / "x" / "y" / "thesis.txt")
    (archive / "a" / "nowhere").symlink_to(outside / "nowhere")
    before = all_of(outside)
    with pytest.raises(Refused, match="is a link"):
        METHODS[method](ArchiveStore(archive), key)
    assert all_of(outside) == before
    assert (archive / "a" / "nowhere").is_symlink()


def test_g1_nothing_is_deleted_of_a_folder_with_a_link_in_it(tmp_path: Path) -> None:
    root = ArchiveStore(tmp_path)
    root.put("a/b/c", b"1")
    (tmp_path / "a" / "z").symlink_to(tmp_path)
    with pytest.raises(Refused, match="is a link"):
        root.delete_prefix("a")
    assert [(entry.key, entry.version == LINK) for entry in root.list("a")] == [("a/z", True), ("a/b/c", False)]


def test_g1_the_lock_of_an_archive_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "archive" / "leases").mkdir(parents=True)
    (tmp_path / "archive" / "leases" / ".lock").symlink_to(tmp_path / "outside")
    leases = Leases(ArchiveStore(tmp_path / "archive"), what="a driver")
    assert leases.take("leases/ingest/S1.json") is None  # its first put needs no lock
    with pytest.raises(Refused, match="is a link"):
        leases.renew("leases/ingest/S1.json")
    assert not (tmp_path / "outside").exists()


def test_an_archive_may_itself_be_reached_by_a_link(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "archive").symlink_to(whole)
    assert len(hypermend.open(tmp_path / "archive").search()) == 3


def test_versions_of_a_listing_are_those_of_a_put(tmp_path: Path) -> None:
    """Else the index would have no row of any item."""
    root = ArchiveStore(tmp_path)
    versions = {key: root.put(key, key.encode()) for key in ("a", "b/c", "b/d e/é.json")}
    assert {entry.key: entry.version for entry in root.list("")} == versions
    stored = {meta["path"]: meta["e_tag"].strip('"') for batch in obstore.list(root.store) for meta in batch}
    assert stored == versions


def test_g3_a_name_that_steers_a_terminal_is_no_object(tmp_path: Path) -> None:
    root = ArchiveStore(tmp_path)
    root.put("items/a.json", b"{}")
    for name in ("b\x1b[2J.json", "c\n.json", "d\\e.json", "f\u202eg.json", os.fsdecode(b"h\xff.json")):
        (tmp_path / "items" / name).write_text("{}")
    assert [entry.key for entry in root.list("items")] == ["items/a.json"]
