"""Publishing of a cube as a STAC item, written last. The item is the commit; links and index only help to find it.

    catalog.json                               the root of a static STAC catalog
    items/<collection>/catalog.json            a STAC collection, linking its dates
    items/<collection>/<yyyy-mm-dd>/catalog.json   linking its items
    items/<collection>/<yyyy-mm-dd>/<id>.json  the item: scene and collection have one at a time

Rules:
- `put_item` writes the item first. From then on `search` finds it, even if the rest fails.
- The three catalogs are for users and STAC browsers; `search` never reads them. They change by read, add, write,
  which is safe for one driver at a time in a collection. Two at once can lose a link, never an item; so can a kill
  between the writes. `hypermend index` rebuilds them from the items.
- hrefs to objects inside the archive are stored relative to the item, so an archive can be moved or copied. All
  others stay absolute. Signatures and passwords are removed before anything is stored.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.errors import Refused
from hypermend.catalog.grids import footprint
from hypermend.catalog.keys import (
    check_raw_collection,
    item_key,
    quicklook_keys,
    scene_collection,
    source_collection,
)
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.stac import index
from hypermend.catalog.stac.datacube import datacube_fields
from hypermend.catalog.stac.fields import rfc3339
from hypermend.catalog.stac.item import DATACUBE, to_item_with_bands
from hypermend.catalog.stac.static_catalog import GEOJSON, JSON, link_item, make_link, read_document
from hypermend.catalog.storage.archive_store import ArchiveStore, safe_name, to_json
from hypermend.catalog.storage.hrefs import is_remote, unsigned

ZARR_MEDIA_TYPE = "application/vnd.zarr; version=3"
MULTISCALES_MEDIA_TYPE = f"{ZARR_MEDIA_TYPE}; profile=multiscales"
"""Of a cube with overviews; viewers compare it letter for letter."""
# They describe the writing, not the scene, or repeat what the cube says: a change of these alone does not rewrite an
# item, so that an upgrade leaves a published archive as it is.
_PROVENANCE = ("updated", "processing:software", "cube:dimensions", "cube:variables")
# Properties of a raw item that describe its files and not the scene.
_FILE_PROPERTIES = re.compile(r"^(bands|eo:bands|raster:bands|cube:.*|proj:.*|file:.*|created|updated|processing:.*)$")


def source_item(
    scene: Scene, spec: CubeSpec, *, key: str, ingest_id: str, valid_fraction: float, quicklooks: Sequence[str] = ()
) -> Scene:
    """The item of a source cube.

    Args:
        scene: the ingested scene.
        key: key of the cube in the archive.
        valid_fraction: usable share of the pixels, 0 to 1.
        quicklooks: names of the cube's pictures.

    Raises:
        Refused: the collection of the scene is named like one of source cubes.
    """
    check_raw_collection(scene.collection)
    facts = {
        "hypermend:ingest": ingest_id,
        "hypermend:derived_from": item_key(scene),
        "processing:lineage": f"read by hypermend from the files of {scene.collection}/{scene.id}",
    }
    item = _cube_scene(scene, spec, source_collection(scene.collection), key, valid_fraction, facts)
    return _with_quicklooks(item, key, quicklooks)


def restored_item(
    source: Scene,
    spec: CubeSpec,
    *,
    key: str,
    task: str,
    plan_id: str,
    model: str,
    valid_fraction: float,
    quicklooks: Sequence[str] = (),
    figures: Mapping[str, Any] | None = None,
) -> Scene:
    """The item of a restored cube; `source` is the scene of its source cube.

    Args:
        task: the chain of tasks, such as denoise; it names the collection.
        quicklooks: names of the cube's pictures.
        figures: of what the restoration did, JSON values; None where nobody knows.
    """
    facts: dict[str, Any] = {
        "hypermend:plan": plan_id,
        "hypermend:task": task,
        "hypermend:model": model,
        "hypermend:derived_from": item_key(source),
        "processing:lineage": f"{task} with model {model} by hypermend, plan {plan_id}",
    }
    if figures:
        facts["hypermend:figures"] = dict(figures)
    item = _cube_scene(source, spec, restored_collection(source, task), key, valid_fraction, facts)
    return _with_quicklooks(item, key, quicklooks)


def restored_collection(source: Scene, task: str) -> str:
    """Collection of the cubes that a chain of tasks restores from those of a source scene's collection."""
    return f"{scene_collection(source.collection)}-{task}"


