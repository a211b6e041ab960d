"""One scene of 24 tiles, drivers of their own that restore it, and what is left of them: for the tests of faults."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import obstore
import pytest

from hypermend.catalog.cube.stores import WriteStore
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.config import IngestJob, RestoreJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.ingest import catalog_folder, ingest
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.runs.report import RunReport
from tests.synthetic import enmap_folder

TILES = 24
MODEL = "identity"


def make_ingested(folder: Path) -> Path:
    """An archive with one ingested scene of 64 x 96 pixels: 24 tiles of 16 pixels to restore."""
    archive = folder / "archive"
    enmap_folder(folder / "files")
    catalog_folder(str(archive), folder / "files", sensor="enmap")
    assert ingest(IngestJob(archive=str(archive), tile_px=32), engine=serial).wait().exit_code == 0
    return archive


def restore_here(archive: str) -> RunReport:
    return restore(RestoreJob(archive=archive, model=MODEL, tile_px=16), engine=serial).wait()


def restored_bytes(archive: str) -> dict[str, str]:
    """sha256 of every object of the restored cubes, marks included."""
    root = ArchiveStore(archive)
    return {entry.key: hashlib.sha256(root.get(entry.key)).hexdigest() for entry in root.list("restored")}


ON_RAY, IN_CHILD = ("--workers", "2"), ("--engine", "process")


def command(archive: str, engine: Sequence[str] = ON_RAY) -> list[str]:
    return [
        sys.executable, "-c", "from hypermend.pipeline.cli.main import main; main()", "restore", "--archive", archive,
        "--model", MODEL, "--tile-px", "16", *engine, "--json",
    ]  # fmt: skip


def marks(archive: str) -> int:
    return sum(".zarr.done/" in entry.key for entry in ArchiveStore(archive).list("restored"))


def wait_for(happened: Callable[[], bool], *, limit_s: float = 240.0) -> None:
    end = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Process ids of the run's workers: Ray's actors, named after their class, or the engine's own process."""
    ids = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            title = (entry / "cmdline").read_bytes()
            session = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[3])
        except (OSError, IndexError):
            continue
        is_worker = title.startswith(b"ray::_Worker") or b"child_process import serve" in title
        if is_worker and session == process.pid:
            ids.append(int(entry.name))
    return ids


def start(archive: str, engine: Sequence[str] = ON_RAY) -> subprocess.Popen[bytes]:
    words = command(archive, engine)
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of a killed driver's own Ray may outlive the test."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Killed(BaseException):
    """Stands for a kill: no handler of ours catches it, and nothing after it is done."""


@contextlib.contextmanager
def writes_that_fail(
    monkeypatch: pytest.MonkeyPatch, after: int, fail: Callable[[], Exception | Killed] = Killed
) -> Iterator[list[int]]:
    """Everything that would change the archive fails, from the write or delete after so many; gives their number.

    Objects are deleted one by one, as a kill may leave a batch.
    """
    count = [0]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def write(*args: Any, **options: Any) -> Any:
            count[0] += 1
            if count[0] > after:
                raise fail()
            return real(*args, **options)

        return write

    delete = counted(obstore.delete)

    def one_by_one(store: Any, paths: Any) -> None:
        for path in [paths] if isinstance(paths, str) else paths:
            delete(store, path)

    with monkeypatch.context() as patch:
        patch.setattr(obstore, "put", counted(obstore.put))
        patch.setattr(obstore, "delete", one_by_one)
        patch.setattr(WriteStore, "set", counted(WriteStore.set))
        yield count
