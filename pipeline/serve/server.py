"""The server: routes, what is refused before a route, and what is sent with every answer.

Nothing is ever written, and nothing but GET, HEAD and a search by POST is answered. On the loopback interface requests
are answered only if they name it as their host: a page of the web whose name leads to 127.0.0.1 gets nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import re
import signal
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar
from urllib.parse import unquote

from aiohttp import web

from hypermend.catalog.documents import parse_json, visible
from hypermend.catalog.errors import AccessDenied, ArchiveError, BadAsset, NotFound, Refused, Unreachable
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.serve import pixel, stac_api
from hypermend.pipeline.serve.listing import Listing, Listings, Page
from hypermend.pipeline.serve.page import browser_page
from hypermend.pipeline.serve.search_request import (
    SearchRequest,
    parse_body,
    parse_query_string,
)

log = logging.getLogger(__name__)
MOST_BODY_BYTES = 1 << 20
WAIT_S = 15.0
"""For the headers of a request, and for its body."""
CHUNK_BYTES = 1 << 20
AT_ONCE = 8
"""Requests that read the archive at the same time; more wait."""
GEOJSON = "application/geo+json"
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HOST = re.compile(r"^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?$")
_RANGE = re.compile(r"^bytes=(\d{0,18})-(\d{0,18})$")
_HEADERS = {
    "Server": "hypermend",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "Cache-Control": "no-cache",
}
_STATUS: tuple[tuple[type[ArchiveError], int], ...] = (
    (NotFound, 404),
    (BadAsset, 400),
    (Refused, 400),
    (AccessDenied, 502),
    (Unreachable, 502),
)
_MEDIA_TYPES = {"json": "application/json", "png": "image/png"}
T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """The answers of one archive."""

    def __init__(self, root: ArchiveStore, *, host: str) -> None:
        self._root = root
        self._listings = Listings(root)
        self._loopback = is_loopback(host)
        self._page = browser_page(root.url if self._loopback else None)
        self._turns = asyncio.Semaphore(AT_ONCE)

    def application(self) -> web.Application:
        """The application for a runner of aiohttp."""
        app = web.Application(middlewares=[self._guard], client_max_size=MOST_BODY_BYTES)
        app.on_response_prepare.append(_add_headers)
        one = "/collections/{collection}/items/{item:.+}"  # pystac-client asks for an id with a slash as it is
        app.add_routes(
            [
                web.get("/", self._root_page),
                web.get("/conformance", self._conformance),
                web.get("/api", self._openapi),
                web.get("/collections", self._collections),
                web.get("/collections/{collection}", self._collection),
                web.get("/collections/{collection}/items", self._items_of_collection),
                web.get(f"{one}/spectrum", self._spectrum),
                web.get(one, self._item),
                web.get("/search", self._search_get),
                web.post("/search", self._search_post),
                web.get("/footprints", self._footprints),
                web.get("/data/{key:.+}", self._data),
            ]
        )
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse foreign hosts and methods; turn errors of the archive into answers."""
        match = _HOST.match(request.headers.get("Host", ""))
        if match is None or (self._loopback and match[1].lower() not in _LOOPBACK_NAMES):
            return _problem(421 if match else 400, "this server answers to localhost, 127.0.0.1 and [::1] only")
        if request.method not in ("GET", "HEAD") and not (request.method == "POST" and request.path == "/search"):
            return _problem(405, "this server is read-only", {"Allow": "GET, HEAD"})
        try:
            return await handler(request)
        except web.HTTPException as e:
            return _problem(e.status, e.reason, {"Allow": e.headers["Allow"]} if "Allow" in e.headers else {})
        except ArchiveError as e:
            status = next((status for kind, status in _STATUS if isinstance(e, kind)), 500)
            if status >= 500:
                log.warning("%s: %s", visible(request.path), visible(str(e)))
            return _problem(status, str(e).replace(self._root.url, "the archive"))

    async def _run(self, work: Callable[[], T]) -> T:
        """Do what waits for a disk or a store beside the loop."""
        async with self._turns:
            return await asyncio.to_thread(work)

    async def _listed(self, work: Callable[[Listing], T]) -> T:
        return await self._run(lambda: work(self._listings.now()))

    async def _root_page(self, request: web.Request) -> web.StreamResponse:
        if "text/html" in request.headers.get("Accept", ""):
            headers = {"Content-Security-Policy": self._page.policy, "Vary": "Accept"}
            return web.Response(body=self._page.body, content_type="text/html", charset="utf-8", headers=headers)
        document = await self._listed(lambda listing: stac_api.landing_page(_base(request), listing))
        return _json(document, headers={"Vary": "Accept"})

    async def _conformance(self, request: web.Request) -> web.StreamResponse:
        return _json(stac_api.conformance())

    async def _openapi(self, request: web.Request) -> web.StreamResponse:
        return _json(stac_api.openapi(_base(request)), content_type="application/vnd.oai.openapi+json")

    async def _collections(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._listed(lambda listing: stac_api.collections(_base(request), listing)))

    async def _collection(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["collection"]
        return _json(await self._listed(lambda listing: stac_api.collection(_base(request), listing, name)))

    async def _items_of_collection(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["collection"]
        fields = _fields(request)
        wanted = parse_query_string(fields).within(name)

        def found(listing: Listing) -> dict[str, Any]:
            stac_api.collection(_base(request), listing, name)
            page = listing.page(wanted)
            links = stac_api.get_links(_base(request), request.rel_url.raw_path, dict(fields), page)
            return {**stac_api.items(_base(request), listing, page), "links": links}

        return _json(await self._listed(found), content_type=GEOJSON)

    async def _item(self, request: web.Request) -> web.StreamResponse:
        collection, id = request.match_info["collection"], request.match_info["item"]

        def found(listing: Listing) -> dict[str, Any]:
            row, stored = listing.document(collection, id)
            return stac_api.item(_base(request), listing, row, stored)

        return _json(await self._listed(found), content_type=GEOJSON)

    async def _spectrum(self, request: web.Request) -> web.StreamResponse:
        collection, id = request.match_info["collection"], request.match_info["item"]
        places = dict(_fields(request))
        if places.keys() - {"row", "column"}:
            raise BadAsset("there are row and column")
        row, column = (_place(name, places.get(name)) for name in ("row", "column"))

        def found(listing: Listing) -> dict[str, Any]:
            return pixel.spectra(self._root, listing.scene(collection, id), row, column)

        return _json(await self._listed(found))

    async def _search_get(self, request: web.Request) -> web.StreamResponse:
        fields = _fields(request)
        wanted = parse_query_string(fields)
        return await self._found(
            request, wanted, lambda page: stac_api.get_links(_base(request), "/search", dict(fields), page)
        )

    async def _search_post(self, request: web.Request) -> web.StreamResponse:
        try:
            async with asyncio.timeout(WAIT_S):
                text = await request.read()
        except TimeoutError:
            raise web.HTTPRequestTimeout from None
        try:
            body = parse_json(text) if text else {}
        except ValueError as e:
            raise BadAsset("the body is no JSON") from e
        wanted = parse_body(body)
        return await self._found(request, wanted, lambda page: stac_api.post_links(_base(request), body, page))

    async def _found(
        self, request: web.Request, wanted: SearchRequest, links: Callable[[Page], list[dict[str, Any]]]
    ) -> web.StreamResponse:
        def found(listing: Listing) -> dict[str, Any]:
            page = listing.page(wanted)
            return {**stac_api.items(_base(request), listing, page), "links": links(page)}

        return _json(await self._listed(found), content_type=GEOJSON)

    async def _footprints(self, request: web.Request) -> web.StreamResponse:
        body = await self._listed(lambda listing: listing.footprints)
        return web.Response(body=body, content_type="application/json", headers={"Content-Encoding": "gzip"})

    async def _data(self, request: web.Request) -> web.StreamResponse:
        """One object below a cube or beside it, whole or a range of it."""
        key = stac_api.served_key(unquote(request.rel_url.raw_path).removeprefix("/data/"))
        entry = await self._run(lambda: self._root.stat(key))
        if entry is None:
            raise NotFound("no such object")
        headers = {"ETag": f'"{entry.version}"', "Accept-Ranges": "bytes"}
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        start, stop = 0, entry.size
        if (asked := request.headers.get("Range")) is not None:
            found = _range(asked, entry.size)
            if found is None:
                return _problem(416, "no such range", {"Content-Range": f"bytes */{entry.size}"})
            start, stop = found
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{entry.size}"
        answer = web.StreamResponse(status=200 if asked is None else 206, headers=headers)
        answer.content_type = _MEDIA_TYPES.get(key.rpartition(".")[2], "application/octet-stream")
        answer.content_length = stop - start
        if request.method == "HEAD":
            await answer.prepare(request)
            return answer
        for at in range(start, stop, CHUNK_BYTES):
            part = await self._run(partial(self._root.get_range, key, at, min(at + CHUNK_BYTES, stop)))
            if not answer.prepared:  # an object that cannot be read is an answer of its own
                await answer.prepare(request)
            await answer.write(part)
        if not answer.prepared:
            await answer.prepare(request)
        await answer.write_eof()
        return answer


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(root: ArchiveStore, *, host: str, port: int, started: Callable[[str], None]) -> None:
    """Serve an archive until SIGINT or SIGTERM.

    Args:
        root: the archive.
        host, port: to listen at; port 0 for any that is free.
        started: gets the address once the server listens.

    Raises:
        Refused: the address cannot be listened at.
        Unreachable, AccessDenied: the archive cannot be read.
    """
    asyncio.run(_serve(root, host, port, started))


async def _serve(root: ArchiveStore, host: str, port: int, started: Callable[[str], None]) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    runner = web.AppRunner(
        Server(root, host=host).application(),
        access_log=None,
        auto_decompress=False,  # a small body would become a large one
        keepalive_timeout=WAIT_S,  # it also ends a connection whose request never comes
        handle_signals=False,
        shutdown_timeout=1.0,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except (OSError, OverflowError) as e:
            reason = getattr(e, "strerror", None) or e
            raise Refused(f"cannot listen at {host}, port {port}: {reason}; give another --host or --port") from e
        bound = runner.addresses[0]
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        started(f"http://{shown}:{bound[1]}/")
        await ended.wait()
    finally:
        await runner.cleanup()


async def _add_headers(request: web.Request, answer: web.StreamResponse) -> None:
    answer.headers.extend({name: value for name, value in _HEADERS.items() if name not in answer.headers})


def _base(request: web.Request) -> str:
    """The address as the client wrote it: it may come through a tunnel to another port."""
    return f"http://{request.headers['Host']}"


def _fields(request: web.Request) -> Sequence[tuple[str, str]]:
    return [(name, value) for name, value in request.query.items()]


def _place(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,9}", text):
        raise BadAsset(f"{name} takes a whole number from 0")
    return int(text)


def _range(header: str, size: int) -> tuple[int, int] | None:
    """Start and stop of the one range that a header asks for; None where there is no such range."""
    match = _RANGE.match(header)
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        start, stop = max(0, size - int(match[2])), size
    else:
        start, stop = int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)
    return (start, stop) if start < stop else None


def _json(value: Any, *, content_type: str = "application/json", headers: dict[str, str] | None = None) -> web.Response:
    answer = web.json_response(value, content_type=content_type, headers=headers, dumps=_dumps)
    answer.enable_compression()
    return answer


def _dumps(value: Any) -> str:
    """JSON, in which a NaN that an item holds is null."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(json.loads(json.dumps(value), parse_constant=lambda _: None))


def _problem(status: int, description: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"code": status, "description": visible(description)}, status=status, headers=headers)