def names_cube(root: ArchiveStore, scene: Scene, cube: str) -> bool:
    """Whether the item published for `scene` in its collection is that of the cube with this key."""
    item = read_document(root, item_key(scene))
    return item is not None and item.get("properties", {}).get("hypermend:cube") == cube


def put_item(root: ArchiveStore, scene: Scene, *, run: str) -> int:
    """Publish `scene`: write its item, then link and index it. Returns the bytes written, 0 if nothing has changed.

    A scene already published in this collection is replaced, in one put.

    Args:
        run: id of the run that publishes; it names the part of the index.

    Raises:
        Refused: the item there is that of another scene, or the collection of a raw scene is named like one of cubes.
    """
    if scene.stage == "raw":
        check_raw_collection(scene.collection)
    key = item_key(scene)
    item = json.loads(to_json(_item(root, key, scene)))  # as it is read back: lists, not tuples
    old = read_document(root, key)
    if old is not None and (other := _other_scene(old, item)) is not None:
        raise Refused(
            f"{root.href(key)} is the item of another scene ({other}) and is not replaced: give one of the two another "
            "id or another collection"
        )
    written = 0
    if old is None or _without_provenance(old) != _without_provenance(item):
        item["properties"]["updated"] = rfc3339(datetime.now(UTC))
        data = to_json(item)
        version = root.put(key, data)  # the commit
        written += len(data) + index.add(root, index.row_of(key, version, item), run=safe_name(run))
    return written + link_item(root, scene)


def feature_collection(scenes: Iterable[Scene]) -> dict[str, Any]:
    """A STAC item collection; hrefs are absolute, as scenes found by `search` have them."""
    return {"type": "FeatureCollection", "features": [to_item_with_bands(scene) for scene in scenes]}


def unsigned_item(scene: Scene) -> dict[str, Any]:
    """The STAC item of a scene, fit to be stored: without signatures, hrefs absolute."""
    item = to_item_with_bands(scene)
    for asset in item["assets"].values():
        asset["href"] = unsigned(asset["href"]) if is_remote(asset["href"]) else asset["href"]
    return item


def _cube_scene(
    scene: Scene, spec: CubeSpec, collection: str, key: str, valid_fraction: float, facts: Mapping[str, Any]
) -> Scene:
    """The scene of a cube of `scene`: same id and time, one asset, grid and footprint of the cube."""
    kept = {k: v for k, v in scene.properties.items() if not _FILE_PROPERTIES.match(k)}
    geometry, bbox = (None, None) if spec.grid is None else footprint(spec.grid)
    if geometry is None:
        geometry, bbox = scene.geometry, scene.bbox
    finite = [g for g in spec.gsd_m if g == g]
    cube = Asset(
        key="cube",
        href=key,
        roles=("data",),
        media_type=MULTISCALES_MEDIA_TYPE if spec.levels else ZARR_MEDIA_TYPE,
        bands=spec.band_name,
        nodata=None if spec.fill is None else float(spec.fill),
        scale=spec.scale_factor if spec.scale_factor != 1.0 else None,
        offset=spec.add_offset if spec.add_offset != 0.0 else None,
        gsd_m=min(finite) if finite else None,
    )
    return replace(
        scene,
        collection=collection,
        stage=spec.stage,
        grid=spec.grid,
        geometry=geometry,
        bbox=bbox,
        assets={"cube": cube},
        properties={
            **kept,
            "hypermend:wavelength_nm": list(spec.wavelength_nm),
            "hypermend:fwhm_nm": [width if width == width else None for width in spec.fwhm_nm],
            "hypermend:cube": key,
            "hypermend:quantity": spec.quantity,
            "hypermend:valid_fraction": round(valid_fraction, 6),
            **datacube_fields(spec),
            "processing:software": {"hypermend": metadata.version("hypermend")},
            **facts,
        },
    )


