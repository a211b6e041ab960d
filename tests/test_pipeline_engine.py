"""The engines give the same answers; a task that kills its worker is quarantined alone."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from hypermend.pipeline.config import BadJob, RestoreJob
from hypermend.pipeline.engine import cluster, ray_actors
from hypermend.pipeline.engine.child_process import in_child
from hypermend.pipeline.engine.cluster import actor_resources
from hypermend.pipeline.engine.outcome import (
    WAIT,
    FailureKind,
    NoWorkers,
    Policy,
    TaskFailure,
    TaskResult,
    Wait,
    Workers,
)
from hypermend.pipeline.engine.ray_actors import on_ray
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.runs.engine_choice import choose_engine
from hypermend.pipeline.runs.run import Engine
from tests.faults import wait_for
from tests.handlers import (
    broken,
    dies_at_birth,
    make_ask,
    make_dies_once,
    make_flaky,
    make_large,
    make_poisoned,
    make_square,
)


@pytest.fixture(params=[serial, in_child, on_ray], ids=lambda engine: engine.__name__)
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param is on_ray:
        request.getfixturevalue("ray_session")
    chosen: Engine = request.param
    return chosen


not_serial = pytest.mark.parametrize("engine", [in_child, on_ray], indirect=True, ids=lambda engine: engine.__name__)


@not_serial
def test_engines_agree(engine: Engine) -> None:
    tasks = [3, -1, 4, 1, 5]
    ours = {o.task: o for o in serial(make_square, tasks)}
    theirs = {o.task: o for o in engine(make_square, iter(tasks), policy=Policy(), workers=Workers(count=2))}
    assert ours.keys() == theirs.keys() == set(tasks)
    for task in tasks:
        a, b = ours[task], theirs[task]
        assert type(a) is type(b)
        if isinstance(a, TaskResult) and isinstance(b, TaskResult):
            assert a.result == b.result == task * task
        if isinstance(a, TaskFailure) and isinstance(b, TaskFailure):
            assert (a.kind, a.error, a.message) == (b.kind, b.error, b.message)
            assert (a.kind, a.error, a.message) == (FailureKind.ERROR, "ValueError", "-1 is negative")


@not_serial
def test_idle_threads_of_a_worker_sleep(engine: Engine) -> None:
    (outcome,) = engine(make_ask, iter(["OMP_WAIT_POLICY"]), policy=Policy(), workers=Workers(count=1))
    assert isinstance(outcome, TaskResult) and outcome.result == "PASSIVE"


def test_a_stream_may_wait_for_what_is_in_flight(engine: Engine) -> None:
    known: list[int] = []

    def stream() -> Iterator[int | Wait]:
        yield 2
        while not known:
            yield WAIT
        yield known[0] + 1

    seen = []
    for outcome in engine(make_square, stream(), policy=Policy(), workers=Workers(count=1)):
        assert isinstance(outcome, TaskResult)
        seen.append(outcome.result)
        known.append(outcome.result)
    assert seen == [4, 25]


@pytest.mark.fault
def test_f24_tasks_are_drawn_when_there_is_somebody_to_do_them(ray_session: None) -> None:
    """However many tiles a scene has, the driver holds a few."""
    drawn: list[int] = []

    def stream() -> Iterator[int]:
        for number in range(100):
            drawn.append(number)
            yield number

    for ended, _ in enumerate(on_ray(make_square, stream(), workers=Workers(count=2)), start=1):
        assert len(drawn) - ended <= 4


def test_transient_errors_are_tried_again(engine: Engine, tmp_path: Path) -> None:
    counter = tmp_path / "tries"
    policy = Policy(backoff_s=0.01)
    (outcome,) = engine(partial(make_flaky, counter), iter([7]), policy=policy, workers=Workers(count=1))
    assert isinstance(outcome, TaskResult)
    assert (outcome.result, outcome.attempts) == (7, 3)


@pytest.mark.fault
@pytest.mark.slow
@not_serial
def test_f02_poison_is_put_aside_alone(engine: Engine) -> None:
    tasks = ["a", "kill", "b", "c", "hang", "d", "e"]
    policy = Policy(max_deaths=2, deadline_s=3.0)
    outcomes = {o.task: o for o in engine(make_poisoned, iter(tasks), policy=policy, workers=Workers(count=2))}
    assert outcomes.keys() == set(tasks)
    failed = {task: o.kind for task, o in outcomes.items() if isinstance(o, TaskFailure)}
    assert failed == {"kill": FailureKind.CRASH, "hang": FailureKind.DEADLINE}


@pytest.mark.fault
@pytest.mark.slow
@not_serial
def test_f01_a_killed_worker_is_replaced_and_its_task_done_again(engine: Engine, tmp_path: Path) -> None:
    marker = tmp_path / "died"
    make = partial(make_dies_once, marker)
    outcomes = list(engine(make, iter([1, 2, 3]), policy=Policy(), workers=Workers(count=1)))
    assert sorted(o.result for o in outcomes if isinstance(o, TaskResult)) == [1, 2, 3]
    assert marker.exists()


@not_serial
def test_workers_that_cannot_start_are_an_error(engine: Engine) -> None:
    with pytest.raises(NoWorkers, match="no worker can be started: OSError: no weights here"):
        list(engine(broken, iter([1]), policy=Policy(), workers=Workers(count=1)))


def test_a_process_that_dies_at_birth_says_its_last_words() -> None:
    with pytest.raises(NoWorkers, match="no worker can be started: exit code 5: no library here"):
        list(in_child(dies_at_birth, [1]))


@pytest.mark.fault
def test_f02_a_process_takes_no_more_memory_than_it_is_granted() -> None:
    outcomes = list(in_child(make_large, [1, 4096, 2], workers=Workers(limit_bytes=64 * 2**20)))
    assert [getattr(o, "kind", None) for o in outcomes] == [None, FailureKind.MEMORY, None]


@pytest.mark.fault
def test_f03_the_process_ends_with_a_driver_that_is_killed_in_the_midst_of_a_task(tmp_path: Path) -> None:
    driver = (
        "import sys; from functools import partial; from pathlib import Path; "
        "from tests.handlers import make_pid; from hypermend.pipeline.engine.child_process import in_child; "
        "list(in_child(partial(make_pid, Path(sys.argv[1])), [600]))"
    )
    file = tmp_path / "pid"
    process = subprocess.Popen([sys.executable, "-c", driver, str(file)])
    wait_for(lambda: file.exists() and file.read_text() != "")
    process.kill()
    process.wait()
    wait_for(lambda: not Path(f"/proc/{file.read_text()}").exists(), limit_s=20)


@pytest.mark.parametrize(
    ("settings", "samples", "engine"),
    [
        ({}, 10, in_child),
        ({}, 2**30, on_ray),
        ({}, None, on_ray),
        ({"workers": 2}, 10, on_ray),
        ({"engine": "ray"}, 10, on_ray),
        ({"engine": "process"}, None, in_child),
        ({"ray_address": "auto"}, 10, on_ray),
    ],
)
def test_a_small_job_runs_without_ray(settings: dict[str, Any], samples: int | None, engine: Engine) -> None:
    assert choose_engine(RestoreJob(archive="a", **settings), samples) is engine


def test_one_process_cannot_be_many() -> None:
    with pytest.raises(BadJob, match="leave out --address and --workers"):
        choose_engine(RestoreJob(archive="a", engine="process", workers=2), 10)


def test_a_cluster_that_others_keep_busy_is_told_with_what_is_free(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_actors._ActorPool, "start_limit_s", 3.0)
    hold = ray_actors.ray.remote(_Hold).options(num_cpus=2).remote()
    try:
        ray_actors.ray.get(hold.ready.remote())
        with pytest.raises(NoWorkers, match=r"no worker became ready within 3 s: the cluster has \{.* free; ask for"):
            list(on_ray(make_square, [1], workers=Workers(count=1)))
    finally:
        ray_actors.ray.kill(hold)


class _Hold:
    def ready(self) -> None:
        return


def test_a_cluster_that_does_not_answer_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(NoWorkers, match=f"no Ray cluster answers at {address}: Connection refused; `ray status`"):
            cluster.start_ray(address=address)


def test_ray_that_does_not_start_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nThis could happen because")

    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", late)
    with pytest.raises(NoWorkers, match=r"Ray does not start on this machine: .* timed out during startup\.$"):
        cluster.start_ray()


@pytest.mark.fault
@pytest.mark.parametrize(
    ("error", "alive", "tries_left"),
    [("warned", False, True), ("vanished", False, True), ("process", True, False)],
)
def test_f04_a_machine_that_leaves_costs_no_try_and_a_process_that_dies_does(
    error: str, alive: bool, tries_left: bool, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """benchmarks.real_cluster kills a real one."""
    pool = ray_actors._ActorPool(make_square, Workers(count=1), Policy(max_deaths=1, max_node_losses=2))
    monkeypatch.setattr(ray_actors, "alive_nodes", lambda: {"here": {}} if alive else {"elsewhere": {}})
    died = ActorDiedError(None)
    died._preempted = error == "warned"
    attempt = ray_actors._Attempt(7, attempts=1)
    outcomes = list(pool._handle_death(ray_actors._Slot(None, attempt, "here"), died))
    assert (outcomes == []) == tries_left
    if tries_left:
        assert (list(pool._queue), attempt.attempts, attempt.deaths) == ([attempt], 0, 0)
        # One that vanishes again and again is its fault after all; one that warns never is.
        again = list(pool._handle_death(ray_actors._Slot(None, attempt, "here"), died))
        assert (again == []) == (error == "warned")


def node(**resources: float) -> dict[str, float]:
    return {"memory": 16e9, **resources}


def test_what_is_asked_of_a_cluster() -> None:
    cpu, gpu = node(CPU=8, lane_nightly=8, lane_backfill=6), node(CPU=16, GPU=4, lane_nightly=4, lane_backfill=3)
    head = node(CPU=0)
    ask = actor_resources(Workers(lane="backfill", gpus=0), [head, cpu, cpu])
    assert (ask.count, ask.cpus, ask.gpus, ask.lane) == (12, 1, 0, "lane_backfill")
    ask = actor_resources(Workers(lane="nightly"), [head, cpu, gpu])
    assert (ask.count, ask.cpus, ask.gpus) == (4, 4, 1.0)
    ask = actor_resources(Workers(gpus=0.25, max_gpus=2), [gpu, gpu])
    assert (ask.count, ask.gpus) == (8, 0.25)
    assert actor_resources(Workers(count=20, gpus=0.25, max_gpus=2), [gpu, gpu]).count == 8
    assert actor_resources(Workers(count=2), [node(CPU=4)]).cpus == 2
    assert (
        actor_resources(Workers(count=2, lane="nightly"), [node(CPU=4)]).lane is None
    )  # one's own machine has no lanes
    ask = actor_resources(Workers(memory_bytes=6 * 10**9), [node(CPU=8)])
    assert (ask.count, ask.memory_bytes) == (2, 6 * 10**9)
    with pytest.raises(NoWorkers, match=r"no machine .* needs: .*20000000000.*; the most is .*16000000000"):
        actor_resources(Workers(memory_bytes=20 * 10**9), [node(CPU=8)])


SEEN = """
import os, sys, time
from pathlib import Path
import ray
from hypermend.pipeline.engine.ray_actors import on_ray
from hypermend.pipeline.engine.outcome import Workers
ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
folder = sys.argv[1]
def make():
    def handle(task):
        here, actors = Path(folder) / str(task[0]), task[0]
        here.mkdir(exist_ok=True)
        (here / str(os.getpid())).touch()
        while len(list(here.iterdir())) < actors:  # every actor has one before any has two
            time.sleep(0.05)
        return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]
    return handle
