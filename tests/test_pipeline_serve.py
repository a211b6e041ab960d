"""The server of an archive: a STAC API whose answers are those of the items, a page, and nothing that it must not tell.

Real servers in processes of their own: attacks go over sockets, as they would.
"""

from __future__ import annotations

import gzip
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import pystac_client
import pytest
import shapely
import xarray
from typer.testing import CliRunner

import hypermend
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac.discover import discover
from hypermend.catalog.stac.index import add, row_of
from hypermend.catalog.stac.publish import put_item
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.cli.main import app
from hypermend.pipeline.config import RestoreJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.serve import listing
from hypermend.pipeline.serve.listing import Listing
from hypermend.pipeline.serve.search_request import parse_body
from tests.small_cubes import make_scene
from tests.test_pipeline_report import BANDS, EDGE, HOSTILE, Page, chromium, put_scenes

assert chromium  # a fixture
COUNT = 40
SECRET = b"outside of the archive"


class Answer:
    """An answer of the server."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = answer.status, answer.headers, answer.read()

    def json(self) -> Any:
        return json.loads(self.body)


def box_of(i: int) -> tuple[float, float, float, float]:
    """The last ones lie on the date line."""
    west = -180 + 9.0 * i
    east = west + 10
    return west, -40.0 + 2 * i, east - 360 if east > 180 else east, -38.0 + 2 * i


def placed(i: int) -> Scene:
    west, south, east, north = box_of(i)
    parts = [shapely.box(west, south, east, north)]
    if west > east:
        parts = [shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)]
    outline = shapely.geometry.mapping(parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts))
    return make_scene(
        f"scene/{i:02d} é'",
        collection="placed & more" if i % 2 else "placed",
        sensor="enmap" if i % 3 else "prisma",
        datetime=datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=i),
        grid=None,
        bbox=box_of(i),
        geometry=json.loads(json.dumps(outline)),
        properties={"eo:cloud_cover": i},
    )


def hostile_item() -> dict[str, Any]:
    """An item whose every field attacks somebody."""
    return {
        "type": "Feature", "stac_version": "1.1.0", "stac_extensions": [], "id": "hostile", "collection": "hostile",
        "geometry": None, "links": [{"rel": "derived_from", "href": "../../../../../etc/passwd"}, 5],
        "properties": {
            "datetime": "2020-01-01T00:00:00Z", "hypermend:sensor": HOSTILE, "hypermend:stage": "raw", "title": HOSTILE,
            "number": float("nan"),
        },
        "assets": {
            "script": {"href": "javascript:document.title='owned'"}, "file": {"href": "/etc/passwd"},
            "scheme": {"href": "file:///etc/passwd"}, "climb": {"href": "../../../../../etc/passwd"},
            "lease": {"href": "../../../leases/a.json"}, "data": {"href": "data:text/html,<script>alert(1)</script>"},
            "none": 5, "nowhere": {}, "half": {"href": "../../../source/\ud800"},
            "signed": {
                "href": "https://u:p@example.org/a.tif?X-Amz-Signature=secret&v=1",
                "alternate": {"x": {"href": "/etc/passwd"}},
            },
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two restored scenes, of which one has a hostile id; raw ones around the globe; an item that attacks."""
    folder = tmp_path_factory.mktemp("serve") / "archive"
    put_scenes(folder)
    root = ArchiveStore(folder)
    report = restore(RestoreJob(archive=str(folder), model="small"), engine=serial, run="r").wait()
    assert report.exit_code == 0
    for i in range(COUNT):
        put_item(root, placed(i), run="r")
    item, key = hostile_item(), "items/hostile/2020-01-01/hostile.json"
    add(root, row_of(key, root.put(key, json.dumps(item).encode()), item), run="r")
    unseen = {**item, "id": "un\u202eseen\x1b[2J"}
    root.put("items/hostile/2020-01-01/unseen.json", json.dumps(unseen).encode())
    (folder.parent / "secret").write_bytes(SECRET)
    (folder / "leases").mkdir(exist_ok=True)
    (folder / "leases/a.json").write_bytes(SECRET)
    (folder / "source/link.json").symlink_to(folder.parent / "secret")
    (folder / "source/folder").symlink_to(folder.parent)
    os.mkfifo(folder / "source/fifo.json")
    return folder


