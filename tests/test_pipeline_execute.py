"""The two engines give the same answers; a task that kills its worker is put aside alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.execute import WAIT, Done, Failed, FailureKind, Policy, Wait, Workers, on_ray, serial


class Unreachable(Exception):
    transient = True


def make_square() -> Callable[[int], int]:
    def square(x: int) -> int:
        if x < 0:
            raise ValueError(f"{x} is negative")
        return x * x

    return square


def test_engines_agree(ray_session: None) -> None:
    tasks = [3, -1, 4, 1, 5]
    ours = {o.task: o for o in serial(make_square, tasks)}
    theirs = {o.task: o for o in on_ray(make_square, tasks, workers=Workers(count=2))}
    assert ours.keys() == theirs.keys() == set(tasks)
    for task in tasks:
        a, b = ours[task], theirs[task]
        assert type(a) is type(b)
        if isinstance(a, Done) and isinstance(b, Done):
            assert a.result == b.result == task * task
        if isinstance(a, Failed) and isinstance(b, Failed):
            assert (a.kind, a.error, a.message) == (b.kind, b.error, b.message)
            assert (a.kind, a.error, a.message) == (FailureKind.ERROR, "ValueError", "-1 is negative")


@pytest.mark.parametrize("engine", [serial, on_ray])
def test_a_stream_may_wait_for_what_is_in_flight(engine, ray_session: None) -> None:  # type: ignore[no-untyped-def]
    known: list[int] = []

    def stream() -> Iterator[int | Wait]:
        yield 2
        while not known:
            yield WAIT
        yield known[0] + 1

    seen = []
    for outcome in engine(make_square, stream(), workers=Workers(count=1)):
        seen.append(outcome.result)
        known.append(outcome.result)
    assert seen == [4, 25]


def make_flaky(counter: Path) -> Callable[[int], int]:
    def flaky(x: int) -> int:
        with counter.open("a") as file:
            file.write(".")
        if len(counter.read_text()) < 3:
            raise Unreachable("come back later")
        return x

    return flaky


@pytest.mark.parametrize("engine", [serial, on_ray])
def test_transient_errors_are_tried_again(engine, tmp_path: Path, ray_session: None) -> None:  # type: ignore[no-untyped-def]
    counter = tmp_path / "tries"
    policy = Policy(backoff_s=0.01)
    (outcome,) = engine(lambda: make_flaky(counter), [7], policy=policy, workers=Workers(count=1))
    assert isinstance(outcome, Done)
    assert (outcome.result, outcome.attempts) == (7, 3)


def make_poisoned() -> Callable[[str], str]:
    def handle(task: str) -> str:
        if task == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "hang":
            time.sleep(600)
        return task

    return handle


@pytest.mark.slow
def test_poison_is_put_aside_alone(ray_session: None) -> None:
    tasks = ["a", "kill", "b", "c", "hang", "d", "e"]
    policy = Policy(max_deaths=2, deadline_s=3.0)
    outcomes = {o.task: o for o in on_ray(make_poisoned, tasks, policy=policy, workers=Workers(count=2))}
    assert outcomes.keys() == set(tasks)
    failed = {task: o.kind for task, o in outcomes.items() if isinstance(o, Failed)}
    assert failed == {"kill": FailureKind.CRASH, "hang": FailureKind.DEADLINE}


def make_dies_once(marker: Path) -> Callable[[int], int]:
    def handle(task: int) -> int:
        if task == 2 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return task

    return handle


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_task_done_again(tmp_path: Path, ray_session: None) -> None:
    marker = tmp_path / "died"
    outcomes = list(on_ray(lambda: make_dies_once(marker), [1, 2, 3], workers=Workers(count=1)))
    assert sorted(o.result for o in outcomes if isinstance(o, Done)) == [1, 2, 3]
    assert marker.exists()


def test_workers_that_cannot_start_are_an_error(ray_session: None) -> None:
    def broken() -> Callable[[int], int]:
        raise OSError("no weights here")

    with pytest.raises(RuntimeError, match="no worker can be started"):
        list(on_ray(broken, [1], workers=Workers(count=1)))
