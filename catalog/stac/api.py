"""Search of a STAC API: which filters it gets, its pages, and what goes wrong between them.

The items are not trusted: `discover` compares every one with the filters. What is sent here only makes answers small.
"""

from __future__ import annotations

import http.client
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

import pystac_client
from pystac import STACError
from pystac_client.errors import ClientTypeError
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO

from hypermend.catalog import dateline
from hypermend.catalog.documents import MALFORMED
from hypermend.catalog.errors import ArchiveError, BadAsset, Unreachable
from hypermend.catalog.stac.fields import links_of
from hypermend.catalog.stac.filters import ItemFilter
from hypermend.catalog.storage.download import read_all
from hypermend.catalog.storage.hrefs import shown
from hypermend.catalog.storage.transport import send, with_retries

log = logging.getLogger(__name__)
PAGE_ITEMS = 100
"""Items of a page; servers allow at most 500 (DLR) to 10,000."""
PAGE_BYTES = 64 << 20
PAGES_WITHOUT_ITEMS = 50
"""Pages without a new item, one after the other, after which a search does not get on."""
_READ_ERRORS = (*MALFORMED, NotImplementedError, STACError, ClientTypeError, APIError)
"""Errors of pystac-client, and of this module, for an answer that is no STAC."""


def search_items(url: str, filters: ItemFilter, *, limit: int | None) -> Iterator[Mapping[str, Any]]:
    """The items of a search at the API `url`, page after page; they still have to pass the filters.

    A box over the date line is asked for as its two parts: not every server reads west > east.

    Raises:
        BadAsset: no STAC API, or pages that repeat.
        AccessDenied, NotFound, Refused, Unreachable: the page that cannot be reached is named.
    """
    try:
        client = pystac_client.Client.open(url, stac_io=_Transport())
        method = _method(client)
        optional = _comparisons(client, filters, method)
        links = client.get_links("search")
        search_href = links[0].absolute_href if links else f"{url.rstrip('/')}/search"
    except _READ_ERRORS as e:
        raise BadAsset(f"{shown(url)}: is no STAC API that can be searched: {e}") from e
    sent: set[tuple[str, str]] = set()
    boxes = [None] if filters.bbox is None else dateline.parts(filters.bbox)
    for box in boxes:
        parameters: dict[str, Any] = {"limit": min(limit or PAGE_ITEMS, PAGE_ITEMS)}
        if filters.collections:
            parameters["collections"] = list(filters.collections)
        if box is not None:
            parameters["bbox"] = list(box)
        if filters.datetime is not None:
            parameters["datetime"] = filters.datetime
        pages = _Pages(url=url, first=_Request(method, search_href, parameters), optional=optional)
        for item in pages.items():
            key = str(item.get("collection")), str(item.get("id"))
            if len(boxes) == 1 or key not in sent:  # the second part of a box finds again what lies across the line
                yield item
            if box is boxes[0]:
                sent.add(key)


class _Transport(StacApiIO):
    """pystac-client over the catalog's own requests: http only, checked redirects, retries, classified errors."""

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        if not href.startswith(("http://", "https://")):
            raise BadAsset(f"the STAC API links to {shown(href)}; only http and https are followed")
        body = None
        if (method or "GET").upper() == "POST":
            body = json.dumps(parameters or {}).encode()
            headers = {**(headers or {}), "Content-Type": "application/json"}
        elif parameters:
            href = _with_query(href, as_query(parameters))
        headers = {"Accept": "application/geo+json, application/json", **(headers or {})}

        def attempt() -> str:
            try:
                with send(href, headers=headers, data=body) as response:
                    return read_all(response, href, PAGE_BYTES).decode()
            except (OSError, http.client.HTTPException) as e:
                raise Unreachable(f"{shown(href)}: connection closed ({type(e).__name__})") from None

        return with_retries(attempt)


@dataclass(frozen=True)
class _Request:
    """One page's request."""

    method: str
    href: str
    parameters: Mapping[str, Any]

    def key(self) -> str:
        return json.dumps([self.method, self.href, self.parameters], sort_keys=True)