def start(archive: Path, *options: str, wait_s: float | None = None) -> tuple[subprocess.Popen[str], str]:
    """A server on a free port, and its address."""
    code = "from hypermend.pipeline.serve import server; from hypermend.pipeline.cli.main import main\n"
    code += f"server.WAIT_S = {wait_s}\n" if wait_s else ""
    arguments = ["serve", "--archive", str(archive), "--port", "0", *options]
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}main()", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().split()[0].rstrip("/")


@pytest.fixture(scope="module")
def served(archive: Path) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """The address of a server, and the archive as it was before."""
    before = state_of(archive)
    process, address = start(archive)
    yield address, before
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def url(served: tuple[str, dict[str, tuple[int, int]]]) -> str:
    return served[0]


def asked(url: str, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)) as connection:
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.putheader("Content-Length", str(len(body or b"")))
        connection.endheaders(body)
        return Answer(connection.getresponse())


def found(url: str, **body: Any) -> list[str]:
    """Ids of all pages of a search by POST."""
    answer = asked(url, "/search", "POST", json.dumps(body).encode())
    ids = []
    while True:
        assert answer.status == 200, answer.body
        page = answer.json()
        ids += [item["id"] for item in page["features"]]
        following = [link for link in page["links"] if link["rel"] == "next"]
        if not following:
            return ids
        answer = asked(url, "/search", "POST", json.dumps(following[0]["body"]).encode())


# ------------------------------------------------------------------------------------------------------ the STAC API


def test_a_stac_client_walks_the_whole_api(url: str, archive: Path) -> None:
    client = pystac_client.Client.open(url)
    expected = hypermend.open(archive).search()
    assert client.conforms_to("ITEM_SEARCH") and client.conforms_to("QUERY") and not client.conforms_to("FILTER")
    assert {c.id for c in client.get_collections()} == {i.scene.collection for i in expected} | {"hostile"}
    for method in ("GET", "POST"):
        items = list(client.search(method=method, limit=7).items())
        ids = [(item.collection_id, item.id) for item in items]
        assert sorted(ids) == sorted([*((i.scene.collection, i.scene.id) for i in expected), ("hostile", "hostile")])
    one = placed(5)
    item = client.get_collection(one.collection).get_item(one.id)
    assert item is not None and item.to_dict()["geometry"] == one.geometry and item.properties["eo:cloud_cover"] == 5
    assert {i.id for i in client.get_collection("placed").get_items()} == {placed(i).id for i in range(0, COUNT, 2)}


