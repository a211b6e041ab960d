"""Errors of the catalog and of the pipeline. Every message names the problem, the object and the remedy.

ArchiveError
├── BadSensor     no such sensor, or its table cannot answer the question
├── BadItem       a STAC item that cannot become a scene
├── BadAsset      a file that contradicts its item, or cannot become a cube
├── BadCube       a cube that breaks the layout
├── NotFound      the object does not exist
├── Full          no space left, a quota reached, or a file too large for its disk: writing again would not help
├── ReadOnly      the archive lies on a file system that is mounted read-only
├── Unreachable   the object may exist, but the transport failed: try again (transient)
├── AccessDenied  a store rejects the credentials, or a server answers with its login page
└── Refused       possible, but wrong to do (unknown offset, too large, not signed, a model that does not fit)
"""

from __future__ import annotations

from typing import ClassVar


class ArchiveError(Exception):
    """Root of the errors below."""

    transient: ClassVar[bool] = False
    """True: the same call may succeed later, so a retry makes sense."""


class BadSensor(ArchiveError):
    """No such sensor, or its table cannot answer the question."""


class BadItem(ArchiveError):
    """A STAC item that cannot become a scene; carries the item's id and the reason apart."""

    def __init__(self, id: str, reason: str) -> None:
        super().__init__(f"item {id}: {reason}")
        self.id = id
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadItem], tuple[str, str]]:
        return type(self), (self.id, self.reason)


class BadAsset(ArchiveError):
    """A file that contradicts its item, or that cannot become a cube."""


class BadCube(ArchiveError):
    """A cube that breaks the layout."""


class NotFound(ArchiveError):
    """The object does not exist."""


class Full(ArchiveError):
    """No space left to write: the disk is full, a quota is reached, or files of this size are not allowed."""


class ReadOnly(ArchiveError):
    """The file system of the archive is mounted read-only."""


class Unreachable(ArchiveError):
    """The transport failed (timeout, reset, 5xx, truncated body): try again."""

    transient: ClassVar[bool] = True
    retry_after_s: float | None = None
    """The wait that the server asks for, in seconds."""


class AccessDenied(ArchiveError):
    """A store rejects the credentials, or a server answers with its login page where data is expected."""


class Refused(ArchiveError):
    """Possible, but wrong to do, or a plan that cannot run. The message names the object, the reason and the remedy."""
