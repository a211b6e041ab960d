"""Fields that STAC items and their assets share: numbers and lists, times, CRS and grid, boxes.

`proj:epsg`, `proj:code`, `proj:wkt2` and `proj:projjson` are parsed only here. Items come from anywhere: a field of
another shape than STAC's is a BadField here, never a Python error later.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from affine import Affine

from hypermend.catalog.dateline import Bbox, Point, box_of_rings, outline_of_ring, unwrapped, width, wrap_box
from hypermend.catalog.scene import TIME_FROM, UNKNOWN

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

_CRS_KEYS = ("proj:code", "proj:epsg", "proj:wkt2", "proj:projjson")
_GRID_KEYS = (*_CRS_KEYS, "proj:shape", "proj:transform")
_EARLIEST, _LATEST = "1900-01-01T00:00:00Z", "2099-12-31T23:59:59Z"
_MAX_LON, _MAX_LAT = 720.0, 90.01
_NESTED = 8  # lists and geometries in a geometry; a GeometryCollection of MultiPolygons has six


class BadField(ValueError):
    """A field that does not follow STAC."""


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    """An object of JSON; null is an empty one."""
    if not isinstance(value, Mapping | None):
        raise BadField(f"{name} is no object: {_short(value)}")
    return value or {}


def sequence(name: str, value: Any) -> Sequence[Any]:
    """An array of JSON; null is an empty one."""
    if not isinstance(value, list | tuple | None):
        raise BadField(f"{name} is no list: {_short(value)}")
    return value or ()


def links_of(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The links of a document of STAC; none where they are no list of objects."""
    links = document.get("links")
    return [link for link in links if isinstance(link, Mapping)] if isinstance(links, list) else []


def text(name: str, value: Any) -> str | None:
    if not isinstance(value, str | None):
        raise BadField(f"{name} is no text: {_short(value)}")
    return value


def number(name: str, value: Any, *, finite: bool = True) -> float | None:
    """A number, or one written as text, as STAC writes the nodata value "nan"."""
    if value is None:
        return None
    try:
        parsed = float(value)
    except (TypeError, ValueError, OverflowError) as e:
        raise BadField(f"{name} is no number: {_short(value)}") from e
    if isinstance(value, bool) or (finite and not math.isfinite(parsed)):
        raise BadField(f"{name} is no number: {_short(value)}")
    return parsed


def parse_time(value: Any) -> datetime:
    """An RFC 3339 time in UTC; without an offset it is taken as UTC.

    Raises:
        ValueError: no such time.
    """
    try:
        when = datetime.fromisoformat(str(value))
        return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
    except OverflowError as e:
        raise ValueError(str(e)) from e


def rfc3339(when: datetime) -> str:
    """A time as STAC writes it: UTC, with a Z."""
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")


def time_fields(when: datetime | None) -> dict[str, Any]:
    """The time of an item. STAC demands an interval where it is unknown: the longest, and the property that says so."""
    if when is None:
        return {"datetime": None, "start_datetime": _EARLIEST, "end_datetime": _LATEST, TIME_FROM: UNKNOWN}
    return {"datetime": rfc3339(when)}


def time_span(properties: Mapping[str, Any]) -> tuple[Any, Any]:
    """First and last moment of an item as it writes them; (None, None) where its time is unknown."""
    if properties.get(TIME_FROM) == UNKNOWN:
        return None, None
    start = properties.get("start_datetime") or properties.get("datetime")
    return start, properties.get("end_datetime") or properties.get("datetime") or start


def crs_of(fields: Mapping[str, Any]) -> str | None:
    """proj:code, proj:epsg, proj:wkt2 or proj:projjson (in this order) as one string."""
    if code := fields.get("proj:code"):
        return str(code)
    if epsg := number("proj:epsg", fields.get("proj:epsg")):
        return f"EPSG:{int(epsg)}"
    if wkt := fields.get("proj:wkt2"):
        return str(wkt)
    if projjson := fields.get("proj:projjson"):
        return json.dumps(projjson)
    return None


def grid_of(fields: Mapping[str, Any], crs: str | None) -> GeoBox | None:
    """GeoBox of proj:shape and proj:transform; None if one of them or the CRS is missing."""
    shape, transform = fields.get("proj:shape"), fields.get("proj:transform")
    if crs is None or shape is None or transform is None:
        return None
    from odc.geo.geobox import GeoBox  # it loads dask, which most commands can do without

    try:
        height, width = (int(v) for v in shape)
        affine = Affine(*(float(v) for v in list(transform)[:6]))
        return GeoBox((height, width), affine, crs)
    except Exception as e:  # odc and pyproj raise classes of their own; all mean unreadable metadata
        raise BadField(f"proj:shape {shape}, proj:transform {transform}, CRS {crs[:60]!r} give no grid: {e}") from e


