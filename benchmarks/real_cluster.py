"""A real cluster on one machine: a head and two workers as processes of their own, a job through the Jobs API.

    python -m benchmarks.real_cluster

The job is submitted twice with the cluster's token (one job), and once without it (refused). While it runs, the
processes of one worker are killed, and later a new worker joins. It must end with the bytes of an undisturbed run.
Prints one JSON object; exits with 0 if all checks passed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.config import IngestJob, RestoreJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.ingest import catalog_folder, ingest
from hypermend.pipeline.maintenance.failures import failures
from hypermend.pipeline.restore.driver import restore
from tests.synthetic import enmap_folder

BIN = Path(sys.executable).parent
TILE_PX = 16
LIMIT_S = 400.0
# A machine that vanishes is noticed after these, by default 18 seconds.
QUICK = {
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def wait_for(happened: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not happen within {LIMIT_S:.0f} s")
        time.sleep(0.05)


class Cluster:
    """The processes of a head and its workers; all of them end with it."""

    def __init__(self, folder: Path) -> None:
        self.port, self.dashboard = free_ports(2)
        self.address = f"http://127.0.0.1:{self.dashboard}"
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self.token = token.read_text()
        self._folder = folder
        path = os.pathsep.join([str(BIN), os.environ["PATH"]])  # the `python` of the job is that of the cluster
        own = {"PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        self.env = os.environ | QUICK | own
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}

    def start_head(self) -> None:
        ports = ["--head", f"--port={self.port}", f"--dashboard-port={self.dashboard}", "--dashboard-host=127.0.0.1"]
        # A short path: a socket's name may have 107 bytes.
        self._start("head", *ports, "--num-cpus=0", f"--temp-dir={self._folder}/r")

    def start_worker(self, name: str) -> None:
        lanes = json.dumps({"lane_nightly": 1, "lane_backfill": 1})
        self._start(name, f"--address=127.0.0.1:{self.port}", "--num-cpus=1", f"--resources={lanes}")

    def kill(self, name: str) -> None:
        """Every process of a node at once, as when its power is cut."""
        process = self._nodes.pop(name)
        for pid in [process.pid, *descendants(process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        for name in list(self._nodes):
            self.kill(name)

    def _start(self, name: str, *options: str) -> None:
        log = (self._folder / f"{name}.log").open("wb")
        command = [
            str(BIN / "ray"), "start", *options, "--object-store-memory=100000000", "--disable-usage-stats", "--block",
        ]  # fmt: skip
        self._nodes[name] = subprocess.Popen(command, env=self.env, stdout=log, stderr=log, start_new_session=True)


def descendants(pid: int) -> list[int]:
    """All processes below one, at this moment."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            parents.setdefault(int(stat[1]), []).append(int(entry.name))
    found, left = [], [pid]
    while left:
        left += (below := parents.get(left.pop(), []))
        found += below
    return found


def make_archive(folder: Path) -> str:
    """One ingested scene of 6 x 8 tiles."""
    enmap_folder(folder / "files", height=96, width=128)
    archive = str(folder / "archive")
    catalog_folder(archive, folder / "files", sensor="enmap")
    ingest(IngestJob(archive=archive), engine=serial).wait()
    return archive


def restored_bytes(archive: str) -> dict[str, str]:
    root = ArchiveStore(archive)
    return {e.key: hashlib.sha256(root.get(e.key)).hexdigest() for e in root.list("restored")}


def marks(archive: str) -> int:
    return sum(".zarr.done/" in e.key for e in ArchiveStore(archive).list("restored"))


def hypermend(cluster: Cluster, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hypermend", *words]
    return subprocess.run(command, env=cluster.env | env, capture_output=True, text=True, check=False)


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    cluster = Cluster(folder)
    try:
        cluster.start_head()
        cluster.start_worker("one")
        cluster.start_worker("two")
        yield cluster
    finally:
        cluster.close()


def measure(folder: Path) -> dict[str, Any]:
    begin = time.monotonic()
    archive = make_archive(folder)
    clean = str(shutil.copytree(archive, folder / "clean"))
    restore(RestoreJob(archive=clean, model="identity", tile_px=TILE_PX), engine=serial).wait()
    job = folder / "job.toml"
    job.write_text(f'archive = "{archive}"\nmodel = "identity"\ntile_px = {TILE_PX}\nlane = "backfill"\n')
    figures: dict[str, Any] = {"name": "real-cluster"}
    with running(folder) as cluster:
        listed = ("jobs", "list", "--address", cluster.address, "--json")
        wait_for(lambda: hypermend(cluster, *listed).returncode == 0, "an answer of the head")
        figures["started_s"] = round(time.monotonic() - begin, 1)
        stranger = hypermend(cluster, "jobs", "list", "--address", cluster.address, RAY_AUTH_MODE="disabled")
        figures["without_token"] = stranger.returncode
        submit = ("submit", str(job), "--address", cluster.address, "--json")
        first = hypermend(cluster, *submit)
        if first.returncode:
            raise RuntimeError(first.stdout + first.stderr)
        wait_for(lambda: marks(archive) >= 4, "the fourth tile")
        cluster.kill("one")
        figures["tiles_when_killed"] = marks(archive)
        cluster.start_worker("three")
        second = hypermend(cluster, *submit)
        told = [json.loads(answer.stdout) for answer in (first, second)]
        figures["submitted"] = [one["new"] for one in told]
        figures["one_job"] = told[0]["id"] == told[1]["id"]
        name = told[0]["id"]
        end = hypermend(cluster, "jobs", "logs", name, "--follow", "--address", cluster.address)
        figures["job_exit_code"] = end.returncode
        figures["again_after_its_end"] = json.loads(hypermend(cluster, *submit).stdout)["new"]
        said = [first, second, stranger, end]
        logs = [path.read_text(errors="replace") for path in folder.glob("*.log")]
        figures["token_seen"] = any(cluster.token in text for a in said for text in (a.stdout, a.stderr, *logs))
    figures["same_bytes"] = restored_bytes(archive) == restored_bytes(clean)
    figures["failures"] = len(failures(archive))
    root = ArchiveStore(archive)
    lines = [
        json.loads(line)
        for entry in root.list("runs")
        if "-restore/receipts/" in entry.key
        for line in root.get(entry.key).splitlines()
    ]
    figures["receipts"] = len(lines)
    figures["tries_counted"] = max((line["attempts"] for line in lines), default=0)
    figures["seconds"] = round(time.monotonic() - begin, 1)
    if figures["job_exit_code"]:
        figures["log"] = end.stdout[-2000:] + end.stderr[-2000:]
    return figures


def held(figures: dict[str, Any]) -> bool:
    """Check the results; True where all are as expected."""
    return figures == figures | {
        "without_token": 2,
        "submitted": [True, False],
        "one_job": True,
        "job_exit_code": 0,
        "again_after_its_end": False,
        "token_seen": False,
        "same_bytes": True,
        "failures": 0,
        "tries_counted": 1,
    }


def main() -> None:
    """Entry point; 1 when a check failed."""
    prog, description = "python -m benchmarks.real_cluster", (__doc__ or "").split("\n")[0]
    argparse.ArgumentParser(prog=prog, description=description).parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hm-"))
    try:
        figures = measure(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(figures | {"held": held(figures)}))
    sys.exit(0 if held(figures) else 1)


if __name__ == "__main__":
    main()
