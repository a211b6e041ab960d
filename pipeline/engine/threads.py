"""Threads of a worker's libraries."""

from __future__ import annotations

import os


def let_threads_sleep() -> None:
    """Let idle threads of OpenMP sleep; call it before torch is loaded.

    By default a thread that waits for the others of its loop spins. On a machine that other programs use too, it takes
    the core that the last of them needs. What the user sets stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
