"""The static STAC catalog of an archive, through which a STAC browser walks from the root to every item.

    catalog.json -> items/<collection>/catalog.json -> items/<collection>/<date>/catalog.json -> the items of a day

Search never reads these documents: `rebuild_catalogs` can make them again from the items at any time.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from hypermend.catalog.errors import NotFound, Refused
from hypermend.catalog.keys import item_folder, item_key
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac.item import STAC_VERSION
from hypermend.catalog.storage.archive_store import ArchiveStore, NotJson, to_json

_ROOT_ID = "hypermend-archive"
JSON, GEOJSON = "application/json", "application/geo+json"


def check_root_catalog(root: ArchiveStore) -> None:
    """Refuse a folder whose catalog.json somebody else wrote: it would be changed, or deleted where no item is found.

    Raises:
        Refused: names the catalog.
    """
    found = read_document(root, "catalog.json")
    if found is not None and found.get("id") != _ROOT_ID:
        raise Refused(
            f"{root.href('catalog.json')} is the catalog {str(found.get('id'))[:80]!r}, not that of an archive of "
            "Hypermend, and is not changed: give --archive a folder of its own, or move that file away"
        )


def rebuild_catalogs(root: ArchiveStore) -> None:
    """Rebuild catalog.json, the collections and the date catalogs from the listing of the items.

    Raises:
        Refused: see `check_root_catalog`; nothing was written.
    """
    check_root_catalog(root)
    tree: dict[str, dict[str, list[str]]] = {}
    for entry in root.list("items"):
        parts = entry.key.split("/")
        if len(parts) == 4 and parts[3].endswith(".json") and parts[3] != "catalog.json":
            tree.setdefault(parts[1], {}).setdefault(parts[2], []).append(parts[3])
    if not tree:
        root.delete("catalog.json")
        return
    for folder, dates in tree.items():
        collection = read_document(root, f"items/{folder}/catalog.json") or _collection(folder)
        for date, names in dates.items():
            items = [make_link("item", f"./{n}", GEOJSON) for n in sorted(names)]
            root.put_json(f"items/{folder}/{date}/catalog.json", _with_children(_date_catalog(folder, date), items))
        children = [make_link("child", f"./{date}/catalog.json", JSON) for date in sorted(dates)]
        root.put_json(f"items/{folder}/catalog.json", _with_children(collection, children))
    children = [make_link("child", f"./items/{folder}/catalog.json", JSON) for folder in sorted(tree)]
    root.put_json("catalog.json", _with_children(_root_catalog(), children))


def link_item(root: ArchiveStore, scene: Scene) -> int:
    """Add the missing links from the root down to the item. Returns the bytes written."""
    folder = item_folder(scene)
    _, collection, date = folder.split("/")
    name = posixpath.basename(item_key(scene))
    steps = (
        (f"{folder}/catalog.json", _date_catalog(collection, date), make_link("item", f"./{name}", GEOJSON)),
        (
            f"items/{collection}/catalog.json",
            _collection(scene.collection),
            make_link("child", f"./{date}/catalog.json", JSON),
        ),
        ("catalog.json", _root_catalog(), make_link("child", f"./items/{collection}/catalog.json", JSON)),
    )
    written = 0
    for key, empty, link in steps:
        catalog = read_document(root, key) or empty
        if link not in catalog["links"]:
            data = to_json({**catalog, "links": [*catalog["links"], link]})
            root.put(key, data)
            written += len(data)
    return written


def read_document(root: ArchiveStore, key: str) -> dict[str, Any] | None:
    """A stored catalog or item; None if it is absent or damaged, so that it is written again."""
    try:
        document = root.get_json(key)
    except (NotFound, NotJson):
        return None
    intact = isinstance(document, dict) and isinstance(document.get("links"), list)
    return document if intact and isinstance(document.get("properties", {}), dict) else None


def make_link(rel: str, href: str, media_type: str) -> dict[str, str]:
    return {"rel": rel, "href": href, "type": media_type}


def _with_children(catalog: Mapping[str, Any], children: list[dict[str, str]]) -> dict[str, Any]:
    links = [k for k in catalog["links"] if isinstance(k, Mapping) and k.get("rel") not in ("child", "item", None)]
    return {**catalog, "links": [*links, *children]}


def _root_catalog() -> dict[str, Any]:
    return {
        "type": "Catalog",
        "id": _ROOT_ID,
        "stac_version": STAC_VERSION,
        "description": "An archive of hyperspectral scenes: raw files, source cubes and restored cubes.",
        "links": [make_link("root", "./catalog.json", JSON)],
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
            make_link("root", "../../catalog.json", JSON),
            make_link("parent", "../../catalog.json", JSON),
        ],
    }


def _date_catalog(collection: str, date: str) -> dict[str, Any]:
    return {
        "type": "Catalog",
        "id": f"{collection}-{date}",
        "stac_version": STAC_VERSION,
        "description": f"Scenes of {collection} on {date}.",
        "links": [
            make_link("root", "../../../catalog.json", JSON),
            make_link("parent", "../catalog.json", JSON),
        ],
    }
