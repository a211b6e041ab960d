"""Leases on scenes: one driver at a time writes a scene."""

from __future__ import annotations

import contextlib

from hypermend.catalog.errors import ArchiveError
from hypermend.catalog.storage.archive_store import safe_name
from hypermend.catalog.storage.leases import Claim, Leases
from hypermend.pipeline.runs.unit import Unit


class SceneLeases:
    """The leases of a run on its scenes."""

    def __init__(self, leases: Leases, kind: str) -> None:
        """Use ``leases`` for scenes.

        Args:
            leases: leases of the archive.
            kind: the operation on the scene, such as ingest; each kind has its own leases.
        """
        self._leases = leases
        self._kind = kind

    def other_driver(self, unit: Unit) -> Claim | None:
        """Return the claim of another driver that is at work on the scene."""
        return self._leases.holder(self._key(unit))

    def take(self, unit: Unit) -> Claim | None:
        """Take the lease: None when this driver has it, else the claim of the driver that does."""
        return self._leases.take(self._key(unit))

    def lost(self, unit: Unit) -> bool:
        """Whether another driver has taken the lease over."""
        return not self._leases.renew(self._key(unit))

    def release(self, unit: Unit) -> None:
        """Give the lease back."""
        with contextlib.suppress(ArchiveError):  # a lease that cannot be released expires by itself
            self._leases.release(self._key(unit))

    def close(self) -> None:
        """Release every lease of the run."""
        self._leases.close()

    def _key(self, unit: Unit) -> str:
        # Not the collection: the same files in two collections make one cube.
        return f"leases/{self._kind}/{safe_name(unit.scene)}.json"
