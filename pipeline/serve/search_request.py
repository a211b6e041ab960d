"""What a client of the STAC API asks for, parsed and checked once: a value that cannot be read is an answer 400.

A parameter that the API does not have is refused, never ignored: the client would get items that it did not want.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from hypermend.catalog.documents import MALFORMED, check_storable, parse_json
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.stac.fields import parse_time
from hypermend.catalog.stac.filters import ItemFilter
from hypermend.catalog.stac.index import Row, accepts, order

DEFAULT_LIMIT, MOST_ITEMS, MOST_NAMES = 10, 1000, 10_000
"""Items of a page, most of them, and most ids or collections of a request."""
PARAMETERS = ("bbox", "datetime", "intersects", "ids", "collections", "query", "limit", "token")
_ROW_PROPERTIES = ("hypermend:sensor", "hypermend:stage")
"""Properties that a row of the index has: to compare them, no item is read."""


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """One search, or the items of one collection."""

    place_and_time: ItemFilter
    """Collections, box and time."""
    ids: frozenset[str] | None = None
    of_rows: ItemFilter
    """Comparisons of properties that the rows of the index have."""
    of_items: ItemFilter
    """Those for which the items are read."""
    intersects: BaseGeometry | None = None
    limit: int = DEFAULT_LIMIT
    token: str | None = None
    """Where the page before ended."""

    @property
    def reads_items(self) -> bool:
        """Whether the rows alone do not tell how many items match."""
        return self.intersects is not None or bool(self.of_items.comparisons)

    def within(self, collection: str) -> SearchRequest:
        """The same in one collection.

        Raises:
            BadAsset: it asks for others.
        """
        if self.place_and_time.collections not in ((), (collection,)):
            raise BadAsset(f"collections: these are the items of {collection!r}; /search has those of others")
        return replace(self, place_and_time=replace(self.place_and_time, collections=(collection,)))

    def wants(self, row: Row) -> bool:
        """Whether a row passes all that can be compared with rows."""
        if self.ids is not None and row.id not in self.ids:
            return False
        known = {"hypermend:sensor": row.sensor, "hypermend:stage": row.stage}
        return self.of_rows.holds(known) and accepts(self.place_and_time, row)

    def meets(self, item: Mapping[str, Any]) -> bool:
        """Whether the outline of an item meets the geometry asked for."""
        if self.intersects is None:
            return True
        try:
            return bool(shapely.intersects(self.intersects, shape(item["geometry"])))
        except (*MALFORMED, shapely.errors.ShapelyError):  # no geometry, or one that is none
            return False


def parse_query_string(fields: Sequence[tuple[str, str]]) -> SearchRequest:
    """A search by GET: lists have commas, and `query` and `intersects` are JSON.

    Raises:
        BadAsset: a field that there is not, that is given twice or cannot be read.
    """
    body: dict[str, Any] = {}
    for name, text in fields:
        if name in body:
            raise BadAsset(f"{name} is given twice")
        _check_name(name)
        body[name] = text
        if name in ("ids", "collections"):
            body[name] = text.split(",")
        elif name == "bbox":
            body[name] = [_number("bbox", part) for part in text.split(",")]
        elif name == "limit":
            body[name] = _number("limit", text)
        elif name in ("query", "intersects"):
            body[name] = _json(name, text)
    return parse_body(body)


def parse_body(body: Any) -> SearchRequest:
    """A search by POST: the JSON value of its body. null is as good as absent.

    Raises:
        BadAsset: a field that there is not, or that cannot be read.
    """
    if not isinstance(body, Mapping):
        raise BadAsset("the body is no JSON object")
    try:
        check_storable(body)
    except ValueError as e:
        raise BadAsset(f"the request cannot be read: {e}") from e
    for name in body:
        _check_name(name)
    fields = {name: value for name, value in body.items() if value is not None}
    if "bbox" in fields and "intersects" in fields:
        raise BadAsset("give bbox or intersects, not both")
    query = fields.get("query", {})
    if not isinstance(query, Mapping):
        raise BadAsset("query is no JSON object")
    of_rows, of_items = ({k: v for k, v in query.items() if (k in _ROW_PROPERTIES) is here} for here in (True, False))
    datetime = fields.get("datetime")
    if not isinstance(datetime, str | None):
        raise BadAsset("datetime is no text")
    collections = _names("collections", fields.get("collections"))
    ids = _names("ids", fields.get("ids"))
    return SearchRequest(
        place_and_time=ItemFilter.of(collections=collections, bbox=_box(fields.get("bbox")), datetime=datetime),
        ids=None if ids is None else frozenset(ids),
        of_rows=ItemFilter.of_query(of_rows),
        of_items=ItemFilter.of_query(of_items),
        intersects=None if "intersects" not in fields else _geometry(fields["intersects"]),
        limit=_limit(fields.get("limit", DEFAULT_LIMIT)),
        token=_token(fields.get("token")),
    )


def token_after(row: Row) -> str:
    """The token of the page that follows a row."""
    place = json.dumps([row.start, row.id, row.collection, row.key])
    return base64.urlsafe_b64encode(place.encode()).decode()


def after(token: str, rows: Sequence[Row]) -> list[Row]:
    """The rows behind a token, the row of which may have gone since.

    Raises:
        BadAsset: it was not made here.
    """
    try:
        start, *names = parse_json(base64.urlsafe_b64decode(token.encode()))
        id, collection, key = map(str, names)
        parse_time(start or "1970-01-01")
    except MALFORMED as e:
        raise BadAsset("token is none of this server; begin again without it") from e
    place = order(
        Row(
            key=key, version="", id=id, collection=collection, stage="", sensor=None, start=start, end=None,
            bbox=None, updated="", item=None,
        )
    )  # fmt: skip
    return [row for row in rows if order(row) > place]


def _check_name(name: str) -> None:
    if name not in PARAMETERS:
        raise BadAsset(f"parameter {name[:60]!r}; there are {', '.join(PARAMETERS)}")


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise BadAsset(f"{name}: {str(value)[:60]!r} is no finite number")
    return number


def _box(value: Any) -> tuple[float, float, float, float] | None:
    """West, south, east, north of a box of four numbers, or of six with heights."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) not in (4, 6):
        raise BadAsset("bbox takes four numbers, west south east north, or six with heights")
    numbers = [_number("bbox", part) for part in value]
    west, south, east, north = numbers if len(numbers) == 4 else (*numbers[:2], *numbers[3:5])
    if abs(south) > 90 or abs(north) > 90:
        raise BadAsset("bbox: latitudes are -90 to 90")
    return west, south, east, north


