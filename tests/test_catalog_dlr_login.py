"""Logins: the account goes to the sign-on, its cookie and NASA's token to their servers, and nothing anywhere else.

127.0.0.1 is the file server here and `localhost` the sign-on: two hosts, as at DLR.
"""

from __future__ import annotations

import io
import json
import logging
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from hypermend.catalog.errors import AccessDenied, ArchiveError, Refused
from hypermend.catalog.storage import signing, transport
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.signing import Dlr, Earthdata, signer
from hypermend.pipeline.config import IngestJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.ingest import ingest
from hypermend.pipeline.maintenance.failures import failures
from tests.conftest import TrapServer
from tests.trap_server import ACCOUNT, SESSION, TOKEN

Traps = Callable[[Path], TrapServer]
SECRETS = (*ACCOUNT, SESSION.partition("=")[2], TOKEN)


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> None:
    """The missions of the trap server are its ways: no account of a mission, so the shared one is used."""
    monkeypatch.setattr(transport, "FIRST_WAIT_S", 0.01)
    for name in ("ENMAP", "DESIS"):
        monkeypatch.delenv(f"{name}_USERNAME", raising=False)
        monkeypatch.delenv(f"{name}_PASSWORD", raising=False)
    monkeypatch.setenv("DLR_EOC_USERNAME", ACCOUNT[0])
    monkeypatch.setenv("DLR_EOC_PASSWORD", ACCOUNT[1])
    monkeypatch.setenv("EARTHDATA_TOKEN", TOKEN)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    out = tmp_path / "files"
    out.mkdir()
    (out / "small.txt").write_text("forty-two bytes of text that are not HTML.")
    with rasterio.open(
        out / "a.tif", "w", driver="GTiff", count=9, height=64, width=64, dtype="uint16", crs="EPSG:32633",
        transform=Affine(30, 0, 366000, 0, -30, 5810000),
    ) as file:  # fmt: skip
        file.write(np.arange(1, 1 + 9 * 64 * 64, dtype="uint16").reshape(9, 64, 64))
    return out


def here() -> Dlr:
    return Dlr(hosts=("127.0.0.1",), sign_on_hosts=("localhost",))


def holders(server: TrapServer) -> dict[str, set[str]]:
    """Which requests held a secret: secret -> methods and paths without query, with the host asked."""
    found: dict[str, set[str]] = {secret: set() for secret in SECRETS}
    for request in server.requests():
        text = json.dumps([request["headers"], request["body"], request["path"]])
        for secret in SECRETS:
            if secret in text:
                host = request["headers"]["Host"].partition(":")[0]
                found[secret].add(f"{request['method']} {host}{request['path'].partition('?')[0]}")
    return found


def test_the_form_is_filled_in_once_and_its_cookie_opens_the_files(folder: Path, traps: Traps, account: None) -> None:
    server = traps(folder)
    fetcher = AssetFetcher(here())
    body = fetcher.fetch(f"{server.url}/sso/small.txt")
    assert isinstance(body, io.BytesIO) and body.getvalue() == (folder / "small.txt").read_bytes()
    assert fetcher.raster(f"{server.url}/sso/a.tif", lambda dataset: dataset.count) == 9
    posts = [r for r in server.requests() if r["method"] == "POST"]
    assert len(posts) == 1
    assert "_eventId" not in posts[0]["body"] and "submit" not in posts[0]["body"]  # the other form's, and the button
    held = holders(server)
    assert held[ACCOUNT[1]] == {"POST localhost/sign-on"}
    assert held[SECRETS[2]] == {"GET 127.0.0.1/sso/small.txt", "GET 127.0.0.1/sso/a.tif", "HEAD 127.0.0.1/sso/a.tif"}


def test_a_server_that_asks_for_the_account_itself_gets_it(folder: Path, traps: Traps, account: None) -> None:
    server = traps(folder)
    assert AssetFetcher(here()).stat(f"{server.url}/basic/small.txt").size == 42


@pytest.mark.parametrize(
    ("way", "password", "words"),
    [
        ("sso", "wrong", "DLR's login refuses the account.*SSO_USERNAME"),
        ("policy", ACCOUNT[1], "waits for the user.*policy.*browser"),
        ("login", ACCOUNT[1], r"127\.0\.0\.1 shows a page that is not DLR's login form"),
    ],
)
def test_a_login_that_fails_says_why_and_is_not_repeated(
    folder: Path, traps: Traps, account: None, monkeypatch: pytest.MonkeyPatch, way: str, password: str, words: str
) -> None:
    monkeypatch.setenv("DLR_EOC_PASSWORD", password)
    server = traps(folder)
    sign = here()
    for name in ("a.tif", "small.txt"):
        with pytest.raises(AccessDenied, match=words) as caught:
            AssetFetcher(sign).fetch(f"{server.url}/{way}/{name}")
        text = "".join(traceback.format_exception(caught.value))
        assert password not in text and ACCOUNT[0] not in text
    assert len([r for r in server.requests() if r["method"] == "POST"]) <= 1  # an account may be locked for trying


