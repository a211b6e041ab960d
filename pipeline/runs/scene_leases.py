"""Leases on scenes: one driver at a time writes a scene, and no prune removes what it reads (`cube_leases`)."""

from __future__ import annotations

import contextlib
import secrets

from hypermend.catalog.errors import ArchiveError
from hypermend.catalog.storage.archive_store import safe_name
from hypermend.catalog.storage.cube_leases import prune_key, reading_key, scene_folder
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
        self._reader = secrets.token_hex(8)

    def other_driver(self, unit: Unit) -> Claim | None:
        """Return the claim of another driver that is at work on the scene, or that removes a cube which it reads."""
        return self._first_holder([self._key(unit), *self._prune_keys(unit)])

    def take(self, unit: Unit) -> Claim | None:
        """Take the lease: None when this driver has it, else the claim of the driver that does."""
        for key in self._keys(unit):
            if (claim := self._leases.take(key)) is not None:
                break
        else:
            claim = self._first_holder(self._prune_keys(unit))  # only now: prune looks at ours after taking its own
        if claim is not None:
            self.release(unit)
        return claim

    def check_alive(self) -> None:
        """Raise ArchiveError if the leases are no longer renewed."""
        self._leases.check_alive()

    def lost(self, unit: Unit) -> bool:
        """Whether another driver has taken the lease over."""
        return not self._leases.renew(self._key(unit))

    def release(self, unit: Unit) -> None:
        """Give the lease back."""
        for key in self._keys(unit):
            with contextlib.suppress(ArchiveError):  # a lease that cannot be released expires by itself
                self._leases.release(key)

    def close(self) -> None:
        """Release every lease of the run."""
        self._leases.close()

    def _first_holder(self, keys: list[str]) -> Claim | None:
        return next((claim for claim in map(self._leases.holder, keys) if claim is not None), None)

    def _key(self, unit: Unit) -> str:
        # Not the collection: the same files in two collections make one cube.
        return f"leases/{self._kind}/{safe_name(unit.scene)}.json"

    def _keys(self, unit: Unit) -> list[str]:
        return [self._key(unit), *(reading_key(scene_folder(cube), self._reader) for cube in unit.reads)]

    def _prune_keys(self, unit: Unit) -> list[str]:
        return [prune_key(safe_name(unit.scene)), *(prune_key(scene_folder(cube)) for cube in unit.reads)]
