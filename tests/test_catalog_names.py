"""No scene replaces another in an archive, whatever their ids and collections are (G2 of docs/faults.md)."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hypermend.catalog.archive import Archive
from hypermend.catalog.errors import BadItem, Refused
from hypermend.catalog.keys import restored_cube_key, source_cube_key
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac.item import from_item, to_item
from hypermend.catalog.stac.publish import put_item, restored_item, source_item
from hypermend.catalog.storage.archive_store import ArchiveStore, safe_name
from hypermend.pipeline.ingest import catalog_folder
from hypermend.pipeline.runs.report import unit_id
from tests.small_cubes import make_scene, make_spec

pytestmark = pytest.mark.fault

PARTS = (
    "S",
    "s",
    "/",
    "-",
    "--",
    "_",
    ".",
    "..",
    " ",
    "é",
    "catalog",
    "source",
    "denoise",
    "sharpen",
    "0" * 32,
    "\x1b",
)
NAMES = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map("".join) | st.text(min_size=1)


@st.composite
def related_names(draw: st.DrawFn) -> list[str]:
    """Names, and the safe names of some, and those of these."""
    names = draw(st.lists(NAMES, min_size=1, max_size=4))
    for name in list(names):
        names += [safe_name(name), safe_name(safe_name(name))]
    return sorted(set(names))


@given(related_names())
def test_g2_no_two_texts_have_the_same_safe_name(names: list[str]) -> None:
    assert len({safe_name(name) for name in names}) == len(names)
    for name in map(safe_name, names):
        assert "/" not in name and not name.startswith(".") and name != "catalog" and len(name.encode()) < 200


@given(st.lists(st.tuples(NAMES, NAMES), min_size=2, max_size=6, unique=True))
def test_g2_no_two_scenes_are_one_unit_of_a_run(scenes: list[tuple[str, str]]) -> None:
    assert len({unit_id(*scene) for scene in scenes}) == len(scenes)


COLLECTIONS = ("x", "x-source", "x-denoise", "x-denoise-sharpen", "x/y", safe_name("x/y"))
IDS = ("S/1", safe_name("S/1"), "S_1", "s_1", "catalog")
TASKS = ("denoise", "sharpen", "denoise-sharpen")
SPECS = {stage: make_spec(stage=stage) for stage in ("source", "restored")}


@given(st.lists(st.tuples(st.sampled_from(COLLECTIONS), st.sampled_from(IDS), st.sampled_from(TASKS)), max_size=5))
@example([("x", "S_1", "denoise-sharpen"), ("x-denoise", "S_1", "sharpen")])
@example([("x", "S_1", "denoise"), ("x-denoise", "S_1", "denoise")])
@example([("x-denoise", "S_1", "denoise"), ("x", "S_1", "denoise")])
@settings(max_examples=10)
def test_g2_an_item_is_never_replaced_by_that_of_another_scene(scenes: list[tuple[str, str, str]]) -> None:
    """Raw items, source cubes and restored cubes of related names: each is refused, or found with its own facts."""
    with tempfile.TemporaryDirectory() as folder:
        root = ArchiveStore(folder)
        published: dict[tuple[str, str, str], str] = {}
        for collection, id, task in scenes:
            raw = make_scene(id, collection=collection, properties={"note": f"{collection}|{id}"})
            with contextlib.suppress(Refused):
                for item in items_of(raw, task):
                    put_item(root, item, run="r")
                    key, note = (item.collection, item.id, item.stage), str(item.properties["note"])
                    assert published.setdefault(key, note) == note, "one scene has replaced another"
        found = {(i.scene.collection, i.scene.id, i.scene.stage): i.scene for i in Archive(root=root).search()}
        assert {key: scene.properties["note"] for key, scene in found.items()} == published


def items_of(raw: Scene, task: str) -> Iterator[Scene]:
    """The item of a raw scene, of its source cube and of its restored cube."""
    yield raw
    key = source_cube_key(raw.id, "i")
    source = source_item(raw, SPECS["source"], key=key, ingest_id="i", valid_fraction=1.0)
    plan = {"key": restored_cube_key(raw.id, "p"), "task": task, "plan_id": "p", "model": "m", "valid_fraction": 1.0}
    yield source
    yield restored_item(source, SPECS["restored"], **plan)


def test_g2_collections_named_like_those_of_source_cubes_are_refused(tmp_path: Path) -> None:
    """Items of two days have two keys, so that neither would replace the other, but one would hide it."""
    item = to_item(make_scene(collection="x-source"))
    with pytest.raises(BadItem, match="'x-source' has the name of the source cubes of collection 'x'"):
        from_item(item)
    with pytest.raises(Refused, match="does not end in -source"):
        put_item(ArchiveStore(str(tmp_path)), make_scene(collection="x-source"), run="r")
    with pytest.raises(Refused, match="does not end in -source"):
        catalog_folder(str(tmp_path), tmp_path, collection="x-source")


def test_g2_what_another_archive_says_about_its_cubes_is_not_believed() -> None:
    """Its source cube is a file of a raw scene here; no property of it points into this archive."""
    _, source, _ = items_of(make_scene(collection="x"), "denoise")
    source = replace(source, properties={**source.properties, "hypermend:guide": 5, "hypermend:derived_from": "../x"})
    read = from_item(to_item(source), href="https://example.org/items/S1.json")
    assert (read.stage, read.collection) == ("raw", "x")
    assert not [name for name in read.properties if name in ("hypermend:cube", "hypermend:guide", "hypermend:ingest")]
