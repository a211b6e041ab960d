"""Every door to a server: its host is checked at each hop, and bytes and seconds have a limit."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from hypermend.catalog.errors import ArchiveError, BadAsset, Refused, Unreachable
from hypermend.catalog.stac.discover import discover
from hypermend.catalog.storage import connect, gate, transport
from hypermend.catalog.storage.download import decompressed
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.hrefs import ALLOWED_HOSTS
from tests.conftest import TrapServer

pytestmark = pytest.mark.fault
Traps = Callable[[Path], TrapServer]


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "FIRST_WAIT_S", 0.01)


@pytest.fixture
def server(traps: Traps, tmp_path: Path) -> TrapServer:
    (tmp_path / "a.json").write_text('{"stac_version": "1.0.0", "type": "Catalog", "id": "a", "links": []}')
    items = [{"id": f"i{n}", "collection": "c", "properties": {"eo:cloud_cover": 0}} for n in range(12)]
    (tmp_path / "items.json").write_text(json.dumps(items))
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", count=1, height=9, width=9, dtype="uint8") as out:
        out.write(np.ones((1, 9, 9), dtype="uint8"))
    return traps(tmp_path)


def paths(server: TrapServer) -> list[str]:
    return [r["path"] for r in server.requests()]


def names(monkeypatch: pytest.MonkeyPatch, answers: dict[str, list[str]]) -> list[str]:
    """Let names resolve to these addresses, one after the other; returns the names as they are asked for."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if host not in answers:
            return real(host, port, *args, **kwargs)
        asked.append(host)
        return [(2, 1, 6, "", (answers[host].pop(0) if len(answers[host]) > 1 else answers[host][0], port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_g4_a_search_is_not_redirected_to_a_host_that_is_not_allowed(
    server: TrapServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ALLOWED_HOSTS, "127.0.0.1")
    with pytest.raises(BadAsset, match="localhost is not among HYPERMEND_ALLOWED_HOSTS"):
        list(discover(f"{server.url}/stac/strayed/"))
    assert not [path for path in paths(server) if "there" in path]


def test_g4_a_name_is_resolved_once_and_the_address_that_was_checked_is_asked(
    server: TrapServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = names(monkeypatch, {"two-faced.test": ["127.0.0.1", "169.254.169.254"]})
    url = server.url.replace("127.0.0.1", "two-faced.test")
    assert AssetFetcher().stat(f"{url}/plain/a.json").size == 68
    assert asked == ["two-faced.test"]
    assert server.requests()[0]["headers"]["Host"] == url.removeprefix("http://")
    with pytest.raises(BadAsset, match=r"two-faced\.test leads to 169\.254\.169\.254"):
        AssetFetcher().stat(f"{url}/plain/a.json")


def test_g4_an_address_with_a_password_is_refused_and_not_shown(server: TrapServer) -> None:
    href = server.url.replace("://", "://user:pa55word@") + "/plain/a.json"
    for call in (AssetFetcher().stat, AssetFetcher().read, lambda where: list(discover(where))):
        with pytest.raises(BadAsset, match="with a user or password") as error:
            call(href)
        assert "pa55word" not in str(error.value)
    assert not server.requests()


def test_g4_every_address_of_a_name_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [(2, 1, 6, "", ("127.0.0.1", 9)), (10, 1, 6, "", ("64:ff9b::a9fe:a9fe", 9, 0, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with pytest.raises(BadAsset, match="64:ff9b::a9fe:a9fe"):
        connect.connect(("mixed.test", 9))


def test_g4_gdal_does_not_follow_a_redirect_to_a_host_that_is_not_allowed(
    server: TrapServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    href = f"{server.url}/astray/a.tif"
    assert AssetFetcher().raster(href, lambda dataset: dataset.read().sum()) == 81  # any host: GDAL follows
    monkeypatch.setenv(ALLOWED_HOSTS, "127.0.0.1")
    before = len(server.requests())
    fetcher = AssetFetcher()
    fetcher._redirects[href] = None  # as if the redirect came after the look at the file
    with pytest.raises(ArchiveError):
        fetcher.raster(href, lambda dataset: dataset.read())
    assert not [r for r in server.requests()[before:] if r["headers"]["Host"].startswith("localhost")]


@pytest.mark.parametrize("proxied", [True, False])
def test_g4_the_proxy_of_the_user_is_asked_in_place_of_the_gate(monkeypatch: pytest.MonkeyPatch, proxied: bool) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    host = "a.test" if proxied else "127.0.0.1"
    assert (gate.gdal_proxy(f"https://{host}/a.tif") is None) is proxied


def test_g4_nobody_else_passes_the_gate(server: TrapServer) -> None:
    proxy = gate.gdal_proxy(server.url)
    assert proxy is not None
    with socket.create_connection(("127.0.0.1", int(proxy.rpartition(":")[2]))) as stranger:
        stranger.sendall(b"\x05\x01\x02" + b"\x01\x09hypermend\x01x")
        assert stranger.recv(2) == b"\x05\x02"
        assert stranger.recv(2) == b""


def test_g4_the_gate_connects_to_no_name_that_leads_to_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, {"innocent.test": ["169.254.169.254"]})
    with gate._Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with socket.create_connection(("127.0.0.1", server.server_address[1])) as gdal:
            user, password = b"hypermend", server.password.encode()
            gdal.sendall(b"\x05\x01\x02\x01" + bytes([len(user)]) + user + bytes([len(password)]) + password)
            assert gdal.recv(4, socket.MSG_WAITALL) == b"\x05\x02\x01\x00"
            gdal.sendall(b"\x05\x01\x00\x03\x0dinnocent.test\x00\x50")
            gdal.settimeout(10)
            assert gdal.recv(2, socket.MSG_WAITALL) == b"\x05\x02"  # not allowed
        server.shutdown()


def test_g4_what_is_too_large_is_not_asked_for(server: TrapServer) -> None:
    with pytest.raises(Refused, match="68 bytes, this format is read whole and the limit is 10"):
        AssetFetcher(max_bytes=10).read(f"{server.url}/plain/a.json")
    assert [request["headers"].get("Range") for request in server.requests()] == ["bytes=0-0"]


def test_g4_a_file_that_says_it_is_empty_is_limited() -> None:
    with pytest.raises(Refused, match="read whole and the limit is 10"):
        AssetFetcher(max_bytes=10).read("/proc/self/status")


def test_g4_a_document_is_limited_after_decompression(server: TrapServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypermend.catalog.stac.api.PAGE_BYTES", 1 << 20)
    fetcher = AssetFetcher(max_bytes=1 << 20)
    with pytest.raises(Refused, match=r"bytes of gzip hold more than the limit of 1048576"):
        fetcher.read(f"{server.url}/packed/a.json")
    with pytest.raises(Refused, match=r"failed at page 1.*gzip hold more"):
        list(discover(f"{server.url}/stac/packed/"))
    assert len(AssetFetcher(max_bytes=1 << 24).read(f"{server.url}/packed/a.json")) > 8 << 20


def test_g4_no_more_is_unpacked_than_the_limit() -> None:
    body = gzip.compress(bytes(64 << 20))
    tracemalloc.start()
    with pytest.raises(Refused, match="hold more than the limit of 1048576"):
        decompressed(body, "gzip", "http://a.test/a.json", 1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize(
    ("body", "encoding", "says"),
    [
        (gzip.compress(b"{}" * 50, mtime=0)[:-4], "gzip", "cut short"),
        (gzip.compress(b"{}", mtime=0) + b"more", "gzip", "more after its end"),
        (gzip.compress(b"{}", mtime=0)[:10] + bytes(20), "gzip", "damaged"),
        (b"{}", "br", "which nobody asked for"),
    ],
)
def test_g4_a_body_that_was_packed_is_whole_and_of_a_known_kind(body: bytes, encoding: str, says: str) -> None:
    with pytest.raises(BadAsset, match=says):
        decompressed(body, encoding, "http://a.test/a.json", 1 << 20)


class Sizeless(http.server.BaseHTTPRequestHandler):
    """Sends three megabytes to everybody and says no size."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(bytes(3 << 20))

    def log_message(self, *args: object) -> None: ...


def test_g4_a_body_of_unknown_size_is_limited() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sizeless) as sizeless:
        threading.Thread(target=sizeless.serve_forever, daemon=True).start()
        href = f"http://127.0.0.1:{sizeless.server_port}/a.h5"
        with pytest.raises(Refused, match="read whole and the limit is 1048576"):
            AssetFetcher(max_bytes=1 << 20).read(href)
        with pytest.raises(Refused, match="does not give its size"):
            AssetFetcher().seekable(href)
        sizeless.shutdown()


def test_g4_a_page_is_limited(server: TrapServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypermend.catalog.stac.api.PAGE_BYTES", 200)
    with pytest.raises(Refused, match="read whole and the limit is 200"):
        list(discover(f"{server.url}/stac/turning/"))


@pytest.mark.parametrize("way", ["drip", "dripping"])
def test_g5_an_answer_that_never_ends_is_given_up(
    server: TrapServer, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(connect, "PATIENCE_S", 0.3)
    monkeypatch.setattr(transport, "TRIES", 2)
    begun = time.monotonic()
    with pytest.raises(Unreachable, match=r"connection closed|too slow|timed out"):
        AssetFetcher().read(f"{server.url}/{way}/a.json")
    assert time.monotonic() - begun < 10


def test_g5_bytes_that_are_there_too_late_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "PATIENCE_S", -1.0)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"x")
        with pytest.raises(TimeoutError, match="too slow"):
            connect._Paced(ours).readinto(bytearray(1))


def test_g5_a_silent_server_is_waited_for_no_longer_than_an_answer_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "PATIENCE_S", 0.2)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            connect._Paced(ours).readinto(bytearray(1))
        assert time.monotonic() - begun < 3


@pytest.mark.parametrize("kind", ["turning", "empty"])
def test_g5_pages_without_a_new_item_end(server: TrapServer, kind: str) -> None:
    with pytest.raises(BadAsset, match="50 pages without a new item"):
        list(discover(f"{server.url}/stac/{kind}/"))


def test_g5_a_static_catalog_without_an_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folders lead into each other under ever new names, 32 deep and two to each."""
    (tmp_path / "catalog.json").write_text(
        json.dumps(
            {
                "type": "Catalog", "id": "c", "stac_version": "1.0.0",
                "links": [{"rel": "child", "href": f"./{name}/catalog.json"} for name in "ab"],
            }
        )
    )  # fmt: skip
    for name in "ab":
        (tmp_path / name).symlink_to(tmp_path)
    monkeypatch.setattr("hypermend.catalog.stac.discover.MAX_BARREN", 100)
    found = list(discover(tmp_path))
    assert len([one for one in found if "100 documents without an item" in str(one)]) == 1
    assert len(found) < 200
