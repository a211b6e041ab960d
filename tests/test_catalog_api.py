"""STAC APIs as they really are: every item is compared with what was asked, and every page is reached once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hypermend.catalog.errors import AccessDenied, BadAsset, Unreachable
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac.discover import discover
from hypermend.catalog.storage import transport
from tests.conftest import TrapServer

Traps = Callable[[Path], TrapServer]


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "FIRST_WAIT_S", 0.01)


def item(id: str, box: Sequence[float], *, cloud: float = 3, collection: str = "enmap", day: int = 1) -> dict[str, Any]:
    w, s, e, n = box
    spans = [(w, e)] if w <= e else [(w, 180), (-180, e)]
    rings = [[[[a, s], [b, s], [b, n], [a, n], [a, s]]] for a, b in spans]
    outline = {"type": "MultiPolygon", "coordinates": rings}
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": id, "collection": collection, "geometry": outline,
        "bbox": list(box), "links": [], "assets": {"data": {"href": f"https://h.org/{id}.tif", "roles": ["data"]}},
        "properties": {"datetime": f"2024-01-{day:02d}T00:00:00Z", "platform": "EnMAP", "eo:cloud_cover": cloud},
    }  # fmt: skip


HERE = (13.0, 52.0, 14.0, 53.0)
ITEMS = [
    *(item(f"here{n}", HERE, cloud=n) for n in range(8)),
    *(item(f"cloudy{n}", HERE, cloud=90) for n in range(4)),
    *(item(f"far{n}", (-60.0, -10.0, -59.0, -9.0)) for n in range(4)),
    *(item(f"other{n}", HERE, collection="desis") for n in range(4)),
    *(item(f"later{n}", HERE, day=9) for n in range(4)),
]
ASKED: dict[str, Any] = {
    "bbox": HERE, "collections": ["enmap"], "query": ["eo:cloud_cover<20"], "datetime": "2024-01-01",
}  # fmt: skip
RIGHT = [f"here{n}" for n in range(8)]


@pytest.fixture
def server(traps: Traps, tmp_path: Path) -> TrapServer:
    (tmp_path / "items.json").write_text(json.dumps(ITEMS))
    return traps(tmp_path)


def ids(server: TrapServer, kind: str, **asked: Any) -> list[str]:
    found = list(discover(f"{server.url}/stac/{kind}/", **asked))
    assert all(isinstance(one, Scene) for one in found), found
    return [one.id for one in found]


def searches(server: TrapServer) -> list[dict[str, Any]]:
    return [r for r in server.requests() if "/search" in r["path"] or "/there" in r["path"]]


@pytest.mark.parametrize("kind", ["plain", "dlr", "getlost", "deaf", "hole", "picky", "getonly", "moved"])
def test_the_same_scenes_from_every_kind_of_server(server: TrapServer, kind: str) -> None:
    assert ids(server, kind, **ASKED) == RIGHT


def test_a_filter_is_sent_in_cql2_together_with_the_box(server: TrapServer) -> None:
    assert ids(server, "dlr", **{**ASKED, "query": ["eo:cloud_cover<20", "eo:cloud_cover>=2"]}) == RIGHT[2:]
    bodies = [json.loads(r["body"]) for r in searches(server)]
    assert len(bodies) > 2
    for body in bodies:  # those of later pages, too, although the link had lost all of it
        assert body["bbox"] == list(HERE) and body["filter-lang"] == "cql2-json" and body["limit"] <= 500
        assert body["filter"] == {
            "op": "and",
            "args": [
                {"op": "<", "args": [{"property": "eo:cloud_cover"}, 20.0]},
                {"op": ">=", "args": [{"property": "eo:cloud_cover"}, 2.0]},
            ],
        }
    one = [{"op": "<", "args": [{"property": "eo:cloud_cover"}, 20.0]}]
    ids(server, "dlr", **ASKED)
    assert [json.loads(searches(server)[-1]["body"])["filter"]] == one


def test_what_a_link_has_lost_is_sent_again(server: TrapServer) -> None:
    ids(server, "getlost", **ASKED)
    paths = [r["path"] for r in searches(server)]
    assert len(paths) > 2 and all("bbox=13%2C52%2C14%2C53" in path and "collections=enmap" in path for path in paths)
    assert all("limit=100" in path for path in paths)


def test_comparisons_that_a_server_refuses_are_made_here(server: TrapServer) -> None:
    ids(server, "picky", **ASKED)
    assert "query" in json.loads(searches(server)[0]["body"])
    assert not any("query" in json.loads(r["body"]) for r in searches(server)[1:])


@pytest.mark.parametrize(("kind", "page"), [("loop", 1), ("stuck", 1)])
def test_pages_that_repeat_end_with_an_error(server: TrapServer, kind: str, page: int) -> None:
    with pytest.raises(BadAsset, match=rf"failed at page \d after \d+ items.*back to page {page}.*--bbox"):
        ids(server, kind)
    assert len(searches(server)) <= 3


def test_a_search_that_breaks_off_says_where(server: TrapServer) -> None:
    with pytest.raises(Unreachable, match=r"failed at page 2 after 3 items.*connection closed"):
        ids(server, "cut")


def test_a_login_at_the_search_is_said(server: TrapServer) -> None:
    with pytest.raises(AccessDenied, match=r"failed at page 1.*answers with a web page"):
        ids(server, "login")


def test_the_limit_ends_the_pages(server: TrapServer) -> None:
    assert ids(server, "plain", limit=2) == RIGHT[:2]
    assert len(searches(server)) == 1


FIJI = item("fiji", (179.5, -18.0, -179.5, -17.0))
NAIVE = {**item("naive", (179.6, -18.0, -179.4, -17.0)), "bbox": [-180.0, -18.0, 180.0, -17.0]}
UNSPLIT = {
    **item("unsplit", (179.6, -18.0, -179.4, -17.0)),
    "bbox": [-179.4, -18.0, 179.6, -17.0],
    "geometry": {
        "type": "Polygon",
        "coordinates": [[[179.6, -18], [-179.4, -18], [-179.4, -17], [179.6, -17], [179.6, -18]]],
    },
}
ROUND = {**item("round", (179.7, -18.0, 180.0, -17.0)), "bbox": [179.7, -18.0, 180.4, -17.0]}
GREENWICH = item("greenwich", (-0.5, -18.0, 0.5, -17.0))
PACIFIC = [FIJI, NAIVE, UNSPLIT, ROUND, GREENWICH]


@pytest.mark.parametrize(
    ("box", "right"),
    [
        ((-1, -18, 1, -17), ["greenwich"]),
        ((179, -18, -179, -17), ["fiji", "naive", "unsplit", "round"]),
        ((179, -18, 181, -17), ["fiji", "naive", "unsplit", "round"]),
        ((-181, -18, -179, -17), ["fiji", "naive", "unsplit", "round"]),
        ((-179.9, -18, -179.45, -17), ["fiji", "naive", "unsplit", "round"]),
        ((179.55, -18, 179.59, -17), ["fiji"]),
        ((-180, -18, 180, -17), ["fiji", "naive", "unsplit", "round", "greenwich"]),
        ((0, -18, 360, -17), ["fiji", "naive", "unsplit", "round", "greenwich"]),
    ],
)
@pytest.mark.parametrize("served", ["plain", "rustac"])
def test_a_search_right_across_the_date_line(
    traps: Traps,
    stac_api: Callable[[Sequence[Any]], str],
    tmp_path: Path,
    box: tuple[float, ...],
    right: list[str],
    served: str,
) -> None:
    if served == "plain":
        (tmp_path / "items.json").write_text(json.dumps(PACIFIC))
        url = f"{traps(tmp_path).url}/stac/deaf/"
    else:
        url = stac_api([FIJI, NAIVE, GREENWICH])  # it compares the outlines, and those of the others are wrong
        right = [id for id in right if id not in ("unsplit", "round")]
    found = [one.id for one in discover(url, bbox=box)]
    assert sorted(found) == sorted(right)