SEARCHES: dict[str, tuple[dict[str, Any], Callable[[int], bool]]] = {
    "box": ({"bbox": [-100, -90, -60, 90]}, lambda i: box_of(i)[0] <= -60 and box_of(i)[2] >= -100),
    "box of six": ({"bbox": [-100, -90, 0, -60, 90, 9000]}, lambda i: box_of(i)[0] <= -60 and box_of(i)[2] >= -100),
    "date line": ({"bbox": [175, -90, -175, 90]}, lambda i: i in (0, 39)),
    "time": ({"datetime": "2024-01-10T00:00:00Z/2024-01-12T00:00:00Z"}, lambda i: 9 <= i <= 11),
    "open end": ({"datetime": "2024-02-01/.."}, lambda i: i >= 31),
    "collections": ({"collections": ["placed"]}, lambda i: i % 2 == 0),
    "ids": ({"ids": ["scene/03 é'", "scene/04 é'", "no such"]}, lambda i: i in (3, 4)),
    "sensor": ({"query": {"hypermend:sensor": {"eq": "prisma"}}}, lambda i: i % 3 == 0),
    "sensors": ({"query": {"hypermend:sensor": {"in": ["prisma", "x"]}}}, lambda i: i % 3 == 0),
    "cloud": ({"query": {"eo:cloud_cover": {"lt": 5, "gte": 2}}}, lambda i: 2 <= i < 5),
    "text": (
        {"query": {"hypermend:sensor": {"startsWith": "en", "endsWith": "map", "contains": "nm"}}},
        lambda i: i % 3 > 0,
    ),
    "stage and cloud": (
        {"query": {"hypermend:stage": {"neq": "source"}, "eo:cloud_cover": {"eq": 7}}},
        lambda i: i == 7,
    ),
    "outline": ({"intersects": {"type": "Point", "coordinates": [-176.0, -39.0]}}, lambda i: i == 0),
    "outline on the date line": ({"intersects": {"type": "Point", "coordinates": [-179.5, 39.0]}}, lambda i: i == 39),
}  # fmt: skip


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_finds_what_matches_by_post_and_by_get(url: str, name: str) -> None:
    body, matches = SEARCHES[name]
    place = {} if {"collections", "ids"} & body.keys() else {"collections": ["placed", "placed & more"]}
    expected = [placed(i).id for i in range(COUNT) if matches(i)]
    assert expected and found(url, **body, **place, limit=3) == expected
    fields = {
        k: json.dumps(v) if isinstance(v, dict) else ",".join(map(str, v)) if isinstance(v, list) else v
        for k, v in {**body, **place}.items()
    }
    answer = asked(url, "/search?limit=100&" + "&".join(f"{k}={quote(v)}" for k, v in fields.items())).json()
    assert [item["id"] for item in answer["features"]] == expected
    exact = not ({"intersects"} & body.keys() or "eo:cloud_cover" in str(body))
    assert answer.get("numberMatched") == (len(expected) if exact else None)
    assert answer["numberReturned"] == len(expected)


def test_an_archive_can_be_ingested_from_another_that_is_served(url: str) -> None:
    scenes = list(discover(url, collections=["placed"], query=["eo:cloud_cover<6"]))
    assert [scene.id for scene in scenes] == [placed(i).id for i in (0, 2, 4)]


def test_the_pages_of_a_search_stay_whole_while_the_archive_grows(tmp_path: Path) -> None:
    root = ArchiveStore(tmp_path)
    for i in range(6, 12):
        put_item(root, placed(i), run="r")
    first = Listing(root).page(parse_body({"limit": 3}))
    for i in (*range(6), 12):
        put_item(root, placed(i), run="r")
    Path(root.href(first.items[-1][0].key)).unlink()
    rest = Listing(root).page(parse_body({"limit": 100, "token": first.token}))
    ids = [row.id for row, _ in (*first.items, *rest.items)]
    assert ids == [placed(i).id for i in range(6, 13)] and rest.token is None


def test_a_new_item_is_found_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = ArchiveStore(tmp_path)
    listings = listing.Listings(root)
    assert not listings.now().rows
    put_item(root, placed(1), run="r")
    assert not listings.now().rows
    monkeypatch.setattr(listing, "FRESH_S", 0.0)
    assert [row.id for row in listings.now().rows] == [placed(1).id]
    again = listings.now()
    assert again is listings.now()
    item = json.loads(root.get(again.rows[0].key))
    root.put(again.rows[0].key, json.dumps({**item, "id": "other"}).encode())
    assert [row.id for row in listings.now().rows] == ["other"]


def test_what_is_declared_is_served(url: str) -> None:
    landing = asked(url, "/").json()
    assert landing["conformsTo"] == asked(url, "/conformance").json()["conformsTo"]
    for link in landing["links"]:
        if link.get("method") != "POST":
            answer = asked(url, link["href"].removeprefix(url), Accept=link["type"])
            assert answer.status == 200
            assert answer.headers["Content-Type"].split(";")[0] == link["type"].split(";")[0]
    api = asked(url, "/api").json()
    assert api["openapi"].startswith("3.0") and {"/search", "/collections/{collection}/items"} <= api["paths"].keys()
    collection = asked(url, "/collections/placed").json()
    assert collection["extent"]["temporal"]["interval"] == [["2024-01-01T00:00:00Z", "2024-02-08T00:00:00Z"]]
    west, _, east, _ = collection["extent"]["spatial"]["bbox"][0]
    assert west >= -180 and east <= 180


