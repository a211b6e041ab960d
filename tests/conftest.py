"""What every test may ask for: the real data, and real servers on free ports, started once and killed at the end.

Servers are processes of their own, not threads, so that GDAL, h5py and Ray workers reach them as they would reach a
real one. `moto_s3` sets the AWS_* environment of the whole session; `ray_session` starts after it so that the workers
inherit it.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

ROOT = Path(__file__).resolve().parents[1]
# Tests import `tests.synthetic`, `tests.strategies` and `benchmarks.*`; neither is part of the installed package.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])

if "PYTEST_XDIST_WORKER" in os.environ:  # a core for each; without, torch would take them all in every one
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_worker_niceness", "0")  # what a test waits for must not wait for the tests beside it

# Machines that run this are shared and slow at times: a deadline in milliseconds would test the machine.
settings.register_profile("hypermend", deadline=None, max_examples=60)
settings.load_profile("hypermend")

START_SECONDS = 60.0
LONG_SECONDS = 3600
"""Limit of a test of `make test-long`; others have the limit of pyproject.toml."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with the most slow tests first, so that workers that share the files end at about the same time."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
    for item in items:
        if item.get_closest_marker("long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LONG_SECONDS))


class OneRay(LoadFileScheduling):
    """`--dist loadfile`, with the files that need Ray on one worker: to start it takes as long as most of them."""

    def _split_scope(self, nodeid: str) -> str:
        scope: str = super()._split_scope(nodeid)
        return "on Ray" if needs_ray(ROOT / scope) else scope


@cache
def needs_ray(file: Path) -> bool:
    return "ray_session" in file.read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneRay | None:
    return OneRay(config, log) if config.getoption("dist") == "loadfile" else None


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_server(command: Sequence[str], port: int, *, cwd: Path | None = None) -> subprocess.Popen[bytes]:
    """Start a server and wait until it accepts connections; its own words are shown when it does not."""
    log = tempfile.TemporaryFile()  # noqa: SIM115 (the server writes to it for its whole life)
    process = subprocess.Popen(command, stdout=log, stderr=log, cwd=cwd)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.05)
    stop_server(process)
    log.seek(0)
    raise RuntimeError(f"{command[0]} did not listen on port {port}: {log.read().decode(errors='replace')[-2000:]}")


def stop_server(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait(timeout=30)


def unpack(file: Path, folder: Path) -> None:
    """Unpack a tar file of ours; Python 3.11 has filters since 3.11.4 only."""
    with tarfile.open(file) as packed:
        packed.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))


def beside_python(name: str) -> str:
    """A program installed in the environment that runs the tests."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; pip install -e '.[test]'")
    return found


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real scenes beside the repository; tests that need it skip where it is absent."""
    folder = Path(__file__).parents[1] / ".." / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real scenes (../shared/data) are not on this machine")
    return folder.resolve()


@pytest.fixture(scope="session")
def http_server() -> Iterator[Callable[[Path], str]]:
    """A factory: `http_server(folder)` serves the folder with Range requests and gives its URL (no last slash)."""
    running: dict[Path, tuple[str, subprocess.Popen[bytes]]] = {}

    def serve(folder: Path) -> str:
        folder = folder.resolve()
        if folder not in running:
            port = free_port()
            command = [sys.executable, "-m", "RangeHTTPServer", str(port), "--bind", "127.0.0.1"]
            running[folder] = f"http://127.0.0.1:{port}", start_server(command, port, cwd=folder)
        return running[folder][0]

    yield serve
    for _, process in running.values():
        stop_server(process)


@pytest.fixture(scope="session")
def stac_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Sequence[Mapping[str, Any]]], str]]:
    """A factory: `stac_api(items)` serves the items (dicts) as a STAC API through `rustac serve`, and gives its URL."""
    running: list[subprocess.Popen[bytes]] = []

    def serve(items: Sequence[Mapping[str, Any]]) -> str:
        page = tmp_path_factory.mktemp("stac-api") / "items.json"
        page.write_text(json.dumps({"type": "FeatureCollection", "features": list(items)}))
        port = free_port()
        command = [beside_python("rustac"), "serve", "--addr", f"127.0.0.1:{port}", "--create-collections", str(page)]
        running.append(start_server(command, port))
        return f"http://127.0.0.1:{port}"

    yield serve
    for process in running:
        stop_server(process)


class TrapServer:
    """The URL of a server of `tests/trap_server.py`, and what was asked of it."""

    def __init__(self, url: str, log: Path) -> None:
        self.url, self.log = url, log

    def requests(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


@pytest.fixture
def traps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], TrapServer]]:
    """A factory: `traps(folder)` serves the folder with the faults of real servers."""
    running: list[subprocess.Popen[str]] = []

    def serve(folder: Path) -> TrapServer:
        log = tmp_path_factory.mktemp("traps") / "requests.jsonl"
        command = [sys.executable, str(ROOT / "tests" / "trap_server.py"), str(folder), str(log)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        return TrapServer(f"http://127.0.0.1:{int(process.stdout.readline())}", log)

    yield serve
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def moto_s3() -> Iterator[str]:
    """An S3 server of our own (moto) and the AWS_* environment that makes every S3 client use it. Yields its URL."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_EC2_METADATA_DISABLED": "true",
        # GDAL names its S3 host in its own way.
        "AWS_S3_ENDPOINT": f"127.0.0.1:{port}",
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
    }
    process = start_server([beside_python("moto_server"), "-H", "127.0.0.1", "-p", str(port)], port)
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    yield endpoint
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    stop_server(process)


@pytest.fixture
def s3_bucket(moto_s3: str) -> str:
    """The name of a fresh, empty bucket: use it as `f"s3://{s3_bucket}/archive"`."""
    import boto3

    name = f"hypermend-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=moto_s3).create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="session")
def ray_session(moto_s3: str) -> Iterator[None]:
    """One embedded Ray for all tests: 2 CPUs, no dashboard; started after moto, so workers know its endpoint."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=256 * 2**20,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with one ingested scene, 24 tiles of 16 pixels to restore. Copied, never changed."""
    from tests.faults import make_ingested

    return make_ingested(tmp_path_factory.mktemp("ingested"))


@pytest.fixture
def archive(ingested: Path, tmp_path: Path) -> str:
    """A copy of it, to be disturbed."""
    return str(shutil.copytree(ingested, tmp_path / "archive"))


@pytest.fixture(scope="session")
def clean(ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The bytes of the scene's undisturbed restoration."""
    from tests.faults import TILES, restore_here, restored_bytes

    archive = str(shutil.copytree(ingested, tmp_path_factory.mktemp("clean") / "archive"))
    report = restore_here(archive)
    assert (report.exit_code, report.tiles_written) == (0, TILES)
    return restored_bytes(archive)


@pytest.fixture(scope="session")
def demo_archive(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], str]:
    """A small demo, run once for all workers: archive, what `run` returned, what it printed. Read it, or copy it."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "demo"
    folder.mkdir(exist_ok=True)
    archive, answer = folder / "demo-archive", folder / "answer.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not answer.exists():
            request.getfixturevalue("ray_session")
            answer.write_text(json.dumps(run_demo(archive)))
    result, printed = json.loads(answer.read_text())
    return archive, result, printed


def run_demo(archive: Path) -> tuple[dict[str, Any], str]:
    from rich.console import Console

    from hypermend.pipeline.demo.driver import run
    from tests.synthetic import SMALL_DEMO

    console = Console(width=80, record=True, file=io.StringIO())
    return run(archive, console, demo_size=SMALL_DEMO), console.export_text()
