"""Leases between two hosts: namespaces of their own for network, name and processes, and clocks 20 minutes apart.

The hosts share a folder, or a server of S3 that each reaches by a network of its own. The system's clock stays right.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.conftest import ROOT, free_port

pytestmark = pytest.mark.fault
KEY = "leases/ingest/S1.json"
TTL_S = 2.0
DRIVER = f"""
import select, sys, time
time.sleep = lambda s: select.select([], [], [], s)  # faketime breaks clock_nanosleep
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.catalog.storage.leases import Leases
leases = Leases(ArchiveStore(sys.argv[1]), what="the run", ttl_s={TTL_S})
print(time.time(), flush=True)
for line in sys.stdin:
    print(getattr(leases, line.strip())({KEY!r}), flush=True)
"""
NAMESPACES = ["unshare", "--net", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"]


def is_permitted() -> bool:
    command = [*NAMESPACES, "ip", "link", "set", "lo", "up"]
    with contextlib.suppress(OSError):
        return (
            shutil.which("ip") is not None and subprocess.run(command, check=False, capture_output=True).returncode == 0
        )
    return False


class Host:
    """A driver on a host of its own."""

    def __init__(self, name: str, clock: str, number: int, *, reaches: str) -> None:
        shm = "mount -t tmpfs tmpfs /dev/shm"  # faketime keeps a file there, named by the process's number
        preload = "LD_PRELOAD=$(faketime -f +0 printenv LD_PRELOAD)"  # itself it would stay as the parent
        script = f'hostname {name}; {shm}; read ready; export {preload} FAKETIME={clock}; exec "$0" -c "$1" "$2"'
        environment = {
            **os.environ, "NO_FAKE_STAT": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "PYTHONPATH": str(ROOT),
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": "http://" + gateway(number) + ":" + reaches.partition("|")[2], "AWS_ALLOW_HTTP": "true",
        }  # fmt: skip
        self.process = subprocess.Popen(
            [*NAMESPACES, "sh", "-c", script, sys.executable, DRIVER, reaches.partition("|")[0]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
        )  # fmt: skip
        self.pid = self._inner()
        link(number, self.pid)
        self._say("ready")
        self.ahead_s = float(self._answer()) - time.time()

    def _inner(self) -> int:
        """The first process inside, as it is known outside."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        until = time.monotonic() + 20
        while not (text := children.read_text()) and time.monotonic() < until:
            time.sleep(0.01)
        return int(text)

    def _say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def does(self, what: str) -> str:
        self._say(what)
        return self._answer()

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.process.communicate()


def gateway(number: int) -> str:
    return f"10.213.{number}.1"


def link(number: int, pid: int) -> None:
    """A network between this host and that of `pid`."""
    name, inside = f"hm{os.getpid() % 100000}o{number}", f"hm{os.getpid() % 100000}i{number}"
    enter = f"nsenter --net --target {pid} ip"
    for command in (
        f"ip link add {name} type veth peer name {inside}",
        f"ip link set {inside} netns {pid}",
        f"ip addr add {gateway(number)}/24 dev {name}",
        f"ip link set {name} up",
        f"{enter} addr add 10.213.{number}.2/24 dev {inside}",
        f"{enter} link set {inside} up",
        f"{enter} link set lo up",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)


@pytest.fixture(params=["folder", "s3"])
def hosts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str, str], Host]]:
    if not is_permitted():
        pytest.skip("namespaces are not permitted here (unshare --net --uts --pid)")
    if shutil.which("faketime") is None:
        pytest.skip("faketime is not installed")
    server = None
    archive = f"{tmp_path}|0"
    if request.param == "s3":
        port = free_port()
        server = ThreadedMotoServer(ip_address="0.0.0.0", port=port, verbose=False)
        server.start()
        boto3.client(
            "s3", endpoint_url=f"http://127.0.0.1:{port}", aws_access_key_id="test", aws_secret_access_key="test",
            region_name="us-east-1",
        ).create_bucket(Bucket="shared")  # fmt: skip
        archive = f"s3://shared/archive|{port}"
    running: list[Host] = []

    def start(name: str, clock: str) -> Host:
        running.append(Host(name, clock, len(running) + 1, reaches=archive))
        return running[-1]

    yield start
    for host in running:
        host.end()
    if server is not None:
        server.stop()


def test_f06_of_two_hosts_whose_clocks_differ_one_works_and_a_silent_one_is_replaced(
    hosts: Callable[[str, str], Host],
) -> None:
    early, late = hosts("early", "-10m"), hosts("late", "+10m")
    assert late.ahead_s - early.ahead_s > 1100
    assert early.does("take") == "None"
    until = time.monotonic() + 2 * TTL_S
    while time.monotonic() < until:  # longer than an entry lives that nobody renews
        assert "the run on early" in late.does("take")
    os.kill(early.pid, signal.SIGSTOP)
    assert "the run on early" in late.does("take")  # it cannot know yet
    until = time.monotonic() + 4 * TTL_S
    while (answer := late.does("take")) != "None" and time.monotonic() < until:
        time.sleep(0.1)
    assert answer == "None"
    os.kill(early.pid, signal.SIGCONT)
    assert early.does("renew") == "False"
    assert "the run on late" in early.does("take")
    assert late.does("renew") == "True"
