"""Every error of a disk, a lock, a number or a signal has its class and its end (G6 of docs/faults.md)."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from obstore.exceptions import GenericError
from typer.testing import CliRunner

from hypermend.catalog.errors import ArchiveError, Full, ReadOnly
from hypermend.catalog.storage import leases as leases_module
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.catalog.storage.leases import Leases
from hypermend.pipeline.cli.main import app
from hypermend.pipeline.config import RestoreJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.registry import models as registry
from hypermend.pipeline.registry.models import defaults, promote
from hypermend.pipeline.restore.driver import restore

pytestmark = pytest.mark.fault

DISK = {errno.ENOSPC: Full, errno.EDQUOT: Full, errno.EFBIG: Full, errno.EROFS: ReadOnly, errno.EIO: ArchiveError}


@pytest.mark.parametrize("number", DISK)
def test_g6_errors_of_a_disk_have_their_class(tmp_path: Path, number: int) -> None:
    """As Python raises them for the chunks of cubes, and as obstore does for all other objects."""
    root = ArchiveStore(str(tmp_path))
    said = f"Generic LocalFileSystem error: Unable to copy data to file: {os.strerror(number)} (os error {number})"
    for error in (OSError(number, os.strerror(number)), GenericError(said)):
        with pytest.raises(ArchiveError) as raised, root.errors("write", "a"):
            raise error
        assert type(raised.value) is DISK[number] and os.strerror(number) in str(raised.value)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_FSIZE raises EFBIG on Linux")
def test_g6_a_file_that_is_too_large_stops_a_run(archive: str) -> None:
    """The limit is that of a process of its own; the first shard is larger."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"
        "from tests.faults import restore_here\n"
        f"report = restore_here({archive!r}); print(report.exit_code, report.notes, report.tiles_written)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("1 {") and done.stdout.endswith("} 0\n"), done.stdout + done.stderr
    assert "'stopped': 'write " in done.stdout and "File too large" in done.stdout


def no_lock(*_: Any) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_g6_locks_that_fail_for_a_while_cost_no_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = ArchiveStore(str(tmp_path))
    ours = Leases(root, what="ours", ttl_s=0.2)
    assert ours.take("leases/k/a.json") is None
    monkeypatch.setattr(fcntl, "flock", no_lock)
    with pytest.raises(ArchiveError, match="No locks available"):
        ours.renew("leases/k/a.json")
    failed = threading.Event()
    monkeypatch.setattr(fcntl, "flock", lambda *_: (failed.set(), no_lock()))
    assert failed.wait(10)
    monkeypatch.undo()
    before = root.get_versioned("leases/k/a.json")[1]
    end = time.monotonic() + 10
    while root.get_versioned("leases/k/a.json")[1] == before:
        assert time.monotonic() < end, "the lease is no longer renewed"
    ours.check_alive()
    ours.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_g6_a_driver_whose_leases_are_no_longer_renewed_stops(archive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Leases, key: str) -> bool:
        if threading.current_thread().name == "leases":
            raise MemoryError
        return True

    monkeypatch.setattr(leases_module, "TTL_S", 0.01)
    monkeypatch.setattr(Leases, "__init__", short_lived(Leases.__init__))
    monkeypatch.setattr(Leases, "renew", broken)
    run = restore(RestoreJob(archive=archive, model="identity", tile_px=16), engine=serial)
    for _ in run:
        time.sleep(0.02)
    assert "no longer renewed" in run.report.notes["stopped"]
    assert run.report.exit_code == 1 and run.report.tiles_written < 24


def short_lived(init: Callable[..., None]) -> Callable[..., None]:
    return lambda self, root, *, what, ttl_s=0.01: init(self, root, what=what, ttl_s=0.01)


