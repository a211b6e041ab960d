"""Discovery: a real STAC API, static catalogs, folders; what is bad is skipped with its reason and the rest goes on."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import rasterio
from affine import Affine

from hypermend.catalog.errors import BadAsset, BadSensor, NotFound, Unreachable
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac.discover import ItemFilter, Skipped, discover, from_folder
from hypermend.catalog.stac.item import from_item, to_item
from hypermend.catalog.storage import transport

Api = Callable[[Sequence[Mapping[str, Any]]], str]


def item(id: str, **changes: Any) -> dict[str, Any]:
    """A small item of EnMAP over Potsdam; keyword arguments change properties."""
    box = changes.pop("bbox", [13.0, 52.3, 13.1, 52.4])
    w, s, e, n = box
    properties = {"datetime": "2022-07-24T10:45:26Z", "platform": "EnMAP", "eo:cloud_cover": 10}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": id,
        "collection": changes.pop("collection", "enmap"),
        "geometry": {"type": "Polygon", "coordinates": [[[w, s], [e, s], [e, n], [w, n], [w, s]]]},
        "bbox": box,
        "links": [],
        "assets": {"data": {"href": changes.pop("href", f"https://h.org/{id}.tif"), "roles": ["data"]}},
        "properties": {**properties, **changes},
    }


def ids(found: Iterator[Scene | Skipped]) -> list[str]:
    return [f.id if isinstance(f, Scene) else f"-{f.id}" for f in found]


ITEMS = [
    item("clear", **{"eo:cloud_cover": 3}),
    item("cloudy", **{"eo:cloud_cover": 80}),
    item("unknown-clouds", **{"eo:cloud_cover": None}),
    item("far", bbox=[100.0, 0.0, 100.1, 0.1]),
    item("old", datetime="2019-01-01T00:00:00Z"),
    item("other", collection="prisma", platform="PRISMA"),
    item("strange", platform="sputnik"),
    item("local", href="file:///etc/passwd"),
]


@pytest.fixture(scope="module")
def api(stac_api: Api) -> str:
    return stac_api(ITEMS)


@pytest.mark.fault
def test_f14_everything_of_an_api_and_the_bad_ones_with_reasons(api: str) -> None:
    found = list(discover(api))
    scenes = {f.id for f in found if isinstance(f, Scene)}
    skipped = {f.id: f.reason for f in found if isinstance(f, Skipped)}
    assert scenes == {"clear", "cloudy", "unknown-clouds", "far", "old", "other"}
    assert "sputnik" in skipped["strange"] and "may not name files of this machine" in skipped["local"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"query": ["eo:cloud_cover<20"]}, {"clear", "far", "old", "other"}),
        ({"query": ["eo:cloud_cover>=80"]}, {"cloudy"}),
        ({"query": ["eo:cloud_cover<20", "platform=PRISMA"]}, {"other"}),
        ({"query": ["platform!=EnMAP"], "collections": ["prisma"]}, {"other"}),
        ({"bbox": [12, 52, 14, 53], "query": ["eo:cloud_cover<20"], "collections": ["enmap"]}, {"clear", "old"}),
        ({"datetime": "2022-07-24", "collections": ["enmap"]}, {"clear", "cloudy", "unknown-clouds", "far"}),
        ({"datetime": "../2020-01-01T00:00:00Z"}, {"old"}),
        ({"collections": ["prisma"]}, {"other"}),
        ({"collections": ["nothing"]}, set()),
        ({"bbox": [0, 0, 1, 1]}, set()),
    ],
)
def test_filters_hold_whatever_the_server_does(api: str, filters: dict[str, Any], expected: set[str]) -> None:
    assert {f.id for f in discover(api, **filters) if isinstance(f, Scene)} == expected


def test_pages_are_followed_and_the_limit_holds(stac_api: Api) -> None:
    url = stac_api([item(f"i{n:03d}") for n in range(230)])
    assert len(ids(discover(url))) == 230  # three pages
    assert len(ids(discover(url, limit=120))) == 120
    assert len(ids(discover(url, limit=3))) == 3


def test_an_item_without_geometry_goes_through_an_api(stac_api: Api) -> None:
    lab = item("toy", platform=None)
    lab["geometry"] = None
    del lab["bbox"]
    (scene,) = discover(stac_api([lab]), sensor="cave")
    assert isinstance(scene, Scene) and scene.geometry is None and scene.sensor == "cave"


def test_enmap_through_a_real_api_to_pixels(
    shared_data: Path, stac_api: Api, http_server: Callable[[Path], str]
) -> None:
    from hypermend.catalog.readers.scene_reader import open_scene

    folder = shared_data / "enmap_potsdam"
    (local,) = from_folder(folder, sensor="enmap", collection="enmap")
    assert isinstance(local, Scene)
    raw = to_item(local)
    for asset in raw["assets"].values():
        asset["href"] = f"{http_server(folder)}/{Path(asset['href']).name}"
    (served,) = discover(stac_api([raw]), bbox=[13, 52.3, 13.1, 52.5])
    assert isinstance(served, Scene) and served.grid == local.grid
    a, b = open_scene(served), open_scene(local)
    assert a.spec == b.spec
    window = slice(90, 100), slice(0, 160)
    np.testing.assert_array_equal(a.read(*window)[0], b.read(*window)[0])


class Dying(BaseHTTPRequestHandler):
    """A STAC API of endless pages that fails at the third."""

    status: ClassVar[int] = 503
    calls: ClassVar[int] = 0

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def do_GET(self) -> None:
        here = f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]
        if self.path == "/":
            core = ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"]
            links = [
                {"rel": "search", "href": f"{here}/search", "type": "application/geo+json", "method": m}
                for m in ("GET", "POST")
            ]
            links.append({"rel": "self", "href": here})
            self.answer(
                {
                    "type": "Catalog",
                    "id": "c",
                    "stac_version": "1.0.0",
                    "description": "d",
                    "conformsTo": core,
                    "links": links,
                }
            )
            return
        page = int(match[1]) if (match := re.search(r"page=(\d+)", self.path)) else 1
        if page == 3:
            type(self).calls += 1
            self.send_response(self.status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        link = {"rel": "next", "href": f"{here}/search?page={page + 1}", "method": "GET"}
        features = [item(f"p{page}-{n}") for n in range(5)]
        self.answer({"type": "FeatureCollection", "features": features, "links": [link]})

    def answer(self, body: Any) -> None:
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(transport, "FIRST_WAIT_S", 0.01)
    Dying.calls = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Dying)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.fault
def test_f14_a_search_that_dies_says_where_after_its_retries(dying: str) -> None:
    found: list[str] = []
    with pytest.raises(Unreachable, match=r"failed at page 3 after 10 items.*503"):
        found.extend(one.id for one in discover(dying))
    assert len(found) == 10 and Dying.calls == transport.TRIES


def test_no_api_there() -> None:
    with pytest.raises(Unreachable):
        list(discover("http://127.0.0.1:9/"))


def write_json(path: Path, body: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body))
    return path


def catalog_of(*links: tuple[str, str]) -> dict[str, Any]:
    return {
        "type": "Catalog",
        "id": "c",
        "stac_version": "1.0.0",
        "description": "d",
        "links": [{"rel": rel, "href": href} for rel, href in links],
    }


@pytest.mark.fault
def test_f14_a_static_catalog_with_a_loop_a_duplicate_an_escape_and_a_hole(tmp_path: Path) -> None:
    write_json(
        tmp_path / "cat" / "catalog.json",
        catalog_of(
            ("self", "./catalog.json"),
            ("child", "./a/catalog.json"),
            ("item", "./one.json"),
            ("item", "./gone.json"),
            ("item", "../outside.json"),
            ("item", "ftp://h.org/x.json"),
        ),
    )
    write_json(
        tmp_path / "cat" / "a" / "catalog.json",
        catalog_of(
            ("child", "../catalog.json"), ("item", "./two.json"), ("item", "./again.json"), ("item", "../one.json")
        ),
    )
    write_json(tmp_path / "cat" / "one.json", item("one", href="./one.tif"))
    write_json(tmp_path / "cat" / "a" / "two.json", item("two", href="../../../etc/passwd"))
    write_json(tmp_path / "cat" / "a" / "again.json", item("one"))
    write_json(tmp_path / "outside.json", item("outside"))
    found = list(discover(tmp_path / "cat"))
    scenes = [f for f in found if isinstance(f, Scene)]
    assert [s.id for s in scenes] == ["one"]
    reasons = {f.id: f.reason for f in found if isinstance(f, Skipped)}
    assert reasons.keys() == {"two", "one", "./gone.json", "../outside.json", "ftp://h.org/x.json"}
    assert "leaves" in reasons["two"] and "second item" in reasons["one"] and "no such file" in reasons["./gone.json"]
    assert "leaves" in reasons["../outside.json"] and "scheme 'ftp'" in reasons["ftp://h.org/x.json"]


def test_a_chain_of_catalogs_ends(tmp_path: Path) -> None:
    for n in range(40):
        write_json(tmp_path / f"{n}.json", catalog_of(("child", f"./{n + 1}.json")))
    found = list(discover(tmp_path / "0.json"))
    assert [type(f) for f in found] == [Skipped] and "nested deeper than 32" in found[0].reason  # type: ignore[union-attr]


def test_no_stac_at_all(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="hypermend catalog"):
        discover(tmp_path)
    (tmp_path / "catalog.json").write_text("{")
    with pytest.raises(BadAsset, match="not a JSON"):
        discover(tmp_path)
    with pytest.raises(NotFound):
        discover(tmp_path / "no.json")


def test_real_documents(shared_data: Path) -> None:
    stac = shared_data / "stac"
    assert len(ids(discover(stac / "pc_sentinel-2-l2a_itemcollection.json"))) == 4
    assert len(ids(discover(stac / "sentinel2-l2a-j2k-payload.json"))) == 2
    assert ids(discover(stac / "rastervision_earthsearch_item.json")) == ["S2A_31UDQ_20230617_0_L2A"]
    assert ids(discover(stac / "recursive-stac-example")) == [f"-openEO_2023-06-0{n}Z.tif" for n in (1, 4, 6)]
    named = discover(stac / "recursive-stac-example", sensor="sentinel2a", datetime="2023-06-02/2023-06-05")
    assert ids(named) == ["openEO_2023-06-04Z.tif"]


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("2022-07-24T10:45:26Z", ("2022-07-24T10:45:26+00:00", "2022-07-24T10:45:26+00:00")),
        ("2022-02", ("2022-02-01T00:00:00+00:00", "2022-02-28T23:59:59.999999+00:00")),
        ("2022", ("2022-01-01T00:00:00+00:00", "2022-12-31T23:59:59.999999+00:00")),
        ("2022-01-01/2022-01-02", ("2022-01-01T00:00:00+00:00", "2022-01-02T23:59:59.999999+00:00")),
        ("../2022-01-02T00:00:00Z", (None, "2022-01-02T00:00:00+00:00")),
        ("2022-01-02T00:00:00+02:00/..", ("2022-01-01T22:00:00+00:00", None)),
    ],
)
def test_times(text: str, span: tuple[str | None, str | None]) -> None:
    found = ItemFilter.of(datetime=text).interval()
    assert found is not None and tuple(None if t is None else t.isoformat() for t in found) == span


@pytest.mark.parametrize(
    "wrong",
    [
        {"datetime": "yesterday"},
        {"datetime": "2022-02-30"},
        {"datetime": "2023/2022"},
        {"bbox": [1, 2, 3]},
        {"bbox": [0, 5, 1, 4]},
        {"query": ["eo:cloud_cover"]},
        {"query": ["<20"]},
    ],
)
def test_filters_that_cannot_be_read_are_said_before_any_work(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadAsset):
        discover("http://127.0.0.1:9/", **wrong)


def test_a_box_over_the_date_line() -> None:
    east, west = item("e", bbox=[178.0, 0.0, 179.0, 1.0]), item("w", bbox=[-179.0, 0.0, -178.0, 1.0])
    over, none = item("o", bbox=[179.5, 0.0, -179.5, 1.0]), item("n", bbox=[0.0, 0.0, 1.0, 1.0])
    box = ItemFilter.of(bbox=[177, 0, -177, 1])
    assert [box.accepts(i) for i in (east, west, over, none)] == [True, True, True, False]
    assert not ItemFilter.of(bbox=[-170, 0, 170, 1]).accepts(over)


def tile(path: Path, *, col: int = 0, time: str | None = "2022-01-01T00:00:00", crs: str = "EPSG:32633") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=9,
        height=4,
        width=4,
        dtype="uint16",
        crs=crs,
        transform=Affine(30, 0, 366000 + 30 * col, 0, -30, 5810000),
    ) as out:
        out.write(np.full((9, 4, 4), 5, "uint16"))
        if time is not None:
            out.update_tags(start_time=time)


def test_a_folder_of_everything(tmp_path: Path) -> None:
    for n, col in enumerate((0, 4, 12)):
        tile(tmp_path / "tiles" / f"tile_{n}.tif", col=col)
    tile(tmp_path / "tiles" / "later.tif", time="2022-01-02T00:00:00")
    tile(tmp_path / "single" / "a.tif", time=None)
    tile(tmp_path / "single" / "b.tif", time=None)
    tile(tmp_path / "single" / "zone.tif", crs="EPSG:32632")
    (tmp_path / "single" / "broken.tif").write_text("no raster")
    (tmp_path / "single" / "notes.txt").write_text("nothing")
    (tmp_path / ".hidden").mkdir()
    tile(tmp_path / ".hidden" / "x.tif")
    found = list(from_folder(tmp_path, sensor="ali", collection="ali"))
    scenes = {f.id: f for f in found if isinstance(f, Scene)}
    assert scenes.keys() == {"tiles-20220101T000000", "later", "a", "b", "zone"}
    mosaic = scenes["tiles-20220101T000000"]
    assert len(mosaic.assets) == 3 and mosaic.grid is not None and tuple(mosaic.grid.shape) == (4, 16)
    assert mosaic.bbox is not None and 13 < mosaic.bbox[0] < 13.1
    assert mosaic.properties["hypermend:datetime_from"] == "files"
    assert scenes["a"].properties["hypermend:datetime_from"] == "unknown" and scenes["a"].datetime is None
    assert [f.id for f in found if isinstance(f, Skipped)] == ["broken"]
    for scene in scenes.values():
        assert from_item(to_item(scene)) == scene


def test_a_folder_needs_to_exist_and_a_sensor_to_be_known(tmp_path: Path) -> None:
    with pytest.raises(BadAsset, match="no such folder"):
        list(from_folder(tmp_path / "no", sensor="ali", collection="c"))
    with pytest.raises(BadSensor, match="did you mean 'ali'"):
        list(from_folder(tmp_path, sensor="alli", collection="c"))
