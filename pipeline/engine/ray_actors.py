"""The engine on Ray: ``on_ray`` gives the answers of ``serial``, the reference, on a cluster.

It takes a factory, which builds a handler inside the process that will use it, and a stream of tasks; it yields one
``TaskResult`` or ``TaskFailure`` for each task as it ends. Pixels never pass through here: tasks and results are small
values (``outcome``).

A stream may yield ``WAIT`` when it has nothing to give until an earlier task has ended (the tiles of a scene become
known only once the scene is opened). This is the dispatcher that ``ray.util.ActorPool`` is not: it replaces dead
actors, keeps exactly one task in flight on each (with three queued on a restarting actor, one poison tile was measured
to take innocent ones with it), and puts a task aside once it has killed its actor too often.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from hypermend.pipeline.engine.cluster import actor_resources, first_ask, first_line, living, start_ray
from hypermend.pipeline.engine.outcome import (
    PATIENT,
    FailureKind,
    HandlerError,
    HandlerFactory,
    HandlerResult,
    NoWorkers,
    Outcome,
    Policy,
    R,
    T,
    TaskFailure,
    Wait,
    Workers,
    outcome_of,
    run_handler,
)
from hypermend.pipeline.engine.prometheus import Metrics
from hypermend.pipeline.engine.worker_memory import limit_growth


class _Worker:
    """The actor: builds its handler once, keeps it for life."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]], limit_bytes: int | None) -> None:
        self._handle = make()
        if limit_bytes is not None:
            limit_growth(limit_bytes)

    def ready(self) -> str:
        """Where it is: the id of its node."""
        return str(ray.get_runtime_context().get_node_id())

    def run(self, task: Any) -> HandlerError | HandlerResult:
        return run_handler(self._handle, task)


@dataclass(eq=False)
class _Attempt(Generic[T]):
    task: T
    attempts: int = 0
    deaths: int = 0
    losses: int = 0
    not_before: float = 0.0


@dataclass(eq=False)
class _Slot(Generic[T]):
    """A place for one actor. ``attempt`` is None while the actor is starting."""

    actor: Any
    attempt: _Attempt[T] | None = None
    node: str = ""
    started: float = field(default_factory=time.monotonic)


def on_ray(
    make: HandlerFactory[T, R],
    tasks: Iterable[T | Wait],
    *,
    policy: Policy = PATIENT,
    workers: Workers | None = None,
) -> Iterator[Outcome[T, R]]:
    """Run the tasks on Ray actors, one in flight on each; yields outcomes in the order they come.

    Raises:
        NoWorkers: no actor can be started (its handler fails to build, or the cluster lacks what is asked for).
    """
    start_ray()
    pool = _ActorPool(make, workers or Workers(), policy)
    try:
        yield from pool.work(iter(tasks))
    finally:
        pool.shutdown()


