"""STAC items to Scenes and back. No module outside `catalog.stac` reads or writes STAC fields.

STAC 1.0.0-beta to 1.1 is read, 1.1 is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import pystac

from hypermend.catalog.dateline import Bbox
from hypermend.catalog.documents import MALFORMED, check_storable, visible
from hypermend.catalog.errors import BadItem, BadSensor, Refused
from hypermend.catalog.keys import check_raw_collection, scene_collection
from hypermend.catalog.scene import AUTO, SENSOR_FROM, TIME_FROM, UNKNOWN, USER, Asset, Scene, is_data
from hypermend.catalog.sensors import SHIPPED
from hypermend.catalog.stac.assets import asset_fields, read_asset
from hypermend.catalog.stac.fields import (
    BadField,
    bbox_of,
    geometry_of,
    grid_fields,
    mapping,
    number,
    parse_time,
    pop_grid,
    sequence,
    text,
    time_fields,
    time_span,
)
from hypermend.catalog.stac.platforms import identify_sensor
from hypermend.catalog.storage.archive_store import check_key
from hypermend.catalog.storage.hrefs import is_remote

STAC_VERSION = "1.1.0"
_EXTENSIONS = {
    "proj:": "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "raster:": "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "file:": "https://stac-extensions.github.io/file/v2.1.0/schema.json",
}
_EO = "https://stac-extensions.github.io/eo/v2.0.0/schema.json"
DATACUBE = "https://stac-extensions.github.io/datacube/v2.2.0/schema.json"
STAGES = ("raw", "source", "restored")
MAX_ID = 1000
"""Characters of an id."""
# Properties by which an archive knows its cubes: nothing that another server says about them is believed.
_OF_AN_ARCHIVE = {
    "hypermend:cube", "hypermend:ingest", "hypermend:plan", "hypermend:task", "hypermend:model", "hypermend:guide",
    "hypermend:derived_from", "hypermend:overlap", "hypermend:days_apart", "hypermend:notes",
    "hypermend:valid_fraction", "hypermend:wavelength_nm", "hypermend:fwhm_nm", "hypermend:figures",
}  # fmt: skip
_PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"


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
        href: address of the item; relative asset hrefs are resolved against it.
        sensor: the instrument, for items that do not name it; `AUTO` leaves it to the files.
        within: folder or URL prefix that relative hrefs must not leave.
        own: an item of this archive: it may name files of this machine even if the archive is on S3.

    Raises:
        BadItem: with the item's id and the reason.
    """
    if isinstance(item, pystac.Item):
        href = href or item.get_self_href()
        item = item.to_dict(include_self_link=False, transform_hrefs=False)
    id = str(item.get("id") or "?")
    if len(id) > MAX_ID:
        raise BadItem(f"{id[:60]}...", f"its id has {len(id)} characters; the limit is {MAX_ID}")
    for name in (id, str(item.get("collection") or "")):
        if name != visible(name):
            raise BadItem(visible(id), f"its id or collection has characters that cannot be seen: {visible(name)!r}")
    if item.get("type") != "Feature" or not isinstance(item.get("properties"), Mapping) or id == "?":
        raise BadItem(id, f"no STAC item (type {item.get('type')!r}, it needs id and properties)")
    if not str(item.get("stac_version", "")).startswith("1."):
        raise BadItem(id, f"STAC version {item.get('stac_version')!r}; 1.0 and 1.1 can be read")
    try:
        check_storable(item)
        return _scene(id, item, base=href or _self_link(item), sensor=sensor, within=within, own=own)
    except (BadSensor, Refused) as e:
        raise BadItem(id, str(e)) from e
    except MALFORMED as e:  # BadField, and what its checks do not foresee
        raise BadItem(id, str(e) if isinstance(e, BadField) else f"{type(e).__name__}: {e}") from e


def _scene(
    id: str, item: Mapping[str, Any], *, base: str | None, sensor: str | None, within: str | None, own: bool
) -> Scene:
    properties: dict[str, Any] = _json_copy(item["properties"])
    when = _datetime(properties)
    name = text("hypermend:sensor", properties.pop("hypermend:sensor", None))
    name = name or identify_sensor(id, str(item.get("collection") or ""), properties)
    if name is None and sensor not in (None, AUTO):
        properties[SENSOR_FROM] = USER
    name = name or sensor
    if name is None:
        raise BadField(f"its platform {properties.get('platform')!r} is no known sensor; give --sensor")
    table = SHIPPED.get(name)  # an instrument without one names its bands itself
    stage, collection = str(properties.pop("hypermend:stage", "raw")), str(item.get("collection") or "unknown")
    if own:
        _check_cube(stage, properties)
    else:  # the cube of another archive is a file like any other here
        collection = scene_collection(collection) if stage == "source" else collection
        stage, properties = "raw", {k: v for k, v in properties.items() if k not in _OF_AN_ARCHIVE}
        check_raw_collection(collection)
    grid, crs = pop_grid(properties)
    item_bands = sequence("bands", properties.get("eo:bands") or properties.get("bands"))
    assets = {
        key: read_asset(key, raw, base=base, within=within, own=own, crs=crs, table=table, item_bands=item_bands)
        for key, raw in mapping("assets", item.get("assets")).items()
    }
    _check_assets(assets)
    return Scene(
        id=id,
        collection=collection,
        datetime=when,
        sensor=name,
        grid=grid,
        bbox=bbox_of(item),
        geometry=geometry_of(item),
        assets=assets,
        stage=stage,
        properties=properties,
    )