def test_a_cube_is_opened_over_the_server(url: str, archive: Path) -> None:
    (item,) = pystac_client.Client.open(url).search(ids=["plain"], collections=["hs-denoise"]).items()
    ds = xarray.open_zarr(item.assets["cube"].href)
    (path,) = (archive / "restored/plain").glob("*.zarr")
    xarray.testing.assert_identical(ds.load(), xarray.open_zarr(path).load())
    assert [link.href for link in item.get_links("derived_from")] == [f"{url}/collections/hs-source/items/plain"]
    assert asked(url, item.assets["thumbnail"].href.removeprefix(url)).headers["Content-Type"] == "image/png"


def test_a_range_is_a_part_of_the_object(url: str, archive: Path) -> None:
    (path,) = (archive / "source/plain").glob("*.zarr/zarr.json")
    where, data = f"/data/{path.relative_to(archive)}", path.read_bytes()
    whole = asked(url, where)
    assert (whole.status, whole.body) == (200, data)
    for text, part in (
        ("0-0", data[:1]),
        ("5-20", data[5:21]),
        ("7-", data[7:]),
        ("-9", data[-9:]),
        (f"3-{10**17}", data[3:]),
    ):
        answer = asked(url, where, Range=f"bytes={text}")
        assert (answer.status, answer.body) == (206, part), text
        assert answer.headers["Content-Range"].endswith(f"/{len(data)}")
    for text in ("bytes=9-5", f"bytes={len(data)}-", "bytes=-0", "bytes=a-b", "bytes=-", "lines=1-2", "bytes=0-1,3-4"):
        assert asked(url, where, Range=text).status == 416, text
    head = asked(url, where, "HEAD")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(data)))
    assert asked(url, where, If_None_Match=str(whole.headers["ETag"])).status == 304


