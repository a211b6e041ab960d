"""Scene: one acquisition and its files. The only place that reads or writes STAC fields.

STAC 1.0.0-beta to 1.1, `proj:epsg`, `proj:code` and `proj:wkt2`, `eo:bands` and `bands`, `raster:bands` and the
fields of 1.1 all end here; past this file nobody sees STAC JSON.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import pystac
from affine import Affine
from odc.geo.geobox import GeoBox

from catalog import sensors
from catalog.errors import BadItem, BadSensor
from catalog.hrefs import is_remote as is_remote
from catalog.hrefs import resolve_href

STAC_VERSION = "1.1.0"
_EXTENSIONS = {
    "proj:": "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "raster:": "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "file:": "https://stac-extensions.github.io/file/v2.1.0/schema.json",
}
_CRS_KEYS = ("proj:code", "proj:epsg", "proj:wkt2", "proj:projjson")
_GRID_KEYS = (*_CRS_KEYS, "proj:shape", "proj:transform")
# platform, constellation and instruments in one lower-case line -> sensor
_PLATFORMS = (
    (r"sentinel-?2a", "sentinel2a"),
    (r"sentinel-?2b", "sentinel2b"),
    (r"enmap", "enmap"),
    (r"prisma", "prisma"),
    (r"\bemit\b", "emit"),
    (r"desis", "desis"),
    (r"(eo-?1|earth observing-?1).*hyperion|hyperion", "hyperion"),
    (r"(eo-?1|earth observing-?1).*\bali\b", "ali"),
    (r"landsat-?_?5.*\btm\b|landsat-?_?5$", "landsat5-tm"),
)


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One file of a scene."""

    key: str
    href: str
    """absolute URL (http, https, s3) or absolute path"""
    roles: tuple[str, ...] = ()
    media_type: str | None = None
    bands: tuple[str, ...] = ()
    """band names it holds, in file order, as the sensor table writes them; may be empty"""
    nodata: float | None = None
    scale: float | None = None
    offset: float | None = None
    gsd_m: float | None = None
    checksum: str | None = None
    """multihash (file:checksum)"""
    grid: GeoBox | None = None
    """the file's own grid, where the item tells it"""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One acquisition of one sensor."""

    id: str
    collection: str
    datetime: datetime
    """aware, UTC"""
    sensor: str
    grid: GeoBox | None = None
    """None for a lab image, for sensor geometry, and where the item does not tell it"""
    bbox: tuple[float, float, float, float] | None = None
    """west, south, east, north in degrees"""
    geometry: Mapping[str, Any] | None = None
    assets: Mapping[str, Asset]
    stage: str = "raw"
    """raw, source or restored"""
    properties: Mapping[str, Any]
    """everything else that the item says"""


def from_item(
    item: Mapping[str, Any] | pystac.Item,
    *,
    href: str | None = None,
    sensor: str | None = None,
    within: str | None = None,
    own: bool = False,
) -> Scene:
    """A STAC item as a Scene.

    Args:
        href: where the item lies; relative asset hrefs are resolved against it.
        sensor: the instrument, for items that do not name it.
        within: folder or URL prefix that relative hrefs must not leave.
        own: an item of our own archive: it may name files of this machine also when the archive is on S3.

    Raises:
        BadItem: with the item's id and the reason.
    """
    if isinstance(item, pystac.Item):
        href = href or item.get_self_href()
        item = item.to_dict(include_self_link=False, transform_hrefs=False)
    id = str(item.get("id") or "?")
    if item.get("type") != "Feature" or not isinstance(item.get("properties"), Mapping) or id == "?":
        raise BadItem(id, f"no STAC item (type {item.get('type')!r}, it needs id and properties)")
    if not str(item.get("stac_version", "")).startswith("1."):
        raise BadItem(id, f"STAC version {item.get('stac_version')!r}; 1.0 and 1.1 can be read")
    base = href or _self_link(item)
    properties: dict[str, Any] = json.loads(json.dumps(dict(item["properties"])))
    when = _datetime(id, properties)
    name = properties.pop("hypermend:sensor", None) or _infer_sensor(id, properties) or sensor
    if name is None:
        raise BadItem(id, f"its platform {properties.get('platform')!r} is no known sensor; give --sensor")
    try:
        table = sensors.sensor(name)
    except BadSensor as e:
        raise BadItem(id, str(e)) from e
    stage = str(properties.pop("hypermend:stage", "raw"))
    grid, crs = _take_grid(id, properties)
    item_bands = properties.get("eo:bands") or properties.get("bands") or ()
    parsed = (
        _asset(id, key, raw, base=base, within=within, own=own, crs=crs, table=table, item_bands=item_bands)
        for key, raw in dict(item.get("assets") or {}).items()
    )
    assets = {asset.key: asset for asset in parsed if asset is not None}
    if not assets:
        raise BadItem(id, "it has no asset that can be read")
    geometry = item.get("geometry")
    return Scene(
        id=id,
        collection=str(item.get("collection") or "unknown"),
        datetime=when,
        sensor=table.name,
        grid=grid,
        bbox=_bbox(item.get("bbox"), geometry),
        geometry=geometry,
        assets=assets,
        stage=stage,
        properties=properties,
    )


def to_item(scene: Scene) -> dict[str, Any]:
    """A Scene as a STAC 1.1 item; hrefs as they are, no links."""
    properties: dict[str, Any] = {
        **scene.properties,
        "datetime": _rfc3339(scene.datetime),
        "hypermend:sensor": scene.sensor,
        "hypermend:stage": scene.stage,
        **_grid_fields(scene.grid),
    }
    assets = {key: _asset_fields(asset) for key, asset in scene.assets.items()}
    used = {k for part in (properties, *assets.values()) for k in part}
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [url for prefix, url in _EXTENSIONS.items() if any(k.startswith(prefix) for k in used)],
        "id": scene.id,
        "geometry": scene.geometry,
        "properties": properties,
        "links": [],
        "assets": assets,
        "collection": scene.collection,
    }
    if scene.bbox is not None and scene.geometry is not None:
        item["bbox"] = list(scene.bbox)
    return item


def items_in(document: Any) -> Iterator[Mapping[str, Any]]:
    """The items of an item, an item collection, a payload with `features`, or a list of any of these."""
    if isinstance(document, list):
        for part in document:
            yield from items_in(part)
    elif isinstance(document, Mapping):
        if isinstance(document.get("features"), list):
            yield from items_in(document["features"])
        elif document.get("type") == "Feature":
            yield document


def facts_of(
    item: Mapping[str, Any],
) -> tuple[str, tuple[float, float, float, float] | None, tuple[datetime | None, datetime | None], Mapping[str, Any]]:
    """What a search looks at: collection, bbox, (first, last moment), properties. Lenient: parsing comes after."""
    properties = item.get("properties") or {}
    start = properties.get("start_datetime") or properties.get("datetime")
    end = properties.get("end_datetime") or properties.get("datetime") or start
    try:
        box = _bbox(item.get("bbox"), item.get("geometry"))
        span = (moment(start) if start else None, moment(end) if end else None)
    except (ValueError, TypeError, AttributeError) as e:
        raise BadItem(str(item.get("id") or "?"), f"bbox, geometry or time cannot be read: {e}") from e
    return str(item.get("collection") or "unknown"), box, span, properties


def _self_link(item: Mapping[str, Any]) -> str | None:
    links = item.get("links") or []
    found = (str(k.get("href")) for k in links if k.get("rel") == "self")
    return next((h for h in found if is_remote(h) or h.startswith("/")), None)


def _datetime(id: str, properties: dict[str, Any]) -> datetime:
    text = properties.pop("datetime", None) or properties.get("start_datetime")
    if text is None:
        raise BadItem(id, "it has neither datetime nor start_datetime")
    try:
        return moment(text)
    except ValueError as e:
        raise BadItem(id, f"datetime {text!r} is not RFC 3339") from e


def moment(text: Any) -> datetime:
    when = datetime.fromisoformat(str(text))
    return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)


def _rfc3339(when: datetime) -> str:
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _infer_sensor(id: str, properties: Mapping[str, Any]) -> str | None:
    instruments = properties.get("instruments") or []
    words = [properties.get("platform"), properties.get("constellation"), *instruments]
    line = " ".join(str(w).lower() for w in words if w)
    for pattern, name in _PLATFORMS:
        if re.search(pattern, line):
            return name
    if "sentinel-2" in line and (match := re.match(r"S2([AB])_", id)):
        return f"sentinel2{match[1].lower()}"
    return None


def _crs(id: str, fields: Mapping[str, Any]) -> str | None:
    """proj:code, proj:epsg or proj:wkt2 (in this order) as one string."""
    if code := fields.get("proj:code"):
        return str(code)
    if epsg := fields.get("proj:epsg"):
        if not isinstance(epsg, int | float) or isinstance(epsg, bool):
            raise BadItem(id, f"proj:epsg {epsg!r} is no number")
        return f"EPSG:{int(epsg)}"
    if wkt := fields.get("proj:wkt2"):
        return str(wkt)
    if projjson := fields.get("proj:projjson"):
        return json.dumps(projjson)
    return None


def _grid(id: str, fields: Mapping[str, Any], crs: str | None) -> GeoBox | None:
    """GeoBox of proj:shape and proj:transform, when all is known."""
    shape, transform = fields.get("proj:shape"), fields.get("proj:transform")
    if crs is None or shape is None or transform is None:
        return None
    try:
        height, width = (int(v) for v in shape)
        affine = Affine(*(float(v) for v in list(transform)[:6]))
        return GeoBox((height, width), affine, crs)
    except Exception as e:  # odc and pyproj raise their own kinds; all mean: unreadable metadata
        raise BadItem(id, f"proj:shape {shape}, proj:transform {transform}, CRS {crs[:60]!r} give no grid: {e}") from e


def _take_grid(id: str, properties: dict[str, Any]) -> tuple[GeoBox | None, str | None]:
    """The item's grid and CRS, taken out of its properties; a CRS alone stays there, in one spelling."""
    crs = _crs(id, properties)
    grid = _grid(id, properties, crs)
    for key in _GRID_KEYS:
        properties.pop(key, None)
    if grid is None and crs is not None:
        properties["proj:code" if crs.upper().startswith("EPSG:") else "proj:wkt2"] = crs
    return grid, crs