class _ActorPool(Generic[T, R]):
    start_limit_s = 180.0
    """An actor that is not ready by then will not come. Where none ever came, that is an error."""
    look_s = 5.0
    """How often it is seen whether machines have joined."""

    def __init__(self, make: HandlerFactory[T, R], workers: Workers, policy: Policy) -> None:
        self.start_limit_s = max(self.start_limit_s, workers.join_s)
        self._workers = workers
        self._policy = policy
        self._make = ray.put(make)
        self._ask = first_ask(workers)
        self._looked = time.monotonic()
        self._actor_class: Any = ray.remote(_Worker).options(
            num_cpus=self._ask.cpus,
            num_gpus=self._ask.gpus,
            memory=self._ask.memory_bytes,
            resources={self._ask.lane: 1.0} if self._ask.lane else None,
            max_restarts=0,
        )
        self._busy: dict[Any, _Slot[T]] = {}
        self._idle: list[tuple[Any, str]] = []
        self._queue: deque[_Attempt[T]] = deque()
        self._failed_starts = 0
        self._ever_ready = False
        self._spawn_after = 0.0
        self._metrics = Metrics()

    def work(self, tasks: Iterator[T | Wait]) -> Iterator[Outcome[T, R]]:
        waiting = exhausted = False
        while True:
            self._look()
            while not (waiting or exhausted) and len(self._queue) + self._running < self._ask.count:
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
                self._metrics.ended(outcome)
                yield outcome

    def shutdown(self) -> None:
        for actor in [*(actor for actor, _ in self._idle), *(slot.actor for slot in self._busy.values())]:
            ray.kill(actor)

    @property
    def _running(self) -> int:
        return sum(slot.attempt is not None for slot in self._busy.values())

    def _look(self) -> None:
        """Every few seconds: whether there is room for more or fewer actors than before."""
        now = time.monotonic()
        if now - self._looked < self.look_s:
            return
        self._looked = now
        self._metrics.workers(len(self._busy) + len(self._idle))
        if self._workers.count is None and (nodes := list(living().values())):
            try:
                self._ask = actor_resources(self._workers, nodes)
            except NoWorkers:  # the machines that we need are gone for now; others may come
                return

    def _assign(self) -> None:
        """Give every queued attempt that is due to an idle actor; spawn more where there are too few."""
        now = time.monotonic()
        for attempt in [a for a in self._queue if a.not_before <= now]:
            if not self._idle:
                break
            self._queue.remove(attempt)
            attempt.attempts += 1
            actor, node = self._idle.pop()
            self._busy[actor.run.remote(attempt.task)] = _Slot(actor, attempt, node)
        starting = len(self._busy) - self._running
        room = self._ask.count - len(self._busy) - len(self._idle)
        if now < self._spawn_after:
            return
        for _ in range(min(room, len(self._queue) - len(self._idle) - starting)):
            actor = self._actor_class.remote(self._make, self._workers.limit_bytes)
            self._busy[actor.ready.remote()] = _Slot(actor)

    def _collect(self) -> Iterator[Outcome[T, R]]:
        """Wait a moment, then settle what has ended, died or outstayed its deadline."""
        if not self._busy:
            time.sleep(0.05)  # everything left is waiting for its next try
            return
        ready, _ = ray.wait(list(self._busy), num_returns=1, timeout=0.5)
        for reference in ready:
            yield from self._settle(reference, self._busy.pop(reference))
        yield from self._overdue()

    def _settle(self, reference: Any, slot: _Slot[T]) -> Iterator[Outcome[T, R]]:
        try:
            answer = ray.get(reference, timeout=10)
        except RayTaskError:
            raise  # a bug of this file: a handler's own errors come back as answers
        except RayError as error:  # the actor died, ran out of memory, or its answer is lost
            ray.kill(slot.actor)
            yield from self._died(slot, error)
            return
        if slot.attempt is None:
            self._idle.append((slot.actor, answer))
            self._failed_starts, self._ever_ready = 0, True
            return
        self._idle.append((slot.actor, slot.node))
        attempt = slot.attempt
        if isinstance(answer, HandlerError) and answer.transient and attempt.attempts < self._policy.max_attempts:
            attempt.not_before = time.monotonic() + self._policy.pause_s(attempt.attempts)
            self._queue.append(attempt)
            return
        yield outcome_of(attempt.task, answer, attempt.attempts)

    def _died(self, slot: _Slot[T], error: Exception) -> Iterator[Outcome[T, R]]:
        warned = isinstance(error, ActorDiedError) and error.preempted
        lost = warned or (slot.node != "" and slot.node not in living()) or "node has died" in str(error)
        self._metrics.died("machine" if lost else "process")
        if slot.attempt is None:
            self._failed_starts += not lost
            if self._failed_starts >= 3:
                raise NoWorkers(f"no worker can be started: {_cause(error)}") from error
            return
        attempt = slot.attempt
        if lost:
            attempt.attempts -= 1  # the machine was taken away: not the task's doing
            attempt.losses += not warned
        else:
            attempt.deaths += 1
        if attempt.deaths < self._policy.max_deaths and attempt.losses < self._policy.max_node_losses:
            self._queue.append(attempt)
            return
        what = (
            f"its machine vanished {attempt.losses} times"
            if lost
            else f"its worker process died {attempt.deaths} times"
        )
        yield TaskFailure(
            task=attempt.task,
            kind=FailureKind.CRASH,
            error=type(error).__name__,
            message=f"{what} under it: {first_line(error)}",
            attempts=max(1, attempt.attempts),
            node=slot.node,
        )

    def _overdue(self) -> Iterator[Outcome[T, R]]:
        now = time.monotonic()
        for reference, slot in list(self._busy.items()):
            limit = self.start_limit_s if slot.attempt is None else self._policy.deadline_s
            if limit is None or now - slot.started <= limit:
                continue
            del self._busy[reference]
            ray.kill(slot.actor)
            if slot.attempt is None:
                self._start_timed_out(limit)
                continue
            yield TaskFailure(
                task=slot.attempt.task,
                kind=FailureKind.DEADLINE,
                error="Deadline",
                message=f"still running after {limit:g} s; its worker was stopped",
                attempts=slot.attempt.attempts,
                node=slot.node,
            )

    def _start_timed_out(self, limit: float) -> None:
        """An actor did not come: an error where none ever came, else it is asked for again later."""
        if self._ever_ready:
            self._spawn_after = time.monotonic() + limit / 6
            return
        free = ray.available_resources()  # type: ignore[no-untyped-call]
        raise NoWorkers(
            f"no worker became ready within {limit:.0f} s: the cluster has {free} free; "
            "ask for fewer or smaller workers"
        )


def _cause(error: Exception) -> str:
    """Why an actor did not come to life: what its handler raised stands at the end of Ray's text."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines and "raised in its creation task" in lines[0] else first_line(error)
