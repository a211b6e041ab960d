"""Publishing: a cube becomes a STAC item, written last. The item is the commit; all else here is convenience.

    catalog.json                               the root of a static STAC catalog
    items/<collection>/catalog.json            a STAC collection, linking its dates
    items/<collection>/<yyyy-mm-dd>/catalog.json   linking its items
    items/<collection>/<yyyy-mm-dd>/<id>.json  the item: scene and collection have one at a time

Rules:
- `put_item` writes the item first. From then on `search` finds it, whatever happens to the rest.
- The three catalogs are for people and STAC browsers; `search` never reads them. They change by read, add, write,
  which is safe for one driver at a time in a collection. Two at once can lose a link, never an item; so can a kill
  between the writes. `hypermend index` makes them anew from the items.
- hrefs of what lies inside the archive are stored relative to the item, so an archive can be moved or copied.
  Everything else stays absolute. Signatures and passwords are cut off before anything is stored.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from catalog import index
from catalog.errors import NotFound, Refused
from catalog.footprint import footprint
from catalog.hrefs import is_remote
from catalog.root import NotJson, Root, safe_name, to_json
from catalog.scene import Asset, Scene
from catalog.spec import CubeSpec
from catalog.stac_item import STAC_VERSION, to_item

ZARR_MEDIA_TYPE = "application/vnd.zarr; version=3"
_JSON, _GEOJSON = "application/json", "application/geo+json"
_EO = "https://stac-extensions.github.io/eo/v2.0.0/schema.json"
_PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
# Facts about the writing, not about the scene: they alone are no reason to write an item again.
_PROVENANCE = ("updated", "processing:software")
# Of a raw item's properties, those that describe its files and not the scene.
_OF_THE_FILES = re.compile(r"^(bands|eo:bands|raster:bands|proj:.*|file:.*|created|updated|processing:.*)$")
_SIGNATURE = re.compile(
    r"^(x-(amz|goog)-.*|awsaccesskeyid|signature|expires|policy|key-pair-id|(access_|api_?)?(token|key)|s(ig|e|t|p|v|r|ip|pr)"
    r"|sk(oid|tid|t|e|s|v))$",
    re.I,
)


_SOURCE = "-source"


def source_collection(name: str) -> str:
    """The collection that the source cubes of a collection's scenes are in; either of the two names will do."""
    return scene_collection(name) + _SOURCE


def scene_collection(name: str) -> str:
    """The collection that source cubes were made from; either of the two names will do."""
    return name.removesuffix(_SOURCE)


def source_item(scene: Scene, spec: CubeSpec, *, key: str, ingest_id: str, valid_fraction: float) -> Scene:
    """The item of a source cube.

    Args:
        scene: what was ingested.
        key: where the cube lies in the archive.
        valid_fraction: usable share of the pixels, 0 to 1.
    """
    facts = {
        "hypermend:ingest": ingest_id,
        "hypermend:derived_from": item_key(scene),
        "processing:lineage": f"read by hypermend from the files of {scene.collection}/{scene.id}",
    }
    return _cube_scene(scene, spec, source_collection(scene.collection), key, valid_fraction, facts)


def restored_item(
    source: Scene,
    spec: CubeSpec,
    *,
    key: str,
    task: str,
    plan_id: str,
    model: str,
    valid_fraction: float,
    guide: Scene | None = None,
) -> Scene:
    """The item of a restored cube; `source` is the scene of the cube it was made from.

    Args:
        task: the chain of tasks, such as denoise; it names the collection.
        guide: the scene of the other cube it was made from, where there were two.
    """
    facts = {
        "hypermend:plan": plan_id,
        "hypermend:task": task,
        "hypermend:model": model,
        "hypermend:derived_from": item_key(source),
        "processing:lineage": f"{task} with model {model} by hypermend, plan {plan_id}",
    }
    if guide is not None:
        facts["hypermend:guide"] = item_key(guide)
    collection = f"{scene_collection(source.collection)}-{task}"
    return _cube_scene(source, spec, collection, key, valid_fraction, facts)


def cube_key(scene: Scene) -> str:
    """Where the cube of a source or restored scene lies in its archive.

    Raises:
        Refused: a raw scene has none.
    """
    key = scene.properties.get("hypermend:cube")
    if not isinstance(key, str):
        raise Refused(f"scene {scene.id} of {scene.collection} is {scene.stage} and has no cube; ingest it first")
    return key


def item_key(scene: Scene) -> str:
    """Where the item of a scene lies in an archive."""
    return f"{_folder(scene)}/{safe_name(scene.id)}.json"