def test_the_password_goes_to_no_other_sign_on(folder: Path, traps: Traps, account: None) -> None:
    server = traps(folder)
    with pytest.raises(AccessDenied, match="localhost shows a page that is not DLR's login form"):
        AssetFetcher(Dlr(hosts=("127.0.0.1",))).fetch(f"{server.url}/sso/small.txt")
    assert not any(holders(server).values())


def test_dlr_signs_for_its_file_server_over_https_only(account: None) -> None:
    sign = signer("dlr")
    assert isinstance(sign, Dlr)
    for href in ("https://geoservice.dlr.de/eoc/a.tif", "https://download.geoservice.dlr.de.evil.org/a", "/x/a.tif"):
        assert sign(href).headers == {}
    with pytest.raises(Refused, match="over https only"):
        sign("http://download.geoservice.dlr.de/ENMAP/files/a.tif")
    with pytest.raises(Refused, match="over https only"):
        Earthdata()("http://data.lpdaac.earthdatacloud.nasa.gov/a.nc")


def test_each_mission_has_its_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENMAP", "DESIS", "DLR_EOC"):
        monkeypatch.delenv(f"{name}_USERNAME", raising=False)
        monkeypatch.delenv(f"{name}_PASSWORD", raising=False)
    monkeypatch.setenv("DESIS_USERNAME", "d")
    monkeypatch.setenv("DESIS_PASSWORD", "p")
    with pytest.raises(Refused, match="account of ENMAP in ENMAP_USERNAME and ENMAP_PASSWORD or DLR_EOC_USERNAME"):
        signer("dlr")("https://download.geoservice.dlr.de/ENMAP/files/a.tif")
    assert signing._dlr_account("DESIS") == ("d", "p")
    monkeypatch.setenv("DLR_EOC_USERNAME", "shared")
    monkeypatch.setenv("DLR_EOC_PASSWORD", "q")
    assert signing._dlr_account("ENMAP") == ("shared", "q") and signing._dlr_account("DESIS") == ("d", "p")


def test_nasas_token_is_not_taken_along_to_another_host(folder: Path, traps: Traps, account: None) -> None:
    server = traps(folder)
    fetcher = AssetFetcher(Earthdata(hosts=("127.0.0.1",)))
    assert fetcher.stat(f"{server.url}/bearer/a.tif").size == (folder / "a.tif").stat().st_size
    assert fetcher.raster(f"{server.url}/bearer/a.tif", lambda dataset: dataset.count) == 9
    assert holders(server)[TOKEN] == {"GET 127.0.0.1/bearer/a.tif"}


@pytest.mark.parametrize(
    ("way", "sign"), [("sso", here), ("bearer", lambda: Earthdata(hosts=("127.0.0.1",))), ("basic", here)]
)
@pytest.mark.parametrize("good", [True, False])
@pytest.mark.fault
def test_f20_no_secret_in_anything_that_is_written(
    folder: Path,
    traps: Traps,
    account: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    way: str,
    sign: Callable[[], signing.Signer],
    good: bool,
) -> None:
    """Items, cubes, run logs, reports, errors and the log itself, of a run that works and of one that is refused."""
    server = traps(folder)
    item = {
        "type": "Feature", "stac_version": "1.1.0", "id": "one", "collection": "c", "geometry": None, "links": [],
        "properties": {"datetime": "2022-07-24T10:45:26Z", "platform": "EO-1", "instruments": ["ALI"]},
        "assets": {"data": {"href": f"{server.url}/{way}/a.tif", "roles": ["data"], "type": "image/tiff"}},
    }  # fmt: skip
    (folder / "item.json").write_text(json.dumps(item))
    monkeypatch.setitem(signing.SIGNERS, "dlr", sign)  # type: ignore[arg-type]
    secrets = list(SECRETS)
    if not good:
        monkeypatch.setenv("DLR_EOC_PASSWORD", "wr0ng-pa55word")
        monkeypatch.setenv("EARTHDATA_TOKEN", "wr0ng-t0ken")
        secrets += ["wr0ng-pa55word", "wr0ng-t0ken"]
    caplog.set_level(logging.DEBUG)
    archive = tmp_path / "archive"
    job = IngestJob(archive=str(archive), stac=f"{server.url}/plain/item.json", sign="dlr")
    report = ingest(job, engine=serial).wait()
    assert [s.status for s in report.scenes] == ["published" if good else "failed"], report
    told = [json.dumps(report.to_dict()), caplog.text, *capfd.readouterr()]
    told += [str(one.to_dict()) for one in failures(str(archive))]
    told += [file.read_bytes().decode("latin-1") for file in archive.rglob("*") if file.is_file()]
    assert len(told) > 4
    for secret in secrets:
        assert not any(secret in text for text in told), secret
    if not good:
        with pytest.raises(ArchiveError) as caught:
            AssetFetcher(sign()).fetch(f"{server.url}/{way}/a.tif")
        assert not any(secret in "".join(traceback.format_exception(caught.value)) for secret in secrets)
