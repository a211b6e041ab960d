"""Servers that answer what no server should: each answer is one error of a search or a file (G3, G5)."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from hypermend.catalog.errors import ArchiveError, Refused
from hypermend.catalog.stac.discover import Skipped, discover
from hypermend.catalog.storage import transport
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.hrefs import redact, shown, unsigned

pytestmark = pytest.mark.fault
ITEM = {"type": "Feature", "stac_version": "1.0.0", "id": "x", "geometry": None, "properties": {"datetime": None}}
BODY = json.dumps(ITEM | {"links": [], "assets": {}}).encode()
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
Serve = Callable[[bytes], str]


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "FIRST_WAIT_S", 0.001)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A factory: `serve(answer)` sends these bytes to whoever asks, closes the connection, and gives its URL."""
    sockets: list[socket.socket] = []

    def listen(server: socket.socket, answer: bytes) -> None:
        while True:
            try:
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)
            except OSError:
                if server.fileno() < 0:
                    return

    def start(answer: bytes) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        sockets.append(server)
        threading.Thread(target=listen, args=(server, answer), daemon=True).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}/x.json"

    yield start
    for server in sockets:
        server.close()


def outcomes(url: str) -> list[type[ArchiveError] | None]:
    """How a search, a whole file and its first bytes end; any other error fails the test."""
    found: list[type[ArchiveError] | None] = []
    for use in (lambda: list(discover(url)), lambda: AssetFetcher().read(url), lambda: AssetFetcher().head(url, 9)):
        try:
            use()
            found.append(None)
        except ArchiveError as error:
            found.append(type(error))
    return found


@pytest.mark.parametrize(
    "value",
    [b"\xb2", b"9" * 5000, b"31536000", b"Mon, 01 Jan 99999999999999999999 00:00:00 GMT", b"Mon, 01 Jan 99999 0:0 GMT"],
)
def test_g5_no_time_that_a_server_asks_to_wait_is_waited_for_without_end(serve: Serve, value: bytes) -> None:
    assert None not in outcomes(serve(b"HTTP/1.1 429 No\r\nRetry-After: " + value + b"\r\n\r\n"))
    odd = b"HTTP/1.1 429 No\r\nRetry-After: Mon, 01 Jan 2024 00:00:00 GMT\r\nDate: " + value + b"\r\n\r\n"
    assert None not in outcomes(serve(odd))


@pytest.mark.parametrize("value", [b"abc", b"9" * 5000, b"\xb2", b" ", b"1.5", b"-5"])
def test_g3_a_length_that_is_no_number_is_none(serve: Serve, value: bytes) -> None:
    search, whole, _ = outcomes(serve(JSON + b"Content-Length: " + value + b"\r\n\r\n" + BODY))
    assert (search, whole) == (None, None)


@pytest.mark.parametrize("value", [b"bytes 0-0/" + b"9" * 5000, b"bytes " + b"9" * 5000 + b"-0/5", b"bytes 0-0/\xb2"])
def test_g3_a_range_that_is_none_is_an_error(serve: Serve, value: bytes) -> None:
    answer = b"HTTP/1.1 206 P\r\nContent-Type: application/json\r\nContent-Range: " + value + b"\r\n\r\n"
    assert None not in outcomes(serve(answer + BODY))[:2]


@pytest.mark.parametrize(
    "to",
    ["http://[", "//[/", "http://" + "a" * 80 + ".com/", "http://a..b/", "http://.a/", "http://\u2100/", "file:///"],
)
def test_g3_a_redirect_to_what_is_no_address_is_an_error(serve: Serve, to: str) -> None:
    answer = f"HTTP/1.1 302 F\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()
    assert None not in outcomes(serve(answer))


def test_g3_a_chunk_of_negative_length_is_a_broken_connection(serve: Serve) -> None:
    assert None not in outcomes(serve(JSON + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nabc"))[:2]


@pytest.mark.parametrize(
    "document",
    [
        {"conformsTo": 5},
        {"conformsTo": [], "links": [{"rel": "search", "href": "http://["}]},
        {"conformsTo": ["https://api.stacspec.org/v1.0.0/item-search"], "type": "Collection", "id": 5, "links": 5},
        {"conformsTo": ["https://api.stacspec.org/v1.0.0/item-search"], "type": "FeatureCollection", "features": []},
        {"links": [{"rel": "search", "href": "x"}], "type": "Collection", "stac_version": "1.0.0", "extent": 5},
    ],
    ids=lambda document: json.dumps(document)[:50],
)
def test_g3_an_api_that_is_none_is_an_error(serve: Serve, document: object) -> None:
    body = json.dumps(document).encode()
    assert outcomes(serve(JSON + f"Content-Length: {len(body)}\r\n\r\n".encode() + body))[0] is not None


def test_g3_a_link_to_what_is_no_address_costs_itself_alone(serve: Serve) -> None:
    links = [{"rel": "child", "href": "http://["}, {"rel": "item", "href": "http://u:pw@[/x?sig=s"}]
    body = json.dumps({"links": links, "features": [ITEM | {"links": [], "assets": {}}], "type": "FeatureCollection"})
    found = list(discover(serve(JSON + b"\r\n" + body.encode())))
    assert all(isinstance(scene, Skipped) for scene in found) and len(found) == 3
    assert "pw" not in str(found) and "sig" not in str(found)


def test_g4_what_is_no_address_is_shown_without_its_password() -> None:
    for show in (shown, redact, unsigned):
        assert show("http://u:pw@[/x?sig=s") == "http://[/x"
    for address in ("http://[", "s3://u:pw@["):
        with pytest.raises(Refused, match="an archive is a local folder") as refused:
            ArchiveStore(address)
        assert "pw" not in str(refused.value)
    with pytest.raises(ArchiveError):
        list(discover("http://["))
