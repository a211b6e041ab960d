"""The date line: boxes with west > east, outlines split at 180 degrees, 0 to 360, the poles, and searches there."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

import hypermend
from hypermend.catalog import dateline
from hypermend.catalog.dateline import boxes_meet, enclosing, outline_of_ring, parts, swath_box, width, wrap_box
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.grids import footprint
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac import index
from hypermend.catalog.stac.discover import ItemFilter, from_folder
from hypermend.catalog.stac.fields import BadField, bbox_of
from hypermend.catalog.stac.item import from_item, to_item
from hypermend.catalog.stac.publish import put_item
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.config import BadJob, Job, parse
from tests.small_cubes import emit_file

FIJI_UTM = GeoBox((100, 100), Affine(300, 0, 800000, 0, -300, 8100000), "EPSG:32760")


@pytest.mark.parametrize(
    ("given_box", "right"),
    [
        ((170, 0, 190, 1), (170, 0, -170, 1)),
        ((-190, 0, -170, 1), (170, 0, -170, 1)),
        ((200, 0, 220, 1), (-160, 0, -140, 1)),
        ((180, 0, 190, 1), (-180, 0, -170, 1)),
        ((170, 0, -180, 1), (170, 0, 180, 1)),
        ((0, 0, 360, 1), (-180, 0, 180, 1)),
        ((-180, 0, 180, 1), (-180, 0, 180, 1)),
        ((179, 0, -179, 1), (179, 0, -179, 1)),
        ((13, 0, 14, 1), (13, 0, 14, 1)),
    ],
)
def test_a_box_of_any_longitudes(given_box: dateline.Bbox, right: dateline.Bbox) -> None:
    assert wrap_box(*given_box) == right


def test_boxes_meet_on_a_circle() -> None:
    fiji, home = (179.5, -18.0, -179.5, -17.0), (0.0, -18.0, 1.0, -17.0)
    assert width(fiji) == 1.0 and parts(fiji) == [(179.5, -18, 180, -17), (-180, -18, -179.5, -17)]
    assert not boxes_meet(fiji, home)
    for box in ((179.0, -18, 179.6, -17), (-179.6, -18, -179, -17), (178.0, -18, -178, -17), (-180, -90, 180, 90)):
        assert boxes_meet(fiji, box) and boxes_meet(box, fiji)
    assert boxes_meet((179.0, 0, 180.0, 1), (-180.0, 0, -179.0, 1))  # they share the meridian


@given(st.floats(-180, 180), st.floats(0.01, 350), st.floats(-180, 180), st.floats(0.01, 350))
def test_two_boxes_meet_as_their_pixels_do(w: float, wide: float, other: float, other_wide: float) -> None:
    a, b = wrap_box(w, 0, w + wide, 1), wrap_box(other, 0, other + other_wide, 1)
    apart = (other - w) % 360
    assert (
        boxes_meet(a, b) == (apart <= wide + 1e-9 or apart + other_wide >= 360 - 1e-9)
        or min(abs(apart - wide), abs(apart + other_wide - 360)) < 1e-6
    )


def test_the_shortest_arc_around_pieces() -> None:
    assert enclosing([(179.0, 180.0), (-180.0, -179.0)]) == (179.0, -179.0)
    assert enclosing([(10.0, 20.0), (15.0, 30.0)]) == (10.0, 30.0)
    assert enclosing([(-180.0, 180.0)]) == (-180.0, 180.0)


@pytest.mark.parametrize(
    ("grid", "box", "pieces"),
    [
        (FIJI_UTM, (179.8198, -17.436, -179.8938, -17.161), 2),
        (GeoBox((9, 9), Affine(0.2, 0, 179, 0, -0.2, 10), "EPSG:4326"), (179, 8.2, -179.2, 10), 2),
        (GeoBox((9, 9), Affine(0.2, 0, 200, 0, -0.2, 10), "EPSG:4326"), (-160, 8.2, -158.2, 10), 1),
        (GeoBox((9, 9), Affine(0.2, 0, -181, 0, -0.2, 10), "EPSG:4326"), (179, 8.2, -179.2, 10), 2),
        (GeoBox((18, 36), Affine(10, 0, -180, 0, -10, 90), "EPSG:4326"), (-180, -90, 180, 90), 1),
        (GeoBox((18, 36), Affine(10, 0, 0, 0, -10, 90), "EPSG:4326"), (-180, -90, 180, 90), 1),
        (GeoBox((9, 9), Affine(3e4, 0, 19947508, 0, -3e4, 0), "EPSG:3857"), (179.19, -2.42, -178.38, 0), 2),
    ],
    ids=["utm60", "degrees", "200 to 202", "-181", "globe", "globe of 0 to 360", "mercator"],
)  # fmt: skip
def test_the_footprint_of_a_grid(grid: GeoBox, box: dateline.Bbox, pieces: int) -> None:
    geometry, bbox = footprint(grid)
    assert geometry is not None and bbox == pytest.approx(box, abs=0.01)
    assert geometry["type"] == ("Polygon" if pieces == 1 else "MultiPolygon")
    shape = shapely.geometry.shape(geometry)
    assert len(shapely.get_parts(shape)) == pieces and shape.is_valid
    assert all(-180 <= lon <= 180 for lon, _ in shapely.get_coordinates(shape))


@pytest.mark.parametrize("crs", ["EPSG:3031", "EPSG:3995"])
@pytest.mark.parametrize("centre", [True, False])
def test_the_poles_do_not_break(crs: str, centre: bool) -> None:
    """A grid around a pole holds it; one that only lies near it does not."""
    x = -150000.0 if centre else 400000.0
    geometry, bbox = footprint(GeoBox((100, 100), Affine(3000, 0, x, 0, -3000, 150000), crs))
    assert geometry is not None and bbox is not None
    shape = shapely.geometry.shape(geometry)
    pole = -90.0 if crs == "EPSG:3031" else 90.0
    assert shape.is_valid
    assert (pole in (bbox[1], bbox[3])) == centre and (width(bbox) == 360) == centre
    inside = shapely.Point(100.0, pole - math.copysign(0.5, pole))
    assert shape.contains(inside) == centre


def test_a_swath_over_the_date_line_in_either_counting() -> None:
    lat, lon = np.mgrid[-17.0:-17.5:20j, 179.5:180.7:24j]
    for counted in (np.where(lon > 180, lon - 360, lon), lon):
        assert swath_box(counted, lat) == pytest.approx((179.5, -17.5, -179.3, -17.0))
    assert swath_box(lon + 20, lat) == pytest.approx((-160.5, -17.5, -159.3, -17.0))
    filled = np.where(lon < 179.6, -9999.0, lon)
    assert swath_box(filled, lat)[0] == pytest.approx(179.6, abs=0.06)  # type: ignore[index]
    assert swath_box(np.full((2, 2), np.nan), np.zeros((2, 2))) is None
    around = np.mgrid[-180:180:360j, 80:89:9j]
    west, south, east, north = swath_box(around[0], around[1]) or (0, 0, 0, 0)
    assert east - west > 350 and (south, north) == (80, 89)


def test_the_outline_and_box_of_an_item_agree() -> None:
    ring = [[179.6, -18], [-179.4, -18], [-179.4, -17], [179.6, -17], [179.6, -18]]
    east = [[lon % 360, lat] for lon, lat in ring]
    for corners, bbox in ((ring, [-179.4, -18, 179.6, -17]), (east, [179.6, -18, 180.6, -17]), (ring, None)):
        scene = from_item(scene_item(corners, bbox))
        assert scene.bbox == pytest.approx((179.6, -18, -179.4, -17))
        assert scene.geometry is not None and scene.geometry["type"] == "MultiPolygon"
        again = json.loads(json.dumps(to_item(scene)))
        assert from_item(again) == scene
        pystac.Item.from_dict(again)


def test_a_box_of_half_the_globe_is_not_turned_inside_out() -> None:
    ring = [[-100, 0], [100, 0], [100, 1], [-100, 1], [-100, 0]]
    scene = from_item(scene_item(ring, [-100, 0, 100, 1]))
    assert scene.bbox == (-100, 0, 100, 1) and scene.geometry == scene_item(ring, None)["geometry"]


def scene_item(ring: Any, bbox: Any) -> dict[str, Any]:
    item = {
        "type": "Feature", "stac_version": "1.1.0", "id": "one", "collection": "c", "links": [],
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"datetime": "2024-01-01T00:00:00Z", "platform": "EnMAP"},
        "assets": {"data": {"href": "https://h.org/a.tif", "roles": ["data"]}},
    }  # fmt: skip
    return item if bbox is None else {**item, "bbox": bbox}


def test_an_archive_finds_fiji_where_it_is(tmp_path: Path) -> None:
    """Swaths of EMIT: one over the date line, one over Greenwich, one east of it."""
    for name, west in (("fiji", 179.995), ("greenwich", -0.005), ("tonga", -175.0)):
        emit_file(tmp_path / "files" / f"{name}.nc", west=west, north=-17.0)
    root = ArchiveStore(tmp_path / "archive")
    for scene in from_folder(tmp_path / "files", sensor="emit", collection="emit"):
        assert isinstance(scene, Scene), scene
        put_item(root, scene, run="r")
        if scene.id == "fiji":
            assert scene.bbox is not None and scene.bbox[0] > scene.bbox[2] and width(scene.bbox) < 0.1
            assert scene.geometry is not None and scene.geometry["type"] == "MultiPolygon"
    archive = hypermend.open(str(tmp_path / "archive"))

    def found(*box: float) -> list[str]:
        return sorted(item.scene.id for item in archive.search(bbox=box))

    for _ in ("with the index", "without it"):
        assert found(0, -17.1, 1, -16.9) == ["greenwich"]
        assert found(179, -17.1, -179, -16.9) == found(179, -17.1, 181, -16.9) == ["fiji"]
        assert found(179, -17.1, -170, -16.9) == ["fiji", "tonga"]
        assert found(-180, -17.1, -179, -16.9) == found(179, -17.1, 180, -16.9) == ["fiji"]
        assert found(-180, -90, 180, 90) == ["fiji", "greenwich", "tonga"]
        for entry in list(root.list("index")):
            root.delete(entry.key)


def test_an_index_of_0_1_does_not_hide_the_outline(tmp_path: Path) -> None:
    """Its rows have the box of the item as it was written: -180 to 180."""
    root = ArchiveStore(tmp_path)
    ring = [[179.6, -18], [-179.4, -18], [-179.4, -17], [179.6, -17], [179.6, -18]]
    key = "items/c/2024-01-01/one.json"
    item = scene_item(ring, [-180, -18, 180, -17])
    root.put_json(key, item)
    entry = root.stat(key)
    assert entry is not None
    old = replace(index.row_of(key, entry.version, item), bbox=[-180.0, -18.0, 180.0, -17.0])
    index.add(root, old, run="r")
    assert not list(index.search(root, bbox=(-1, -18, 1, -17)))
    assert [scene.id for scene in index.search(root, bbox=(179, -18, -179, -17))] == ["one"]


@pytest.mark.parametrize("box", [(0, 0, 400, 1), (-500, 0, 1, 1), (0, 5, 1, 4)])
def test_a_box_that_is_none_is_refused(box: tuple[float, ...]) -> None:
    with pytest.raises(BadAsset, match="bbox"):
        ItemFilter.of(bbox=box)
    with pytest.raises(BadJob, match="bbox"):
        parse(Job, {"archive": "a", "bbox": box}, where="options of query")


def test_the_split_of_a_ring_keeps_its_area() -> None:
    ring = [(170.0, 0.0), (190.0, 0.0), (190.0, 10.0), (170.0, 10.0), (170.0, 0.0)]
    geometry, box = outline_of_ring(ring) or ({}, (0, 0, 0, 0))
    assert shapely.geometry.shape(geometry).area == pytest.approx(200.0) and box == (170, 0, -170, 10)
    assert outline_of_ring([(181.0, 1.0)] * 4) is None
    plain = [(13.0, 52.0), (13.0, 53.0), (14.0, 53.0), (13.0, 52.0)]
    assert outline_of_ring(plain) == (
        {"type": "Polygon", "coordinates": [[list(point) for point in plain]]},
        (13.0, 52.0, 14.0, 53.0),
    )


@pytest.mark.parametrize("position", [[1e308, 0.0], [-1e9, 0.0], [10.0, 95.0]])
def test_a_position_that_is_not_on_earth_is_refused_and_never_wrapped(position: list[float]) -> None:
    ring = [[10.0, 50.0], [11.0, 50.0], position, [10.0, 50.0]]
    item = {"geometry": {"type": "Polygon", "coordinates": [ring]}, "bbox": [10, 50, 11, 51]}
    with pytest.raises(BadField, match="not on Earth"):
        bbox_of(item)
    with pytest.raises(BadField, match="not on Earth"):
        bbox_of(
            {
                **item,
                "geometry": {"type": "Polygon", "coordinates": [[*ring[:2], ring[0]]]},
                "bbox": [*position, 11, 51],
            }
        )
