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
from hypermend.catalog.storage.hrefs import ALLOWED_HOSTS, refuse_host

METADATA = (
    "http://169.254.169.254/latest/meta-data/iam/",
    "http://2852039166/latest",
    "http://0xA9FEA9FE/latest",
    "http://0251.0376.0251.0376/latest",
    "http://[fe80::1]/x",
    "http://[::ffff:169.254.169.254]/x",
    "http://[fd00:ec2::254]/x",
    "http://metadata.google.internal/computeMetadata/v1/",
    "https://169.254.169.254:8443/x.tif?sig=SECRET",
)


@pytest.mark.parametrize("href", METADATA)
def test_link_local_addresses_are_refused_however_they_are_written(href: str) -> None:
    with pytest.raises(BadAsset, match="link-local address") as error:
        AssetFetcher().stat(href)
    assert "SECRET" not in str(error.value)
    with pytest.raises(BadAsset, match="link-local address"):
        list(discover(href))


def resolved(address: str, port: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
    return [(2, 1, 6, "", (address, port))]


def test_a_name_that_leads_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", lambda host, port, **_: resolved("169.254.169.254", port))
    with pytest.raises(BadAsset, match="link-local"):
        AssetFetcher().stat("http://innocent.example.test/a.tif")


class Away(http.server.BaseHTTPRequestHandler):
    """Sends everybody to the metadata service."""

    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", METADATA[0])
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


def test_hosts_can_be_limited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(ALLOWED_HOSTS, "*.dlr.de, my-bucket")
    refuse_host("https://download.geoservice.dlr.de/a.tif")
    refuse_host("s3://my-bucket/a.tif")
    refuse_host(str(tmp_path / "a.tif"))
    for href in ("https://127.0.0.1/a.tif", "s3://other/a.tif", "http://dlr.de.evil.test/x"):
        with pytest.raises(ValueError, match="is not among HYPERMEND_ALLOWED_HOSTS"):
            refuse_host(href)
