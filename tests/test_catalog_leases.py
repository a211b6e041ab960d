"""Leases: of two drivers one works, a dead one is replaced, and nobody's clock decides."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.catalog.storage.leases import Leases

KEY = "leases/restore-denoise/S1.json"


@pytest.fixture(params=["disk", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> ArchiveStore:
    if request.param == "disk":
        return ArchiveStore(tmp_path)
    return ArchiveStore(f"s3://{request.getfixturevalue('s3_bucket')}/archive")


@pytest.mark.fault
def test_f06_of_two_one_holds_it_and_the_other_is_told_who(root: ArchiveStore) -> None:
    first, second = Leases(root, what="run one"), Leases(root, what="run two")
    assert first.holder(KEY) is None
    assert first.take(KEY) is None
    assert first.take(KEY) is None  # its own it may take again
    held = second.take(KEY)
    assert held is not None
    assert "run one on " in str(held)
    assert second.holder(KEY) == held
    assert first.renew(KEY)
    assert not second.renew(KEY)
    second.release(KEY)  # not its own: nothing happens
    assert first.renew(KEY)
    first.close()
    assert second.take(KEY) is None
    second.close()
    assert [e.key for e in root.list("leases") if e.key.endswith(".json") or "clock" in e.key] == []


@pytest.mark.fault
def test_f06_of_many_at_once_one_wins(root: ArchiveStore) -> None:
    drivers = [Leases(root, what=f"run {n}") for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda leases: leases.take(KEY), drivers))
    assert [a is None for a in answers].count(True) == 1
    for leases in drivers:
        leases.close()


@pytest.mark.fault
def test_f06_a_lease_of_one_who_went_silent_is_taken_over_and_he_is_told(
    root: ArchiveStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail with `_dead` answering False."""
    monkeypatch.setattr(Leases, "_start", lambda self: None)  # its thread sleeps, as in a machine that was suspended
    asleep, awake = Leases(root, what="asleep", ttl_s=1.5), Leases(root, what="awake")
    assert asleep.take(KEY) is None
    assert awake.take(KEY) is not None
    time.sleep(3.0)  # S3 tells times in whole seconds
    assert awake.take(KEY) is None
    assert not asleep.renew(KEY)
    asleep.release(KEY)
    assert awake.renew(KEY)


def test_a_living_driver_renews_its_lease(tmp_path: Path) -> None:
    alive, other = Leases(ArchiveStore(tmp_path), what="alive", ttl_s=0.4), Leases(ArchiveStore(tmp_path), what="other")
    assert alive.take(KEY) is None
    time.sleep(1.2)
    assert other.take(KEY) is not None
    alive.close()


@pytest.mark.fault
def test_f06_the_lease_of_a_killed_process_is_free_at_once(root: ArchiveStore) -> None:
    code = f"""
import os, signal
from hypermend.catalog.storage.leases import Leases
from hypermend.catalog.storage.archive_store import ArchiveStore
assert Leases(ArchiveStore({root.url!r}), what="doomed").take({KEY!r}) is None
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    heir = Leases(root, what="heir")
    assert heir.take(KEY) is None
    heir.close()


@pytest.mark.parametrize("data", [b"", b"[]", b'{"token": 1}'])
def test_a_damaged_lease_is_nobodys(root: ArchiveStore, data: bytes) -> None:
    root.put(KEY, data)
    leases = Leases(root, what="next")
    time.sleep(1.1 if not root.is_local else 0.01)
    assert leases.take(KEY) is None
    leases.close()


@pytest.mark.fault
def test_f18_the_clock_of_a_driver_decides_nothing(root: ArchiveStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver whose clock is a year ahead takes nothing that is held by a living one."""
    holder, ahead = Leases(root, what="holder"), Leases(root, what="ahead")
    assert holder.take(KEY) is None
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 3e7)
    assert ahead.take(KEY) is not None
    holder.close()