def test_spectra_are_those_of_both_cubes_with_their_flags(url: str, archive: Path) -> None:
    root = ArchiveStore(archive)
    cubes = {}
    for side, stage in (("before", "source"), ("after", "restored")):
        (path,) = (archive / stage / "plain").glob("*.zarr")
        cubes[side] = Cube(root, str(path.relative_to(archive)))
    where = "/collections/hs-denoise/items/plain/spectrum"
    for row, column in ((20, 31), (47, 47), (0, 0)):
        data = asked(url, f"{where}?row={row}&column={column}").json()
        assert (data["row"], data["column"], data["height"], data["width"]) == (row, column, EDGE, EDGE)
        for side, cube in cubes.items():
            stored, flags = cube.read(slice(row, row + 1), slice(column, column + 1))
            if flags[0, 0] & 1:
                np.testing.assert_allclose(data[side]["values"], stored[:, 0, 0] * 1e-4, rtol=1e-6)
                assert "valid" in data[side]["flags"]
            else:
                assert data[side] == {"values": [None] * BANDS, "flags": ["nodata"]}
    middle = asked(url, where).json()
    assert (middle["row"], middle["column"]) == (EDGE // 2, EDGE // 2)
    alone = asked(url, "/collections/hs-source/items/plain/spectrum").json()
    assert "before" not in alone and alone["after"] == middle["before"]
    for bad in ("row=48", "column=-1", "row=1.5", "row=nan", "row=99999999999", "line=3", "row="):
        assert asked(url, f"{where}?{bad}").status == 400, bad
    assert asked(url, f"/collections/placed/items/{quote(placed(0).id, safe='')}/spectrum").status == 400


# --------------------------------------------------------------------------------------------------- what is refused

BAD_BODIES: dict[str, Any] = {
    "three numbers": {"bbox": [1, 2, 3]},
    "no numbers": {"bbox": ["a", 1, 2, 3]},
    "text": {"bbox": "1,2,3,4"},
    "south above north": {"bbox": [0, 10, 1, 5]},
    "far north": {"bbox": [0, 0, 1, 91]},
    "far east": {"bbox": [0, 0, 1e9, 1]},
    "infinity": {"bbox": [0, 0, float("inf"), 1]},
    "NaN": {"bbox": [float("nan"), 0, 1, 1]},
    "truth": {"bbox": [True, 0, 1, 1]},
    "time": {"datetime": "yesterday"},
    "time backwards": {"datetime": "2024-02-01/2024-01-01"},
    "time as number": {"datetime": 5},
    "limit zero": {"limit": 0},
    "limit NaN": {"limit": float("nan")},
    "limit in part": {"limit": 1.5},
    "limit text": {"limit": "many"},
    "ids text": {"ids": "a"},
    "no ids": {"ids": []},
    "ids numbers": {"ids": [5]},
    "many ids": {"ids": ["a"] * 10_001},
    "token": {"token": "nonsense"},
    "token number": {"token": 5},
    "foreign token": {"token": "WzEsMl0="},
    "token without time": {"token": "WyJ4IiwiYSIsImIiLCJjIl0="},
    "filter": {"filter": {"op": "=", "args": [1, 1]}},
    "sortby": {"sortby": [{"field": "id", "direction": "asc"}]},
    "operator": {"query": {"a": {"like": "x"}}},
    "query list": {"query": [1]},
    "query null": {"query": {"a": {"eq": None}}},
    "query of lists": {"query": {"a": {"eq": [1]}}},
    "query not a list": {"query": {"a": {"in": "abc"}}},
    "query infinity": {"query": {"a": {"lt": float("inf")}}},
    "query huge": {"query": {"a": {"lt": 10**400}}},
    "point of text": {"intersects": {"type": "Point", "coordinates": ["a", 1]}},
    "point of NaN": {"intersects": {"type": "Point", "coordinates": [float("nan"), 1]}},
    "no geometry": {"intersects": {"type": "Sphere"}},
    "empty geometry": {"intersects": {"type": "Polygon", "coordinates": []}},
    "bow tie": {"intersects": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]}},
    "both": {"bbox": [0, 0, 1, 1], "intersects": {"type": "Point", "coordinates": [0, 0]}},
    "list": [1],
    "half a character": {"ids": ["\ud800"]},
    "deep": json.loads('{"query":' + '{"a":' * 200 + "1" + "}" * 201),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_search_is_an_error_that_says_why(url: str, name: str) -> None:
    answer = asked(url, "/search", "POST", json.dumps(BAD_BODIES[name]).encode())
    assert answer.status == 400 and len(answer.json()["description"]) > 10, answer.body


@pytest.mark.parametrize(
    "text",
    [
        "bbox=1,2,3", "bbox=nan,0,1,1", "bbox=", "bbox=1,2,3,1e999", "limit=0", "limit=", "limit=1e400",
        "limit=1&limit=2", "datetime=x", "ids=", "ids=a,,b", "query={", "query=5", "intersects=5", "filter=a%3D1",
        "nonsense=1", "token=%00",
    ],
)  # fmt: skip
def test_a_bad_search_by_get_is_an_error(url: str, text: str) -> None:
    assert asked(url, f"/search?{text}").status == 400


def test_a_collection_has_no_items_of_others(url: str) -> None:
    assert asked(url, "/collections/placed/items?collections=hs-source").status == 400
    assert asked(url, "/collections/nothing/items").status == 404
    assert (
        asked(url, "/collections/placed/items?query=" + quote('{"eo:cloud_cover":{"lt":3}}')).json()["numberReturned"]
        == 2
    )


def test_a_limit_that_is_too_large_is_made_smaller(url: str) -> None:
    assert asked(url, "/search?limit=999999999").status == 200
    assert parse_body({"limit": 10**9}).limit == 1000


