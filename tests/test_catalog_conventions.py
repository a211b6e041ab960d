"""The attributes of every cube follow the Zarr conventions proj, spatial and multiscales, as tagged v0.1.

The rules are those of the conventions' own schemas, which cannot be fetched here, as a schema of our own; their
examples are part of the real data.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from odc.geo.crs import CRS

from hypermend.catalog.cube.cf import geo_attrs
from hypermend.catalog.cube.layout import create
from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.storage.archive_store import ArchiveStore
from tests.small_cubes import make_spec

UUIDS = {
    "multiscales": "d35379db-88df-4056-af3a-620245f8e347",
    "proj": "f17cb550-5864-4468-aeb7-f3180cfb622f",
    "spatial": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
}
RAW = "https://raw.githubusercontent.com/zarr-conventions/{}/refs/tags/v0.1/schema.json"
ASSET = {"type": "string", "pattern": r"^(?!/)(?!.*(\.\.))([^/]+(/[^/]+)*)$"}
PAIR = {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "number"}}
SHAPE = {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "integer", "minimum": 1}}
TRANSFORM = {"type": "array", "minItems": 6, "maxItems": 6, "items": {"type": "number"}}
LEVEL = {
    "type": "object",
    "required": ["asset", "spatial:transform"],
    "properties": {
        "asset": ASSET,
        "derived_from": ASSET,
        "transform": {"type": "object", "properties": {"scale": PAIR, "translation": PAIR}},
        "spatial:shape": SHAPE,
        "spatial:transform": TRANSFORM,
    },
    "dependentRequired": {"derived_from": ["transform"]},
}
RULES: dict[str, Any] = {
    "type": "object",
    "required": ["zarr_conventions", "spatial:dimensions"],
    "properties": {
        "zarr_conventions": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["schema_url", "spec_url", "uuid", "name", "description"],
                "additionalProperties": False,
                "oneOf": [
                    {
                        "properties": {
                            "schema_url": {
                                "const": RAW.format(name)
                            },
                            "spec_url": {
                                "const": f"https://github.com/zarr-conventions/{name}/blob/v0.1/README.md"
                            },
                            "uuid": {"const": uuid},
                            "name": {"const": name},
                            "description": {"type": "string"},
                        }
                    }
                    for name, uuid in UUIDS.items()
                ],
                "properties": dict.fromkeys(("schema_url", "spec_url", "uuid", "name", "description"), True),
            },
        },
        "spatial:dimensions": {"const": ["y", "x"]},
        "spatial:bbox": {"type": "array", "minItems": 4, "maxItems": 4, "items": {"type": "number"}},
        "spatial:shape": SHAPE,
        "spatial:transform": TRANSFORM,
        "proj:code": {"type": "string", "pattern": "^[A-Z]+:[0-9]+$"},
        "proj:wkt2": {"type": "string"},
        "multiscales": {
            "type": "object",
            "required": ["layout"],
            "properties": {"layout": {"type": "array", "minItems": 1, "items": LEVEL}},
        },
    },
    "not": {"required": ["proj:code", "proj:wkt2"]},
    "if": {"required": ["multiscales"]},
    "then": {"not": {"anyOf": [{"required": ["spatial:transform"]}, {"required": ["spatial:shape"]}]}},
    "else": {"required": ["spatial:transform", "spatial:shape"]},
}  # fmt: skip
LAEA = CRS("+proj=laea +lat_0=10 +lon_0=20 +datum=WGS84 +units=m").wkt
CUBES = {
    "small": make_spec(),
    "large": make_spec((3, 300, 1100)).with_overviews(),
    "wkt": make_spec((3, 300, 1100), crs=LAEA).with_overviews(),
    "laboratory": make_spec(crs=None, transform=None),
    "rotated": make_spec((3, 300, 1100), transform=(20.0, 5.0, 0.0, 5.0, -20.0, 0.0)).with_overviews(),
}


def groups(folder: Path, spec: CubeSpec) -> list[dict[str, Any]]:
    """Attributes of the cube's group and of those of its overviews."""
    create(ArchiveStore(folder), "cube.zarr", spec)
    found = [json.loads(path.read_text()) for path in sorted((folder / "cube.zarr").rglob("zarr.json"))]
    return [one["attributes"] for one in found if one["node_type"] == "group"]


@pytest.mark.parametrize("name", CUBES)
def test_every_group_follows_the_conventions(tmp_path: Path, name: str) -> None:
    found = groups(tmp_path, CUBES[name])
    assert len(found) == 1 + len(CUBES[name].levels)
    for attrs in found:
        Draft202012Validator(RULES).validate(attrs)
        named = {one["name"] for one in attrs["zarr_conventions"]}
        assert ("multiscales" in named) == ("multiscales" in attrs)
        assert ("proj" in named) == bool({"proj:code", "proj:wkt2"} & attrs.keys()) == (CUBES[name].crs is not None)


def test_the_rules_are_those_of_the_official_examples(shared_data: Path) -> None:
    """Their convention objects are ours, word for word."""
    folder = shared_data / "stac_real" / "zarr_conventions"
    if not folder.is_dir():
        pytest.skip("the official examples of the conventions are not among the real data")
    theirs = json.loads((folder / "spatial_multiscales.json").read_text())["attributes"]["zarr_conventions"]
    ours = geo_attrs(CUBES["large"])["zarr_conventions"]
    assert sorted(map(str, map(sorted_items, theirs))) == sorted(map(str, map(sorted_items, ours)))


def sorted_items(convention: dict[str, str]) -> list[tuple[str, str]]:
    return sorted(convention.items())


def test_assets_of_the_layout_exist(tmp_path: Path) -> None:
    *_, root = groups(tmp_path, CUBES["large"])
    for one in root["multiscales"]["layout"]:
        assert (tmp_path / "cube.zarr" / one["asset"] / "zarr.json").is_file()
        assert re.fullmatch(r"reflectance|ovr_\d+x", one["asset"])
