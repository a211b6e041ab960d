"""Filters of a search: collection, bounding box, time and comparisons of properties. Pure values."""

from __future__ import annotations

import calendar
import operator
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from hypermend.catalog.dateline import Bbox, boxes_meet, wrap_box
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.stac.fields import parse_time, rfc3339
from hypermend.catalog.stac.item import search_fields

Interval = tuple[datetime | None, datetime | None]
_COMPARISON = re.compile(r"^\s*([A-Za-z_][\w:.-]*)\s*(<=|>=|!=|=|<|>)\s*(.+?)\s*$")
_OPERATORS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "<": ("lt", operator.lt),
    "<=": ("lte", operator.le),
    ">": ("gt", operator.gt),
    ">=": ("gte", operator.ge),
    "=": ("eq", operator.eq),
    "!=": ("neq", operator.ne),
}
_TEXT_OPERATORS: dict[str, Callable[[str, str], bool]] = {
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": operator.contains,
}


@dataclass(frozen=True, kw_only=True)
class ItemFilter:
    """Filters of a search; an empty one or None accepts all items."""

    collections: tuple[str, ...] = ()
    bbox: Bbox | None = None
    """west, south, east, north in degrees; west > east crosses the date line"""
    datetime: str | None = None
    """RFC 3339 time or interval, '..' for an open end; a day, month or year means the whole of it"""
    comparisons: tuple[tuple[str, str, Any], ...] = ()
    """(property, operator, value); the value of `in` is a tuple"""

    @classmethod
    def of(
        cls,
        *,
        collections: Sequence[str] | None = None,
        bbox: Sequence[float] | None = None,
        datetime: str | None = None,
        query: Sequence[str] = (),
    ) -> ItemFilter:
        """Parse the filters of the command line and the API.

        Raises:
            BadAsset: a filter that cannot be read.
        """
        box: Bbox | None = None
        if bbox is not None:
            if len(bbox) != 4 or bbox[1] > bbox[3]:
                raise BadAsset(f"bbox {list(bbox)}: four numbers west south east north, south not above north")
            west, south, east, north = map(float, bbox)
            if max(abs(west), abs(east)) > 360:
                raise BadAsset(f"bbox {list(bbox)}: longitudes are -180 to 180, or 0 to 360")
            box = wrap_box(west, south, east, north)
        filters = cls(
            collections=tuple(collections or ()),
            bbox=box,
            datetime=_as_interval(datetime),
            comparisons=tuple(_comparison(q) for q in query),
        )
        filters.interval()  # a wrong time is refused now, not at the first item
        return filters

    def accepts(self, item: Mapping[str, Any]) -> bool:
        """Whether an item passes. An item without geometry is in no box."""
        collection, box, span, properties = search_fields(item)
        if self.collections and collection not in self.collections:
            return False
        if self.bbox is not None and (box is None or not boxes_meet(self.bbox, box)):
            return False
        wanted = self.interval()
        if wanted is not None and not _intervals_overlap(wanted, span):
            return False
        return self.holds(properties)

    def holds(self, properties: Mapping[str, Any]) -> bool:
        """Whether properties pass the comparisons."""
        return all(_holds(properties, *c) for c in self.comparisons)

    @classmethod
    def of_query(cls, query: Mapping[str, Any]) -> ItemFilter:
        """The comparisons of the STAC API query extension, such as {"eo:cloud_cover": {"lt": 20}}.

        Raises:
            BadAsset: an operator that there is not, or a value that it cannot compare with.
        """
        signs = {name: sign for sign, (name, _) in _OPERATORS.items()}
        known = (*signs, *_TEXT_OPERATORS, "in")
        comparisons: list[tuple[str, str, Any]] = []
        for key, tests in query.items():
            if not isinstance(tests, Mapping):
                raise BadAsset(f"query of {key!r} is no object of operators and values")
            for name, value in tests.items():
                if name not in known:
                    raise BadAsset(f"query operator {name!r} of {key!r}; there are {', '.join(known)}")
                comparisons.append((key, str(signs.get(name, name)), _operand(key, name, value)))
        return cls(comparisons=tuple(comparisons))

    def as_query(self) -> dict[str, dict[str, Any]]:
        """The comparisons in the form of the STAC API query extension."""
        out: dict[str, dict[str, Any]] = {}
        for key, sign, value in self.comparisons:
            out.setdefault(key, {})[_OPERATORS[sign][0]] = value
        return out

    def as_cql2(self) -> dict[str, Any]:
        """The comparisons in CQL2 JSON, as the STAC API filter extension takes them."""
        args = [
            {"op": "<>" if sign == "!=" else sign, "args": [{"property": key}, value]}
            for key, sign, value in self.comparisons
        ]
        return args[0] if len(args) == 1 else {"op": "and", "args": args}

    def interval(self) -> Interval | None:
        if self.datetime is None:
            return None
        start, _, end = self.datetime.partition("/")
        first = _time(start)
        last = _time(end) if "/" in self.datetime else first
        if first is not None and last is not None and first > last:
            raise BadAsset(f"datetime {self.datetime!r} ends before it begins")
        return first, last