def _check_cube(stage: str, properties: Mapping[str, Any]) -> None:
    """Refuse an item of an archive that does not say in order which cube it publishes, and of what.

    Raises:
        BadField: a stage that is none; no cube, or one that lies elsewhere.
    """
    if stage not in STAGES:
        raise BadField(f"its stage is {stage!r}; an item is one of {', '.join(STAGES)}")
    cube = text("hypermend:cube", properties.get("hypermend:cube"))
    parts = (cube or "").split("/")
    if stage != "raw" and not (len(parts) == 3 and parts[0] == stage and cube and check_key(cube).endswith(".zarr")):
        raise BadField(f"its stage is {stage} and its cube {cube!r}, which is none of {stage}/<scene>/<id>.zarr")
    for name in ("hypermend:derived_from", "hypermend:guide"):
        if (origin := text(name, properties.get(name))) is not None:
            check_key(origin)
    for name in ("hypermend:wavelength_nm", "hypermend:fwhm_nm"):
        for value in sequence(name, properties.get(name)):
            number(name, value)
    if stage == "source":
        _required_text("hypermend:ingest", properties)


def _required_text(name: str, properties: Mapping[str, Any]) -> None:
    if text(name, properties.get(name)) is None:
        raise BadField(f"it has no {name}")


def _check_assets(assets: Mapping[str, Asset]) -> None:
    """Refuse an item none of whose data files can be used; names their problems."""
    if not assets:
        raise BadField("it has no asset that can be read")
    data = [a for a in assets.values() if is_data(a.roles, a.media_type, a.key)]
    if data and all(a.problem is not None for a in data):
        raise BadField("; ".join(f"asset {a.key!r}: {a.problem}" for a in data[:3]))


def to_item(scene: Scene) -> dict[str, Any]:
    """A Scene as a STAC 1.1 item; hrefs unchanged, no links."""
    properties: dict[str, Any] = {
        **scene.properties,
        **time_fields(scene.datetime),
        "hypermend:sensor": scene.sensor,
        "hypermend:stage": scene.stage,
        **grid_fields(scene.grid),
    }
    assets = {key: asset_fields(asset) for key, asset in scene.assets.items()}
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


def items_in(document: Any, depth: int = 8) -> Iterator[Mapping[str, Any]]:
    """The items of an item, an item collection, a payload with `features`, or a list of any of these.

    Whatever else a list holds comes as an empty item, so that it is named and skipped.
    """
    if isinstance(document, Mapping) and isinstance(document.get("features"), list):
        document = document["features"]
    if isinstance(document, list) and depth:
        for part in document:
            listed = isinstance(part, list) or (isinstance(part, Mapping) and isinstance(part.get("features"), list))
            if listed:
                yield from items_in(part, depth - 1)
            else:
                yield part if isinstance(part, Mapping) else {}
    elif isinstance(document, list):
        yield {}
    elif isinstance(document, Mapping) and document.get("type") == "Feature":
        yield document


def search_fields(
    item: Mapping[str, Any],
) -> tuple[str, Bbox | None, tuple[datetime | None, datetime | None], Mapping[str, Any]]:
    """The fields that a search compares: collection, bbox, (first, last moment), properties. Parsing comes later.

    Raises:
        BadItem: with the item's id and the reason.
    """
    try:
        properties = mapping("properties", item.get("properties"))
        start, end = time_span(properties)
        span = (parse_time(start) if start else None, parse_time(end) if end else None)
        return str(item.get("collection") or "unknown"), bbox_of(item), span, properties
    except ValueError as e:
        raise BadItem(str(item.get("id") or "?"), f"bbox, geometry or time cannot be read: {e}") from e


def _json_copy(value: Any) -> Any:
    """A deep copy of JSON values, in which NaN, which JSON lacks, becomes null."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)


def _self_link(item: Mapping[str, Any]) -> str | None:
    links = [mapping("a link", link) for link in sequence("links", item.get("links"))]
    hrefs = (str(link.get("href")) for link in links if link.get("rel") == "self")
    return next((h for h in hrefs if is_remote(h) or h.startswith("/")), None)


def _datetime(properties: dict[str, Any]) -> datetime | None:
    if properties.get(TIME_FROM) == UNKNOWN:
        for name in ("datetime", "start_datetime", "end_datetime"):
            properties.pop(name, None)
        return None
    value = properties.pop("datetime", None) or properties.get("start_datetime")
    if value is None:
        raise BadField("it has neither datetime nor start_datetime")
    try:
        return parse_time(value)
    except ValueError as e:
        raise BadField(f"datetime {value!r} is not RFC 3339") from e


def to_item_with_bands(scene: Scene) -> dict[str, Any]:
    """A Scene as a STAC 1.1 item with centre and width of the bands of its cube (eo extension); hrefs unchanged."""
    item = to_item(scene)
    properties = item["properties"]
    for prefix, extension in (("processing:", _PROCESSING), ("cube:", DATACUBE)):
        if any(name.startswith(prefix) for name in properties):
            item["stac_extensions"].append(extension)
    bands = item["assets"].get("cube", {}).get("bands", ())
    centres, widths = (properties.get(f"hypermend:{name}_nm", ()) for name in ("wavelength", "fwhm"))
    if bands and len(bands) == len(centres) == len(widths):
        item["stac_extensions"].append(_EO)
        for band, centre_nm, width_nm in zip(bands, centres, widths, strict=True):
            band["eo:center_wavelength"] = round(centre_nm / 1000, 7)  # the extension uses micrometres
            if width_nm:
                band["eo:full_width_half_max"] = round(width_nm / 1000, 7)
    return item