def put_item(root: Root, scene: Scene, *, run: str) -> int:
    """Publish `scene`: write its item, then link and index it. Returns the bytes written, 0 when nothing is new.

    A scene that is there already in this collection is replaced, in one put.

    Args:
        run: id of the run that publishes; it names the part of the index.
    """
    key = item_key(scene)
    item = json.loads(to_json(_item(root, key, scene)))  # as it will be read back: lists, not tuples
    old = _read(root, key)
    written = 0
    if old is None or _without_provenance(old) != _without_provenance(item):
        item["properties"]["updated"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        data = to_json(item)
        version = root.put(key, data)  # the commit
        written += len(data) + index.add(root, index.row_of(key, version, item), run=safe_name(run))
    return written + _link(root, scene)


def feature_collection(scenes: Iterable[Scene]) -> dict[str, Any]:
    """A STAC item collection; hrefs are absolute, as scenes found by `search` have them."""
    return {"type": "FeatureCollection", "features": [document(scene) for scene in scenes]}


def document(scene: Scene) -> dict[str, Any]:
    """The STAC item of a scene, hrefs as they are, with centre and width of the bands of its cube (eo extension)."""
    item = to_item(scene)
    properties = item["properties"]
    if any(name.startswith("processing:") for name in properties):
        item["stac_extensions"].append(_PROCESSING)
    bands = item["assets"].get("cube", {}).get("bands", ())
    centres, widths = (properties.get(f"hypermend:{name}_nm", ()) for name in ("wavelength", "fwhm"))
    if bands and len(bands) == len(centres) == len(widths):
        item["stac_extensions"].append(_EO)
        for band, centre_nm, width_nm in zip(bands, centres, widths, strict=True):
            band["eo:center_wavelength"] = round(centre_nm / 1000, 7)  # the extension wants micrometres
            if width_nm:
                band["eo:full_width_half_max"] = round(width_nm / 1000, 7)
    return item


def unsigned(scene: Scene) -> dict[str, Any]:
    """The STAC item of a scene as it may be kept: without anything signed, absolute hrefs."""
    item = document(scene)
    for asset in item["assets"].values():
        asset["href"] = _unsigned(asset["href"]) if is_remote(asset["href"]) else asset["href"]
    return item


def rebuild_catalogs(root: Root) -> None:
    """Make catalog.json, the collections and the date catalogs anew from the listing of the items."""
    tree: dict[str, dict[str, list[str]]] = {}
    for entry in root.list("items"):
        parts = entry.key.split("/")
        if len(parts) == 4 and parts[3].endswith(".json") and parts[3] != "catalog.json":
            tree.setdefault(parts[1], {}).setdefault(parts[2], []).append(parts[3])
    if not tree:
        root.delete("catalog.json")
        return
    for folder, dates in tree.items():
        collection = _read(root, f"items/{folder}/catalog.json") or _collection(folder)
        for date, names in dates.items():
            items = [_entry_link("item", f"./{n}", _GEOJSON) for n in sorted(names)]
            root.put_json(f"items/{folder}/{date}/catalog.json", _with_children(_date_catalog(folder, date), items))
        children = [_entry_link("child", f"./{date}/catalog.json", _JSON) for date in sorted(dates)]
        root.put_json(f"items/{folder}/catalog.json", _with_children(collection, children))
    children = [_entry_link("child", f"./items/{folder}/catalog.json", _JSON) for folder in sorted(tree)]
    root.put_json("catalog.json", _with_children(_root_catalog(), children))


def _cube_scene(
    scene: Scene, spec: CubeSpec, collection: str, key: str, valid_fraction: float, facts: Mapping[str, Any]
) -> Scene:
    """`scene` as the scene of a cube: same id and time, one asset, grid and footprint of the cube."""
    kept = {k: v for k, v in scene.properties.items() if not _OF_THE_FILES.match(k)}
    geometry, bbox = (None, None) if spec.grid is None else footprint(spec.grid)
    if geometry is None:
        geometry, bbox = scene.geometry, scene.bbox
    finite = [g for g in spec.gsd_m if g == g]
    cube = Asset(
        key="cube",
        href=key,
        roles=("data",),
        media_type=ZARR_MEDIA_TYPE,
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
            "processing:software": {"hypermend": metadata.version("hypermend")},
            **facts,
        },
    )


def _item(root: Root, key: str, scene: Scene) -> dict[str, Any]:
    """The document that is stored at `key`."""
    folder = posixpath.dirname(key)
    item = document(scene)
    for asset in item["assets"].values():
        asset["href"] = _stored_href(root, folder, asset["href"])
    item["links"] = [
        _entry_link("root", _relative("catalog.json", folder), _JSON),
        _entry_link("parent", "./catalog.json", _JSON),
        _entry_link("collection", "../catalog.json", _JSON),
    ]
    for name in ("hypermend:derived_from", "hypermend:guide"):
        made_from = scene.properties.get(name)
        if made_from is not None and root.exists(made_from):
            item["links"].append(_entry_link("derived_from", _relative(made_from, folder), _GEOJSON))
        elif made_from is not None:  # ingested straight from a STAC elsewhere: there is no raw item here
            del item["properties"][name]
    return item


