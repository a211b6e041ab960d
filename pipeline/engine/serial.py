"""The serial engine: tasks one after the other in this process. It is the reference for the engine on Ray."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from hypermend.pipeline.engine.outcome import (
    PATIENT,
    HandlerError,
    HandlerFactory,
    Outcome,
    Policy,
    R,
    T,
    Wait,
    Workers,
    outcome_of,
    run_handler,
)


def serial(
    make: HandlerFactory[T, R], tasks: Iterable[T | Wait], *, policy: Policy = PATIENT, workers: Workers | None = None
) -> Iterator[Outcome[T, R]]:
    """Run every task here, one after the other: the answer that the other engine must give."""
    handle = make()
    for task in tasks:
        if isinstance(task, Wait):
            raise RuntimeError("the task stream waits for a task, and none is in flight")
        attempts = 0
        while True:
            attempts += 1
            answer = run_handler(handle, task)
            if isinstance(answer, HandlerError) and answer.transient and attempts < policy.max_attempts:
                time.sleep(policy.pause_s(attempts))
                continue
            yield outcome_of(task, answer, attempts)
            break
