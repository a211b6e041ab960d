"""Leases: one driver at a time works on a thing, and the lease of a dead one is taken over.

    leases/<kind>/<name>.json    who holds it, until it is released; renewed while the driver lives

A lease is taken by putting an object that must not be there yet, and renewed, taken over and given back by putting it
on condition that it is still the version that was read: of two who try, one wins (on a folder, which has no conditional
put, under `flock`). What a lease guards never depends on it alone: two who think they hold it write the same bytes.

Whether a holder is dead is never judged by comparing the clocks of two machines. Its process is gone, where that can
be seen from here; else the object is older than its time to live, by the clock of the store itself.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from hypermend.catalog.errors import ArchiveError, NotFound
from hypermend.catalog.storage.archive_store import ArchiveStore, to_json

TTL_S = 120.0
"""A holder that has not been heard of for so long may be replaced."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Who holds a lease."""

    token: str
    """Random: tells two holders in one process apart."""
    host: str
    pid: int
    process: str
    """Start of the process, kernel and pid namespace: with them a pid names one process for ever."""
    what: str
    """For people: the run that holds it."""
    since: str
    """RFC 3339, by the holder's own clock."""
    ttl_s: float

    def __str__(self) -> str:
        return f"{self.what} on {self.host} (process {self.pid}) since {self.since}"


class Leases:
    """The leases of one driver. A thread renews them; `close` gives all back."""

    def __init__(self, root: ArchiveStore, *, what: str, ttl_s: float = TTL_S) -> None:
        self._root = root
        self._what = what
        self._ttl_s = ttl_s
        self._token = secrets.token_hex(8)
        self._held: dict[str, tuple[str, Claim]] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def holder(self, key: str) -> Claim | None:
        """The living driver, other than this one, that holds `key`; None when it can be taken."""
        current = _read(self._root, key)
        return None if current is None or current[1].token == self._token or self._is_dead(key, current) else current[1]

    def take(self, key: str) -> Claim | None:
        """Take the lease; None when it is ours, else who holds it.

        Raises:
            Unreachable, ArchiveError: the archive cannot be written.
        """
        claim = Claim(
            token=self._token,
            host=os.uname().nodename,
            pid=os.getpid(),
            process=_process(os.getpid()) or "",
            what=self._what,
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            ttl_s=self._ttl_s,
        )
        data = to_json(asdict(claim))
        for _ in range(10):  # each further round means that another driver has just changed the lease
            current = _read(self._root, key)
            if current is None:
                version = self._root.put_if(key, data, None)
            elif current[1].token != self._token and not self._is_dead(key, current):
                return current[1]
            else:
                version = self._root.put_if(key, data, current[0])
            if version is not None:
                with self._lock:
                    self._held[key] = version, claim
                self._start()
                return None
        raise ArchiveError(f"{self._root.href(key)}: ten drivers changed this lease before we could; try again")

    def renew(self, key: str) -> bool:
        """Renew the lease now; False when another driver has taken it over (we were asleep, or cut off, too long)."""
        with self._lock:
            if key not in self._held:
                return False
            version, claim = self._held[key]
            new = self._root.put_if(key, to_json(asdict(claim)), version)
            if new is None:
                del self._held[key]
                return False
            self._held[key] = new, claim
            return True

    def release(self, key: str) -> None:
        """Give the lease back; nothing happens where it is no longer ours."""
        if self.renew(key):
            self._root.delete(key)
            with self._lock:
                self._held.pop(key, None)

    def close(self) -> None:
        """Give every lease back and stop renewing."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        for key in list(self._held):
            self.release(key)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep_renewing, name="leases", daemon=True)
            self._thread.start()

    def _keep_renewing(self) -> None:
        while not self._closing.wait(self._ttl_s / 4):
            for key in list(self._held):
                try:
                    self.renew(key)
                except ArchiveError:  # tried again in a moment; whoever asks whether it is ours will see
                    continue

    def _is_dead(self, key: str, current: tuple[str, Claim]) -> bool:
        version, claim = current
        if _has_ended(claim):
            return True
        age = self._root.age_s(key, version)
        return age is None or age > claim.ttl_s


def _read(root: ArchiveStore, key: str) -> tuple[str, Claim] | None:
    """(version, claim) of the lease, or None. A damaged one counts as one that nobody holds."""
    try:
        data, version = root.get_versioned(key)
    except NotFound:
        return None
    try:
        return version, Claim(**json.loads(data))
    except (ValueError, TypeError):
        return version, Claim(token="", host="", pid=0, process="", what="damaged", since="", ttl_s=0.0)


def _has_ended(claim: Claim) -> bool:
    """Whether the holder is a process of this machine that has ended."""
    mine = _process(os.getpid())
    if not claim.process or mine is None or claim.process.rpartition("/")[0] != mine.rpartition("/")[0]:
        return False
    try:
        os.kill(claim.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # another user's: what /proc shows of it is not to be relied on
    return _process(claim.pid) != claim.process


def _process(pid: int) -> str | None:
    """Kernel, pid namespace and start of a running process of this machine; None where it is not there or hidden."""
    try:
        kernel = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if stat[0] == "Z" else f"{kernel}/{Path('/proc/self/ns/pid').readlink()}/{stat[19]}"
    except (OSError, IndexError):
        return None