for gpus, actors in ((1.0, 2), (0.5, 4)):
    seen = {o.result for o in on_ray(make, [(actors, n) for n in range(2 * actors)], workers=Workers(gpus=gpus))}
    assert len(seen) == actors, seen  # no actor saw two things
    assert sorted(device for _, device in seen) == sorted(["0", "1"] * (actors // 2)), seen
"""


@pytest.mark.slow
def test_each_actor_sees_its_own_gpu_and_no_other(tmp_path: Path) -> None:
    """With two GPUs that are none; whole, and two actors on each."""
    answer = subprocess.run(
        [sys.executable, "-c", SEEN, str(tmp_path)], capture_output=True, text=True, check=False, timeout=240
    )
    assert answer.returncode == 0, answer.stderr[-2000:]


GROWS = """
import time
from pathlib import Path
from concurrent.futures import ThreadPoolExecutor
import ray
from ray.cluster_utils import Cluster
from hypermend.pipeline.engine.ray_actors import on_ray
from hypermend.pipeline.engine.outcome import NoWorkers, TaskResult, Workers
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
Path("/tmp/ray/ray_current_cluster").unlink(missing_ok=True)  # "auto" of other tests must not find it
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
make = lambda: abs
try:
    list(on_ray(make, [-1], workers=Workers(lane="nightly")))
except NoWorkers as error:
    assert "no machine of the cluster has what one worker needs" in str(error), error
else:
    raise AssertionError("a head without CPUs worked")
with ThreadPoolExecutor(1) as pool:
    working = pool.submit(list, on_ray(make, [-1, -2, -3], workers=Workers(lane="nightly", join_s=120)))
    time.sleep(3)
    cluster.add_node(num_cpus=2, resources={"lane_nightly": 2})
    seen = working.result()
assert sorted(o.result for o in seen if isinstance(o, TaskResult)) == [1, 2, 3], seen
"""


@pytest.mark.long
def test_a_cluster_that_has_shrunk_to_its_head_is_given_time_to_grow() -> None:
    answer = subprocess.run([sys.executable, "-c", GROWS], capture_output=True, text=True, check=False, timeout=300)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert "waiting up to 2 minutes for one to join" in answer.stderr
