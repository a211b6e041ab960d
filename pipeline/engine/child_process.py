"""The engine for small jobs: one process of its own, without Ray, that is killed where a task must end.

Same outcomes as ``ray_actors``: a task that crashes its process or runs past its deadline fails alone, and the next
task gets a new process. Starting Ray takes longer than a few tiles do. The process ends with the driver.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import IO, Any

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
from hypermend.pipeline.engine.threads import let_threads_sleep

START_LIMIT_S = 180.0
"""A process whose handler is not built by then counts as failed."""
_MAX_STARTS = 3
_SERVE = "from hypermend.pipeline.engine.child_process import serve; serve()"


def in_child(
    factory: HandlerFactory[T, R],
    tasks: Iterable[T | Wait],
    *,
    policy: Policy | None = None,
    workers: Workers | None = None,
) -> Iterator[Outcome[T, R]]:
    """Run the tasks one after the other in one process and yield the outcome of each.

    Args:
        factory: builds the handler in the process; it and the tasks are sent by name.
        tasks: drawn as the process becomes free.
        policy: limits on retries, deaths and time.
        workers: the memory of the process; its count is not used.

    Raises:
        NoWorkers: the handler cannot be built.
    """
    policy = policy or Policy()
    child = _Child(factory, None if workers is None else workers.limit_bytes)
    try:
        for task in tasks:
            if isinstance(task, Wait):
                raise RuntimeError("the task stream waits for a task, and none is in flight")
            yield _outcome(child, task, policy)
    finally:
        child.end()


def _outcome(child: _Child, task: T, policy: Policy) -> Outcome[T, Any]:
    attempts = deaths = 0
    while True:
        attempts += 1
        child.start()
        try:
            reply = child.exchange(task, policy.deadline_s)
        except TimeoutError:
            message = f"still running after {policy.deadline_s:g} s; its worker was stopped"
            return _failure(task, FailureKind.DEADLINE, "Deadline", message, attempts)
        except _Died as death:
            deaths += 1
            if deaths < policy.max_deaths:
                continue
            message = f"its worker process died {deaths} times under it: {death}"
            return _failure(task, FailureKind.CRASH, "WorkerDied", message, attempts)
        if isinstance(reply, HandlerError) and reply.transient and attempts < policy.max_attempts:
            time.sleep(policy.pause_s(attempts))
            continue
        return outcome_of(task, reply, attempts)


def _failure(task: T, kind: FailureKind, error: str, message: str, attempts: int) -> TaskFailure[T]:
    node = socket.gethostname()
    return TaskFailure(task=task, kind=kind, error=error, message=message, attempts=attempts, node=node)


class _Died(Exception):
    """The process has ended; the text says how."""


class _Child:
    """The process, started when it is needed and again after it has died."""

    def __init__(self, factory: Any, limit_bytes: int | None) -> None:
        self._first_words = factory, limit_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection[Any, Any]
        self._stderr: IO[bytes]

    def start(self) -> None:
        """
        Raises:
            NoWorkers: the handler cannot be built.
        """
        starts = 0
        while self._process is None:
            starts += 1
            self._spawn()
            try:
                reply = self.exchange(self._first_words, START_LIMIT_S)
            except (_Died, TimeoutError) as error:
                if starts >= _MAX_STARTS:
                    raise NoWorkers(f"no worker can be started: {error}") from error
                continue
            if isinstance(reply, HandlerError):
                self.end()
                raise NoWorkers(f"no worker can be started: {reply.error}: {reply.message}")

    def exchange(self, message: Any, limit_s: float | None) -> HandlerError | HandlerResult:
        """Send a message and wait for the reply.

        Raises:
            _Died: the process has ended.
            TimeoutError: the limit is over; the process has been killed.
        """
        try:
            self._pipe.send(message)
            if self._pipe.poll(limit_s):
                reply: HandlerError | HandlerResult = self._pipe.recv()
                return reply
        except (OSError, EOFError):
            raise _Died(self._how_it_ended()) from None
        self.end()
        raise TimeoutError(f"not ready within {limit_s:.0f} s")

    def end(self) -> None:
        """Kill the process; what a task was writing stays as a kill leaves it, without its mark."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._pipe.close()
            self._stderr.close()
            self._process = None

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._pipe = Connection(ours.detach())
            self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (the process writes to it for its whole life)
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )

    def _how_it_ended(self) -> str:
        """Signal or exit code, and the last line that the process said."""
        assert self._process is not None
        self._process.kill()
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read()[-2000:].decode(errors="replace").strip().splitlines()
        self.end()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{how}: {lines[-1]}" if lines else how


def serve() -> None:
    """The process: build the handler, then answer each task; end when the driver does."""
    for reaches_the_driver_too in (signal.SIGINT, signal.SIGTERM):  # which decides
        signal.signal(reaches_the_driver_too, signal.SIG_IGN)
    pipe: Connection[Any, Any] = Connection(int(sys.argv[1]))
    inbox: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, inbox), daemon=True).start()
    factory, limit_bytes = inbox.get()
    let_threads_sleep()
    built = run_handler(lambda make: make(), factory)
    if isinstance(built, HandlerError):
        pipe.send(built)
        return
    if limit_bytes is not None:
        limit_growth(limit_bytes)
    pipe.send(replace(built, result=None))
    while True:
        pipe.send(run_handler(built.result, inbox.get()))


def _receive(pipe: Connection[Any, Any], inbox: SimpleQueue[Any]) -> None:
    """Take in messages; a driver that has died ends this process in the midst of its task."""
    while True:
        try:
            inbox.put(pipe.recv())
        except (OSError, EOFError):
            os._exit(0)
