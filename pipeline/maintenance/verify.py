"""Verify: compare every shard of every published cube, and the weights of every adapted block, with its mark.

What is proven to be torn loses its mark, so that the next `ingest` or `restore` writes it again. A document (metadata,
marks, plan) that is no JSON is set aside for the same reason. A document that parses is never touched unless repair is
asked for: a newer version may have written it, or this machine may have failed to open it. What was set aside is kept
below `set-aside/` until a later verify finds the cube whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import hypermend
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import SPEC_ATTR, open_cube
from hypermend.catalog.cube.marks import DoneMarks
from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.documents import MALFORMED, parse_json
from hypermend.catalog.errors import BadCube, NotFound, Refused, Unreachable
from hypermend.catalog.keys import cube_key
from hypermend.catalog.stac.index import search
from hypermend.catalog.storage.archive_store import ArchiveStore, NotJson
from hypermend.pipeline.restore.plan import plan_key, read_plan
from hypermend.pipeline.tiling.tiles import Index

_VERBS = {"source": "ingest", "restored": "restore"}
_ASIDE = "set-aside"
BY_HAND = "hand"
"""In place of a verb: no command makes the document again."""


@dataclass(frozen=True, kw_only=True)
class TornPart:
    """A part of a published cube that is lost, or whose bytes differ from those written."""

    cube: str
    """Key of the cube; for a block the folder of its weights, for a plan the plan."""
    index: Index | None
    """The tile or block; None for the metadata or the plan."""
    repair_with: str
    """Verb that writes it again: ingest or restore."""

    def __str__(self) -> str:
        part = "metadata" if self.index is None else f"tile {self.index[0]}-{self.index[1]}"
        return f"{self.cube} {part}: run `hypermend {self.repair_with}` again"


@dataclass(frozen=True, kw_only=True)
class Unread:
    """A document of a cube that parses and cannot be used: left as it is."""

    key: str
    reason: str
    repair_with: str
    """Verb that makes it again once repair has set it aside; empty where a newer version wrote it; `BY_HAND`."""

    def __str__(self) -> str:
        remedy = "update Hypermend to read it"
        if self.repair_with == BY_HAND:
            remedy = "mend it, or remove it and run the command again that wrote it"
        elif self.repair_with:
            remedy = (
                f"if it stays so, `hypermend verify --repair` and then `hypermend {self.repair_with}` make it again"
            )
        return f"{self.key}: {self.reason}; {remedy}"


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """Result of ``verify``: cubes and tiles checked, the torn parts among them, and what could not be read."""

    cubes: int
    tiles: int
    torn: tuple[TornPart, ...]
    unread: tuple[Unread, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def verify(
    archive: str, progress: Callable[[int, int], None] = lambda done, total: None, *, repair: bool = False
) -> VerifyReport:
    """Check every source and restored cube.

    The next `ingest` or `restore` of the scene writes whatever has no mark or no metadata, and nothing else.

    Args:
        archive: folder or URL.
        progress: called after each cube with the number of cubes done and their total.
        repair: set aside documents that parse and cannot be used, too; never those of a newer version.
    """
    root = hypermend.open(archive).root
    searches = {verb: search(root, stage=stage) for stage, verb in _VERBS.items()}
    items = [(scene, verb) for verb, scenes in searches.items() for scene in scenes]
    tiles = 0
    torn: list[TornPart] = []
    unreadable = {key: reason for scenes in searches.values() for key, reason in scenes.unreadable.items()}
    unread = [Unread(key=key, reason=reason, repair_with=BY_HAND) for key, reason in sorted(unreadable.items())]
    for number, (scene, verb) in enumerate(items, 1):
        check = _Check(root, cube_key(scene), verb, repair=repair)
        try:
            tiles += check.run()
        except (BadCube, Refused, NotJson, *MALFORMED) as e:  # of a document of another shape; the next cube goes on
            unread.append(Unread(key=cube_key(scene), reason=f"{type(e).__name__}: {e}", repair_with=BY_HAND))
        torn += check.torn
        unread += check.unread
        progress(number, len(items))
    return VerifyReport(cubes=len(items), tiles=tiles, torn=tuple(torn), unread=tuple(unread))


class _Check:
    """The check of one cube."""

    def __init__(self, root: ArchiveStore, cube: str, verb: str, *, repair: bool) -> None:
        self._root, self._key, self._verb, self._repair = root, cube, verb, repair
        self.torn: list[TornPart] = []
        self.unread: list[Unread] = []

    def run(self) -> int:
        """Fill `torn` and `unread`. Returns the number of tiles read."""
        cube = self._open()
        if cube is None:
            return 0
        rows, columns = cube.spec.tiles
        self._check_tiles(cube.marks, [(iy, ix) for iy in range(rows) for ix in range(columns)])
        if cube.spec.stage == "restored":
            self._check_plan()
        if not self.torn and not self.unread:
            for key in list(self._set_aside()):
                self._root.delete(key)
        return math.prod(cube.spec.tiles)

    def _open(self) -> Cube | None:
        group = f"{self._key}/zarr.json"
        try:
            damage = _damage(self._root, self._key)
            if damage is None:
                open_cube(self._root, self._key)  # as users do, from the group's copy of all metadata
                return Cube(self._root, self._key)  # as we do, from the metadata of each array
        except _NewerVersion as e:
            self.unread.append(Unread(key=group, reason=str(e), repair_with=""))
            return None
        except Unreachable:
            raise
        except (BadCube, NotFound) as e:
            damage = str(e)
            if not self._unusable(group, damage):
                return None
        self._move_aside(group)
        self.torn.append(self._part(self._key, None))
        return None

    def _check_tiles(self, marks: DoneMarks, expected: Collection[Index]) -> None:
        """Compare tiles or blocks with their marks; withdraw the marks of those that differ."""
        try:
            torn = marks.verify()
        except BadCube as e:
            if not self._unusable(marks.folded, str(e)):
                return
            torn = marks.verify()
        for index in torn:
            marks.unmark(index)
        intact = marks.done()
        self.torn += [self._part(marks.path, index) for index in expected if index not in intact]

    def _check_plan(self) -> None:
        """Check the plan beside a restored cube, and the weights of its adapted blocks."""
        key = plan_key(self._key)
        try:
            plan = read_plan(self._root, key)
        except NotFound:  # a cube copied without its plan: its tiles are intact all the same
            return
        except Refused as e:
            if self._unusable(key, str(e)):
                self.torn.append(self._part(key, None))
            return
        if plan.blocks is not None:
            self._check_tiles(DoneMarks(self._root, plan.adapted), [block.index for block in plan.blocks])

    def _unusable(self, key: str, reason: str) -> bool:
        """Set aside a document that cannot be used; without repair, one that parses is only recorded. Returns which."""
        if not self._repair and _parses(self._root, key):
            self.unread.append(Unread(key=key, reason=reason.partition("; `hypermend")[0], repair_with=self._verb))
            return False
        self._move_aside(key)
        return True

    def _move_aside(self, key: str) -> None:
        try:
            self._root.put(f"{_ASIDE}/{key}", self._root.get(key))
        except NotFound:
            return
        self._root.delete(key)

    def _set_aside(self) -> Iterator[str]:
        stem, folder = self._key.removesuffix(".zarr"), self._key.rpartition("/")[0]
        return (e.key for e in self._root.list(f"{_ASIDE}/{folder}") if e.key.startswith(f"{_ASIDE}/{stem}"))

    def _part(self, cube: str, index: Index | None) -> TornPart:
        return TornPart(cube=cube, index=index, repair_with=self._verb)


class _NewerVersion(Exception):
    """A cube with facts that this version does not know."""


def _damage(root: ArchiveStore, cube: str) -> str | None:
    """Say how the metadata of a cube are damaged beyond doubt: lost, no JSON, or without the description of the cube.

    Raises:
        _NewerVersion: they are sound, and of a later version of Hypermend.
    """
    try:
        group = parse_json(root.get(f"{cube}/zarr.json"))
        spec = parse_json(group["attributes"][SPEC_ATTR])
        unknown = sorted(set(spec) - {field.name for field in fields(CubeSpec)})
        for name in group["consolidated_metadata"]["metadata"]:
            parse_json(root.get(f"{cube}/{name}/zarr.json"))
    except (NotFound, *MALFORMED) as e:
        return f"{type(e).__name__}: {e}"
    if unknown:
        raise _NewerVersion(
            f"a newer version of Hypermend wrote it: it describes the cube by {', '.join(unknown)}, too"
        )
    return None


def _parses(root: ArchiveStore, key: str) -> bool:
    """Whether an object is there and is a JSON document."""
    try:
        parse_json(root.get(key))
    except (NotFound, ValueError):
        return False
    return True
