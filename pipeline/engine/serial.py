"""The serial engine: runs tasks one after the other in this process. It is the reference for the engine on Ray."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from hypermend.pipeline.engine.outcome import (
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
    factory: HandlerFactory[T, R],
    tasks: Iterable[T | Wait],
    *,
    policy: Policy | None = None,
    workers: Workers | None = None,
) -> Iterator[Outcome[T, R]]:
    """Run the tasks in this process and yield the outcome of each.

    Args:
        factory: builds the handler, once.
        tasks: the tasks; a ``WAIT`` among them is an error, because nothing is ever in flight.
        policy: limits on retries; its deadline and its limits on deaths do not apply.
        workers: ignored; the engines have one signature.
    """
    policy = policy or Policy()
    handle = factory()
    for task in tasks:
        if isinstance(task, Wait):
            raise RuntimeError("the task stream waits for a task, and none is in flight")
        attempts = 0
        while True:
            attempts += 1
            reply = run_handler(handle, task)
            if isinstance(reply, HandlerError) and reply.transient and attempts < policy.max_attempts:
                time.sleep(policy.pause_s(attempts))
                continue
            yield outcome_of(task, reply, attempts)
            break