def _comparison(text: str) -> tuple[str, str, Any]:
    match = _COMPARISON.match(text)
    if match is None:
        raise BadAsset(f"query {text!r} cannot be read; write it as 'eo:cloud_cover<20' with < <= > >= = or !=")
    key, sign, value = match.groups()
    try:
        return key, sign, float(value)
    except ValueError:
        return key, sign, value.strip("'\"")


def _operand(key: str, name: str, value: Any) -> Any:
    """The value of an operator of the query extension, as `_holds` compares it."""
    if name == "in":
        if not isinstance(value, list):
            raise BadAsset(f"query operator 'in' of {key!r} takes a list")
        return tuple(_operand(key, "eq", one) for one in value)
    if isinstance(value, bool) and name not in _TEXT_OPERATORS:
        return str(value).lower()
    if isinstance(value, int | float) and name not in _TEXT_OPERATORS and abs(value) <= sys.float_info.max:
        return float(value)
    if not isinstance(value, str):
        raise BadAsset(f"query operator {name!r} of {key!r} cannot compare with {str(value)[:60]}")
    return value


def _holds(properties: Mapping[str, Any], key: str, sign: str, value: Any) -> bool:
    """Whether a property passes a comparison. A missing one, or one of another type, does not."""
    value_there = properties.get(key)
    if value_there is None:
        return False
    if sign == "in":
        return any(_holds(properties, key, "=", one) for one in value)
    if sign in _TEXT_OPERATORS:
        return isinstance(value_there, str) and _TEXT_OPERATORS[sign](value_there, value)
    if isinstance(value, float):
        if isinstance(value_there, str):
            try:
                value_there = float(value_there)
            except ValueError:
                return sign == "!="
    elif not isinstance(value_there, str):
        value_there = str(value_there).lower() if isinstance(value_there, bool) else str(value_there)
    return bool(_OPERATORS[sign][1](value_there, value))


def _intervals_overlap(wanted: Interval, span: Interval) -> bool:
    (a, b), (c, d) = wanted, span
    if c is None and d is None:  # nobody knows the time of the scene
        return False
    return (b is None or c is None or c <= b) and (a is None or d is None or a <= d)


def _time(text: str) -> datetime | None:
    if text in ("", ".."):
        return None
    try:
        return parse_time(text)
    except ValueError as e:
        raise BadAsset(f"datetime {text!r} is not RFC 3339, such as 2022-07-24T10:45:26Z") from e


def _as_interval(text: str | None) -> str | None:
    """A year, month or day as its interval; other times unchanged, in RFC 3339."""
    if text is None:
        return None
    start, slash, end = text.partition("/")
    first, last = _first_and_last(start), _first_and_last(end if slash else start)
    if not slash and first[0] == last[1]:
        return first[0]
    return f"{first[0]}/{last[1]}"


def _first_and_last(text: str) -> tuple[str, str]:
    """First and last moment of a year, month or day."""
    if match := re.fullmatch(r"(\d{4})(?:-(\d{2}))?(?:-(\d{2}))?", text):
        year, month, day = int(match[1]), int(match[2] or 0), int(match[3] or 0)
        try:
            begin = datetime(year, month or 1, day or 1, tzinfo=UTC)
            final = datetime(
                year, month or 12, day or calendar.monthrange(year, month or 12)[1], tzinfo=UTC
            ) + timedelta(days=1, microseconds=-1)
        except ValueError as e:
            raise BadAsset(f"datetime {text!r}: no such day") from e
        return rfc3339(begin), rfc3339(final)
    when = _time(text)
    return (text or "..",) * 2 if when is None else (rfc3339(when),) * 2