@dataclass(kw_only=True)
class _Pages:
    """The pages of one search."""

    url: str
    first: _Request
    optional: Mapping[str, Any]
    """comparisons of properties: the search goes on without them if the server refuses them"""
    page: int = 0
    found: int = 0
    _seen: dict[str, int] = field(default_factory=dict)
    _items: set[int] = field(default_factory=set)
    _in_vain: int = 0

    def items(self) -> Iterator[Mapping[str, Any]]:
        """Items of all pages; the error of a search that fails names the page."""
        try:
            request: _Request | None = self.first
            while request is not None:
                body = self._read(request)
                for item in body.get("features") or []:
                    self.found += 1
                    yield item if isinstance(item, Mapping) else {}  # one that is no item is named as such
                self._gets_on([item for item in body.get("features") or [] if isinstance(item, Mapping)])
                request = self._next(body, request)
        except ArchiveError as e:
            where = f"search at {shown(self.url)} failed at page {self.page} after {self.found} items"
            error = type(e)(f"{where}: {e}")
            raise error from e
        except _READ_ERRORS as e:
            raise BadAsset(f"search at {shown(self.url)}: page {self.page} is no item collection: {e}") from e

    def _read(self, request: _Request) -> Mapping[str, Any]:
        self.page += 1
        self._once(request.key(), "its next link leads")
        io = _Transport()
        parameters = {**request.parameters, **(self.optional if self.page == 1 else {})}
        try:
            text = io.request(request.href, request.method, parameters=parameters)
        except BadAsset as e:
            if self.page > 1 or not self.optional:
                raise
            log.warning("%s; the search goes on without %s", e, " and ".join(sorted(self.optional)))
            self.optional = {}
            text = io.request(request.href, request.method, parameters=dict(request.parameters))
        body = json.loads(text)
        if not isinstance(body, dict):
            raise TypeError("it is no object")
        found = [item for item in body.get("features") or [] if isinstance(item, Mapping)]
        ids = [(item.get("collection"), item.get("id")) for item in found]
        if ids:
            self._once(json.dumps(ids), "its items lead")
        return body

    def _once(self, key: str, what: str) -> None:
        if (before := self._seen.setdefault(key, self.page)) != self.page:
            raise BadAsset(
                f"{what} back to page {before}: the server does not get on; narrow the search with --bbox, --datetime"
            )

    def _gets_on(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Refuse page after page without an item that is new, whatever their links and their order."""
        new = {hash((str(item.get("collection")), str(item.get("id")))) for item in items} - self._items
        self._items |= new
        self._in_vain = 0 if new else self._in_vain + 1
        if self._in_vain >= PAGES_WITHOUT_ITEMS:
            raise BadAsset(
                f"{self._in_vain} pages without a new item: the server does not get on; narrow the search with --bbox, "
                "--datetime"
            )

    def _next(self, body: Mapping[str, Any], request: _Request) -> _Request | None:
        """The request of the next page, with the parameters of the search that its link has lost."""
        link = next((link for link in links_of(body) if link.get("rel") == "next" and link.get("href")), None)
        if link is None:
            return None
        href = urljoin(request.href, str(link["href"]))
        asked = {**self.first.parameters, **self.optional}
        if str(link.get("method") or "GET").upper() == "POST":
            given = link.get("body") or {}
            return _Request("POST", href, {**asked, **given})
        there = {name for name, _ in parse_qsl(urlsplit(href).query, keep_blank_values=True)}
        return _Request("GET", href, {name: value for name, value in asked.items() if name not in there})


def as_query(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Parameters of a search as a GET request writes them."""
    out: dict[str, str] = {}
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            out[name] = json.dumps(value, separators=(",", ":"))
        elif isinstance(value, Sequence) and not isinstance(value, str):
            out[name] = ",".join(f"{v:.12g}" if isinstance(v, float) else str(v) for v in value)
        else:
            out[name] = str(value)
    return out


def _method(client: pystac_client.Client) -> str:
    """GET where the API offers nothing else, else POST."""
    offered = {str(link.extra_fields.get("method", "")).upper() for link in client.get_links("search")}
    return "GET" if offered == {"GET"} else "POST"


def _comparisons(client: pystac_client.Client, filters: ItemFilter, method: str) -> dict[str, Any]:
    """The comparisons of properties in the language that the API understands; {} if it understands none."""
    if not filters.comparisons:
        return {}
    if client.conforms_to("QUERY"):
        return {"query": filters.as_query()}
    if client.conforms_to("FILTER") and method == "POST":  # GET would need CQL2 as text
        return {"filter": filters.as_cql2(), "filter-lang": "cql2-json"}
    return {}


def _with_query(href: str, parameters: Mapping[str, str]) -> str:
    parts = urlsplit(href)
    query = "&".join(part for part in (parts.query, urlencode(parameters)) if part)
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, parts.fragment))