def _grid_fields(grid: GeoBox | None) -> dict[str, Any]:
    if grid is None:
        return {}
    epsg = grid.crs.to_epsg() if grid.crs is not None else None
    crs = {"proj:code": f"EPSG:{epsg}"} if epsg else {"proj:wkt2": str(grid.crs)}
    return {**crs, "proj:shape": list(grid.shape), "proj:transform": [*grid.affine[:6], 0.0, 0.0, 1.0]}


def _bbox(bbox: Sequence[float] | None, geometry: Mapping[str, Any] | None) -> tuple[float, float, float, float] | None:
    if geometry is None:
        return None
    if bbox is not None and len(bbox) in (4, 6):
        half = len(bbox) // 2
        return float(bbox[0]), float(bbox[1]), float(bbox[half]), float(bbox[half + 1])
    points = list(_points(geometry.get("coordinates", geometry.get("geometries", []))))
    if not points:
        return None
    lon, lat = [p[0] for p in points], [p[1] for p in points]
    return min(lon), min(lat), max(lon), max(lat)


def _points(part: Any) -> Iterator[tuple[float, float]]:
    if isinstance(part, Mapping):
        yield from _points(part.get("coordinates", []))
    elif part and isinstance(part[0], int | float):
        yield float(part[0]), float(part[1])
    else:
        for inner in part:
            yield from _points(inner)


