"""The interface of an engine: tasks and policies in, outcomes out. Plain values, without Ray.

The engines are ``engine/serial.py``, ``engine/child_process.py`` and ``engine/ray_actors.py``.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Wait(Enum):
    """Marker that a task stream yields when its next task depends on one still in flight."""

    WAIT = "wait"


WAIT = Wait.WAIT


class FailureKind(StrEnum):
    """Why a task failed."""

    ERROR = "error"  # the handler raised: the same input would fail again
    CRASH = "crash"  # its process died, `max_deaths` times
    DEADLINE = "deadline"  # it ran longer than `deadline_s`
    MEMORY = "memory"  # it needed more memory than its worker is granted


class NoWorkers(RuntimeError):
    """The cluster does not reply, or lacks the resources that a run requests."""


@dataclass(frozen=True, kw_only=True)
class TaskResult(Generic[T, R]):
    """A task that succeeded."""

    task: T
    result: R
    attempts: int
    seconds: float
    node: str


@dataclass(frozen=True, kw_only=True)
class TaskFailure(Generic[T]):
    """A task that failed for good; ``error`` is the class of the exception, ``message`` its text."""

    task: T
    kind: FailureKind
    error: str
    message: str
    attempts: int
    node: str


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When to retry a task and when to give it up."""

    max_attempts: int = 4
    """Tries of a task whose error has a true attribute ``transient`` (unreachable store, reset connection)."""
    max_deaths: int = 3
    """Number of times the worker process may die under one task before that task is quarantined."""
    deadline_s: float | None = None
    """Longest time that one task may run; None for no limit. The serial engine cannot interrupt and ignores it."""
    backoff_s: float = 1.0
    """Pause before the second try after a transient error. It doubles with each further try; jitter takes 0.5 to 1.5 of
    it."""
    max_node_losses: int = 10
    """Number of machines that may vanish without warning under one task. Announced losses are not counted."""

    def pause_s(self, attempts: int) -> float:
        """Draw the pause after so many tries: workers that failed together must not come back together."""
        return self.backoff_s * 2.0 ** (attempts - 1) * random.uniform(0.5, 1.5)


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The actors that the Ray engine requests of the cluster."""

    count: int | None = None
    """Number of actors; None for one per GPU where there are GPUs, else one per CPU, and more as machines join. They
    share the CPUs evenly."""
    gpus: float | None = None
    """GPUs of each actor, 0.25 for four actors on a GPU; None for 1 where there are GPUs, else 0."""
    max_gpus: float | None = None
    """GPUs of all actors together; None for no limit."""
    memory_bytes: int | None = None
    """Memory that each actor reserves on its machine; None for no reservation."""
    limit_bytes: int | None = None
    """Memory that each actor may allocate beyond what its handler took when it was built; None for no limit."""
    lane: str | None = None
    """Name of a lane: each actor takes one `lane_<name>` of its machine, where the cluster's machines have lanes."""
    join_s: float = 0.0
    """How long to wait for the first machine that has what an actor needs: an autoscaling cluster that is idle has only
    its head, and takes minutes to start a machine."""


HandlerFactory = Callable[[], Callable[[T], R]]
Outcome = TaskResult[T, R] | TaskFailure[T]


@dataclass(frozen=True, kw_only=True)
class HandlerError:
    """Reply of a handler that raised, as text: not every exception object can be pickled."""

    error: str
    message: str
    transient: bool
    node: str
    kind: FailureKind = FailureKind.ERROR


@dataclass(frozen=True, kw_only=True)
class HandlerResult:
    """Reply of a handler that returned."""

    result: Any
    seconds: float
    node: str


def run_handler(handle: Callable[[Any], Any], task: Any) -> HandlerError | HandlerResult:
    """Run the handler on the task; its exception becomes a reply."""
    start = time.perf_counter()
    node = socket.gethostname()
    try:
        result = handle(task)
    except Exception as error:  # noqa: BLE001 - sent whole to the driver, never swallowed
        return HandlerError(
            error=type(error).__name__,
            message=str(error),
            transient=bool(getattr(error, "transient", False)),
            node=node,
            kind=FailureKind.MEMORY if _out_of_memory(error) else FailureKind.ERROR,
        )
    return HandlerResult(result=result, seconds=time.perf_counter() - start, node=node)


def outcome_of(task: T, reply: HandlerError | HandlerResult, attempts: int) -> Outcome[T, Any]:
    """Make the outcome of a task from its last reply."""
    if isinstance(reply, HandlerResult):
        return TaskResult(task=task, result=reply.result, attempts=attempts, seconds=reply.seconds, node=reply.node)
    return TaskFailure(
        task=task,
        kind=reply.kind,
        error=reply.error,
        message=reply.message,
        attempts=attempts,
        node=reply.node,
    )


def _out_of_memory(error: Exception) -> bool:
    # torch has no class of its own for it
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)
