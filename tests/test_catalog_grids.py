"""Outlines in degrees, and grids that have none."""

from __future__ import annotations

import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from hypermend.catalog.grids import footprint

LOCAL = 'LOCAL_CS["a desk",UNIT["metre",1]]'
# A zone that no UTM has: found in headers with a flipped bit.
NO_WAY = (
    'PROJCS["x",GEOGCS["x",DATUM["x",SPHEROID["x",6378137,298.257]],PRIMEM["Greenwich",0],UNIT["degree",0.0174532925]],'
    'PROJECTION["Transverse_Mercator"],PARAMETER["scale_factor",-1],UNIT["metre",1]]'
)


def test_a_utm_grid_has_a_small_polygon_in_degrees() -> None:
    geometry, bbox = footprint(GeoBox((100, 200), Affine(30, 0, 366000, 0, -30, 5810010), "EPSG:32633"))
    assert geometry is not None and geometry["type"] == "Polygon" and len(geometry["coordinates"][0]) < 50
    assert bbox == pytest.approx((13.028, 52.397, 13.118, 52.426), abs=2e-3)


@pytest.mark.parametrize("crs", [LOCAL, NO_WAY])
def test_a_system_without_a_way_to_degrees_has_no_outline(crs: str) -> None:
    assert footprint(GeoBox((10, 10), Affine(30, 0, 0, 0, -30, 0), crs)) == (None, None)


def test_a_grid_where_its_system_does_not_hold_has_no_outline() -> None:
    assert footprint(GeoBox((10, 10), Affine(30, 0, 1e30, 0, -30, 1e30), "EPSG:32633")) == (None, None)
