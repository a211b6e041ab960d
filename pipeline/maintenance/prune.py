"""Prune: remove cubes that newer ones have replaced, never one that the catalog still names.

A cube is removed when it is finished, no item names it, an item of the same stage, scene and task names another and was
published since, that item is old enough (a user may still be reading the old cube), no plan of a current restored cube
reads it, and no driver writes or reads the scene. All this is looked at under a lease on the scene, which drivers
respect. A cube that was never finished is left for its job; one with a link in it, or on the way to it, is left and
named.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import hypermend
from hypermend.catalog.cube.marks import DoneMarks
from hypermend.catalog.documents import MALFORMED
from hypermend.catalog.errors import NotFound, Refused
from hypermend.catalog.keys import cube_key, quicklook_keys, scene_collection
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac.fields import parse_time
from hypermend.catalog.stac.index import search
from hypermend.catalog.storage.archive_store import LINK, ArchiveStore, safe_name
from hypermend.catalog.storage.cube_leases import at_work, prune_key
from hypermend.catalog.storage.leases import Leases
from hypermend.pipeline.restore.plan import plan_key, read_plan

_STAGES = ("source", "restored")
_NEVER = datetime.max.replace(tzinfo=UTC)
_UNPUBLISHED = (
    "nothing that was published since takes its place: the command that made it publishes it; remove it by hand if it "
    "is not wanted"
)
BATCH = 100
"""Scenes whose leases are held at a time; the catalog is read once for each batch."""


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
    refused: tuple[str, ...] = ()
    """Why a cube that is superseded was left: one line each."""
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
    root = hypermend.open(archive).root
    before = datetime.now(UTC) - timedelta(hours=older_than_hours)
    first = _Catalog(archive)
    scenes = [(stage, folder) for stage in _STAGES for folder in first.pruned_folders(stage, before)]
    wanted = [(stage, folder) for stage, folder in scenes if _has_superseded(root, stage, folder, first.named)]
    removed: list[Superseded] = []
    refused: list[str] = []
    for start in range(0, len(wanted), BATCH):
        batch = wanted[start : start + BATCH]
        with _leased(root, batch, dry_run=dry_run) as free:
            now = _Catalog(archive)  # again, under the leases: a driver may have published meanwhile
            for stage, folder in free:
                members = now.current[stage].get(folder, [])
                if not members:
                    continue
                if (reason := now.unknown(stage, folder)) is not None:
                    refused.append(f"{reason}: nothing of {stage}/{folder} is removed")
                    continue
                if any(_updated(scene) > before for scene in members):
                    continue
                try:
                    cubes = [c for c in _finished(root, stage, folder) if c not in now.named and c not in now.read]
                except Refused as error:  # a link on the way to its cubes
                    refused.append(f"{error}: nothing of {stage}/{folder} is removed")
                    continue
                for cube in cubes:
                    if (link := _link_in(root, cube)) is not None:
                        refused.append(f"{link} is a link: nothing of {cube} is removed; remove the link by hand")
                        continue
                    newer = _replaced_by(root, cube, members)
                    if newer is None:
                        refused.append(f"{cube} is finished and {_UNPUBLISHED}")
                        continue
                    removed.append(_superseded(root, cube, newer))
                    if not dry_run:
                        _remove(root, cube)
    return PruneReport(removed=tuple(removed), refused=tuple(refused), dry_run=dry_run)


class _Catalog:
    """The catalog as it is now: current scenes, the cubes that they name, and those that their plans read."""

    def __init__(self, archive: str) -> None:
        self._root = hypermend.open(archive).root
        searches = {stage: search(self._root, stage=stage) for stage in _STAGES}
        found = {stage: list(scenes) for stage, scenes in searches.items()}
        self._unreadable = {key: why for scenes in searches.values() for key, why in scenes.unreadable.items()}
        self._restored = found["restored"]
        self.current = {stage: _by_folder(scenes) for stage, scenes in found.items()}
        self.named = {cube_key(scene) for scenes in found.values() for scene in scenes}

    @cached_property
    def _plans(self) -> tuple[set[str], list[str]]:
        return _plan_sources(self._root, self._restored)

    @property
    def read(self) -> set[str]:
        """Source cubes that the plans of current restored cubes read."""
        return self._plans[0]

    def unknown(self, stage: str, folder: str) -> str | None:
        """Why it is not known which cubes of a scene are in use: a document that cannot be read may name one."""
        for key, why in self._unreadable.items():
            is_item = key.count("/") == 3 and key.endswith(".json")
            if not is_item or key.endswith(f"/{folder}.json"):  # a link may hide items of any scene
                return f"item {key} cannot be read ({why})"
        if stage == "source" and self._plans[1]:
            return self._plans[1][0]
        undated = [scene.id for scene in self.current[stage][folder] if _updated(scene) == _NEVER]
        return f"the item of scene {undated[0]} does not say when it was published" if undated else None

    def pruned_folders(self, stage: str, before: datetime) -> list[str]:
        """Folders of the scenes all of whose items are old enough."""
        current = self.current[stage]

        def due(scene: Scene) -> bool:
            return (
                _updated(scene) <= before or _updated(scene) == _NEVER
            )  # one that does not say is looked at and named

        return sorted(folder for folder, scenes in current.items() if all(map(due, scenes)))


@contextmanager
def _leased(root: ArchiveStore, batch: list[tuple[str, str]], *, dry_run: bool) -> Iterator[list[tuple[str, str]]]:
    """Give the scenes of a batch on which no driver is at work, under a lease that keeps drivers from beginning."""
    leases = Leases(root, what="prune")
    try:
        mine = {folder: dry_run or leases.take(prune_key(folder)) is None for _, folder in batch}
        yield [(stage, folder) for stage, folder in batch if mine[folder] and at_work(root, leases, folder) is None]
    finally:
        leases.close()


def _superseded(root: ArchiveStore, cube: str, scene: Scene) -> Superseded:
    sizes = _objects(root, cube)
    return Superseded(
        cube=cube, scene=scene.id, replaced_by=cube_key(scene), objects=len(sizes), bytes=sum(sizes.values())
    )


def _replaced_by(root: ArchiveStore, cube: str, members: list[Scene]) -> Scene | None:
    """Return the item whose cube has taken the place of another, None where none has.

    A driver may have been killed between the last tile of a cube and its item: then the cube is newer than the item
    that is there.
    """
    finished = root.changed_at(DoneMarks(root, cube).folded)
    if finished is None:  # half removed, by a prune that was killed
        return members[0]
    try:
        plan = read_plan(root, plan_key(cube))
        collection = f"{scene_collection(plan.collection)}-{plan.task}"
        members = [scene for scene in members if scene.collection == collection]
    except (NotFound, Refused):  # a source cube, or one whose plan is lost
        pass
    return next((scene for scene in members if _updated(scene) > finished), None)


def _link_in(root: ArchiveStore, cube: str) -> str | None:
    """Return a link that is the cube, or is in it or beside it: what it points to is not the archive's."""
    entries = root.list(cube.rpartition("/")[0])
    return next((e.key for e in entries if e.version == LINK and _is_of(e.key, cube)), None)


