"""The serial engine: tasks one after the other in this process. It is the reference for the engine on Ray."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from hypermend.pipeline.engine.outcome import (
    PATIENT,
    Make,
    Outcome,
    Policy,
    R,
    Raised,
    T,
    Wait,
    Workers,
    answer_of,
    outcome_of,
)


def serial(
    make: Make[T, R], tasks: Iterable[T | Wait], *, policy: Policy = PATIENT, workers: Workers | None = None
) -> Iterator[Outcome[T, R]]:
    """Run every task here, one after the other: the answer that the other engine must give."""
    handle = make()
    for task in tasks:
        if isinstance(task, Wait):
            raise RuntimeError("the task stream waits for a task, and none is in flight")
        attempts = 0
        while True:
            attempts += 1
            answer = answer_of(handle, task)
            if isinstance(answer, Raised) and answer.transient and attempts < policy.max_attempts:
                time.sleep(policy.pause_s(attempts))
                continue
            yield outcome_of(task, answer, attempts)
            break
