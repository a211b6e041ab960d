"""Documents of the STAC API: pure functions of a listing and the address that the client used."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from hypermend.catalog.errors import NotFound, Refused
from hypermend.catalog.stac.fields import links_of
from hypermend.catalog.stac.index import Row
from hypermend.catalog.stac.item import STAC_VERSION
from hypermend.catalog.stac.static_catalog import GEOJSON, JSON, make_link
from hypermend.catalog.storage.archive_store import ArchiveStore, check_key
from hypermend.catalog.storage.hrefs import is_remote, unsigned
from hypermend.pipeline.serve.listing import Extent, Listing, Page
from hypermend.pipeline.serve.search_request import PARAMETERS

_API = "https://api.stacspec.org/v1.0.0"
_FEATURES = "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf"
CONFORMS_TO = (
    f"{_API}/core",
    f"{_API}/collections",
    f"{_API}/ogcapi-features",
    f"{_API}/item-search",
    f"{_API}/item-search#query",
    f"{_FEATURES}/core",
    f"{_FEATURES}/geojson",
    f"{_FEATURES}/oas30",
)
OPENAPI = "application/vnd.oai.openapi+json;version=3.0"
_SERVED = ("source/", "restored/")
"""Folders of an archive whose objects are served: cubes, and what lies beside them."""

_MOST_NAME_BYTES = 255
"""Of one part of a key: no file system has longer names."""


def landing_page(base: str, listing: Listing) -> dict[str, Any]:
    """The catalog at the root of the API.

    Args:
        base: scheme, host and port as the client wrote them.
        listing: of the archive.
    """
    return {
        "type": "Catalog",
        "id": "hypermend-archive",
        "title": "Hypermend archive",
        "description": "Hyperspectral scenes: raw files, source cubes and restored cubes.",
        "stac_version": STAC_VERSION,
        "conformsTo": list(CONFORMS_TO),
        "links": [
            make_link("self", f"{base}/", JSON),
            make_link("root", f"{base}/", JSON),
            make_link("conformance", f"{base}/conformance", JSON),
            make_link("service-desc", f"{base}/api", OPENAPI),
            make_link("service-doc", f"{base}/", "text/html"),
            make_link("data", f"{base}/collections", JSON),
            *({**make_link("search", f"{base}/search", GEOJSON), "method": method} for method in ("GET", "POST")),
            *(make_link("child", _of_collection(base, name), JSON) for name in listing.extents),
        ],
    }


def conformance() -> dict[str, Any]:
    return {"conformsTo": list(CONFORMS_TO)}


def collections(base: str, listing: Listing) -> dict[str, Any]:
    """All collections."""
    return {
        "collections": [_collection(base, name, extent) for name, extent in listing.extents.items()],
        "links": [make_link("self", f"{base}/collections", JSON), make_link("root", f"{base}/", JSON)],
    }


def collection(base: str, listing: Listing, name: str) -> dict[str, Any]:
    """Raises: NotFound: no item is in it."""
    if name not in listing.extents:
        raise NotFound(f"no collection {name!r}")
    return _collection(base, name, listing.extents[name])


def _collection(base: str, name: str, extent: Extent) -> dict[str, Any]:
    here = _of_collection(base, name)
    return {
        "type": "Collection",
        "id": name,
        "stac_version": STAC_VERSION,
        "description": f"Scenes of {name}.",
        "license": "other",
        "extent": {"spatial": {"bbox": [list(extent.bbox)]}, "temporal": {"interval": [[extent.start, extent.end]]}},
        "links": [
            make_link("self", here, JSON),
            make_link("root", f"{base}/", JSON),
            make_link("parent", f"{base}/", JSON),
            make_link("items", f"{here}/items", GEOJSON),
        ],
    }


def item(base: str, listing: Listing, row: Row, stored: Mapping[str, Any]) -> dict[str, Any]:
    """An item as it is stored, with addresses of this server.

    Assets that lie neither in the archive nor on another server are left out: they would name files of this machine.
    So are assets that are none.
    """
    folder = posixpath.dirname(row.key)
    listed = stored.get("assets")
    assets = {}
    for name, asset in (listed if isinstance(listed, Mapping) else {}).items():
        if isinstance(asset, Mapping) and (href := _served_href(base, listing.root, folder, str(asset.get("href")))):
            assets[name] = {**{k: v for k, v in asset.items() if k != "alternate"}, "href": href}
    parent = _of_collection(base, row.collection)
    links = [
        make_link("self", _of_item(base, row), GEOJSON),
        make_link("root", f"{base}/", JSON),
        make_link("parent", parent, JSON),
        make_link("collection", parent, JSON),
    ]
    for link in links_of(stored):
        origin = listing.by_key.get(posixpath.normpath(posixpath.join(folder, str(link.get("href")))))
        if link.get("rel") == "derived_from" and origin is not None:
            links.append(make_link("derived_from", _of_item(base, origin), GEOJSON))
    return {**stored, "assets": assets, "links": links}


def items(base: str, listing: Listing, page: Page) -> dict[str, Any]:
    """An item collection of a page, without its links."""
    features = [item(base, listing, row, stored) for row, stored in page.items]
    found: dict[str, Any] = {"type": "FeatureCollection", "features": features, "numberReturned": len(features)}
    return found if page.matched is None else {**found, "numberMatched": page.matched}


def get_links(base: str, path: str, fields: Mapping[str, str], page: Page) -> list[dict[str, Any]]:
    """Links of a page that was asked for by GET."""
    links: list[dict[str, Any]] = [
        make_link("root", f"{base}/", JSON),
        make_link("self", _url(base, path, fields), GEOJSON),
    ]
    if page.token is not None:
        following = _url(base, path, {**fields, "token": page.token})
        links.append({**make_link("next", following, GEOJSON), "method": "GET"})
    return links


def post_links(base: str, body: Mapping[str, Any], page: Page) -> list[dict[str, Any]]:
    """Links of a page that was asked for by POST."""
    links: list[dict[str, Any]] = [make_link("root", f"{base}/", JSON)]
    if page.token is not None:
        following = {"method": "POST", "body": {**body, "token": page.token}}
        links.append({**make_link("next", f"{base}/search", GEOJSON), **following})
    return links


def openapi(base: str) -> dict[str, Any]:
    """A description of the API in OpenAPI."""

    def path(summary: str, names: tuple[str, ...] = (), inside: tuple[str, ...] = ()) -> dict[str, Any]:
        parameters = [{"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in inside]
        parameters += [{"name": n, "in": "query", "required": False, "schema": {"type": "string"}} for n in names]
        return {"summary": summary, "parameters": parameters, "responses": {"200": {"description": summary}}}

    post = path("Items that match, asked for in JSON")
    post["requestBody"] = {"content": {JSON: {"schema": {"type": "object"}}}}
    return {
        "openapi": "3.0.3",
        "info": {"title": "Hypermend archive", "version": "1"},
        "servers": [{"url": base}],
        "paths": {
            "/": {"get": path("The catalog; for browsers, a page")},
            "/conformance": {"get": path("What the API conforms to")},
            "/collections": {"get": path("All collections")},
            "/collections/{collection}": {"get": path("One collection", inside=("collection",))},
            "/collections/{collection}/items": {"get": path("Its items", PARAMETERS, ("collection",))},
            "/collections/{collection}/items/{item}": {"get": path("One item", inside=("collection", "item"))},
            "/collections/{collection}/items/{item}/spectrum": {
                "get": path("Spectra of one pixel", ("row", "column"), ("collection", "item"))
            },
            "/search": {"get": path("Items that match", PARAMETERS), "post": post},
        },
    }  # fmt: skip


def served_key(key: str) -> str:
    """The key of an object that is served.

    Raises:
        NotFound: one that is not, as if it were not there.
        Refused: no key.
    """
    bare = check_key(key)
    if not bare.startswith(_SERVED) or max(map(len, bare.encode().split(b"/"))) > _MOST_NAME_BYTES:
        raise NotFound("no such object; those of cubes and their pictures are served")
    return bare


def data_href(base: str, key: str) -> str:
    """The address of an object of the archive."""
    return f"{base}/data/{quote(key)}"


def _served_href(base: str, root: ArchiveStore, folder: str, href: str) -> str | None:
    """The address of an asset: of this server, or of another one; None where neither has it."""
    prefix = root.url.rstrip("/") + "/"
    if href.startswith(prefix):
        key = href.removeprefix(prefix)
    elif is_remote(href):
        return unsigned(href)
    elif href.startswith("/") or ":" in href.split("/")[0]:
        return None
    else:
        key = posixpath.normpath(posixpath.join(folder, href))
    try:
        return data_href(base, served_key(key))
    except (NotFound, Refused, ValueError):  # a ValueError of a text that is no Unicode
        return None


def _of_collection(base: str, name: str) -> str:
    return f"{base}/collections/{quote(name, safe='')}"


def _of_item(base: str, row: Row) -> str:
    return f"{_of_collection(base, row.collection)}/items/{quote(row.id, safe='')}"


def _url(base: str, path: str, fields: Mapping[str, str]) -> str:
    return f"{base}{path}?{urlencode(fields)}" if fields else f"{base}{path}"
