"""Threads of a worker's libraries."""

from __future__ import annotations

import os


def let_threads_sleep() -> None:
    """Let idle threads of OpenMP sleep; call it before torch is loaded.

    By default a thread that waits for the others of its loop spins. On a machine that other programs use too, it takes
    the core that the last of them needs: a scene of 224 bands took 57 to 69 s of CPU time and 69 to 104 s in all with
    two threads that spin, 23 and 33 to 44 s with two that sleep. What the user sets stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
