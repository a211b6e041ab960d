"""Versions of the files of one scene: noted at the first look, compared at each later one.

A cube must not mix two versions of a file, whether it is replaced or written in place while it is read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from hypermend.catalog.errors import BadAsset
from hypermend.catalog.storage.hrefs import shown

MOST = 20_000
"""Files noted: a remote Zarr store may have millions of objects."""


@dataclass(frozen=True, kw_only=True)
class Stat:
    """Size and version of a file, before reading it."""

    size: int | None
    version: str
    """ETag, else modification time: changes when the file does"""
    changed_ns: int = 0
    """Of a local file: when its content, name or mode last changed. A tool that writes a file anew may set the
    modification time back, but not this one. No inode: file systems in user space number their files anew."""


class Versions:
    """The files of one scene as they were when they were first looked at."""

    def __init__(self) -> None:
        self._noted: dict[str, Stat] = {}

    def check(self, href: str, stat: Stat) -> Stat:
        """Note the file, or compare it with the note. Returns `stat`.

        Raises:
            BadAsset: the file has changed since it was noted.
        """
        if len(self._noted) < MOST:
            self._noted.setdefault(href, stat)
        if self._noted.get(href, stat) != stat:
            raise changed(href)
        return stat

    def precondition(self, href: str) -> dict[str, str]:
        """Headers that make a server refuse (412) a file of another version; none where its version is a weak ETag."""
        noted = self._noted.get(href)
        if noted is None or noted.version.startswith(("W/", "size:")):
            return {}
        return {"If-Match" if noted.version.startswith('"') else "If-Unmodified-Since": noted.version}

    def digest(self, hrefs: list[str]) -> str:
        """A hash of the noted files: two workers with the same one read the same bytes."""
        text = "\n".join(f"{href}\0{self._noted[href]}" for href in sorted(hrefs) if href in self._noted)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def changed(href: str) -> BadAsset:
    """The error for a file that has changed while it was read."""
    return BadAsset(f"{shown(href)}: it changed while it was read; run the same command again")
