"""Handlers for the tests of the engines: light, because each process that runs one imports this module."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path


class Unreachable(Exception):
    transient = True


def make_square() -> Callable[[int], int]:
    def square(x: int) -> int:
        if x < 0:
            raise ValueError(f"{x} is negative")
        return x * x

    return square


def make_flaky(counter: Path) -> Callable[[int], int]:
    def flaky(x: int) -> int:
        with counter.open("a") as file:
            file.write(".")
        if len(counter.read_text()) < 3:
            raise Unreachable("come back later")
        return x

    return flaky


def make_poisoned() -> Callable[[str], str]:
    def handle(task: str) -> str:
        if task == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "hang":
            time.sleep(600)
        return task

    return handle


def make_dies_once(marker: Path) -> Callable[[int], int]:
    def handle(task: int) -> int:
        if task == 2 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return task

    return handle


def broken() -> Callable[[int], int]:
    raise OSError("no weights here")


def dies_at_birth() -> Callable[[int], int]:
    print("no library here", file=sys.stderr)
    sys.exit(5)


def make_large() -> Callable[[int], int]:
    return lambda mib: len(bytearray(mib * 2**20))


def make_pid(file: Path) -> Callable[[int], int]:
    def handle(seconds: int) -> int:
        file.write_text(str(os.getpid()))
        time.sleep(seconds)
        return os.getpid()

    return handle


def make_ask() -> Callable[[str], str | None]:
    """A handler that gives a variable of its environment."""
    return os.environ.get
