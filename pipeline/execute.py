"""The two engines: ``serial``, the reference, and ``on_ray``, the same answers on a cluster.

Both take ``make``, which builds a handler inside the process that will use it, and a stream of tasks; both yield one
``Done`` or ``Failed`` for each task as it ends. Pixels never pass through here: tasks and results are small values.

A stream may yield ``WAIT`` when it has nothing to give until an earlier task has ended (the tiles of a scene become
known only once the scene is opened). This is the dispatcher that ``ray.util.ActorPool`` is not: it replaces dead
actors, keeps exactly one task in flight on each (with three queued on a restarting actor, one poison tile was measured
to take innocent ones with it), and puts a task aside once it has killed its actor too often.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

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


@dataclass(frozen=True, kw_only=True)
class Done(Generic[T, R]):
    """A task that ended well."""

    task: T
    result: R
    attempts: int
    seconds: float
    node: str


@dataclass(frozen=True, kw_only=True)
class Failed(Generic[T]):
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
    """Pause before the second try of a transient error; doubles with each further one."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """What the Ray engine asks the cluster for."""

    count: int | None = None
    """Actors; None for one per GPU where there are GPUs, else one per CPU. They share the CPUs evenly."""
    gpus: float | None = None
    """GPUs of each actor; None for 1 where there are GPUs, else 0."""


Make = Callable[[], Callable[[T], R]]
Outcome = Done[T, R] | Failed[T]


def serial(
    make: Make[T, R], tasks: Iterable[T | Wait], *, policy: Policy = Policy(), workers: Workers | None = None
) -> Iterator[Outcome[T, R]]:
    """Run every task here, one after the other: the answer that the other engine must give."""
    handle = make()
    for task in tasks:
        if isinstance(task, Wait):
            raise RuntimeError("the task stream waits for a task, and none is in flight")
        attempts = 0
        while True:
            attempts += 1
            answer = _answer(handle, task)
            if isinstance(answer, _Raised) and answer.transient and attempts < policy.max_attempts:
                time.sleep(policy.backoff_s * 2 ** (attempts - 1))
                continue
            yield _outcome(task, answer, attempts)
            break


@dataclass(frozen=True, kw_only=True)
class _Raised:
    """What a handler raised, in words: an exception object may not survive the way back."""

    error: str
    message: str
    transient: bool
    node: str


@dataclass(frozen=True, kw_only=True)
class _Returned:
    result: Any
    seconds: float
    node: str


def _answer(handle: Callable[[Any], Any], task: Any) -> _Raised | _Returned:
    start = time.perf_counter()
    node = socket.gethostname()
    try:
        result = handle(task)
    except Exception as error:  # noqa: BLE001 - reported whole to whoever asked for the task, never swallowed
        return _Raised(
            error=type(error).__name__,
            message=str(error),
            transient=bool(getattr(error, "transient", False)),
            node=node,
        )
    return _Returned(result=result, seconds=time.perf_counter() - start, node=node)


def _outcome(task: T, answer: _Raised | _Returned, attempts: int) -> Outcome[T, Any]:
    if isinstance(answer, _Returned):
        return Done(task=task, result=answer.result, attempts=attempts, seconds=answer.seconds, node=answer.node)
    return Failed(
        task=task,
        kind=FailureKind.ERROR,
        error=answer.error,
        message=answer.message,
        attempts=attempts,
        node=answer.node,
    )


# ------------------------------------------------------------------------------------------------------------ Ray


def start_ray(*, cpus: int | None = None, address: str | None = None) -> None:
    """Join the cluster at ``address``, or start an embedded one; nothing to do where Ray already runs."""
    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is not None:
        ray.init(address=address, **quiet)
    else:
        ray.init(num_cpus=cpus, include_dashboard=False, **quiet)


class _Worker:
    """The actor: builds its handler once, keeps it for life."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        self._handle = make()

    def ready(self) -> bool:
        return True

    def run(self, task: Any) -> _Raised | _Returned:
        return _answer(self._handle, task)


@dataclass(eq=False)
class _Attempt(Generic[T]):
    task: T
    attempts: int = 0
    deaths: int = 0
    not_before: float = 0.0


@dataclass(eq=False)
class _Seat(Generic[T]):
    """A place for one actor. ``attempt`` is None while the actor is starting."""

    actor: Any
    attempt: _Attempt[T] | None = None
    started: float = field(default_factory=time.monotonic)


def on_ray(
    make: Make[T, R],
    tasks: Iterable[T | Wait],
    *,
    policy: Policy = Policy(),
    workers: Workers | None = None,
) -> Iterator[Outcome[T, R]]:
    """Run the tasks on Ray actors, one in flight on each; yields outcomes in the order they come.

    Raises:
        RuntimeError: no actor can be started (its handler fails to build, or the cluster lacks what is asked for).
    """
    start_ray()
    crew = _Crew(make, workers or Workers(), policy)
    try:
        yield from crew.work(iter(tasks))
    finally:
        crew.dismiss()


