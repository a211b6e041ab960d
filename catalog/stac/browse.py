"""The static STAC catalogs of an archive, so that a STAC browser walks from its root to every item."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from hypermend.catalog.errors import NotFound
from hypermend.catalog.keys import item_folder, item_key
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac.item import STAC_VERSION
from hypermend.catalog.storage.archive_store import ArchiveStore, NotJson, to_json

JSON, GEOJSON = "application/json", "application/geo+json"


def rebuild_catalogs(root: ArchiveStore) -> None:
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
        collection = read_catalog(root, f"items/{folder}/catalog.json") or _collection(folder)
        for date, names in dates.items():
            items = [entry_link("item", f"./{n}", GEOJSON) for n in sorted(names)]
            root.put_json(f"items/{folder}/{date}/catalog.json", _with_children(_date_catalog(folder, date), items))
        children = [entry_link("child", f"./{date}/catalog.json", JSON) for date in sorted(dates)]
        root.put_json(f"items/{folder}/catalog.json", _with_children(collection, children))
    children = [entry_link("child", f"./items/{folder}/catalog.json", JSON) for folder in sorted(tree)]
    root.put_json("catalog.json", _with_children(_root_catalog(), children))


def link_item(root: ArchiveStore, scene: Scene) -> int:
    """See that every catalog between the root and the item links on; bytes written."""
    folder = item_folder(scene)
    _, collection, date = folder.split("/")
    name = posixpath.basename(item_key(scene))
    steps = (
        (f"{folder}/catalog.json", _date_catalog(collection, date), entry_link("item", f"./{name}", GEOJSON)),
        (
            f"items/{collection}/catalog.json",
            _collection(scene.collection),
            entry_link("child", f"./{date}/catalog.json", JSON),
        ),
        ("catalog.json", _root_catalog(), entry_link("child", f"./items/{collection}/catalog.json", JSON)),
    )
    written = 0
    for key, empty, link in steps:
        catalog = read_catalog(root, key) or empty
        if link not in catalog["links"]:
            data = to_json({**catalog, "links": [*catalog["links"], link]})
            root.put(key, data)
            written += len(data)
    return written


def read_catalog(root: ArchiveStore, key: str) -> dict[str, Any] | None:
    """A document of ours; None when it is absent or damaged, so that it is written anew."""
    try:
        document = root.get_json(key)
    except (NotFound, NotJson):
        return None
    sound = isinstance(document, dict) and isinstance(document.get("links"), list)
    return document if sound and isinstance(document.get("properties", {}), dict) else None


def entry_link(rel: str, href: str, media_type: str) -> dict[str, str]:
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
        "links": [entry_link("root", "./catalog.json", JSON)],
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
            entry_link("root", "../../catalog.json", JSON),
            entry_link("parent", "../../catalog.json", JSON),
        ],
    }


def _date_catalog(collection: str, date: str) -> dict[str, Any]:
    return {
        "type": "Catalog",
        "id": f"{collection}-{date}",
        "stac_version": STAC_VERSION,
        "description": f"Scenes of {collection} on {date}.",
        "links": [
            entry_link("root", "../../../catalog.json", JSON),
            entry_link("parent", "../catalog.json", JSON),
        ],
    }
