"""Leases: one driver at a time works on an object, and another one takes over the lease of a dead driver.

    leases/<kind>/<name>.json    the holder, until it releases the lease; renewed while the driver lives

A driver takes a lease by putting an object that must not exist yet. It renews, takes over or releases a lease by
putting the object on condition that it is still at the version read: of two drivers one wins (in a folder, which has no
conditional put, under `flock`). Correctness never depends on a lease alone: two holders would write the same bytes.

A holder is never judged dead by comparing the clocks of two machines. Either its process has ended, if that can be
seen from here, or the object is older than its time to live by the clock of the store itself.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from hypermend.catalog.documents import MALFORMED, parse_json, validated
from hypermend.catalog.errors import ArchiveError, NotFound
from hypermend.catalog.storage.archive_store import ArchiveStore, TooLarge, to_json

TTL_S = 120.0
"""Seconds without renewal after which a holder may be replaced."""
MOST_TTL_S = 86_400.0
"""A lease that is valid for longer is damaged: nobody could ever take it over."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The holder of a lease."""

    token: str
    """Random: distinguishes two holders in one process."""
    host: str
    pid: int
    process: str
    """Kernel, pid namespace and start of the process: with them a pid identifies one process for ever."""
    what: str
    """For the user: the run that holds it."""
    since: str
    """RFC 3339, by the holder's own clock."""
    ttl_s: float

    def __str__(self) -> str:
        return f"{self.what} on {self.host} (process {self.pid}) since {self.since}"


class Leases:
    """The leases of one driver. A thread renews them; `close` releases all."""

    def __init__(self, root: ArchiveStore, *, what: str, ttl_s: float = TTL_S) -> None:
        self._root = root
        self._what = what
        self._ttl_s = ttl_s
        self._token = secrets.token_hex(8)
        self._held: dict[str, tuple[str, Claim]] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._ended = False

    def check_alive(self) -> None:
        """Check that the leases are still being renewed.

        Raises:
            ArchiveError: the thread that does so has ended; other drivers will take the leases over.
        """
        if self._ended:
            raise ArchiveError(
                f"the leases of {self._what} are no longer renewed, and another driver may take them over; run the "
                "same command again"
            )

    def holder(self, key: str) -> Claim | None:
        """The other living driver that holds `key`; None if the lease can be taken."""
        current = _read(self._root, key)
        return None if current is None or current[1].token == self._token or self._is_dead(key, current) else current[1]

    def take(self, key: str) -> Claim | None:
        """Take the lease. Returns None on success, else its holder.

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
        for _ in range(10):  # a further round means that another driver has just changed the lease
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
        raise ArchiveError(f"{self._root.href(key)}: ten drivers changed this lease before this one could; try again")

    def renew(self, key: str) -> bool:
        """Renew the lease now. False: another driver took it over, as this one slept or was cut off for too long."""
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
        """Release the lease; nothing happens if another driver has it."""
        if self.renew(key):
            self._root.delete(key)
            with self._lock:
                self._held.pop(key, None)

    def close(self) -> None:
        """Release every lease and stop renewing."""
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
        try:
            while not self._closing.wait(self._ttl_s / 4):
                for key in list(self._held):
                    with contextlib.suppress(ArchiveError):  # the next round tries again; who renews sees the error
                        self.renew(key)
        finally:
            self._ended = not self._closing.is_set()  # by an error: `check_alive` stops the driver

    def _is_dead(self, key: str, current: tuple[str, Claim]) -> bool:
        version, claim = current
        if _has_ended(claim):
            return True
        age = self._root.age_s(key, version)
        return age is None or age > claim.ttl_s


def _read(root: ArchiveStore, key: str) -> tuple[str, Claim] | None:
    """(version, claim) of the lease, or None. A damaged lease counts as free."""
    try:
        data, version = root.get_versioned(key)
    except NotFound:
        return None
    except TooLarge as error:
        raise ArchiveError(f"{error}; remove it by hand") from error
    try:
        claim = validated(Claim, parse_json(data))
        since = datetime.fromisoformat(claim.since)
        if 0 <= claim.ttl_s <= MOST_TTL_S and since.tzinfo is not None and since.astimezone(UTC):
            return version, claim
    except MALFORMED:
        pass
    return version, Claim(token="", host="", pid=0, process="", what="damaged", since="", ttl_s=0.0)


def _has_ended(claim: Claim) -> bool:
    """Whether the holder is a process of this machine that has ended."""
    this = _process(os.getpid())
    if not claim.process or this is None or claim.process.rpartition("/")[0] != this.rpartition("/")[0]:
        return False
    try:
        os.kill(claim.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # another user's process: /proc may hide it
    return _process(claim.pid) != claim.process


def _process(pid: int) -> str | None:
    """Kernel, pid namespace and start of a running process of this machine; None if it has ended or is hidden."""
    try:
        kernel = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if stat[0] == "Z" else f"{kernel}/{Path('/proc/self/ns/pid').readlink()}/{stat[19]}"
    except (OSError, IndexError):
        return None