def is_data(roles: Sequence[str], media_type: str | None, key: str) -> bool:
    """Pixels for the cube (or for its flags), not a picture of them."""
    if "data" in roles:
        return True
    pictures = ("thumbnail", "overview", "metadata", "visual", "preview")
    if any(r in pictures for r in roles) or key.lower() in pictures:
        return False
    return media_type is None or not re.search(r"json|xml|html|text|pdf|parquet", media_type)


def _asset(
    id: str,
    key: str,
    raw: Mapping[str, Any],
    *,
    base: str | None,
    within: str | None,
    own: bool,
    crs: str | None,
    table: sensors.Sensor,
    item_bands: Sequence[Any],
) -> Asset | None:
    roles = tuple(str(r) for r in raw.get("roles") or ())
    media_type = raw.get("type")
    try:
        href = resolve_href(str(raw["href"]), base, within=within, own=own)
    except KeyError as e:
        raise BadItem(id, f"asset {key!r} has no href") from e
    except ValueError as e:
        if is_data(roles, media_type, key):
            raise BadItem(id, f"asset {key!r}: {e}") from e
        return None  # a thumbnail or an XML that we never read must not cost the scene
    bands = [_band(b, item_bands) for b in raw.get("bands") or raw.get("eo:bands") or ()]
    raster = raw.get("raster:bands") or []
    per_band = [{**a, **b} for a, b in zip(bands, raster, strict=False)] or raster or bands
    own_crs = _crs(id, raw) or crs
    return Asset(
        key=key,
        href=href,
        roles=roles,
        media_type=media_type,
        bands=tuple(_band_name(b, i, key, len(bands), table) for i, b in enumerate(bands)),
        nodata=_common("nodata", raw, per_band),
        scale=_common("scale", raw, per_band),
        offset=_common("offset", raw, per_band),
        gsd_m=float(raw["gsd"]) if raw.get("gsd") is not None else None,
        checksum=raw.get("file:checksum"),
        grid=_grid(id, raw, own_crs),
    )


