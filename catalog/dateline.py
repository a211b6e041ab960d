"""Longitudes on a circle: boxes that cross the date line, longitudes of 0 to 360, and outlines split at 180 degrees.

A box has west > east where it crosses the date line (RFC 7946, section 5.2); an outline that crosses it is a
MultiPolygon of parts that do not (section 3.1.9).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

Bbox = tuple[float, float, float, float]
"""west, south, east, north in degrees; west > east crosses the date line"""
Point = tuple[float, float]
"""longitude and latitude in degrees"""
CROSSING_DEG = 270.0
"""A step from one corner to the next that is longer goes the other way round, over the date line. Steps of 180 to 270
degrees are taken as they are: a box of half the globe has such edges."""
_DIGITS = 7  # a centimetre


def wrap(lon: float) -> float:
    """A longitude in -180 to 180; both of these stay."""
    return lon if -180 <= lon <= 180 else (lon + 180) % 360 - 180


def wrap_box(west: float, south: float, east: float, north: float) -> Bbox:
    """A box of any longitudes, such as 170 to 190, with both edges in -180 to 180."""
    if east - west >= 360:
        return -180.0, south, 180.0, north
    west, east = wrap(west), wrap(east)
    if west == 180 != east:
        west = -180.0
    if east == -180 != west:
        east = 180.0
    return west, south, east, north


def width(box: Bbox) -> float:
    """Degrees of longitude from west to east."""
    return box[2] - box[0] if box[0] <= box[2] else 360 + box[2] - box[0]


def parts(box: Bbox) -> list[Bbox]:
    """The box, or its two parts on either side of the date line."""
    west, south, east, north = box
    return [box] if west <= east else [(west, south, 180.0, north), (-180.0, south, east, north)]


def swath_box(lon: NDArray[np.floating], lat: NDArray[np.floating]) -> Bbox | None:
    """The box around the pixels of a swath, (h, w) degrees each; values outside the globe are fill. None if all are."""
    inside = (np.abs(lon) <= 360) & (np.abs(lat) <= 90)
    if not inside.any():
        return None
    lats, east_of_0 = lat[inside], np.mod(lon[inside], 360)
    around_0 = np.where(east_of_0 > 180, east_of_0 - 360, east_of_0)
    plain, shifted = ((float(x.min()), float(x.max())) for x in (around_0, east_of_0))
    west, east = shifted if shifted[1] - shifted[0] < plain[1] - plain[0] else plain
    return wrap_box(west, float(lats.min()), east, float(lats.max()))


def boxes_meet(a: Bbox, b: Bbox) -> bool:
    """Whether two boxes share a point; -180 and 180 are one meridian."""
    if a[1] > b[3] or b[1] > a[3]:
        return False
    for west, _, east, _ in parts(a):
        for other_west, _, other_east, _ in parts(b):
            if west <= other_east and other_west <= east:
                return True
            if {west, other_west} & {-180.0} and {east, other_east} & {180.0}:
                return True
    return False


def enclosing(arcs: Iterable[Point]) -> Point:
    """West and east of the shortest arc that holds all arcs, each (west, east) with west <= east in -180 to 180."""
    merged: list[list[float]] = []
    for west, east in sorted(arcs):
        if merged and west <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], east)
        else:
            merged.append([west, east])
    best, gap = (merged[0][0], merged[-1][1]), 360 + merged[0][0] - merged[-1][1]
    for (_, before), (after, _) in itertools.pairwise(merged):
        if after - before > gap:
            best, gap = (after, before), after - before
    return best


def unwrapped(ring: Sequence[Point], *, crossing_deg: float = CROSSING_DEG) -> list[Point]:
    """The ring with longitudes that run on over the date line, so that 179.9 is followed by 180.1."""
    out = [ring[0]]
    for (before, _), (lon, lat) in itertools.pairwise(ring):
        step = lon - before
        if abs(step) > crossing_deg and abs(step) < 360:
            step -= math.copysign(360, step)
        out.append((out[-1][0] + step, lat))
    return out


def box_of_rings(rings: Iterable[Sequence[Point]]) -> Bbox | None:
    """The smallest box around the rings, none of which is split at the date line; None without a point."""
    arcs: list[Point] = []
    lats: list[float] = []
    for ring in rings:
        points = unwrapped(ring)
        lons = [lon for lon, _ in points]
        lats += [lat for _, lat in points]
        west, _, east, _ = wrap_box(min(lons), 0, max(lons), 0)
        if _encircles(points):
            lats.append(math.copysign(90, sum(lat for _, lat in points)))
            west, east = -180.0, 180.0
        arcs += [(w, e) for w, _, e, _ in parts((west, 0, east, 0))]
    if not arcs:
        return None
    west, east = enclosing(arcs)
    return west, min(lats), east, max(lats)


def outline_of_ring(
    ring: Sequence[Point], *, crossing_deg: float = CROSSING_DEG
) -> tuple[Mapping[str, Any], Bbox] | None:
    """A closed ring as GeoJSON, split at the date line, and its box; None if nothing of it is left.

    A ring that needs no split stays as it is. One that runs once around the globe holds the pole on its side of the
    equator.
    """
    points = unwrapped(ring, crossing_deg=crossing_deg)
    if points == list(ring) and all(-180 <= lon <= 180 for lon, _ in ring):
        plain = [[round(lon, _DIGITS), round(lat, _DIGITS)] for lon, lat in ring]
        west, south = (min(axis) for axis in zip(*plain, strict=True))
        east, north = (max(axis) for axis in zip(*plain, strict=True))
        return {"type": "Polygon", "coordinates": [plain]}, (west, south, east, north)
    if _encircles(points):
        pole = math.copysign(90, sum(lat for _, lat in points))
        points = [*points, (points[-1][0], pole), (points[0][0], pole), points[0]]
    shape = shapely.make_valid(shapely.Polygon(points))
    west, _, east, _ = shape.bounds
    found: list[Any] = []
    for turn in range(math.floor((west + 180) / 360), math.ceil((east + 180) / 360)):
        strip = shapely.intersection(shape, shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90))
        found.append(shapely.transform(strip, lambda xy, turn=turn: xy - (360 * turn, 0)))
    # those of a ring around a pole meet away from the date line
    joined = shapely.get_parts(shapely.union_all(found, grid_size=10**-_DIGITS))
    found = [part for part in joined if part.geom_type == "Polygon" and part.area > 0]
    if not found:
        return None
    coordinates = [_closed_ring(part) for part in found]
    west, east = enclosing((min(x for x, _ in ring), max(x for x, _ in ring)) for (ring,) in coordinates)
    lats = [lat for (ring,) in coordinates for _, lat in ring]
    geometry = (
        {"type": "Polygon", "coordinates": coordinates[0]}
        if len(coordinates) == 1
        else {"type": "MultiPolygon", "coordinates": coordinates}
    )
    return geometry, (west, min(lats), east, max(lats))


def box_outline(box: Bbox) -> Mapping[str, Any]:
    """A box as GeoJSON, split at the date line."""
    rings = [[[[w, s], [e, s], [e, n], [w, n], [w, s]]] for w, s, e, n in parts(box)]
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings[0]}
    return {"type": "MultiPolygon", "coordinates": rings}


def _encircles(points: Sequence[Point]) -> bool:
    return abs(points[-1][0] - points[0][0]) > 359


def _closed_ring(polygon: Any) -> list[list[list[float]]]:
    """The outer ring, counterclockwise as RFC 7946 asks; a footprint has no holes."""
    ring = shapely.geometry.polygon.orient(polygon).exterior.coords
    return [[[round(lon, _DIGITS), round(lat, _DIGITS)] for lon, lat in ring]]