def test_g6_of_two_promotions_at_once_none_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = ArchiveStore(str(tmp_path))
    real = ArchiveStore.put_if
    others = ["emit", "prisma"]

    def while_another_promotes(self: ArchiveStore, key: str, data: bytes, version: str | None) -> str | None:
        if others and key == registry.DEFAULTS:
            promote(root, others.pop(), "denoise", "theirs")
        return real(self, key, data, version)

    monkeypatch.setattr(ArchiveStore, "put_if", while_another_promotes)
    assert promote(root, "enmap", "denoise", "ours") is None
    sensors = {sensor: table["denoise"] for sensor, table in defaults(root).items()}
    assert sensors == {"enmap": "ours", "emit": "theirs", "prisma": "theirs"}
    assert promote(root, "enmap", "denoise", None) == "ours"
    assert set(defaults(root)) == {"emit", "prisma"}


ODD_NUMBERS = ("nan", "inf", "-inf", "1e999")


@pytest.mark.parametrize("number", ODD_NUMBERS)
@pytest.mark.parametrize(
    "words",
    [
        ("plan", "--memory-gib"), ("ingest", "--gsd"), ("restore", "--deadline"), ("catalog", "--nodata"),
        ("catalog", "--scale-factor"), ("catalog", "--add-offset"), ("catalog", "--wavelengths"),
        ("prune", "--older-than"), ("train", "--minutes"), ("train", "--learning-rate"), ("search", "--workers"),
        ("restore", "--tile-px"), ("restore", "--budget-seconds"), ("query", "--bbox"), ("export", "--bbox"),
    ],
    ids="".join,
)  # fmt: skip
def test_g6_odd_numbers_are_refused_in_a_line(archive: str, words: tuple[str, str], number: str) -> None:
    verb, option = words
    values = [number] * 4 if option == "--bbox" else [number]
    more = {"catalog": [archive], "export": ["a", "--format", "cog", "--out", "/nowhere/x.tif"]}.get(verb, [])
    more += ["--task", "fuse", "--guide-collection", "c"] if option == "--budget-seconds" else []
    result = CliRunner().invoke(app, [verb, *more, "--archive", archive, option, *values])
    assert isinstance(result.exception, SystemExit) and result.exit_code in (1, 2), (result.exception, result.output)
    assert "Traceback" not in result.output


@pytest.mark.parametrize("toml", ["memory_gib = inf", "deadline_s = nan", "gpus_per_worker = inf", "max_gpus = nan"])
def test_g6_odd_numbers_of_a_job_file_are_refused_in_a_line(archive: str, tmp_path: Path, toml: str) -> None:
    (tmp_path / "job.toml").write_text(f"archive = '{archive}'\n{toml}\n")
    result = CliRunner().invoke(app, ["restore", str(tmp_path / "job.toml")])
    assert result.exit_code == 2 and toml.split()[0] in result.output


DATES = ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "9999", "9999-12-31", "0001", "2024-02-30", "99999",
         "2024-01-01/2023-01-01", "../..", "/", "nan", "\x00", "2024-01-01T25:00:00Z")  # fmt: skip


@pytest.mark.parametrize("date", DATES)
def test_g6_odd_dates_are_refused_in_a_line_or_find_nothing(archive: str, date: str) -> None:
    for words in (["query"], ["plan"], ["catalog", archive], ["ingest", "--dry-run"]):
        option = "--scene-datetime" if words[0] == "ingest" else "--datetime"
        result = CliRunner().invoke(app, [*words, "--archive", archive, option, date])
        assert result.exception is None or isinstance(result.exception, SystemExit), (words, result.exception)


def test_g6_sigterm_while_ray_starts_ends_with_130(archive: str, tmp_path: Path) -> None:
    """Ray takes seconds to start; a stub of `ray.init` says when it has begun."""
    code = (
        "import time, sys, ray\n"
        "def init(**options): print('starting', flush=True); time.sleep(60)\n"
        "ray.init = init\n"
        f"sys.argv = ['hypermend', 'restore', '--archive', {archive!r}, '--model', 'identity', '--workers', '2']\n"
        "from hypermend.pipeline.cli.main import main\n"
        "main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "starting" not in (line := process.stdout.readline()):
        assert line, "it ended before"
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "run the same command again" in said and "Traceback" not in said
