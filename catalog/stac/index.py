"""Search of an archive, and the index that makes it fast; search is correct without the index, too.

    index/<collection>/<run>-<nnnn>.parquet     rows of at most 128 items, appended to by one run
    index/<collection>/compact-<nnnn>.parquet   the parts that `rebuild` merges them into

The items are the truth; the index is a cache of them. A row is valid only while it names the item's current version
(ETag, or inode, time and size). So `search` lists the items, takes the rows of exactly those versions from the index,
reads the other items, and returns the same result with the index fresh, stale, damaged or missing.

Rows hold the item's JSON beside the columns that are searched: a plain table, because GeoParquet has no place for the
null geometry of a lab image (docs/decisions/0004-cubes-and-index.md).
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hypermend.catalog import sensors
from hypermend.catalog.documents import MALFORMED, parse_json, visible
from hypermend.catalog.errors import ArchiveError, BadItem, BadSensor, NotFound, Refused
from hypermend.catalog.scene import Scene
from hypermend.catalog.sensor_tables import archive_tables
from hypermend.catalog.stac.fields import bbox_of, parse_time, text, time_span
from hypermend.catalog.stac.filters import ItemFilter
from hypermend.catalog.stac.item import STAGES, from_item
from hypermend.catalog.storage.archive_store import LINK, ArchiveStore, Entry, TooLarge, safe_name

log = logging.getLogger(__name__)
PART_ROWS = 128
FEW_ROWS = 128
"""Items that are read one by one: a part may hold 10,000."""
COMPACT_ROWS = 10_000
_THREADS = 16
ITEM_BYTES = 16 << 20
"""Of an item; some are read at a time."""
PART_BYTES = 1 << 30
"""Of the columns of a part that are read, unpacked; a part of the most rows has a tenth of it."""
_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("version", pa.string()),
        ("id", pa.string()),
        ("collection", pa.string()),
        ("stage", pa.string()),
        ("sensor", pa.string()),
        ("start", pa.string()),
        ("end", pa.string()),
        ("bbox", pa.list_(pa.float64())),
        ("updated", pa.string()),
        ("item", pa.string()),
    ]
)
_NO_FILTER = ItemFilter.of()
_END_OF_TIME = datetime.max.replace(tzinfo=UTC)
_SEARCH_COLUMNS = [name for name in _SCHEMA.names if name != "item"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """The searched fields of one item."""

    key: str
    version: str
    id: str
    collection: str
    stage: str
    sensor: str | None
    start: str | None
    end: str | None
    bbox: list[float] | None
    """None without a geometry: such an item is in no box"""
    updated: str
    item: str | None = field(repr=False)
    """JSON; None until it is read from the part"""
    part: str | None = None
    """key of the index part that holds the row"""
    position: int = 0
    """number of the row in that part"""


def row_of(key: str, version: str, item: Mapping[str, Any]) -> Row:
    """The row of an item.

    Raises:
        BadItem: no id or no properties.
        BadField, ValueError: no bounding box can be made of its bbox and geometry, or a time is none.
    """
    if not isinstance(item, Mapping):
        raise BadItem(key, f"no STAC item, but a {type(item).__name__}")
    properties = item.get("properties")
    if not isinstance(properties, Mapping) or not item.get("id"):
        raise BadItem(str(item.get("id") or key), "no STAC item (it needs id and properties)")
    bbox = bbox_of(item)
    start, end = time_span(properties)
    for when in (start, end):
        parse_time(when or "1970-01-01")  # raises now, not when the rows are sorted
    return Row(
        key=key,
        version=version,
        id=str(item["id"]),
        collection=str(item.get("collection")),
        stage=str(properties.get("hypermend:stage", "raw")),
        sensor=text("hypermend:sensor", properties.get("hypermend:sensor")),
        start=start,
        end=end,
        bbox=None if bbox is None else list(bbox),
        updated=str(properties.get("updated", "")),
        item=json.dumps(item, separators=(",", ":"), sort_keys=True),
    )


def add(root: ArchiveStore, row: Row, *, run: str) -> int:
    """Append `row` to the last part of this run, or to a new one if that is full. Returns the bytes written."""
    folder = f"index/{row.key.split('/')[1]}"
    parts = sorted(e.key for e in root.list(folder) if e.key.startswith(f"{folder}/{run}-"))
    number = 0
    rows: list[dict[str, Any]] = []
    if parts:
        number = int(parts[-1].removesuffix(".parquet").rsplit("-", 1)[1])
        table = _read_part(root, parts[-1], _SCHEMA.names)
        rows = [] if table is None else table.to_pylist()
        if len(rows) >= PART_ROWS:
            number, rows = number + 1, []
    data = _to_parquet([*rows, _as_dict(row)])
    root.put(f"{folder}/{run}-{number:04d}.parquet", data)
    return len(data)


class SearchResult:
    """The items that match a search, by time and id. Iterating reads them, some hundreds at a time.

    An item that is no scene, or fails a comparison of properties, is left out then: `len` may be too large.
    """

    batch_items = 500

    def __init__(
        self,
        root: ArchiveStore,
        rows: Sequence[Row],
        properties: ItemFilter = _NO_FILTER,
        unreadable: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.rows = rows
        self.unreadable = dict(unreadable)
        """Why an item cannot be read, by its key: of all items found so far, those that a filter would leave out too.
        """
        self._root = root
        self._properties = properties

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Scene]:
        for row, item in self.documents():
            try:
                scene = from_item(item, href=self._root.href(row.key), own=True)
            except (BadItem, *MALFORMED) as e:
                self._leave_out(row, e)
                continue
            yield scene

    def documents(self) -> Iterator[tuple[Row, Mapping[str, Any]]]:
        """Each row with its item as it is stored."""
        for start in range(0, len(self.rows), self.batch_items):
            batch = self.rows[start : start + self.batch_items]
            items = dict(_with_items(self._root, batch))
            for row in batch:
                if row.key in items and (item := self._accepted(row, items[row.key])) is not None:
                    yield row, item

    def _accepted(self, row: Row, text: str) -> Mapping[str, Any] | None:
        try:
            item: Mapping[str, Any] = parse_json(text)
            return item if self._properties.accepts(item) else None
        except (BadItem, *MALFORMED) as e:
            self._leave_out(row, e)
            return None

    def _leave_out(self, row: Row, error: BaseException) -> None:
        reason = error.reason if isinstance(error, BadItem) else f"{type(error).__name__}: {error}"
        self.unreadable[row.key] = reason
        log.warning("item %s cannot be read and is left out: %s", self._root.href(row.key), visible(reason))

    def where(self, wanted: Callable[[Row], bool]) -> SearchResult:
        """The items whose row is wanted."""
        return SearchResult(self._root, [row for row in self.rows if wanted(row)], self._properties, self.unreadable)


def search(
    root: ArchiveStore,
    *,
    stage: str | None = None,
    sensor: str | None = None,
    collections: Sequence[str] = (),
    bbox: Sequence[float] | None = None,
    datetime: str | None = None,
    query: Sequence[str] = (),
    ids: Sequence[str] | None = None,
) -> SearchResult:
    """The current items that pass every filter: found by their rows alone, read when iterated.

    Args:
        collections: one of these.
        bbox: west, south, east, north in degrees, touched by the item's bounding box. Items without geometry are in
            no box.
        datetime: RFC 3339 time or interval, ".." for an open end.
        query: comparisons of item properties, such as "eo:cloud_cover<20".

    Raises:
        Refused: no such stage.
        BadSensor: a sensor that has neither a table nor an item.
        BadAsset: a filter that cannot be read.
        Unreachable: the archive cannot be read.
    """
    if stage is not None and stage not in STAGES:
        raise Refused(f"stage {stage!r}; an item is one of {', '.join(STAGES)}")
    filters = ItemFilter.of(collections=collections, bbox=bbox, datetime=datetime)
    properties = ItemFilter.of(query=query)
    wanted_ids = None if ids is None else frozenset(ids)
    unreadable: dict[str, str] = {}
    rows = list(_latest(_rows(root, collections, unreadable)))
    if sensor is not None:
        _check_sensor(root, sensor, rows)
    wanted = [
        row
        for row in rows
        if (stage is None or row.stage == stage)
        and (sensor is None or row.sensor == sensor)
        and (wanted_ids is None or row.id in wanted_ids)
        and accepts(filters, row)
    ]
    return SearchResult(root, sorted(wanted, key=order), properties, unreadable)


def _check_sensor(root: ArchiveStore, name: str, rows: Sequence[Row]) -> None:
    """Refuse a name that is no sensor's: a misspelt filter would find nothing in silence.

    A sensor that only files describe has no table, and is known by its items.
    """
    in_items = {row.sensor for row in rows if row.sensor is not None}
    if name in sensors.names() or name in in_items:
        return
    tables = archive_tables(root)
    if tables.get(name) is None:
        raise BadSensor(f"unknown sensor {name!r}: {tables.hint(name, sorted(in_items))}")


def rebuild(root: ArchiveStore) -> int:
    """Rebuild the index in few large parts while no driver publishes. Returns the number of items."""
    rows = _rows(root, (), {})
    by_folder: dict[str, list[Row]] = {}
    for row in rows:
        by_folder.setdefault(row.key.split("/")[1], []).append(row)
    old = {e.key for e in root.list("index")}
    for folder, members in by_folder.items():
        texts = dict(_with_items(root, members))
        ordered = sorted((row for row in members if row.key in texts), key=lambda r: r.key)
        for number, start in enumerate(range(0, len(ordered), COMPACT_ROWS)):
            part = [{**_as_dict(r), "item": texts[r.key]} for r in ordered[start : start + COMPACT_ROWS]]
            key = f"index/{folder}/compact-{number:04d}.parquet"
            root.put(key, _to_parquet(part))
            old.discard(key)
    for key in old:
        root.delete(key)
    return len(rows)


def _rows(root: ArchiveStore, collections: Sequence[str], unreadable: dict[str, str]) -> list[Row]:
    """One row per existing item: from the index if it has this version, else from the item.

    Args:
        unreadable: gets the reason for each item that has none, by its key.
    """
    folders = [f"/{safe_name(c)}" for c in collections] or [""]
    entries: dict[str, Entry] = {}
    for folder in folders:
        for entry in root.list(f"items{folder}"):
            is_item = entry.key.endswith(".json") and not entry.key.endswith("/catalog.json")
            if is_item or entry.version == LINK:  # a link is named as an item that cannot be read
                entries[entry.key] = entry
    rows: dict[str, Row] = {}
    for folder in folders:
        for row in _index_rows(root, f"index{folder}"):
            fresh = row.key in entries and entries[row.key].version == row.version
            if fresh and _has_times(row) and not _may_cross_date_line(row):
                rows[row.key] = row
    unindexed = [entry for key, entry in entries.items() if key not in rows]
    with ThreadPoolExecutor(_THREADS) as pool:
        for row_or_none in pool.map(lambda entry: _read_item(root, entry, unreadable), unindexed):
            if row_or_none is not None:
                rows[row_or_none.key] = row_or_none
    return list(rows.values())


def _has_times(row: Row) -> bool:
    """Whether the times of a row of the index can be sorted: a part may hold anything."""
    try:
        return all(parse_time(when or "1970-01-01") for when in (row.start, row.end))
    except ValueError:
        return False


def _may_cross_date_line(row: Row) -> bool:
    """Whether the box of an index part may be -180 to 180 for a scene on the date line, as Hypermend 0.1 wrote it.

    Then the item is read: it has an outline, too.
    """
    return row.bbox is not None and row.bbox[2] - row.bbox[0] > 180


def _index_rows(root: ArchiveStore, folder: str) -> Iterator[Row]:
    parts = [e.key for e in root.list(folder) if e.key.endswith(".parquet")]
    with ThreadPoolExecutor(_THREADS) as pool:
        for part, table in zip(parts, pool.map(lambda p: _read_part(root, p, _SEARCH_COLUMNS), parts), strict=True):
            for position, values in enumerate([] if table is None else table.to_pylist()):
                yield Row(**values, item=None, part=part, position=position)


def _read_part(root: ArchiveStore, key: str, columns: list[str]) -> pa.Table | None:
    """Columns of an index part; None if the part is gone, damaged or has other columns: search works without it."""
    try:
        # In this thread alone: Arrow's own pools can abort an interpreter that ends just after a search. They would
        # also read a Python file object.
        part = pq.ParquetFile(pa.BufferReader(root.get(key)), pre_buffer=False)
        table = pa.Table.from_batches(_batches(part, columns), part.schema_arrow.empty_table().select(columns).schema)
        table = table.cast(pa.schema([_SCHEMA.field(name) for name in columns]))
    except (NotFound, Refused, pa.ArrowException, OSError, *MALFORMED) as e:
        log.warning("index part %s cannot be used (%s); `hypermend index` rebuilds it", root.href(key), e)
        return None
    return table if table.column_names == columns else None


def _batches(part: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a part, some at a time: a small file can hold any number of them, and one long text for each.

    Raises:
        ValueError: more than an index has.
    """
    if part.metadata.num_rows > COMPACT_ROWS:
        raise ValueError(f"{part.metadata.num_rows} rows, an index part has at most {COMPACT_ROWS}")
    bytes_read = 0
    for batch in part.iter_batches(PART_ROWS, columns=columns, use_threads=False):
        bytes_read += batch.nbytes
        if bytes_read > PART_BYTES:
            raise ValueError(f"it unpacks to more than {PART_BYTES} bytes")
        yield batch