def _is_of(key: str, cube: str) -> bool:
    """Whether an object belongs to a cube, or lies next to it for it."""
    return key == cube or key.startswith((f"{cube}/", f"{cube.removesuffix('.zarr')}."))


def _by_folder(scenes: list[Scene]) -> dict[str, list[Scene]]:
    """Group current scenes by the folder of their cubes."""
    folders: dict[str, list[Scene]] = {}
    for scene in scenes:
        folders.setdefault(safe_name(scene.id), []).append(scene)
    return folders


def _updated(scene: Scene) -> datetime:
    """When the item was published; `_NEVER` where it does not say."""
    try:
        return parse_time(scene.properties["updated"])
    except MALFORMED:
        return _NEVER


def _has_superseded(root: ArchiveStore, stage: str, folder: str, named: set[str]) -> bool:
    """Whether a scene may have cubes to remove."""
    try:
        return bool(set(_finished(root, stage, folder)) - named)
    except Refused:  # a link: it is named when the scene's turn comes
        return True


def _finished(root: ArchiveStore, stage: str, folder: str) -> Iterator[str]:
    """List cubes of a scene that are finished, or that an interrupted prune has left half removed."""
    prefix = f"{stage}/{folder}"
    for name in root.folders(prefix):
        if not name.endswith(".zarr"):
            continue
        cube = f"{prefix}/{name}"
        marks = DoneMarks(root, cube)
        # A driver may have begun a half removed cube anew: then it has marks, and is left for its job.
        if root.exists(marks.folded) or (root.exists(_removal_mark(cube)) and not any(root.list(marks.folder))):
            yield cube


def _plan_sources(root: ArchiveStore, restored: list[Scene]) -> tuple[set[str], list[str]]:
    """Collect the source cubes that the plans of current restored cubes read, and what is wrong with other plans."""
    sources: set[str] = set()
    damaged: list[str] = []
    for scene in restored:
        try:
            sources.update(read_plan(root, plan_key(cube_key(scene))).cubes)
        except NotFound:  # copied without its plan
            continue
        except Refused as error:
            damaged.append(str(error))
    return sources, damaged


def _removal_mark(cube: str) -> str:
    """Return the key of the mark of a removal: it is deleted last, so that a later prune finishes a killed one."""
    return f"{cube}.pruned"


def _objects(root: ArchiveStore, cube: str) -> dict[str, int]:
    """Map the key of every object of a cube, and of those next to it, to its size in bytes."""
    return {e.key: e.size for e in root.list(cube.rpartition("/")[0]) if _is_of(e.key, cube)}


def _remove(root: ArchiveStore, cube: str) -> None:
    """Remove a cube in an order that a kill may interrupt anywhere.

    Its marks go first: what is half removed must not count as done. Then its group: a driver that wants the cube again
    makes all of it anew. Its folder goes last, by which a later prune finds it.
    """
    marks, stem = DoneMarks(root, cube), cube.removesuffix(".zarr")
    root.put(_removal_mark(cube), b"")
    root.delete_prefix(marks.folder)
    for key in (marks.folded, f"{cube}/zarr.json"):
        root.delete(key)
    for key in (f"{stem}.adapt.done.json", *quicklook_keys(cube).values(), plan_key(cube)):
        root.delete(key)
    for prefix in (f"{stem}.adapt", f"{stem}.adapt.done", cube):
        root.delete_prefix(prefix)
    root.delete(_removal_mark(cube))
