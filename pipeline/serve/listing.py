"""The items of an archive as a server knows them: looked at anew after a few seconds, and once for all who ask."""

from __future__ import annotations

import gzip
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any

from hypermend.catalog.dateline import Bbox, enclosing
from hypermend.catalog.documents import visible
from hypermend.catalog.errors import NotFound
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac.fields import parse_time
from hypermend.catalog.stac.filters import ItemFilter
from hypermend.catalog.stac.index import FEW_ROWS, Row, SearchResult, search
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.serve.search_request import SearchRequest, after, token_after

FRESH_S = 5.0
"""A new item is found after so many seconds."""
MOST_FOOTPRINTS = 50_000
"""Items of the page's list, the newest."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page of items that match a search."""

    items: tuple[tuple[Row, Mapping[str, Any]], ...]
    matched: int | None
    """All that match; None where that takes reading them."""
    token: str | None
    """Of the next page; None on the last."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Where and when the items of a collection are."""

    bbox: Bbox
    start: str | None
    end: str | None


class Listing:
    """The items of an archive at one time, sorted by time and id.

    An item whose id or collection has characters that cannot be seen is none, as for every reader.
    """

    def __init__(self, root: ArchiveStore) -> None:
        self.root = root
        found = search(root)
        self.rows = [row for row in found.rows if all(name == visible(name) for name in (row.id, row.collection))]

    def page(self, request: SearchRequest) -> Page:
        """Find a page.

        Raises:
            BadAsset: its token is none of this server.
        """
        wanted = [row for row in self.rows if request.wants(row)]
        rest = wanted if request.token is None else after(request.token, wanted)
        found = SearchResult(self.root, rest, request.of_items)
        found.batch_items = FEW_ROWS if request.reads_items else min(request.limit + 1, FEW_ROWS)
        items: list[tuple[Row, Mapping[str, Any]]] = []
        token = None
        for row, item in found.documents():
            if not request.meets(item):
                continue
            if len(items) == request.limit:
                token = token_after(items[-1][0])
                break
            items.append((row, item))
        return Page(items=tuple(items), matched=None if request.reads_items else len(wanted), token=token)

    def row(self, collection: str, id: str) -> Row:
        """Raises: NotFound: no such item."""
        for row in self.rows:
            if row.id == id and row.collection == collection:
                return row
        raise NotFound(f"no item {id!r} in collection {collection!r}")

    def document(self, collection: str, id: str) -> tuple[Row, Mapping[str, Any]]:
        """One item as it is stored.

        Raises:
            NotFound: no such item, or one that cannot be read.
        """
        found = SearchResult(self.root, [self.row(collection, id)], ItemFilter.of())
        for row, item in found.documents():
            return row, item
        raise NotFound(f"item {id!r} of collection {collection!r} cannot be read")

    def scene(self, collection: str, id: str) -> Scene:
        """One item as a scene.

        Raises:
            NotFound: no such item, or one that cannot be read.
        """
        for scene in SearchResult(self.root, [self.row(collection, id)], ItemFilter.of()):
            return scene
        raise NotFound(f"item {id!r} of collection {collection!r} cannot be read")

    @cached_property
    def by_key(self) -> dict[str, Row]:
        """Rows by the key of their item."""
        return {row.key: row for row in self.rows}

    @cached_property
    def extents(self) -> dict[str, Extent]:
        """{collection: extent}, sorted by name."""
        members: dict[str, list[Row]] = {}
        for row in self.rows:
            members.setdefault(row.collection, []).append(row)
        return {name: _extent(members[name]) for name in sorted(members)}

    @cached_property
    def footprints(self) -> bytes:
        """The newest items for the page, as JSON in gzip: names once, and a list of numbers and texts for each item."""
        rows = self.rows[-MOST_FOOTPRINTS:]
        names: dict[str, dict[str | None, int]] = {"collections": {}, "sensors": {}, "stages": {}}
        items = []
        for row in reversed(rows):
            values = (("collections", row.collection), ("stages", row.stage), ("sensors", row.sensor))
            numbers = [names[kind].setdefault(value, len(names[kind])) for kind, value in values]
            box = None if row.bbox is None else [round(degrees, 5) for degrees in row.bbox]
            items.append([row.id, *numbers, row.start, box])
        document = {**{kind: list(found) for kind, found in names.items()}, "items": items}
        document["left_out"] = len(self.rows) - len(rows)
        return gzip.compress(json.dumps(document, separators=(",", ":")).encode(), compresslevel=1)


def _extent(rows: list[Row]) -> Extent:
    boxes = [row.bbox for row in rows if row.bbox is not None]
    starts, ends = ([t for row in rows if (t := getattr(row, name))] for name in ("start", "end"))
    bbox: Bbox = (-180.0, -90.0, 180.0, 90.0)
    if boxes:
        arcs = [(w, e) for w, _, e, _ in boxes if w <= e] + [
            arc for w, _, e, _ in boxes if w > e for arc in ((w, 180.0), (-180.0, e))
        ]
        west, east = enclosing(arcs)
        bbox = west, min(box[1] for box in boxes), east, max(box[3] for box in boxes)
    first, last = min(starts, key=parse_time, default=None), max(ends, key=parse_time, default=None)
    return Extent(bbox=bbox, start=first, end=last)


class Listings:
    """The listing of now."""

    def __init__(self, root: ArchiveStore) -> None:
        self._root, self._lock = root, Lock()
        self._now: Listing | None = None
        self._versions: set[tuple[str, str]] = set()
        self._looked_at = -math.inf

    def now(self) -> Listing:
        """The last listing, or a new one where an item has changed since.

        Raises:
            Unreachable, AccessDenied: the archive cannot be read.
        """
        with self._lock:
            if self._now is None or time.monotonic() - self._looked_at > FRESH_S:
                versions = {(entry.key, entry.version) for entry in self._root.list("items")}
                if self._now is None or versions != self._versions:
                    self._now, self._versions = Listing(self._root), versions
                self._looked_at = time.monotonic()
            return self._now