def _read_item(root: ArchiveStore, entry: Entry, unreadable: dict[str, str]) -> Row | None:
    """The row of an item that the index lacks; None, with a warning and an entry in `unreadable`, if it is no item."""
    try:
        if entry.size > ITEM_BYTES:
            raise BadItem(entry.key, f"it has {entry.size} bytes, the limit is {ITEM_BYTES}")
        return row_of(entry.key, entry.version, root.get_json(entry.key))
    except NotFound:
        return None  # removed since the listing
    except (ArchiveError, *MALFORMED) as e:
        if getattr(e, "transient", False):
            raise
        unreadable[entry.key] = str(e)
        log.warning("item %s cannot be read and is left out: %s", root.href(entry.key), visible(str(e)))
        return None


def _latest(rows: Iterable[Row]) -> list[Row]:
    """One row per scene, collection and stage: the one updated last (its day, and so its key, may have changed)."""
    best: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        other = best.get((row.collection, row.id, row.stage))
        if other is None or (row.updated, row.key) > (other.updated, other.key):
            best[row.collection, row.id, row.stage] = row
    return list(best.values())


def accepts(filters: ItemFilter, row: Row) -> bool:
    """Whether a row passes a filter of collections, box and time."""
    if filters.bbox is None and filters.datetime is None:
        return not filters.collections or row.collection in filters.collections
    item: dict[str, Any] = {
        "id": row.id,
        "collection": row.collection,
        "bbox": row.bbox,
        "geometry": None if row.bbox is None else {"coordinates": []},
        "properties": {"start_datetime": row.start, "end_datetime": row.end},
    }
    return filters.accepts(item)