class _Crew(Generic[T, R]):
    start_limit_s = 180.0
    """An actor that is not ready by then will not come: the cluster lacks its CPUs, GPUs or memory."""

    def __init__(self, make: Make[T, R], workers: Workers, policy: Policy) -> None:
        cluster: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = min(1.0, cluster.get("GPU", 0.0)) if workers.gpus is None else workers.gpus
        cpus = cluster.get("CPU", 1.0)
        self._size = workers.count or max(1, int(cluster.get("GPU", 0.0) / gpus if gpus else cpus))
        self._policy = policy
        self._make = ray.put(make)
        self._actor_class: Any = ray.remote(_Worker).options(
            num_cpus=max(1, int(cpus / self._size)), num_gpus=gpus, max_restarts=0
        )
        self._busy: dict[Any, _Seat[T]] = {}
        self._idle: list[Any] = []
        self._queue: deque[_Attempt[T]] = deque()
        self._failed_starts = 0

    def work(self, tasks: Iterator[T | Wait]) -> Iterator[Outcome[T, R]]:
        waiting = exhausted = False
        while True:
            while not (waiting or exhausted) and len(self._queue) + self._running < self._size:
                task = next(tasks, None)
                if task is None:
                    exhausted = True
                elif isinstance(task, Wait):
                    waiting = True
                else:
                    self._queue.append(_Attempt(task))
            if not self._queue and not self._running:
                if waiting:
                    raise RuntimeError("the task stream waits for a task, and none is in flight")
                return
            self._assign()
            for outcome in self._collect():
                waiting = False
                yield outcome

    def dismiss(self) -> None:
        for actor in [*self._idle, *(seat.actor for seat in self._busy.values())]:
            ray.kill(actor)

    @property
    def _running(self) -> int:
        return sum(seat.attempt is not None for seat in self._busy.values())

    def _assign(self) -> None:
        """Give every queued attempt that is due to an idle actor; hire where there are too few."""
        now = time.monotonic()
        for attempt in [a for a in self._queue if a.not_before <= now]:
            if not self._idle:
                break
            self._queue.remove(attempt)
            attempt.attempts += 1
            actor = self._idle.pop()
            self._busy[actor.run.remote(attempt.task)] = _Seat(actor, attempt)
        starting = len(self._busy) - self._running
        room = self._size - len(self._busy) - len(self._idle)
        for _ in range(min(room, len(self._queue) - len(self._idle) - starting)):
            actor = self._actor_class.remote(self._make)
            self._busy[actor.ready.remote()] = _Seat(actor)

    def _collect(self) -> Iterator[Outcome[T, R]]:
        """Wait a moment, then settle what has ended, died or outstayed its deadline."""
        if not self._busy:
            time.sleep(0.05)  # everything left is waiting for its next try
            return
        ready, _ = ray.wait(list(self._busy), num_returns=1, timeout=0.5)
        for reference in ready:
            yield from self._settle(reference, self._busy.pop(reference))
        yield from self._overdue()

    def _settle(self, reference: Any, seat: _Seat[T]) -> Iterator[Outcome[T, R]]:
        try:
            answer = ray.get(reference, timeout=10)
        except RayTaskError:
            raise  # a bug of this file: a handler's own errors come back as answers
        except RayError as error:  # the actor died, ran out of memory, or its answer is lost
            ray.kill(seat.actor)
            yield from self._died(seat, error)
            return
        self._idle.append(seat.actor)
        if seat.attempt is None:
            self._failed_starts = 0
            return
        attempt = seat.attempt
        if isinstance(answer, _Raised) and answer.transient and attempt.attempts < self._policy.max_attempts:
            attempt.not_before = time.monotonic() + self._policy.backoff_s * 2 ** (attempt.attempts - 1)
            self._queue.append(attempt)
            return
        yield _outcome(attempt.task, answer, attempt.attempts)

    def _died(self, seat: _Seat[T], error: Exception) -> Iterator[Outcome[T, R]]:
        if seat.attempt is None:
            self._failed_starts += 1
            if self._failed_starts >= 3:
                raise RuntimeError(f"no worker can be started: {_first_line(error)}") from error
            return
        attempt = seat.attempt
        if isinstance(error, ActorDiedError) and error.preempted:
            attempt.attempts -= 1  # the node was taken away: not the task's doing
        else:
            attempt.deaths += 1
        if attempt.deaths < self._policy.max_deaths:
            self._queue.append(attempt)
            return
        yield Failed(
            task=attempt.task,
            kind=FailureKind.CRASH,
            error=type(error).__name__,
            message=f"its worker process died {attempt.deaths} times under it: {_first_line(error)}",
            attempts=attempt.attempts,
            node="",
        )

    def _overdue(self) -> Iterator[Outcome[T, R]]:
        now = time.monotonic()
        for reference, seat in list(self._busy.items()):
            limit = self.start_limit_s if seat.attempt is None else self._policy.deadline_s
            if limit is None or now - seat.started <= limit:
                continue
            del self._busy[reference]
            ray.kill(seat.actor)
            if seat.attempt is None:
                free = ray.available_resources()  # type: ignore[no-untyped-call]
                raise RuntimeError(
                    f"no worker became ready within {limit:.0f} s: the cluster has {free} free; "
                    "ask for fewer or smaller workers"
                )
            yield Failed(
                task=seat.attempt.task,
                kind=FailureKind.DEADLINE,
                error="Deadline",
                message=f"still running after {limit:.0f} s; its worker was stopped",
                attempts=seat.attempt.attempts,
                node="",
            )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