def _with_quicklooks(item: Scene, cube: str, names: Sequence[str]) -> Scene:
    """The item of a cube with its pictures: each has a role that makes a viewer show it, and no reader read it."""
    keys = quicklook_keys(cube)
    pictures = {
        name: Asset(
            key=name,
            href=keys[name],
            roles=("thumbnail" if name == "thumbnail" else "overview",),
            media_type="image/png",
        )
        for name in names
    }
    return replace(item, assets={**item.assets, **pictures})


def _other_scene(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """How the scene of an item differs from that of the item that would replace it; None where it is the same.

    A cube may be derived from another scene of the same id: collections `a` and `a-denoise` have a chain of tasks each
    whose results are in `a-denoise-sharpen`. The day of that scene may differ: a time may have been corrected.
    """
    facts: list[dict[str, str]] = []
    for item in (old, new):
        properties = item.get("properties", {})
        fact = {"id": item.get("id"), "collection": item.get("collection"), "stage": properties.get("hypermend:stage")}
        parts = str(properties.get("hypermend:derived_from")).split("/")
        if len(parts) == 4:
            fact["derived from"] = f"{parts[1]}/{parts[3].removesuffix('.json')}"
        facts.append({name: str(value) for name, value in fact.items()})
    was, now = facts
    differing = [name for name in was.keys() & now.keys() if was[name] != now[name]]
    return ", ".join(f"{name} {was[name]!r}, not {now[name]!r}" for name in sorted(differing)) or None


def _item(root: ArchiveStore, key: str, scene: Scene) -> dict[str, Any]:
    """The item as stored at `key`."""
    folder = posixpath.dirname(key)
    item = to_item_with_bands(scene)
    for asset in item["assets"].values():
        asset["href"] = _stored_href(root, folder, asset["href"])
    item["links"] = [
        make_link("root", _relative("catalog.json", folder), JSON),
        make_link("parent", "./catalog.json", JSON),
        make_link("collection", "../catalog.json", JSON),
    ]
    if (cube := item["assets"].get("cube")) is not None:  # the group of the asset is the root of its store
        item["links"].append(make_link("store", cube["href"], ZARR_MEDIA_TYPE))
    for name in ("hypermend:derived_from", "hypermend:guide"):
        origin = scene.properties.get(name)
        if origin is not None and root.exists(origin):
            item["links"].append(make_link("derived_from", _relative(origin, folder), GEOJSON))
        elif origin is not None:  # ingested directly from another STAC: the archive has no raw item
            del item["properties"][name]
    return item


def _stored_href(root: ArchiveStore, folder: str, href: str) -> str:
    """An href as stored in an item of `folder`: relative inside the archive, unsigned outside."""
    if is_remote(href):
        prefix = root.url.rstrip("/") + "/"
        return _relative(href[len(prefix) :], folder) if href.startswith(prefix) else unsigned(href)
    if not href.startswith("/"):  # a key of this archive
        return _relative(href, folder)
    if root.is_local and href.startswith(root.url.rstrip("/") + "/"):
        return posixpath.relpath(href, root.href(folder))
    return href


def _relative(key: str, folder: str) -> str:
    """A key relative to a folder. Independent of the working directory, which may be gone: Ray removes that of a job it
    considers finished.
    """
    return posixpath.relpath(f"/{key}", f"/{folder}")


def _without_provenance(item: Mapping[str, Any]) -> dict[str, Any]:
    properties = {k: v for k, v in item["properties"].items() if k not in _PROVENANCE}
    links = [link for link in item["links"] if link.get("rel") != "store"]  # the href of the asset
    extensions = [url for url in item["stac_extensions"] if url != DATACUBE]
    outline = sorted(set(_vertices(item.get("geometry"))))  # a ring may begin at another corner
    return {**item, "properties": properties, "links": links, "stac_extensions": extensions, "geometry": outline}


def _vertices(part: Any) -> Iterator[str]:
    """Every point of a GeoJSON geometry, as text."""
    if isinstance(part, Mapping):
        part = list(part.values())
    if isinstance(part, list) and not any(isinstance(inner, list | dict) for inner in part):
        yield json.dumps(part)
    for inner in part if isinstance(part, list) else ():
        yield from _vertices(inner)
