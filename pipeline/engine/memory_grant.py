"""Memory of a worker process: its grant, its limit, and what its allocator keeps."""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a process of an engine has no use for it
    from hypermend.pipeline.config import RestoreJob

GIB = 2**30
SLACK_BYTES = GIB // 2
"""Memory on top of a plan's figure: code, threads, and what the allocator keeps."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt, from glibc's malloc.h."""


def machine_bytes() -> int:
    """Return the memory of this machine, or of the container where that has less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return physical
    return min(physical, int(limit)) if limit.isdigit() else physical


def share_bytes(workers: int | None) -> int:
    """Return an even share of this machine's memory; ``workers`` None for one per CPU, as the engine starts them."""
    return machine_bytes() // (workers or os.cpu_count() or 1)


def granted_bytes(job: RestoreJob) -> int | None:
    """Memory of each worker: as the job says, else a share of this machine; None on a cluster elsewhere."""
    if job.memory_gib is not None:
        return round(job.memory_gib * GIB)
    return share_bytes(job.workers) if job.ray_address is None else None


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees for its next tile, which allocates the same arrays again.

    By default glibc returns arrays above 32 MiB to the system at once and maps them again, zeroed page by page: at
    816 x 816 pixels the network took 12 us a pixel that way, and 4.5 us this way. The peak is the same tile after tile.
    Other C libraries have no mallopt; there it does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        most = 2**31 - 1
        mallopt(_M_MMAP_THRESHOLD, most)
        mallopt(_M_TRIM_THRESHOLD, most)


def limit_growth(granted_bytes: int) -> None:
    """Limit this process to so many bytes beyond what it has now.

    An allocation beyond that fails, and the tile with it, before the machine runs out of memory and the kernel kills
    something else. The limit is on private memory (RLIMIT_DATA), not on address space, of which torch maps more than it
    uses. It does nothing where the system has no such limit.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return
    now = 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData:"))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = now + granted_bytes + SLACK_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def peak_bytes() -> int:
    """Return the largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