def _stored_href(root: Root, folder: str, href: str) -> str:
    """An href as it is stored in an item of `folder`: relative inside the archive, unsigned outside."""
    if is_remote(href):
        prefix = root.url.rstrip("/") + "/"
        return _relative(href[len(prefix) :], folder) if href.startswith(prefix) else _unsigned(href)
    if not href.startswith("/"):  # a key of this archive
        return _relative(href, folder)
    if root.is_local and href.startswith(root.url.rstrip("/") + "/"):
        return posixpath.relpath(href, root.href(folder))
    return href


def _relative(key: str, folder: str) -> str:
    """One key as seen from the folder of another. Never a question of where this process stands: its working directory
    may be gone (Ray removes that of a job which it takes for finished)."""
    return posixpath.relpath(f"/{key}", f"/{folder}")


def _unsigned(href: str) -> str:
    """`href` without user, password and the query fields in which clouds put signatures and tokens."""
    parts = urlsplit(href)
    query = [(k, v) for k, v in parse_qsl(parts.query, keep_blank_values=True) if not _SIGNATURE.match(k)]
    kept = parts.query if len(query) == len(parse_qsl(parts.query, keep_blank_values=True)) else urlencode(query)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, kept, parts.fragment))


def _without_provenance(item: Mapping[str, Any]) -> dict[str, Any]:
    properties = {k: v for k, v in item["properties"].items() if k not in _PROVENANCE}
    return {**item, "properties": properties}


def _link(root: Root, scene: Scene) -> int:
    """See that every catalog between the root and the item links on; bytes written."""
    folder = _folder(scene)
    _, collection, date = folder.split("/")
    name = posixpath.basename(item_key(scene))
    steps = (
        (f"{folder}/catalog.json", _date_catalog(collection, date), _entry_link("item", f"./{name}", _GEOJSON)),
        (
            f"items/{collection}/catalog.json",
            _collection(scene.collection),
            _entry_link("child", f"./{date}/catalog.json", _JSON),
        ),
        ("catalog.json", _root_catalog(), _entry_link("child", f"./items/{collection}/catalog.json", _JSON)),
    )
    written = 0
    for key, empty, link in steps:
        catalog = _read(root, key) or empty
        if link not in catalog["links"]:
            data = to_json({**catalog, "links": [*catalog["links"], link]})
            root.put(key, data)
            written += len(data)
    return written


def _read(root: Root, key: str) -> dict[str, Any] | None:
    """A document of ours; None when it is absent or damaged, so that it is written anew."""
    try:
        document = root.get_json(key)
    except (NotFound, NotJson):
        return None
    sound = isinstance(document, dict) and isinstance(document.get("links"), list)
    return document if sound and isinstance(document.get("properties", {}), dict) else None


def _folder(scene: Scene) -> str:
    return f"items/{safe_name(scene.collection)}/{scene.datetime.astimezone(UTC):%Y-%m-%d}"


def _entry_link(rel: str, href: str, media_type: str) -> dict[str, str]:
    return {"rel": rel, "href": href, "type": media_type}


def _with_children(catalog: Mapping[str, Any], children: list[dict[str, str]]) -> dict[str, Any]:
    links = [k for k in catalog["links"] if isinstance(k, Mapping) and k.get("rel") not in ("child", "item", None)]
    return {**catalog, "links": [*links, *children]}


def _root_catalog() -> dict[str, Any]:
    return {
        "type": "Catalog",
        "id": "hypermend-archive",
        "stac_version": STAC_VERSION,
        "description": "An archive of hyperspectral scenes: raw files, source cubes and restored cubes.",
        "links": [_entry_link("root", "./catalog.json", _JSON)],
    }


def _collection(name: str) -> dict[str, Any]:
    # The extent stays open: the collection grows, and a search looks at the items.
    return {
        "type": "Collection",
        "id": name,
        "stac_version": STAC_VERSION,
        "description": f"Scenes of {name}, by day.",
        "license": "other",
        "extent": {
            "spatial": {"bbox": [[-180.0, -90.0, 180.0, 90.0]]},
            "temporal": {"interval": [[None, None]]},
        },
        "links": [
            _entry_link("root", "../../catalog.json", _JSON),
            _entry_link("parent", "../../catalog.json", _JSON),
        ],
    }


def _date_catalog(collection: str, date: str) -> dict[str, Any]:
    return {
        "type": "Catalog",
        "id": f"{collection}-{date}",
        "stac_version": STAC_VERSION,
        "description": f"Scenes of {collection} on {date}.",
        "links": [
            _entry_link("root", "../../../catalog.json", _JSON),
            _entry_link("parent", "../catalog.json", _JSON),
        ],
    }
