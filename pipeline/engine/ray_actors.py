"""The engine on Ray: ``on_ray`` runs tasks on the actors of a cluster and gives the same outcomes as ``serial``.

It takes a factory, which builds a handler inside the process that will use it, and a stream of tasks. It yields one
``TaskResult`` or ``TaskFailure`` for each task as it ends. Pixels never pass through here: tasks and results are small
values (``engine/outcome.py``).

A stream may yield ``WAIT`` when it has nothing to give until an earlier task has ended (the tiles of a scene become
known only once the scene is opened). ``ray.util.ActorPool`` cannot do what this dispatcher does: it replaces dead
actors, keeps exactly one task in flight on each (with three queued on a restarting actor, one poison tile was measured
to take innocent ones with it), and quarantines a task that has killed its actor too often.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from hypermend.pipeline.engine.cluster import actor_resources, alive_nodes, first_line, start_ray, wait_for_resources
from hypermend.pipeline.engine.memory_grant import limit_growth
from hypermend.pipeline.engine.outcome import (
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
from hypermend.pipeline.engine.prometheus import RunMetrics
from hypermend.pipeline.engine.threads import let_threads_sleep


def on_ray(
    factory: HandlerFactory[T, R],
    tasks: Iterable[T | Wait],
    *,
    policy: Policy | None = None,
    workers: Workers | None = None,
) -> Iterator[Outcome[T, R]]:
    """Run the tasks on Ray actors, one in flight on each, and yield outcomes as they come.

    Args:
        factory: builds a handler, once in each actor.
        tasks: drawn as actors become free.
        policy: limits on retries, deaths and time.
        workers: the actors to request of the cluster.

    Raises:
        NoWorkers: no actor can be started (its handler fails to build, or the cluster lacks what is requested).
    """
    start_ray()
    pool = _ActorPool(factory, workers or Workers(), policy or Policy())
    try:
        yield from pool.work(iter(tasks))
    finally:
        pool.shutdown()


class _Worker:
    """An actor: builds its handler once and keeps it for life."""

    def __init__(self, factory: Callable[[], Callable[[Any], Any]], limit_bytes: int | None) -> None:
        let_threads_sleep()
        self._handle = factory()
        if limit_bytes is not None:
            limit_growth(limit_bytes)

    def ready(self) -> str:
        """Return the id of the node on which the actor runs."""
        return str(ray.get_runtime_context().get_node_id())

    def run(self, task: Any) -> HandlerError | HandlerResult:
        return run_handler(self._handle, task)


@dataclass(eq=False)
class _Attempt(Generic[T]):
    """A task with the count of what has happened to it so far."""

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


class _ActorPool(Generic[T, R]):
    """The actors of one run: starts them, gives them tasks, replaces those that die."""

    start_limit_s = 180.0
    """An actor that is not ready by then counts as failed. Where none has ever been ready, that is an error."""
    poll_s = 5.0
    """Interval at which the pool looks for machines that have joined or left."""

    def __init__(self, factory: HandlerFactory[T, R], workers: Workers, policy: Policy) -> None:
        self.start_limit_s = max(self.start_limit_s, workers.join_s)
        self._workers = workers
        self._policy = policy
        self._factory = ray.put(factory)
        self._resources = wait_for_resources(workers)
        self._polled = time.monotonic()
        self._actor_class: Any = ray.remote(_Worker).options(
            num_cpus=self._resources.cpus,
            num_gpus=self._resources.gpus,
            memory=self._resources.memory_bytes,
            resources={self._resources.lane: 1.0} if self._resources.lane else None,
            max_restarts=0,
        )
        self._busy: dict[Any, _Slot[T]] = {}
        self._idle: list[tuple[Any, str]] = []
        self._queue: deque[_Attempt[T]] = deque()
        self._failed_starts = 0
        self._ever_ready = False
        self._spawn_after = 0.0
        self._metrics = RunMetrics()

    def work(self, tasks: Iterator[T | Wait]) -> Iterator[Outcome[T, R]]:
        waiting = exhausted = False
        while True:
            self._poll_cluster()
            while not (waiting or exhausted) and len(self._queue) + self._running < self._resources.count:
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
                self._metrics.add_task(outcome)
                yield outcome

    def shutdown(self) -> None:
        for actor in [*(actor for actor, _ in self._idle), *(slot.actor for slot in self._busy.values())]:
            ray.kill(actor)

    @property
    def _running(self) -> int:
        return sum(slot.attempt is not None for slot in self._busy.values())

    def _poll_cluster(self) -> None:
        """Every few seconds, adjust the number of actors to the machines there are now."""
        now = time.monotonic()
        if now - self._polled < self.poll_s:
            return
        self._polled = now
        self._metrics.set_workers(len(self._busy) + len(self._idle))
        if self._workers.count is None and (nodes := list(alive_nodes().values())):
            try:
                self._resources = actor_resources(self._workers, nodes)
            except NoWorkers:  # the machines that we need are gone for now; others may come
                return

    def _assign(self) -> None:
        """Give every queued attempt that is due to an idle actor; spawn actors where there are too few."""
        now = time.monotonic()
        for attempt in [a for a in self._queue if a.not_before <= now]:
            if not self._idle:
                break
            self._queue.remove(attempt)
            attempt.attempts += 1
            actor, node = self._idle.pop()
            self._busy[actor.run.remote(attempt.task)] = _Slot(actor, attempt, node)
        starting = len(self._busy) - self._running
        room = self._resources.count - len(self._busy) - len(self._idle)
        if now < self._spawn_after:
            return
        for _ in range(min(room, len(self._queue) - len(self._idle) - starting)):
            actor = self._actor_class.remote(self._factory, self._workers.limit_bytes)
            self._busy[actor.ready.remote()] = _Slot(actor)

    def _collect(self) -> Iterator[Outcome[T, R]]:
        """Wait a moment, then handle the actors that have replied, died or exceeded their deadline."""
        if not self._busy:
            time.sleep(0.05)  # every task that is left waits for its next try
            return
        ready, _ = ray.wait(list(self._busy), num_returns=1, timeout=0.5)
        for reference in ready:
            yield from self._handle_reply(reference, self._busy.pop(reference))
        yield from self._stop_overdue()

    def _handle_reply(self, reference: Any, slot: _Slot[T]) -> Iterator[Outcome[T, R]]:
        try:
            reply = ray.get(reference, timeout=10)
        except RayTaskError:
            raise  # a bug of this file: a handler's own errors come back as replies
        except RayError as error:  # the actor died, ran out of memory, or its reply is lost
            ray.kill(slot.actor)
            yield from self._handle_death(slot, error)
            return
        if slot.attempt is None:
            self._idle.append((slot.actor, reply))
            self._failed_starts, self._ever_ready = 0, True
            return
        self._idle.append((slot.actor, slot.node))
        attempt = slot.attempt
        if isinstance(reply, HandlerError) and reply.transient and attempt.attempts < self._policy.max_attempts:
            attempt.not_before = time.monotonic() + self._policy.pause_s(attempt.attempts)
            self._queue.append(attempt)
            return
        yield outcome_of(attempt.task, reply, attempt.attempts)

    def _handle_death(self, slot: _Slot[T], error: Exception) -> Iterator[Outcome[T, R]]:
        preempted = isinstance(error, ActorDiedError) and error.preempted
        node_gone = slot.node != "" and slot.node not in alive_nodes()
        machine_lost = preempted or node_gone or "node has died" in str(error)
        self._metrics.add_death("machine" if machine_lost else "process")
        if slot.attempt is None:
            self._failed_starts += not machine_lost
            if self._failed_starts >= 3:
                raise NoWorkers(f"no worker can be started: {_cause(error)}") from error
            return
        attempt = slot.attempt
        if machine_lost:
            attempt.attempts -= 1  # the machine was taken away: the task did not cause it
            attempt.losses += not preempted
        else:
            attempt.deaths += 1
        if attempt.deaths < self._policy.max_deaths and attempt.losses < self._policy.max_node_losses:
            self._queue.append(attempt)
            return
        cause = (
            f"its machine vanished {attempt.losses} times"
            if machine_lost
            else f"its worker process died {attempt.deaths} times"
        )
        yield TaskFailure(
            task=attempt.task,
            kind=FailureKind.CRASH,
            error=type(error).__name__,
            message=f"{cause} under it: {first_line(error)}",
            attempts=max(1, attempt.attempts),
            node=slot.node,
        )

    def _stop_overdue(self) -> Iterator[Outcome[T, R]]:
        """Stop the actors that have exceeded their deadline, or the limit on their start."""
        now = time.monotonic()
        for reference, slot in list(self._busy.items()):
            limit_s = self.start_limit_s if slot.attempt is None else self._policy.deadline_s
            if limit_s is None or now - slot.started <= limit_s:
                continue
            del self._busy[reference]
            ray.kill(slot.actor)
            if slot.attempt is None:
                self._start_timed_out(limit_s)
                continue
            yield TaskFailure(
                task=slot.attempt.task,
                kind=FailureKind.DEADLINE,
                error="Deadline",
                message=f"still running after {limit_s:g} s; its worker was stopped",
                attempts=slot.attempt.attempts,
                node=slot.node,
            )

    def _start_timed_out(self, limit_s: float) -> None:
        """Try again later; raise where no actor has ever been ready."""
        if self._ever_ready:
            self._spawn_after = time.monotonic() + limit_s / 6
            return
        free = ray.available_resources()  # type: ignore[no-untyped-call]
        raise NoWorkers(
            f"no worker became ready within {limit_s:.0f} s: the cluster has {free} free; "
            "ask for fewer or smaller workers"
        )


def _cause(error: Exception) -> str:
    """Return why an actor did not start: the handler's own error stands at the end of Ray's text."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines and "raised in its creation task" in lines[0] else first_line(error)
