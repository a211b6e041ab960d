"""Leases that keep the cubes of a scene from being removed while a driver writes or reads them.

    leases/<kind>/<scene>.json            a driver that writes the scene: ingest, restore-denoise ...
    leases/reading/<scene>/<name>.json    a driver that reads its cubes for another scene, or for a training
    leases/prune/<scene>.json             a prune that removes cubes of the scene

<scene> is the safe name of its id, which is also the folder of its cubes. A driver takes its own lease and then looks
at that of prune; prune does the same the other way round. Whatever the order, one of the two sees the other.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Iterator

from hypermend.catalog.errors import Refused
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.catalog.storage.leases import Claim, Leases

_READING, _PRUNE = "reading", "prune"
READING_TTL_S = 3600.0
"""A training renews a lease on each of its scenes, of which it may have thousands."""


def scene_folder(cube: str) -> str:
    """The scene's folder in the key of a cube, `source/<scene>/<id>.zarr`."""
    return cube.split("/")[1]


def prune_key(scene: str) -> str:
    """Key of the lease of a prune on a scene, given by its folder."""
    return f"leases/{_PRUNE}/{scene}.json"


def reading_key(scene: str, reader: str) -> str:
    """Key of the lease of one reader on a scene, given by its folder."""
    return f"leases/{_READING}/{scene}/{reader}.json"


@contextlib.contextmanager
def reading(root: ArchiveStore, cubes: Iterable[str], *, what: str) -> Iterator[None]:
    """Keep cubes from being removed while they are read.

    Raises:
        Refused: a prune is removing cubes of one of the scenes.
    """
    leases = Leases(root, what=what, ttl_s=READING_TTL_S)
    reader = secrets.token_hex(8)
    scenes = sorted({scene_folder(cube) for cube in cubes})
    try:
        for scene in scenes:
            leases.take(reading_key(scene, reader))
        for scene in scenes:
            if (claim := leases.holder(prune_key(scene))) is not None:
                raise Refused(f"{claim} is removing old cubes of scene {scene}; run the same command when it has ended")
        yield
    finally:
        leases.close()


def at_work(root: ArchiveStore, leases: Leases, scene: str) -> Claim | None:
    """A living driver that writes or reads the cubes of a scene, given by its folder.

    The kinds are those that the archive has leases of: a new kind needs no list.
    """
    kinds = [kind for kind in root.folders("leases") if kind not in (_READING, _PRUNE)]
    keys = [f"leases/{kind}/{scene}.json" for kind in kinds]
    keys += [entry.key for entry in root.list(f"leases/{_READING}/{scene}") if entry.key.endswith(".json")]
    return next((claim for claim in map(leases.holder, keys) if claim is not None), None)
