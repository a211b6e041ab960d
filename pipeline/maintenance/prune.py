"""Prune: remove cubes that newer ones have replaced, never one that the catalog still names.

A cube is removed when it is finished, no item names it, an item of the same stage and scene names another, that item is
old enough (a user may still be reading the old cube), no plan of a current restored cube reads it, and no driver has a
lease on the scene. A cube that was never finished is left for its job.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import hypermend
from hypermend.catalog.cube.marks import DoneMarks
from hypermend.catalog.errors import NotFound
from hypermend.catalog.keys import cube_key
from hypermend.catalog.scene import Scene
from hypermend.catalog.storage.archive_store import ArchiveStore, safe_name
from hypermend.catalog.storage.leases import Leases
from hypermend.pipeline.restore.plan import plan_key, read_plan

_LEASES = {"source": ("ingest", "restore-denoise", "restore-fuse"), "restored": ("restore-denoise", "restore-fuse")}


@dataclass(frozen=True, kw_only=True)
class Superseded:
    """A cube that can be removed."""

    cube: str
    scene: str
    replaced_by: str
    objects: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class PruneReport:
    """Result of ``prune``: the cubes removed, or those that would be."""

    removed: tuple[Superseded, ...]
    dry_run: bool

    @property
    def bytes(self) -> int:
        return sum(cube.bytes for cube in self.removed)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"bytes": self.bytes}


def prune(archive: str, *, older_than_hours: float = 24.0, dry_run: bool = False) -> PruneReport:
    """Remove superseded cubes, or list those that would be removed.

    Args:
        archive: folder or URL.
        older_than_hours: how long the newer cube must have been published.
        dry_run: list only.

    Raises:
        NotFound: no such archive.
    """
    opened = hypermend.open(archive)
    root = opened.root
    leases = Leases(root, what="prune")
    before = datetime.now(UTC) - timedelta(hours=older_than_hours)
    current = {stage: [item.scene for item in opened.search(stage=stage)] for stage in ("source", "restored")}
    published = {cube_key(scene) for scenes in current.values() for scene in scenes}
    removed: list[Superseded] = []
    sources: set[str] | None = None  # source cubes that current plans read; looked up once, when needed
    for stage, scenes in current.items():
        for folder, members in sorted(_by_folder(scenes).items()):
            if any(_updated(scene) > before for scene in members):
                continue
            if any(leases.holder(f"leases/{kind}/{folder}.json") for kind in _LEASES[stage]):
                continue
            for cube in _finished(root, stage, folder):
                if cube in published:
                    continue
                if stage == "source":
                    sources = _plan_sources(root, current["restored"]) if sources is None else sources
                    if cube in sources:
                        continue
                keys = _objects(root, cube)
                removed.append(
                    Superseded(
                        cube=cube,
                        scene=members[0].id,
                        replaced_by=cube_key(members[0]),
                        objects=len(keys),
                        bytes=sum(keys.values()),
                    )
                )
                if not dry_run:
                    _remove(root, cube)
    return PruneReport(removed=tuple(removed), dry_run=dry_run)


def _by_folder(scenes: list[Scene]) -> dict[str, list[Scene]]:
    """Group current scenes by the folder of their cubes."""
    folders: dict[str, list[Scene]] = {}
    for scene in scenes:
        folders.setdefault(safe_name(scene.id), []).append(scene)
    return folders


def _updated(scene: Scene) -> datetime:
    return datetime.fromisoformat(scene.properties["updated"])


def _finished(root: ArchiveStore, stage: str, folder: str) -> Iterator[str]:
    """List cubes of a scene that are finished, or that an interrupted prune has left half removed."""
    prefix = f"{stage}/{folder}"
    for name in root.folders(prefix):
        if not name.endswith(".zarr"):
            continue
        cube = f"{prefix}/{name}"
        if root.exists(DoneMarks(root, cube).folded) or root.exists(_removal_mark(cube)):
            yield cube


def _plan_sources(root: ArchiveStore, restored: list[Scene]) -> set[str]:
    """Collect the source cubes that the plans of current restored cubes read."""
    sources: set[str] = set()
    for scene in restored:
        with suppress(NotFound):
            sources.update(read_plan(root, plan_key(cube_key(scene))).cubes)
    return sources


def _removal_mark(cube: str) -> str:
    """Return the key of the mark of a removal: it is deleted last, so that a later prune finishes a killed one."""
    return f"{cube}.pruned"


def _objects(root: ArchiveStore, cube: str) -> dict[str, int]:
    """Map the key of every object of a cube, and of those next to it, to its size in bytes."""
    stem = cube.removesuffix(".zarr")
    folder = cube.rpartition("/")[0]
    return {e.key: e.size for e in root.list(folder) if e.key.startswith((f"{cube}/", f"{stem}."))}


def _remove(root: ArchiveStore, cube: str) -> None:
    """Remove a cube, its marks first: a cube that is half removed must not count as done."""
    root.put(_removal_mark(cube), b"")
    stem = cube.removesuffix(".zarr")
    root.delete(DoneMarks(root, cube).folded)
    for prefix in (DoneMarks(root, cube).folder, cube, f"{stem}.adapt", f"{stem}.adapt.done"):
        root.delete_prefix(prefix)
    for key in (f"{stem}.adapt.done.json", plan_key(cube), _removal_mark(cube)):
        root.delete(key)
