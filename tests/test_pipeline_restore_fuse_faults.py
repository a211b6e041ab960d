"""Fusion on Ray and in a process of its own: the same cube as here, and the same bytes after a kill of a block."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hypermend
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.models import checkpoint
from hypermend.pipeline.restore.driver import restore
from tests.faults import end, restored_bytes, wait_for
from tests.stub_fusion import StubFusion, engine
from tests.test_pipeline_restore_fuse import BLOCKS, fused, job_of, make_archive, put_model


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        checkpoint.ARCHITECTURES, "stub-fusion", checkpoint.Architecture("fuse", StubFusion, of_pair=True)
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with one pair, and a stub that takes its time over a block. Copied, never changed."""
    archive = make_archive(tmp_path_factory.mktemp("pair") / "archive")
    put_model(archive, sleep_s=0.4)
    return archive


@pytest.fixture(params=["disk", "s3"])
def anywhere(request: pytest.FixtureRequest, pair: Path, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(shutil.copytree(pair, tmp_path / "archive"))
    place = f"s3://{request.getfixturevalue('s3_bucket')}/archive"
    here, there = ArchiveStore(pair), ArchiveStore(place)
    for entry in here.list(""):
        there.put(entry.key, here.get(entry.key))
    return place


@pytest.fixture(scope="module")
def clean(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The bytes of the undisturbed fusion."""
    place = shutil.copytree(pair, tmp_path_factory.mktemp("clean") / "archive")
    done = subprocess.run(command(str(place)), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return restored_bytes(str(place))


def command(archive: str) -> list[str]:
    """On Ray where the archive lies on S3, else in one process."""
    job = {"task": "fuse", "guide_collection": "rgb", "model": "stub", "tile_px": 64, "archive": archive}
    job |= {"workers": 2} if archive.startswith("s3://") else {"engine": "process"}
    return [sys.executable, "-c", "from tests.stub_fusion import main; main()", json.dumps(job)]


def start(archive: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(archive), stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def blocks_done(archive: str) -> int:
    return sum(".adapt.done/" in entry.key for entry in ArchiveStore(archive).list("restored"))


def report_of(out: bytes) -> Any:
    return json.loads(out.decode().splitlines()[-1])


@pytest.mark.slow
def test_serial_and_ray_agree(tmp_path: Path, ray_session: None) -> None:
    here, flags, plan, _ = fused(make_archive(tmp_path / "a"))
    archive = make_archive(tmp_path / "b")
    report = restore(job_of(archive), engine=engine).wait()
    assert report.exit_code == 0
    there, flags_there, *_ = fused(archive)
    assert np.abs(here - there).max() * plan.spec.scale_factor <= 1e-5
    np.testing.assert_array_equal(flags, flags_there)
    assert len(report.scenes[0].figures["blocks"]) == BLOCKS


@pytest.mark.long
@pytest.mark.fault
def test_f01_a_worker_killed_while_it_adapts_is_replaced(pair: Path, tmp_path: Path, clean: dict[str, str]) -> None:
    archive = str(shutil.copytree(pair, tmp_path / "archive"))
    environment = os.environ | {"STUB_DIES": str(tmp_path / "died")}
    done = subprocess.run(command(archive), capture_output=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "died").exists()
    (scene,) = report_of(done.stdout)["scenes"]
    assert scene["status"] == "published"
    assert len(scene["figures"]["blocks"]) == BLOCKS
    assert restored_bytes(archive) == clean


@pytest.mark.long
@pytest.mark.fault
def test_f03_a_driver_killed_in_the_block_phase_goes_on_with_the_same_command(
    anywhere: str, clean: dict[str, str]
) -> None:
    process = start(anywhere)
    try:
        wait_for(lambda: blocks_done(anywhere) >= 2)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        end(process)
    done = {e.key: e.version for e in ArchiveStore(anywhere).list("restored") if e.key.endswith(".safetensors")}
    assert 2 <= blocks_done(anywhere) < BLOCKS
    assert hypermend.open(anywhere).search(stage="restored") == []
    again = subprocess.run(command(anywhere), capture_output=True, check=False)
    assert again.returncode == 0, again.stderr.decode()
    assert report_of(again.stdout)["scenes"][0]["status"] == "published"
    assert restored_bytes(anywhere) == clean
    assert done.items() <= {e.key: e.version for e in ArchiveStore(anywhere).list("restored")}.items()  # not done again
