"""Files at servers as they really are: logins, drops, limits on requests, other addresses of one file."""

from __future__ import annotations

import io
import json
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from hypermend.catalog.errors import AccessDenied, BadAsset, NotFound, Refused, Unreachable
from hypermend.catalog.readers.scene_reader import open_scene
from hypermend.catalog.stac.item import from_item
from hypermend.catalog.storage import transport
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.transport import USER_AGENT, retry_after_s
from tests.conftest import TrapServer

Traps = Callable[[Path], TrapServer]
SIZE = 9 * 2**20 + 17


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "FIRST_WAIT_S", 0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 9 MiB that tells every byte's place, a small GeoTIFF, and a small text."""
    out = tmp_path_factory.mktemp("files")
    (out / "big.bin").write_bytes(np.arange(SIZE // 4 + 1, dtype="<u4").tobytes()[:SIZE])
    (out / "small.txt").write_text("forty-two bytes of text that are not HTML.")
    with rasterio.open(
        out / "a.tif", "w", driver="GTiff", count=9, height=64, width=64, dtype="uint16", crs="EPSG:32633",
        transform=Affine(30, 0, 366000, 0, -30, 5810000),
    ) as file:  # fmt: skip
        file.write(np.arange(9 * 64 * 64, dtype="uint16").reshape(9, 64, 64))
    return out


def body(fetcher: AssetFetcher, href: str) -> bytes:
    fetched = fetcher.fetch(href)
    assert isinstance(fetched, io.BytesIO)
    return fetched.getvalue()


@pytest.mark.parametrize("way", ["login", "untyped"])
def test_a_web_page_in_place_of_data_is_a_login(folder: Path, traps: Traps, way: str) -> None:
    url = traps(folder).url
    words = r"127\.0\.0\.1 answers with a web page, not with data: most often its login; it may need --sign"
    for read in (
        lambda: AssetFetcher().fetch(f"{url}/{way}/small.txt"),
        lambda: AssetFetcher().raster(f"{url}/{way}/a.tif", lambda dataset: dataset.read()),
    ):
        with pytest.raises(AccessDenied, match=words) as caught:
            read()
        assert not caught.value.transient


def test_the_login_of_a_known_host_says_what_to_do() -> None:
    for host, words in (
        ("download.geoservice.dlr.de", "--sign dlr.*ENMAP_USERNAME"),
        ("data.lpdaac.earthdatacloud.nasa.gov", "--sign earthdata.*EARTHDATA_TOKEN"),
        ("x.blob.core.windows.net", "--sign planetary-computer"),
    ):
        for error in (transport.login_page(f"https://{host}/a.tif"), transport.http_error(f"https://{host}/a", 403)):
            with pytest.raises((AccessDenied, Refused), match=f"{host}.*{words}"):
                raise error


@pytest.mark.parametrize("each", [2**20, 3 * 2**20, 2**20 + 1])
def test_a_download_goes_on_where_the_connection_ended(folder: Path, traps: Traps, each: int) -> None:
    server = traps(folder)
    assert body(AssetFetcher(), f"{server.url}/drop{each}/big.bin") == (folder / "big.bin").read_bytes()
    asked = [r["headers"] for r in server.requests()][1:]  # the first asks for the size
    assert [h.get("Range") for h in asked] == [None, *(f"bytes={n}-" for n in range(each, SIZE, each))]
    version = f'"{zlib.crc32((folder / "big.bin").read_bytes()):08x}"'
    assert {h.get("If-Range") for h in asked[1:]} == {version}


def test_a_range_goes_on_where_the_connection_ended(folder: Path, traps: Traps) -> None:
    server = traps(folder)
    file = AssetFetcher().seekable(f"{server.url}/drop200000/big.bin")
    assert not isinstance(file, str)
    file.seek(5_000_003)
    assert file.read(700_000) == (folder / "big.bin").read_bytes()[5_000_003:5_700_003]


def test_a_server_that_cannot_go_on_is_tried_a_few_times(folder: Path, traps: Traps) -> None:
    server = traps(folder)
    with pytest.raises(Unreachable, match=r"big\.bin: received 3145728 of \d+ bytes|closed after 3145728 bytes"):
        AssetFetcher().fetch(f"{server.url}/restart{3 * 2**20}/big.bin")
    assert len(server.requests()) <= 1 + 4 * transport.TRIES


def test_two_versions_of_a_file_are_never_joined(folder: Path, traps: Traps) -> None:
    url = traps(folder).url
    whole = (folder / "big.bin").read_bytes()
    assert body(AssetFetcher(), f"{url}/changing{2**22}/big.bin") == whole[::-1]
    file = AssetFetcher().seekable(f"{url}/changing100000/big.bin")
    assert not isinstance(file, str)
    with pytest.raises(BadAsset, match="it changed while it was read"):  # bytes of a range may be in use already
        file.read(200_000)


@pytest.mark.parametrize("way", ["busy2x1", "busydate1x2"])
def test_a_server_that_asks_to_wait_is_given_the_time(folder: Path, traps: Traps, way: str) -> None:
    server = traps(folder)
    began = time.monotonic()
    assert body(AssetFetcher(), f"{server.url}/{way}/small.txt") == (folder / "small.txt").read_bytes()
    assert 1.0 <= time.monotonic() - began < 10


def test_a_long_wait_is_said_and_not_sat_out(folder: Path, traps: Traps) -> None:
    server = traps(folder)
    began = time.monotonic()
    with pytest.raises(Unreachable, match="answers 429 and asks to wait 3600 s"):
        AssetFetcher().fetch(f"{server.url}/busy9x3600/small.txt")
    assert len(server.requests()) == 1 and time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "Sat, 28 Nov 2026 14:00:30 GMT", "Date": "Sat, 28 Nov 2026 14:00:00 GMT"}, 30.0),
        ({"Retry-After": "Sat, 28 Nov 2026 13:00:00 GMT", "Date": "Sat, 28 Nov 2026 14:00:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


def test_gdal_s_guess_is_replaced_by_what_the_server_says(folder: Path, traps: Traps) -> None:
    """GDAL says "range not supported" for a 429."""
    url = traps(folder).url
    with pytest.raises(Unreachable, match="answers 429 and asks to wait 900 s"):
        AssetFetcher().raster(f"{url}/rangebusy/a.tif", lambda dataset: dataset.read())


def test_every_client_says_who_it_is(
    folder: Path, traps: Traps, s3_bucket: str, moto_s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = traps(folder)
    assert body(AssetFetcher(), f"{server.url}/agent/small.txt")
    assert AssetFetcher().raster(f"{server.url}/agent/a.tif", lambda dataset: dataset.read()).shape == (9, 64, 64)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"{server.url}/agent")
    with pytest.raises((NotFound, Refused, Unreachable)):
        AssetFetcher().stat("s3://bucket/a.tif")
    agents = {r["headers"]["User-Agent"] for r in server.requests()}
    assert all(agent.startswith(USER_AGENT) for agent in agents) and any("GDAL" in agent for agent in agents)


def scene_of(hrefs: list[str], **more: object) -> dict[str, object]:
    first, *others = hrefs
    data = {
        "href": first,
        "roles": ["data"],
        "type": "image/tiff",
        "alternate": {f"way{n}": {"href": h} for n, h in enumerate(others)},
        **more,
    }
    return {
        "type": "Feature", "stac_version": "1.1.0", "id": "one", "collection": "c", "geometry": None, "links": [],
        "properties": {"datetime": "2022-07-24T10:45:26Z"}, "assets": {"data": data},
    }  # fmt: skip


@pytest.mark.parametrize("first", ["forbidden", "gone", "login", "bearer"])
def test_another_address_of_a_file_is_read_where_the_first_is_closed(folder: Path, traps: Traps, first: str) -> None:
    server = traps(folder)
    ways = (first, "gone", "agent")
    scene = from_item(scene_of([f"{server.url}/{way}/a.tif" for way in ways]), sensor="ali")
    assert len(scene.assets["data"].alternates) == 2
    source = open_scene(scene)
    with rasterio.open(folder / "a.tif") as file:
        np.testing.assert_array_equal(source.read(slice(3, 9), slice(0, 64))[0], file.read()[:, 3:9])
    source.close()


def test_s3_without_credentials_leaves_the_alternate(
    folder: Path, traps: Traps, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    href = "s3://no-such-bucket-of-ours/a.tif"
    with pytest.raises(Refused, match="set AWS_"):
        AssetFetcher().stat(href)
    url = f"{traps(folder).url}/plain/a.tif"
    fetcher = AssetFetcher(alternates={href: (url,)})
    assert fetcher.raster(href, lambda dataset: dataset.count) == 9
    assert fetcher.stat(href).size == (folder / "a.tif").stat().st_size


def test_where_every_address_is_closed_all_are_named(folder: Path, traps: Traps) -> None:
    url = traps(folder).url
    fetcher = AssetFetcher(alternates={f"{url}/forbidden/a.tif": (f"{url}/gone/a.tif", f"{url}/login/a.tif")})
    with pytest.raises(Refused, match=r"forbidden.*403.*alternate: .*gone.*404; alternate: .*web page"):
        fetcher.stat(f"{url}/forbidden/a.tif")


def test_an_alternate_is_no_way_around_the_allowed_hosts(
    folder: Path, traps: Traps, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = traps(folder)
    monkeypatch.setenv("HYPERMEND_ALLOWED_HOSTS", "example.org")
    closed = "https://example.org.invalid/a.tif"
    fetcher = AssetFetcher(alternates={closed: (f"{server.url}/plain/a.tif", "http://169.254.169.254/latest/a.tif")})
    with pytest.raises(BadAsset, match=r"HYPERMEND_ALLOWED_HOSTS.*link-local"):
        fetcher.stat(closed)
    assert server.requests() == []
    item = scene_of(["https://h.org/a.tif", "file:///etc/passwd", "ftp://h.org/a.tif", "https://o.org/a.tif"])
    assert from_item(item, sensor="ali", href="https://h.org/i.json").assets["data"].alternates == (
        "https://o.org/a.tif",
    )


def test_an_asset_that_is_not_needed_never_fails_a_scene(folder: Path, traps: Traps) -> None:
    url = traps(folder).url
    item = json.loads(json.dumps(scene_of([f"{url}/plain/a.tif"], nodata="null")))
    item["assets"] |= {
        "quality": {"href": f"{url}/plain/q.tif", "type": "image/tiff", "roles": ["quality"], "nodata": "all"},
        "zipped": {"href": f"{url}/plain/all.zip", "roles": ["data"], "type": "application/zip"},
        "opendap": {"href": "dap4://h.org/x"},
        "crooked": {"href": f"{url}/plain/c.tif", "roles": ["mask"], "proj:shape": [1], "proj:transform": [1]},
        "odd": 7,
        "browse": {"href": f"{url}/gone/b.html", "type": "text/html"},
    }
    item["assets"]["crooked"]["proj:epsg"] = 32633
    scene = from_item(item, sensor="ali")
    problems = {key: asset.problem for key, asset in scene.assets.items() if asset.problem is not None}
    assert problems.keys() == {"quality", "zipped", "opendap", "crooked", "odd"}
    assert "nodata is no number: 'all'" in str(problems["quality"])
    source = open_scene(scene)
    assert source.spec.shape == (9, 64, 64) and scene.assets["data"].nodata is None
    source.close()


def test_a_needed_asset_with_a_problem_refuses_the_scene_by_name(folder: Path, traps: Traps) -> None:
    """A scene of 10 bands of which one is left out would be another cube."""
    url = traps(folder).url
    item = json.loads(json.dumps(scene_of([f"{url}/plain/a.tif"])))
    item["assets"]["more"] = {**item["assets"]["data"], "nodata": "all"}
    with pytest.raises(BadAsset, match="asset 'more': nodata is no number: 'all'"):
        open_scene(from_item(item, sensor="ali"))
