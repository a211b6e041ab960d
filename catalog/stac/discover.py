"""Discovery of scenes: a STAC API, a static STAC catalog, or a folder of files -> Iterator[Scene | Skipped].

An item that cannot become a scene is yielded as `Skipped` with its id and reason, and the search continues. Filters
are applied here whatever a server says it did with them: some ignore `query`, `ids`, the box or the collections.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypermend.catalog.documents import MALFORMED, parse_json
from hypermend.catalog.errors import ArchiveError, BadAsset, BadItem, NotFound
from hypermend.catalog.readers.folder import Skipped, from_folder
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac.fields import links_of
from hypermend.catalog.stac.filters import ItemFilter
from hypermend.catalog.stac.item import from_item, items_in
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.hrefs import is_remote, resolve_href, shown
from hypermend.catalog.storage.transport import check_href

__all__ = ["Discovered", "ItemFilter", "Skipped", "discover", "from_folder"]
Discovered = Scene | Skipped
DOCUMENT_BYTES = 256 << 20
MAX_DEPTH = 32
MAX_BARREN = 10_000
"""Documents without an item, one after the other, after which a walk does not get on."""


def discover(
    where: str | Path,
    *,
    sensor: str | None = None,
    collections: Sequence[str] | None = None,
    bbox: Sequence[float] | None = None,
    datetime: str | None = None,
    query: Sequence[str] = (),
    limit: int | None = None,
) -> Iterator[Discovered]:
    """Scenes of a STAC API or of a static catalog, depending on the document at `where`.

    Args:
        sensor: the instrument, for items that do not name it.
        query: comparisons such as 'eo:cloud_cover<20'; all must hold.
        limit: largest number of scenes.

    Raises:
        BadAsset: no STAC document, or a filter that cannot be read.
        NotFound, Refused, Unreachable: the document cannot be reached.
    """
    filters = ItemFilter.of(collections=collections, bbox=bbox, datetime=datetime, query=query)
    href = _href(where)
    document = _document(href)
    _check_stac(document, href)
    if isinstance(document, Mapping) and _is_api(document):
        return _api(href, filters, sensor=sensor, limit=limit)
    return _deduplicated(_static(document, href, filters, sensor=sensor), limit)


def _deduplicated(results: Iterator[Discovered], limit: int | None) -> Iterator[Discovered]:
    """At most `limit` scenes; a second item of the same id becomes Skipped."""
    seen: set[tuple[str, str]] = set()
    for result in results:
        if isinstance(result, Skipped):
            yield result
            continue
        if limit is not None and len(seen) >= limit:
            return
        key = result.collection, result.id
        if key in seen:
            yield Skipped(
                id=result.id, reason=f"a second item of this id in collection {result.collection}; the first is used"
            )
            continue
        seen.add(key)
        yield result
        if limit is not None and len(seen) >= limit:
            return


def _scenes(
    items: Iterable[Mapping[str, Any]], filters: ItemFilter, *, href: str, within: str | None, sensor: str | None
) -> Iterator[Discovered]:
    for item in items:
        try:
            if filters.accepts(item):
                yield from_item(item, href=href, sensor=sensor, within=within)
        except BadItem as e:
            yield Skipped(id=e.id, reason=e.reason)
        except MALFORMED as e:  # in a comparison of a property of another type
            yield Skipped(id=str(item.get("id")), reason=f"it cannot be read: {type(e).__name__}: {e}")


def _api(url: str, filters: ItemFilter, *, sensor: str | None, limit: int | None) -> Iterator[Discovered]:
    from hypermend.catalog.stac.api import search_items  # loads pystac-client, which no folder and no catalog needs

    items = search_items(url, filters, limit=limit)
    return _deduplicated(_scenes(items, filters, href=url, within=None, sensor=sensor), limit)


@dataclass(kw_only=True)
class _Walk:
    """A walk through a static catalog, with its filters and the documents already visited."""

    filters: ItemFilter
    sensor: str | None
    within: str | None
    visited: set[str] = field(default_factory=set)
    barren: int = 0

    def scenes(self, document: Any, href: str, depth: int = 0) -> Iterator[Discovered]:
        items = list(items_in(document))
        self.barren = 0 if items else self.barren + 1
        yield from _scenes(items, self.filters, href=href, within=self.within, sensor=self.sensor)
        if not isinstance(document, Mapping) or document.get("type") == "Feature":
            return
        for link in links_of(document):
            if link.get("rel") in ("child", "item"):
                yield from self._follow(str(link.get("href", "")), href, depth + 1)

    def _follow(self, link: str, base: str, depth: int) -> Iterator[Discovered]:
        try:
            href = resolve_href(link, base, within=self.within)
            if href in self.visited:
                return  # a loop, or two links to one thing
            self.visited.add(href)
            if self.barren > MAX_BARREN:
                return
            if self.barren == MAX_BARREN:
                self.barren += 1
                raise BadAsset(f"{MAX_BARREN} documents without an item, one after the other: the catalog is left here")
            if depth > MAX_DEPTH:
                raise BadAsset(f"{shown(href)}: the catalog is nested deeper than {MAX_DEPTH}")
            document = _document(href)
            _check_stac(document, href)
        except (ArchiveError, ValueError) as e:
            yield Skipped(id=shown(link), reason=str(e))
            return
        yield from self.scenes(document, href, depth)


def _static(document: Any, href: str, filters: ItemFilter, *, sensor: str | None) -> Iterator[Discovered]:
    within = None if is_remote(href) else str(Path(href).parent)
    yield from _Walk(filters=filters, sensor=sensor, within=within, visited={href}).scenes(document, href)


def _is_api(document: Mapping[str, Any]) -> bool:
    return "conformsTo" in document or any(link.get("rel") == "search" for link in links_of(document))


def _check_stac(document: Any, href: str) -> None:
    """Refuse a document that is no STAC: it would be an empty catalog.

    Raises:
        BadAsset: says what it is instead, if that is known.
    """
    parts = [part for part in (document if isinstance(document, list) else [document]) if isinstance(part, Mapping)]
    if not any(
        {"stac_version", "conformsTo", "features"} & set(part)
        or part.get("type") == "Feature"
        or any("rel" in link for link in links_of(part))
        for part in parts
    ):
        what = "JSON of another kind"
        if any("umm" in part for part in parts):
            what = "a record of NASA's CMR in UMM; its STAC is at https://cmr.earthdata.nasa.gov/stac/LPCLOUD"
        raise BadAsset(f"{shown(href)}: is no STAC catalog, collection, item or item collection, but {what}")


def _href(where: str | Path) -> str:
    """Absolute URL or path; of a folder, that of the catalog in it."""
    text = str(where)
    if is_remote(text):
        return check_href(text)
    path = Path(text.removeprefix("file://")).resolve()
    if not path.is_dir():
        return str(path)
    for name in ("catalog.json", "collection.json"):
        if (path / name).is_file():
            return str(path / name)
    raise NotFound(f"{path}: neither catalog.json nor collection.json in it; make items with `hypermend catalog`")


def _document(href: str) -> Any:
    text = AssetFetcher(max_bytes=DOCUMENT_BYTES).read(href)
    try:
        return parse_json(text)
    except ValueError as e:
        raise BadAsset(f"{shown(href)}: is not a JSON document: {e}") from e
