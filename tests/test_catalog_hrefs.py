"""A catalog may name any address; those where machines keep their credentials are never asked."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypermend.catalog.errors import BadAsset
from hypermend.catalog.stac.discover import discover
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.hrefs import ALLOWED_HOSTS, refuse_host, resolve_href
from hypermend.catalog.storage.transport import send

METADATA = (
    "http://169.254.169.254/latest/meta-data/iam/",
    "http://2852039166/latest",
    "http://0xA9FEA9FE/latest",
    "http://0251.0376.0251.0376/latest",
    "http://[fe80::1]/x",
    "http://[::ffff:169.254.169.254]/x",
    "http://[fd00:ec2::254]/x",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://metadata.google.internal./computeMetadata/v1/",
    "http://[2002:a9fe:a9fe::]/x",
    "http://[64:ff9b::a9fe:a9fe]/x",
    "http://[::a9fe:a9fe]/x",
    "http://100.100.100.200/latest",
    "https://169.254.169.254:8443/x.tif?sig=SECRET",
)


@pytest.mark.parametrize("href", METADATA)
def test_link_local_addresses_are_refused_however_they_are_written(href: str) -> None:
    with pytest.raises(BadAsset, match="link-local address") as error:
        AssetFetcher().stat(href)
    assert "SECRET" not in str(error.value)
    with pytest.raises(BadAsset, match="link-local address"):
        list(discover(href))
    with pytest.raises(ValueError, match="link-local address"):  # before a name is resolved, as a proxy would do
        refuse_host(href)


def resolved(address: str, port: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
    return [(2, 1, 6, "", (address, port))]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_name_that_leads_there_is_refused(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", lambda host, port, *_, **__: resolved("169.254.169.254", port))
    with pytest.raises(BadAsset, match="link-local"):
        AssetFetcher().stat(f"{scheme}://innocent.example.test/a.tif")


class Away(http.server.BaseHTTPRequestHandler):
    """Sends everybody to the metadata service, or to the address in the query."""

    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", self.path.partition("?")[2] or METADATA[0])
        self.end_headers()

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def redirecting() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Away)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/x.json"
    server.shutdown()


def test_a_redirect_there_is_refused(redirecting: str) -> None:
    with pytest.raises(BadAsset, match="link-local address"):
        AssetFetcher().fetch(redirecting)


@pytest.mark.parametrize("href", ["ftp://127.0.0.1/a.tif", "file:///etc/hostname", "gopher://127.0.0.1/", "data:,x"])
def test_g4_a_redirect_to_another_scheme_is_refused(redirecting: str, href: str) -> None:
    with pytest.raises(BadAsset, match=r"has scheme|no such|the server answers 302"):
        AssetFetcher().fetch(f"{redirecting}?{href}")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_g4_the_address_that_is_asked_is_checked_not_only_the_one_that_is_shown(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signer may answer with any address."""
    monkeypatch.setenv(ALLOWED_HOSTS, "good.test")
    with pytest.raises(BadAsset, match="is not among HYPERMEND_ALLOWED_HOSTS"):
        send("http://good.test/a.tif", f"{scheme}://127.0.0.1:9/a.tif")


def test_g4_a_long_href_is_no_address() -> None:
    with pytest.raises(ValueError, match="has 5004 characters, the limit is 4096"):
        resolve_href("a/" * 2502, "http://a.test/items/")


def test_hosts_can_be_limited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(ALLOWED_HOSTS, "*.dlr.de, my-bucket")
    refuse_host("https://download.geoservice.dlr.de/a.tif")
    refuse_host("https://download.geoservice.dlr.de./a.tif")
    refuse_host("s3://my-bucket/a.tif")
    refuse_host(str(tmp_path / "a.tif"))
    for href in ("https://127.0.0.1/a.tif", "s3://other/a.tif", "http://dlr.de.evil.test/x"):
        with pytest.raises(ValueError, match="is not among HYPERMEND_ALLOWED_HOSTS"):
            refuse_host(href)
