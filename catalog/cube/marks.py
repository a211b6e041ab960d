"""The mark of a tile: one small object beside the cube that says the tile is done, written once, after its shards.

    restored/<scene>/<plan id>.zarr            the cube
    restored/<scene>/<plan id>.zarr.done/0-3.json    mark of tile (0, 3) while the job runs
    restored/<scene>/<plan id>.zarr.done.json        all marks in one object, once the cube is published

An existing chunk does not prove that its tile is done, and a tile without data has no shard at all: only the mark
does. It carries size and crc32 of every object of the tile, so that `verify` can check each byte later.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from hypermend.catalog.documents import MALFORMED, parse_json
from hypermend.catalog.errors import BadCube, NotFound, Refused
from hypermend.catalog.storage.archive_store import ArchiveStore, NotJson, TooLarge, check_key

_NAME = re.compile(r"/(\d+)-(\d+)\.json$")
_THREADS = 16  # small reads: waiting, not work
TileIndex = tuple[int, int]
_BAD_MARK = (Refused, *MALFORMED)
"""Errors of a document that is no mark; Refused: a key that leaves the cube."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One object of a cube as it was written."""

    key: str
    """relative to the cube: reflectance/c/0/1/2, valid/c/1/2"""
    size: int
    """bytes"""
    crc32: str
    """eight hexadecimal digits"""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Tile `index` (iy, ix) is done: these objects, and no others, hold it."""

    index: TileIndex
    shards: tuple[Shard, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)
    """figures of the tile, JSON values"""

    def to_dict(self) -> dict[str, Any]:
        shards = [{"key": s.key, "size": s.size, "crc32": s.crc32} for s in self.shards]
        return {"index": list(self.index), "shards": shards, "extra": dict(self.extra)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Mark:
        iy, ix = data["index"]
        shards = tuple(
            Shard(key=check_key(s["key"]), size=int(s["size"]), crc32=str(s["crc32"])) for s in data["shards"]
        )
        return cls(index=(int(iy), int(ix)), shards=shards, extra=dict(data.get("extra", {})))


class DoneMarks:
    """The marks of the cube at `path`."""

    def __init__(self, root: ArchiveStore, path: str) -> None:
        self.root = root
        self.path = path
        self.folder = f"{path}.done"
        self.folded = f"{path}.done.json"

    def mark(self, iy: int, ix: int, shards: Sequence[Shard], extra: Mapping[str, Any] | None = None) -> bool:
        """Mark the tile as done. Returns whether a mark was written.

        A tile written twice with the same bytes keeps its first mark. Other bytes (a repair) replace it.
        """
        mark = Mark(index=(iy, ix), shards=tuple(shards), extra=dict(extra or {}))
        data = json.dumps(mark.to_dict(), sort_keys=True, allow_nan=False).encode()
        key = self._key(mark.index)
        if self.root.put_if_absent(key, data):
            return True
        old = self._read(key)
        if old is not None and old.shards == mark.shards:
            return False
        self.root.put(key, data)
        return True

    def tiles(self) -> tuple[frozenset[TileIndex], bool]:
        """The tiles that are done, and whether all their marks are folded; for a job that resumes.

        The names of the marks suffice, none is read: one listing returns a thousand of them. An empty object, such as
        a power cut leaves, is no mark; `fold` finds other damage.
        """
        unfolded = {i for e in self.root.list(self.folder) if e.size and (i := _index_of(e.key)) is not None}
        return frozenset(unfolded | self._folded().keys()), not unfolded

    def done(self) -> dict[TileIndex, Mark]:
        """The mark of every tile that is done, sorted. A damaged mark counts as missing."""
        return self._merged()[0]

    def get(self, index: TileIndex) -> Mark | None:
        """The mark of one tile, or None."""
        return self._read(self._key(index)) or self._folded().get(index)

    def fold(self) -> dict[TileIndex, Mark]:
        """Put all marks into one object and remove the folder. Returns the marks.

        For one caller, while no tile is being written. If killed in between, it leaves both, which `done` merges.

        Raises:
            BadCube: marks are damaged. They are removed and nothing is folded: their tiles must be done again.
        """
        done, torn = self._merged()
        if torn:
            for index in torn:
                self.unmark(index)
            raise BadCube(
                f"{self.root.href(self.folder)}: {len(torn)} marks were damaged, such as that of tile {torn[0]}; "
                "they are removed, and the same command does their tiles again"
            )
        self._put_folded(done.values())
        self.root.delete_prefix(self.folder)
        return done

    def unmark(self, index: TileIndex) -> None:
        """Remove the mark of a tile. For one caller, while no tile is being written."""
        folded = self._folded()
        if folded.pop(index, None) is not None:
            self._put_folded(folded.values())
        self.root.delete(self._key(index))

    def verify(self, workers: int = 4) -> list[TileIndex]:
        """Tiles whose mark is damaged, or with an object that is missing or differs from the marked size or crc32.

        Reads every byte.
        """
        with ThreadPoolExecutor(max(1, workers)) as pool:
            done, torn = self._merged()
            whole = pool.map(self._is_whole, done.values())
            return sorted([*torn, *(index for index, good in zip(done, whole, strict=True) if not good)])

    def _key(self, index: TileIndex) -> str:
        return f"{self.folder}/{index[0]}-{index[1]}.json"

    def _merged(self) -> tuple[dict[TileIndex, Mark], list[TileIndex]]:
        """Every mark, sorted, and the tiles whose marks are damaged."""
        marks = self._folded()
        unfolded = [i for e in self.root.list(self.folder) if (i := _index_of(e.key)) is not None]
        torn = []
        with ThreadPoolExecutor(_THREADS) as pool:
            for index, mark in zip(unfolded, pool.map(lambda i: self._read(self._key(i)), unfolded), strict=True):
                if mark is None:
                    torn.append(index)
                    marks.pop(index, None)
                else:
                    marks[index] = mark  # newer than the folded one: a repair
        return dict(sorted(marks.items())), sorted(torn)

    def _is_whole(self, mark: Mark) -> bool:
        for shard in mark.shards:
            try:
                data = self.root.get(f"{self.path}/{shard.key}", most=shard.size)
            except (NotFound, TooLarge):
                return False
            if len(data) != shard.size or crc32_hex(data) != shard.crc32:
                return False
        return True

    def _read(self, key: str) -> Mark | None:
        try:
            mark = Mark.from_dict(parse_json(self.root.get(key)))
            return mark if mark.index == _index_of(key) else None  # that of another tile
        except (NotFound, TooLarge, *_BAD_MARK):
            return None

    def _folded(self) -> dict[TileIndex, Mark]:
        try:
            return {mark.index: mark for mark in map(Mark.from_dict, self.root.get_json(self.folded)["marks"])}
        except NotFound:
            return {}
        except (NotJson, *_BAD_MARK) as e:
            raise BadCube(
                f"{self.root.href(self.folded)} is damaged; `hypermend verify --repair` sets it aside, and the same "
                "command does the cube's tiles again"
            ) from e

    def _put_folded(self, marks: Iterable[Mark]) -> bool:
        return self.root.put_json(self.folded, {"marks": [m.to_dict() for m in sorted(marks, key=lambda m: m.index)]})


def _index_of(key: str) -> TileIndex | None:
    match = _NAME.search(key)
    return None if match is None else (int(match[1]), int(match[2]))


def crc32_hex(data: Any) -> str:
    """crc32 (zlib's) of anything with a contiguous buffer, as eight hexadecimal digits.

    Not crc32c: every chunk in a shard already ends with its own crc32c, and a CRC over data and their CRC is a
    constant. All shards of one size would have the same crc32c, whatever their data.
    """
    return f"{zlib.crc32(data):08x}"