def test_what_is_no_json_or_too_large_is_refused(url: str) -> None:
    for body in (b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000, b'{"limit": ' + b"9" * 5000 + b"}"):
        assert asked(url, "/search", "POST", body).status == 400, body[:10]
    packed = asked(url, "/search", "POST", gzip.compress(bytes(1 << 26)), Content_Encoding="gzip")
    assert packed.status == 400
    large = b'{"ids": ["' + b"a" * (1 << 20) + b'"]}'
    assert asked(url, "/search", "POST", large).status == 413
    assert asked(url, "/search?ids=" + "a" * 9000).status == 400
    assert asked(url, "/", **{f"X-{i}": "a" * 4000 for i in range(200)}).status == 400


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_only_reading_is_answered(url: str, archive: Path, method: str) -> None:
    (path,) = (archive / "source/plain").glob("*.zarr/zarr.json")
    paths = ["/", "/collections", "/collections/hs-source/items/plain", f"/data/{path.relative_to(archive)}", "/no"]
    for where in paths if method == "POST" else [*paths, "/search"]:
        answer = asked(url, where, method, b"{}")
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert path.exists()


def test_a_name_that_leads_here_is_not_this_server(url: str) -> None:
    port = urlsplit(url).port
    for host in ("localhost", "127.0.0.1", "[::1]", "LOCALHOST"):
        for name in (host, f"{host}:{port}", f"{host}:4711"):
            assert asked(url, "/", Host=name).status == 200, name
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example", "0.0.0.0"):
        for path in ("/", "/search", "/footprints", "/data/source/plain/i.zarr/zarr.json"):
            answer = asked(url, path, Host=host)
            assert answer.status == 421 and b"plain" not in answer.body, host
    for host in ("", "a b", "localhost/x", "localhost@evil.example", "<script>", "localhost:99999999"):
        assert asked(url, "/", Host=host).status == 400, host


def test_links_are_of_the_address_that_was_asked(url: str) -> None:
    answer = asked(url, "/search?limit=1&ids=plain", Host="localhost:4711").json()
    assert answer["features"][0]["assets"]["cube"]["href"].startswith("http://localhost:4711/data/")


PATHS = [
    "/data/../secret",
    "/data/source/../../secret",
    "/data/source/%2e%2e/%2e%2e/secret",
    "/data/source/..%2f..%2fsecret",
    "/data/source/%252e%252e/%252e%252e/secret",
    "/data//etc/passwd",
    "/data/%2fetc%2fpasswd",
    "/data/source//etc/passwd",
    "/data/source/..\\..\\secret",
    "/data/source/%5c..%5csecret",
    "/data/leases/a.json",
    "/data/source/../leases/a.json",
    "/data/source/x/../../leases/a.json",
    "/data/source/link.json",
    "/data/source/folder/secret",
    "/data/source/fifo.json",
    "/data/source",
    "/data/source/",
    "/data/",
    "/data/source/plain",
    "/data/items/hostile/2020-01-01/hostile.json",
    "/data/source/%00",
    "/data/source/a%0d%0aX-Evil:1",
    "/data/source/%ff%fe",
    "/data/sourc\u0435/x".encode().decode("latin-1"),
    "/data/source/./plain",
    "//etc/passwd",
    "/data/source/" + "a/" * 2000,
    "/data/source/" + "a" * 3000,
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:40].encode("ascii", "replace").decode())
def test_no_path_leaves_the_cubes_of_the_archive(url: str, path: str) -> None:
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode("latin-1"))
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert answer.split(b" ")[1] in (b"400", b"404"), answer[:200]
    assert SECRET not in answer and b"root:" not in answer and b"\nX-Evil" not in answer
    assert asked(url, "/conformance").status == 200


def test_no_field_of_an_item_leads_to_a_file_or_a_script(url: str) -> None:
    answer = asked(url, "/collections/hostile/items/hostile")
    item = answer.json()
    assert {name: asset["href"] for name, asset in item["assets"].items()} == {
        "signed": "https://example.org/a.tif?v=1"
    }
    assert b"passwd" not in answer.body and b"secret" not in answer.body
    assert item["properties"]["number"] is None and item["properties"]["title"] == HOSTILE
    assert asked(url, "/collections/hostile/items").json()["numberMatched"] == 1  # nobody sees the id of the other
    names = json.loads(gzip.decompress(asked(url, "/footprints").body))
    assert "hostile" in str(names) and "seen" not in str(names)