def order(row: Row) -> tuple[datetime, str, str, str]:
    """Key by which a search sorts: time, id, collection; no two rows have the same."""
    return parse_time(row.start) if row.start else _END_OF_TIME, row.id, row.collection, row.key


def _with_items(root: ArchiveStore, rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """(key, JSON) of the items that still exist; each part of the index is read once, or its few items alone."""
    by_part: dict[str, list[Row]] = {}
    for row in rows:
        if row.item is not None:
            yield row.key, row.item
        else:
            by_part.setdefault(str(row.part), []).append(row)
    for part, members in by_part.items():
        table = None if len(members) <= FEW_ROWS else _read_part(root, part, ["key", "item"])
        inside = [row.position for row in members if table is not None and row.position < table.num_rows]
        items = {} if table is None else {pair["key"]: pair["item"] for pair in table.take(inside).to_pylist()}
        # The part may have been replaced since its columns were read. Then the item itself is read, if it exists.
        absent = [row.key for row in members if items.get(row.key) is None]
        with ThreadPoolExecutor(_THREADS) as pool:
            items |= zip(absent, pool.map(lambda key: _item_text(root, key), absent), strict=True)
        yield from ((row.key, text) for row in members if (text := items[row.key]) is not None)


def _item_text(root: ArchiveStore, key: str) -> str | None:
    try:
        return root.get(key, most=ITEM_BYTES).decode(errors="replace")
    except (NotFound, TooLarge):
        return None


def _as_dict(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _SCHEMA.names}


def _to_parquet(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), out, compression="zstd")
    return out.getvalue()
