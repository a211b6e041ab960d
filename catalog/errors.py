"""What can be wrong with an archive. Every message says what, which, and what to do.

ArchiveError
├── BadSensor     no such sensor, or its table cannot answer the question
├── BadItem       a STAC item that cannot become a scene
├── BadAsset      a file that is not what its item says, or cannot become a cube
├── BadCube       a cube that breaks the layout
├── NotFound      the thing is not there
├── Full          no room to write: nothing more can be done until there is some
├── Unreachable   it may be there, but the way to it failed: try again (transient)
├── AccessDenied  the archive's store does not let us: credentials
└── Refused       we could, but must not (offset unknown, too large, not signed, a model that does not fit)
"""

from __future__ import annotations

from typing import ClassVar


class ArchiveError(Exception):
    """Root of all errors of `catalog`."""

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
    """A file that is not what its item says, or that cannot become a cube."""


class BadCube(ArchiveError):
    """A cube that breaks the layout."""


class NotFound(ArchiveError):
    """The thing is not there."""


class Full(ArchiveError):
    """No room to write."""


class Unreachable(ArchiveError):
    """The way to the thing failed (timeout, reset, 5xx, truncated body): try again."""

    transient: ClassVar[bool] = True


class AccessDenied(ArchiveError):
    """The archive's store does not let these credentials do it."""


class Refused(ArchiveError):
    """It could be done, but must not be, or the plan cannot be carried out: says which scene, why and what to do."""