def test_every_answer_says_what_a_browser_may_do_with_it(url: str) -> None:
    for path in ("/", "/search", "/nothing", "/search?limit=0", "/footprints"):
        headers = asked(url, path).headers
        assert headers["X-Content-Type-Options"] == "nosniff" and "sandbox" in headers["Content-Security-Policy"]
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin" and "Access-Control-Allow-Origin" not in headers
    page = asked(url, "/", Accept="text/html,*/*;q=0.8")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy


def test_an_error_of_the_archive_is_an_answer_without_its_path(archive: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(archive, copy, symlinks=True, ignore=shutil.ignore_patterns("fifo.json"))
    process, address = start(copy)
    try:
        (shard,) = (copy / "source/plain").glob("*.zarr/reflectance/c/0/0/0")
        shard.write_bytes(shard.read_bytes()[:-200] + bytes(200))
        torn = asked(address, "/collections/hs-source/items/plain/spectrum")
        assert torn.status == 500 and "hypermend verify" in torn.json()["description"]
        assert str(copy).encode() not in torn.body
        shutil.rmtree(copy / "restored")
        assert asked(address, "/collections/hs-denoise/items/plain/spectrum").status == 404
        assert asked(address, "/collections/hs-denoise/items/plain").status == 200
    finally:
        process.kill()
        process.communicate()


def state_of(archive: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_size) for p in (archive, *archive.rglob("*"))}


def test_nothing_is_written(served: tuple[str, dict[str, tuple[int, int]]], archive: Path) -> None:
    url, before = served
    for path in ("/", "/search", "/footprints", "/collections/hs-denoise/items/plain/spectrum", "/data/source/none"):
        asked(url, path)
    assert state_of(archive) == before


