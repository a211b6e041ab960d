"""What an engine is given and what it yields: plain values, without Ray. ``execute`` has the engines."""

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
    """What a task stream yields when its next task depends on one still in flight."""

    WAIT = "wait"


WAIT = Wait.WAIT


class FailureKind(StrEnum):
    """Why a task was given up."""

    ERROR = "error"  # the handler raised: the same input gives the same answer
    CRASH = "crash"  # its process died under it, `max_deaths` times
    DEADLINE = "deadline"  # it ran longer than `deadline_s`
    MEMORY = "memory"  # it wanted more memory than its worker is granted


class NoWorkers(RuntimeError):
    """The cluster does not answer, or cannot give what a run asks of it."""


@dataclass(frozen=True, kw_only=True)
class TaskResult(Generic[T, R]):
    """A task that ended well."""

    task: T
    result: R
    attempts: int
    seconds: float
    node: str


@dataclass(frozen=True, kw_only=True)
class TaskFailure(Generic[T]):
    """A task that was given up; ``error`` is the class of what was raised, ``message`` its text."""

    task: T
    kind: FailureKind
    error: str
    message: str
    attempts: int
    node: str


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When to try again and when to give up."""

    max_attempts: int = 4
    """Tries of a task whose error calls itself ``transient`` (an unreachable store, a reset connection)."""
    max_deaths: int = 3
    """Deaths of the process under one task before that task is put aside."""
    deadline_s: float | None = None
    """Longest time one task may run; None for no limit. The serial engine cannot interrupt and ignores it."""
    backoff_s: float = 1.0
    """Pause before the second try of a transient error; doubles with each further one, half to one and a half of it."""
    max_node_losses: int = 10
    """Machines that may vanish without warning under one task. Those that say so beforehand are not counted at all."""

    def pause_s(self, attempts: int) -> float:
        """Pause after so many tries. Drawn: workers that failed together do not come back together."""
        return self.backoff_s * 2.0 ** (attempts - 1) * random.uniform(0.5, 1.5)


@dataclass(frozen=True, kw_only=True)
class Workers:
    """What the Ray engine asks the cluster for."""

    count: int | None = None
    """Actors; None for one per GPU where there are GPUs, else one per CPU, and more as machines join. They share the
    CPUs evenly."""
    gpus: float | None = None
    """GPUs of each actor, 0.25 for four on one; None for 1 where there are GPUs, else 0."""
    max_gpus: float | None = None
    """GPUs of all actors together; None for all there are."""
    memory_bytes: int | None = None
    """Memory that each actor asks of its machine; None for none."""
    limit_bytes: int | None = None
    """What each actor lets itself take beyond what it is built of; None for any."""
    lane: str | None = None
    """Each actor takes one `lane_<name>` of its machine, where the machines of the cluster have such."""
    join_s: float = 0.0
    """How long to wait for the first machine that has what an actor needs: a cluster that grows by itself has shrunk to
    its head, and takes minutes to start one."""


HandlerFactory = Callable[[], Callable[[T], R]]
Outcome = TaskResult[T, R] | TaskFailure[T]


@dataclass(frozen=True, kw_only=True)
class HandlerError:
    """What a handler raised, in words: an exception object may not survive the way back."""

    error: str
    message: str
    transient: bool
    node: str
    kind: FailureKind = FailureKind.ERROR


@dataclass(frozen=True, kw_only=True)
class HandlerResult:
    """What a handler gave back."""

    result: Any
    seconds: float
    node: str


def run_handler(handle: Callable[[Any], Any], task: Any) -> HandlerError | HandlerResult:
    """Do the task, whatever comes of it."""
    start = time.perf_counter()
    node = socket.gethostname()
    try:
        result = handle(task)
    except Exception as error:  # noqa: BLE001 - reported whole to whoever asked for the task, never swallowed
        return HandlerError(
            error=type(error).__name__,
            message=str(error),
            transient=bool(getattr(error, "transient", False)),
            node=node,
            kind=FailureKind.MEMORY if _out_of_memory(error) else FailureKind.ERROR,
        )
    return HandlerResult(result=result, seconds=time.perf_counter() - start, node=node)


def outcome_of(task: T, answer: HandlerError | HandlerResult, attempts: int) -> Outcome[T, Any]:
    """How the task ended."""
    if isinstance(answer, HandlerResult):
        return TaskResult(task=task, result=answer.result, attempts=attempts, seconds=answer.seconds, node=answer.node)
    return TaskFailure(
        task=task,
        kind=answer.kind,
        error=answer.error,
        message=answer.message,
        attempts=attempts,
        node=answer.node,
    )


def _out_of_memory(error: Exception) -> bool:
    # torch has no class of its own for it
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


PATIENT = Policy()