def _asset_fields(asset: Asset) -> dict[str, Any]:
    fields: dict[str, Any] = {"href": asset.href}
    if asset.media_type is not None:
        fields["type"] = asset.media_type
    if asset.roles:
        fields["roles"] = list(asset.roles)
    if asset.bands:
        fields["bands"] = [{"name": b} for b in asset.bands]
    if asset.nodata is not None:
        fields["nodata"] = asset.nodata if math.isfinite(asset.nodata) else str(asset.nodata)
    if asset.scale is not None:
        fields["raster:scale"] = asset.scale
    if asset.offset is not None:
        fields["raster:offset"] = asset.offset
    if asset.gsd_m is not None:
        fields["gsd"] = asset.gsd_m
    if asset.checksum is not None:
        fields["file:checksum"] = asset.checksum
    return {**fields, **_grid_fields(asset.grid)}


def _band(band: Any, item_bands: Sequence[Any]) -> dict[str, Any]:
    """A band object; old items give an index into the item's bands or a bare name."""
    if isinstance(band, Mapping):
        return dict(band)
    if isinstance(band, int) and 0 <= band < len(item_bands):
        return _band(item_bands[band], ())
    return {"name": str(band)}


def _band_name(band: Mapping[str, Any], i: int, key: str, count: int, table: sensors.Sensor) -> str:
    """The sensor table's name for a band: by its name, else by its centre wavelength, else the name as it is."""
    name = str(band.get("name") or (key if count == 1 else i + 1))
    if (found := match_band(name, table)) is not None:
        return found
    centre_um = band.get("center_wavelength") or band.get("eo:center_wavelength")
    if centre_um:
        nm = float(centre_um) * 1000
        i = min(range(table.bands), key=lambda j: abs(table.wavelength_nm[j] - nm))
        if abs(table.wavelength_nm[i] - nm) <= max(table.fwhm_nm[i] / 2, 5):
            return table.band_name[i]
    return name


def match_band(name: str, table: sensors.Sensor) -> str | None:
    """B4, b04 and B04 are one band; None when the table has no such band."""
    return _by_plain_name(table.band_name).get(plain_name(name))


@lru_cache
def _by_plain_name(names: tuple[str, ...]) -> dict[str, str]:
    return {plain_name(name): name for name in names}


def plain_name(name: str) -> str:
    """A band's name without what writers differ in: B04, b4 and 4 are one."""
    return re.sub(r"^b(?=\d)", "", re.sub(r"(?<!\d)0+(?=\d)", "", name.strip().lower()))


def _common(field: str, raw: Mapping[str, Any], per_band: Sequence[Mapping[str, Any]]) -> float | None:
    """A number that holds for the whole asset: its own field, or the same in all its bands."""
    values = {_number(b.get(field, b.get(f"raster:{field}"))) for b in per_band}
    own = _number(raw.get(field, raw.get(f"raster:{field}")))
    if own is not None:
        return own
    return values.pop() if len(values) == 1 else None


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