def _names(name: str, value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(isinstance(part, str) and part for part in value):
        raise BadAsset(f"{name} takes a list of texts; leave it out for all")
    if len(value) > MOST_NAMES:
        raise BadAsset(f"{name} has {len(value)} entries; the limit is {MOST_NAMES}")
    return tuple(value)


def _limit(value: Any) -> int:
    """Items of a page; one that is too large is made smaller, as STAC asks."""
    number = _number("limit", value)
    if number < 1 or number != int(number):
        raise BadAsset("limit takes a whole number from 1")
    return min(int(number), MOST_ITEMS)


def _token(value: Any) -> str | None:
    if not isinstance(value, str | None):
        raise BadAsset("token is no text")
    return value


def _json(name: str, text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as e:
        raise BadAsset(f"{name} is no JSON: {e}") from e


def _geometry(value: Any) -> BaseGeometry:
    """A GeoJSON geometry of finite coordinates.

    Raises:
        BadAsset: it is none, or one that crosses itself.
    """
    try:
        geometry = shape(value)
        finite = bool(len(shapely.get_coordinates(geometry))) and all(map(math.isfinite, geometry.bounds))
        usable = finite and geometry.is_valid
    except (*MALFORMED, shapely.errors.ShapelyError) as e:
        raise BadAsset("intersects is no GeoJSON geometry") from e
    if not usable:
        raise BadAsset("intersects is no GeoJSON geometry that is valid and has finite coordinates")
    return geometry
