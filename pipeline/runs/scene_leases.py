"""Leases on scenes, so that two drivers never restore the same one."""

from __future__ import annotations

import contextlib

from hypermend.catalog.errors import ArchiveError
from hypermend.catalog.storage.archive_store import safe_name
from hypermend.catalog.storage.leases import Claim, Leases
from hypermend.pipeline.runs.unit import Unit


class SceneLeases:
    """The leases of a run on its scenes: one driver at a time writes one."""

    def __init__(self, leases: Leases, kind: str) -> None:
        """
        Args:
            kind: what is done to a scene, such as ingest; other kinds have other leases.
        """
        self._leases = leases
        self._kind = kind

    def other(self, unit: Unit) -> Claim | None:
        """The other driver that is at work on the scene."""
        return self._leases.holder(self._key(unit))

    def take(self, unit: Unit) -> Claim | None:
        """None when the scene is ours, else whose it is."""
        return self._leases.take(self._key(unit))

    def lost(self, unit: Unit) -> bool:
        return not self._leases.still_ours(self._key(unit))

    def release(self, unit: Unit) -> None:
        with contextlib.suppress(ArchiveError):  # a lease that cannot be given back ends by itself
            self._leases.release(self._key(unit))

    def close(self) -> None:
        self._leases.close()

    def _key(self, unit: Unit) -> str:
        # Not the collection: the same files in two collections make one cube.
        return f"leases/{self._kind}/{safe_name(unit.scene)}.json"
