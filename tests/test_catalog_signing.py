"""Signing: tokens come from a server, are kept until they end, go only where they belong, and are never shown."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from hypermend.catalog.errors import Refused, Unreachable
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.signing import Earthdata, PlanetaryComputer, RequesterPays, Unsigned, signer

BLOB = "https://acc.blob.core.windows.net/container/x/a.tif"


class Tokens(BaseHTTPRequestHandler):
    """A token server in the manner of the Planetary Computer."""

    asked: ClassVar[list[str]] = []
    status: ClassVar[int] = 200
    lasts_s: ClassVar[float] = 3600.0

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/hop/"):
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/seen")  # type: ignore[attr-defined]
            self.end_headers()
            return
        if self.path == "/seen":
            body = (self.headers.get("Authorization") or "no token").encode()
        else:
            expiry = datetime.now(UTC) + timedelta(seconds=self.lasts_s)
            body = json.dumps({"token": f"sig=secret{len(self.asked)}", "msft:expiry": expiry.isoformat()}).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def tokens() -> Iterator[str]:
    Tokens.asked.clear()
    Tokens.status, Tokens.lasts_s = 200, 3600.0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Tokens)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_token_is_asked_for_once_per_container(tokens: str) -> None:
    sign = PlanetaryComputer(tokens)
    assert sign(BLOB).url == f"{BLOB}?sig=secret1"
    assert sign(BLOB.replace("a.tif", "b.tif")).url.endswith("b.tif?sig=secret1")
    assert Tokens.asked == ["/acc/container"]
    assert sign(BLOB.replace("container", "other")).url.endswith("?sig=secret2")


def test_a_token_is_renewed_before_it_ends_and_when_it_is_refused(tokens: str) -> None:
    sign = PlanetaryComputer(tokens)
    Tokens.lasts_s = 60  # less than the margin
    assert sign(BLOB).url != sign(BLOB).url
    Tokens.lasts_s = 3600
    first = sign(BLOB)
    assert sign(BLOB) == first and sign(BLOB, fresh=True) != first


def test_only_azure_is_signed(tokens: str) -> None:
    sign = PlanetaryComputer(tokens)
    for href in ("https://h.org/a.tif", "https://blob.core.windows.net.evil.org/c/a.tif", "/x/a.tif"):
        assert sign(href).url == href
    assert Tokens.asked == []


@pytest.mark.parametrize(("status", "error"), [(403, Refused), (404, Refused), (500, Unreachable), (503, Unreachable)])
def test_a_token_server_that_says_no(tokens: str, status: int, error: type[Exception]) -> None:
    Tokens.status = status
    with pytest.raises(error, match=f"no read token for acc/container.*{status}"):
        PlanetaryComputer(tokens)(BLOB)


def test_no_token_server(tokens: str) -> None:
    with pytest.raises(Unreachable, match="no read token for acc/container"):
        PlanetaryComputer("http://127.0.0.1:9")(BLOB)


def test_earthdata_sends_its_token_to_nasa_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARTHDATA_TOKEN", "secret")
    sign = Earthdata()
    nasa = "https://data.lpdaac.earthdatacloud.nasa.gov/EMIT/a.nc"
    assert sign(nasa).headers == {"Authorization": "Bearer secret"}
    for href in ("https://h.org/a.nc", "https://nasa.gov.evil.org/a.nc", "https://evilnasa.gov/a.nc"):
        assert sign(href).headers == {}
    monkeypatch.setenv("EARTHDATA_TOKEN", "renewed")
    assert "renewed" in sign(nasa).headers["Authorization"]
    monkeypatch.delenv("EARTHDATA_TOKEN")
    with pytest.raises(Refused, match="EARTHDATA_TOKEN"):
        sign(nasa)


@pytest.mark.fault
def test_f20_a_token_is_not_taken_along_to_another_host(tokens: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARTHDATA_TOKEN", "secret")
    reach = AssetFetcher(Earthdata(hosts=("127.0.0.1",)))
    assert reach.fetch(f"{tokens}/seen").getvalue() == b"Bearer secret"  # type: ignore[union-attr]
    assert reach.fetch(f"{tokens}/hop/a").getvalue() == b"no token"  # type: ignore[union-attr]


def test_requester_pays_is_said_for_s3_only() -> None:
    assert RequesterPays()("s3://bucket/a.tif").requester_pays
    assert not RequesterPays()("https://h.org/a.tif").requester_pays


def test_signers_by_name() -> None:
    assert isinstance(signer("none"), Unsigned) and isinstance(signer("planetary-computer"), PlanetaryComputer)
    assert isinstance(signer("earthdata"), Earthdata) and isinstance(signer("s3-requester-pays"), RequesterPays)
    with pytest.raises(Refused, match="unknown signing 'azure'; known are none, planetary-computer, earthdata"):
        signer("azure")


@pytest.mark.fault
def test_f20_nothing_secret_in_what_is_printed(tokens: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARTHDATA_TOKEN", "secret")
    bearer = Earthdata()("https://data.lpdaac.earthdatacloud.nasa.gov/EMIT/a.nc")
    assert "secret" in bearer.headers["Authorization"]
    assert "secret" not in repr(bearer) + repr(PlanetaryComputer(tokens)(BLOB))