def test_slow_clients_keep_nobody_waiting_and_are_let_go(archive: Path) -> None:
    process, address = start(archive, wait_s=2.0)
    parts = urlsplit(address)
    slow = []
    try:
        for text in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ") * 30:
            slow.append(socket.create_connection((parts.hostname, parts.port)))
            slow[-1].sendall(text)
        body = socket.create_connection((parts.hostname, parts.port))
        body.sendall(b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        begun = time.monotonic()
        assert asked(address, "/conformance").status == 200
        assert time.monotonic() - begun < 2
        for connection in slow:
            connection.settimeout(20)
            assert connection.recv(100) == b""
        body.settimeout(20)
        assert body.recv(100).startswith(b"HTTP/1.1 408")
        assert asked(address, "/search").status == 200
    finally:
        for connection in slow:
            connection.close()
        process.kill()
        process.communicate()


def test_what_cannot_be_served_is_said_in_a_line(url: str, archive: Path, tmp_path: Path) -> None:
    port = str(urlsplit(url).port)
    taken = CliRunner().invoke(app, ["serve", "--archive", str(archive), "--port", port])
    assert taken.exit_code == 2 and port in taken.stderr and "--port" in taken.stderr
    nowhere = CliRunner().invoke(app, ["serve", "--archive", str(archive), "--host", "256.1.1.1"])
    assert nowhere.exit_code == 2 and "256.1.1.1" in nowhere.stderr
    assert CliRunner().invoke(app, ["serve", "--archive", str(tmp_path / "no")]).exit_code == 2
    assert CliRunner().invoke(app, ["serve", "--archive", str(archive), "--port", "70000"]).exit_code == 2


def test_other_machines_are_warned_of(archive: Path) -> None:
    process, address = start(archive, "--host", "0.0.0.0")
    port = urlsplit(address).port
    local = f"http://127.0.0.1:{port}"
    assert asked(local, "/", Host="a-machine.example").status == 200
    page = asked(local, "/", Accept="text/html").body
    assert str(archive).encode() not in page and b'data-archive="ARCHIVE"' in page
    process.send_signal(signal.SIGTERM)
    assert "everyone who reaches this address" in process.communicate(timeout=20)[1]
    assert process.returncode == 0


def test_an_archive_on_s3_is_served(s3_bucket: str, archive: Path) -> None:
    root = ArchiveStore(f"s3://{s3_bucket}/a")
    for path in archive.rglob("*"):
        key = path.relative_to(archive).as_posix()
        if path.is_file() and not path.is_symlink() and key.startswith(("source/plain", "restored/plain", "items/hs")):
            root.put(key, path.read_bytes())
    process, address = start(Path(), "--archive", root.url)
    try:
        (item,) = asked(address, "/search?ids=plain&collections=hs-denoise").json()["features"]
        ds = xarray.open_zarr(item["assets"]["cube"]["href"])
        assert float(ds.reflectance[0, 20, 20]) > 0
        assert len(asked(address, "/collections/hs-denoise/items/plain/spectrum").json()["before"]["values"]) == BANDS
        assert asked(address, "/data/source/plain/none").status == 404
    finally:
        process.kill()
        process.communicate()


# -------------------------------------------------------------------------------------------------------- in a browser


def shown(chromium: str, profile: Path, address: str) -> tuple[str, str]:
    """The page as a browser has it after its scripts, and the browser's log."""
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    logged = [
        "--enable-logging=stderr",
        "--virtual-time-budget=10000",
        "--window-size=1440,1400",
        "--dump-dom",
    ]
    answer = subprocess.run([*command, *logged, address], capture_output=True, text=True, timeout=120, check=True)
    return answer.stdout, answer.stderr


def test_every_control_of_the_page_has_a_name(url: str) -> None:
    text = asked(url, "/", Accept="text/html").body.decode()
    page = Page(text)
    assert [attrs for tag, attrs in page.tags if tag == "html"] == [{"lang": "en"}]
    assert len(re.findall(r"<label>[^<]+<(?:input|select)", text)) == sum(
        t in ("input", "select") for t, _ in page.tags
    )
    assert all(re.search(r"aria-label|>\w", part) for part in re.findall(r"<button[^>]*>\w?", text))
    assert [attrs["tabindex"] for tag, attrs in page.tags if tag == "canvas" and attrs["aria-label"]] == ["0"]
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") or name == "style" for name in attrs)]
    links = [v for _, attrs in page.tags for name in ("src", "href") if (v := attrs.get(name))]
    assert links and all(link.startswith("/") or link == "data:," for link in links)


def test_a_browser_shows_scenes_pictures_and_spectra(chromium: str, url: str, tmp_path: Path) -> None:
    dom, log = shown(chromium, tmp_path / "profile", f"{url}/#hs/plain")
    page = Page(dom)
    assert f"{COUNT + 3} of {COUNT + 3} scenes, 3 without a place" in page.text
    pictures = {a["class"]: str(a["src"]) for t, a in page.tags if t == "img" and a.get("class")}
    assert {"before", "after", "removed"} <= pictures.keys()
    assert "/data/source/plain/" in pictures["before"] and "/data/restored/plain/" in pictures["after"]
    for name in ("before", "after", "removed"):
        assert re.search(rf'<path class="{name}" d="M', dom), name
    assert f"of the pixel in row {EDGE // 2}, column {EDGE // 2} (valid" in page.text
    assert 'ids=["plain"]' in page.text and "hypermend export" in page.text and "xarray.open_zarr" in page.text
    assert "Content Security Policy" not in log and "Uncaught" not in log


def test_g3_a_hostile_id_is_text_on_the_page(chromium: str, url: str, tmp_path: Path) -> None:
    dom, log = shown(chromium, tmp_path / "profile", f"{url}/#hs/{quote(HOSTILE, safe='')}")
    page = Page(dom)
    assert HOSTILE in page.text and "<title>Hypermend archive</title>" in dom
    assert not [a for _, a in page.tags if any(n.startswith("on") for n in a)]
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert "of the pixel in row" in page.text and "Uncaught" not in log