def pop_grid(properties: dict[str, Any]) -> tuple[GeoBox | None, str | None]:
    """Remove grid and CRS from the properties and return them; a CRS without a grid stays there, in one spelling."""
    crs = crs_of(properties)
    grid = grid_of(properties, crs)
    for key in _GRID_KEYS:
        properties.pop(key, None)
    if grid is None and crs is not None:
        properties["proj:code" if crs.upper().startswith("EPSG:") else "proj:wkt2"] = crs
    return grid, crs


def grid_fields(grid: GeoBox | None) -> dict[str, Any]:
    """A grid in the fields of STAC 1.1."""
    if grid is None:
        return {}
    epsg = grid.crs.to_epsg() if grid.crs is not None else None
    crs = {"proj:code": f"EPSG:{epsg}"} if epsg else {"proj:wkt2": str(grid.crs)}
    return {**crs, "proj:shape": list(grid.shape), "proj:transform": [*grid.affine[:6], 0.0, 0.0, 1.0]}


def bbox_of(item: Mapping[str, Any]) -> Bbox | None:
    """West, south, east, north in degrees, west > east over the date line; None without a geometry.

    It is the item's bbox. One wider than half the globe is often that of a scene on the date line written as
    -180 to 180: the outline then decides, if its own box is narrower.
    """
    geometry = item.get("geometry")
    if geometry is None:
        return None
    outlined = box_of_rings(_rings(geometry))
    bbox = sequence("bbox", item.get("bbox"))
    if len(bbox) not in (4, 6):
        return outlined
    half = len(bbox) // 2
    west, south, east, north = (_degrees(bbox[i]) for i in (0, 1, half, half + 1))
    _on_earth(west, south), _on_earth(east, north)
    box = wrap_box(west, south, east, north)
    if width(box) > 180 and outlined is not None and width(outlined) < width(box):
        return outlined[0], south, outlined[2], north
    return box


def geometry_of(item: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The item's outline; a polygon drawn over the date line without a split, or in 0 to 360 degrees, is split."""
    if item.get("geometry") is None:
        return None
    geometry = mapping("geometry", item["geometry"])
    if geometry.get("type") != "Polygon":
        return geometry
    rings = list(_rings(geometry))
    if len(rings) != 1:
        return geometry  # a hole stays as it is
    (ring,) = rings
    points = unwrapped(ring)
    if points == ring and all(-180 <= lon <= 180 for lon, _ in ring):
        return geometry
    found = outline_of_ring(ring)
    return geometry if found is None else found[0]


def _rings(part: Any, depth: int = _NESTED) -> Iterator[list[Point]]:
    """The rings and lines of a geometry; a point is a line of one."""
    if isinstance(part, Mapping):
        part = part.get("coordinates", part.get("geometries", []))
    if depth == 0 or not isinstance(part, list | tuple):
        raise BadField(f"geometry is none of GeoJSON's: {_short(part)}")
    if _is_position(part):
        yield [_position(part)]
    elif part and all(map(_is_position, part)):
        yield [_position(position) for position in part]
    else:
        for inner in part:
            yield from _rings(inner, depth - 1)


def _is_position(part: Any) -> bool:
    return isinstance(part, list | tuple) and len(part) > 1 and not isinstance(part[0], list | tuple | Mapping)


def _position(part: Sequence[Any]) -> Point:
    lon, lat, *_ = (_degrees(value) for value in part)  # checks a height, too
    return _on_earth(lon, lat)


def _on_earth(lon: float, lat: float) -> Point:
    """A position, refused where it is none: 0 to 360 degrees and a turn more are read."""
    if abs(lon) > _MAX_LON or abs(lat) > _MAX_LAT:
        raise BadField(f"a position of longitude {lon:g}, latitude {lat:g} is not on Earth")
    return lon, lat


def _degrees(value: Any) -> float:
    degrees = number("a coordinate", value)
    if degrees is None:
        raise BadField("a coordinate is null")
    return degrees


def _short(value: Any) -> str:
    shown = repr(value) if not isinstance(value, int) or abs(value) < 10**50 else "a huge number"
    return shown if len(shown) <= 60 else f"{shown[:60]}..."
