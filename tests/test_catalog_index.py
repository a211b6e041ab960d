"""Search: the same answer with the index fresh, stale, damaged or gone; the newest item wins."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import xarray as xr

import hypermend
from hypermend.catalog.errors import ArchiveError, BadSensor, Refused
from hypermend.catalog.keys import item_key
from hypermend.catalog.stac import index
from hypermend.catalog.stac.filters import ItemFilter
from hypermend.catalog.stac.item import from_item
from hypermend.catalog.stac.publish import put_item, source_item
from hypermend.catalog.storage.archive_store import ArchiveStore
from tests.small_cubes import make_scene, make_spec

BOX = [9.0, 45.0, 9.5, 45.5]

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> ArchiveStore:
    if request.param == "folder":
        return ArchiveStore(tmp_path / "archive")
    return ArchiveStore(f"s3://{request.getfixturevalue('s3_bucket')}/archive")


def fill_archive(root: ArchiveStore) -> None:
    """Four raw scenes of two sensors on two days, one of a laboratory, and one source cube."""
    for id, day in (("S1", 24), ("S2", 25)):
        put_item(root, make_scene(id, day=day), run="first")
    placed = source_item(make_scene("S1"), make_spec(), key="source/S1/i.zarr", ingest_id="i", valid_fraction=1.0)
    put_item(root, placed, run="second")
    lab = {"collection": "cave", "sensor": "cave", "grid": None}
    put_item(root, make_scene("C1", **lab), run="second")


def ids(root: ArchiveStore, **filters: Any) -> list[str]:
    return [f"{s.collection}/{s.id}" for s in index.search(root, **filters)]


def test_every_filter(root: ArchiveStore) -> None:
    fill_archive(root)
    assert ids(root) == ["cave/C1", "enmap/S1", "enmap-source/S1", "enmap/S2"]
    assert ids(root, stage="source") == ["enmap-source/S1"]
    assert ids(root, stage="raw", sensor="enmap") == ["enmap/S1", "enmap/S2"]
    assert ids(root, collections=["cave"]) == ["cave/C1"]
    assert ids(root, collections=("cave", "enmap-source")) == ["cave/C1", "enmap-source/S1"]
    assert ids(root, collections=["none"]) == []
    assert ids(root, ids=["S2", "C1"]) == ["cave/C1", "enmap/S2"]
    assert ids(root, datetime="2022-07-25") == ["enmap/S2"]
    assert ids(root, datetime="2022-07-24T10:45:26Z", stage="source") == ["enmap-source/S1"]
    assert ids(root, datetime="../2022-07-24") == ["cave/C1", "enmap/S1", "enmap-source/S1"]
    assert ids(root, datetime="2022-07-25/..") == ["enmap/S2"]
    assert ids(root, bbox=BOX) == ["enmap-source/S1"]  # the others have no geometry: they are in no box
    assert ids(root, bbox=[-10, 45, -9, 46]) == []
    with pytest.raises(Refused, match="raw, source, restored"):
        index.search(root, stage="finished")
    with pytest.raises(BadSensor, match="enmap"):
        index.search(root, sensor="enmapp")
    with pytest.raises(ArchiveError, match="RFC 3339"):
        index.search(root, datetime="yesterday")


def gone(root: ArchiveStore) -> None:
    root.delete_prefix("index")


def damaged(root: ArchiveStore) -> None:
    for entry in list(root.list("index")):
        root.put(entry.key, b"PAR1 torn")


def of_another_make(root: ArchiveStore) -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.table({"something": [1, 2]}), out)
    for entry in list(root.list("index")):
        root.put(entry.key, out.getvalue())


def compacted(root: ArchiveStore) -> None:
    assert hypermend.Archive(root=root).reindex() == 4
    assert all("compact" in e.key for e in root.list("index"))


def partly_lost(root: ArchiveStore) -> None:
    root.delete(min(e.key for e in root.list("index")))


@pytest.mark.parametrize("happens", [gone, damaged, of_another_make, compacted, partly_lost])
def test_the_answer_does_not_depend_on_the_index(root: ArchiveStore, happens: Callable[[ArchiveStore], None]) -> None:
    fill_archive(root)
    before = json.dumps(hypermend.feature_collection(index.search(root)))
    happens(root)
    assert json.dumps(hypermend.feature_collection(index.search(root))) == before
    assert ids(root, bbox=BOX) == ["enmap-source/S1"]
    assert put_item(root, make_scene("S3", day=26), run="first") > 0  # and publishing goes on
    assert "enmap/S3" in ids(root)


def test_a_stale_row_is_not_believed(tmp_path: Path) -> None:
    root = ArchiveStore(tmp_path)
    fill_archive(root)
    key = item_key(make_scene("S2", day=25))
    item = root.get_json(key)
    item["properties"]["eo:cloud_cover"] = 99
    root.put_json(key, item)  # by hand, behind the index
    assert [s.properties["eo:cloud_cover"] for s in index.search(root, ids=["S2"])] == [99]
    root.delete(key)
    assert ids(root, ids=["S2"]) == []


def test_the_newest_item_of_a_scene_wins(root: ArchiveStore) -> None:
    """A scene whose date was corrected lies under two days until the old one is removed."""
    put_item(root, make_scene(day=24), run="a")
    put_item(root, make_scene(day=20), run="b")
    assert [s.datetime.day for s in index.search(root)] == [20]
    assert ids(root, datetime="2022-07-24") == []
    root.delete_prefix("index")
    assert [s.datetime.day for s in index.search(root)] == [20]


def test_items_are_read_when_their_turn_comes(root: ArchiveStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job over very many scenes begins with the first while the others are still rows; those in use are whole."""
    for i in range(5):
        put_item(root, make_scene(f"S{i}", day=i + 1), run="a")
    monkeypatch.setattr(index.SearchResult, "batch_items", 2)
    parsed: list[str] = []
    monkeypatch.setattr(index, "from_item", lambda item, **where: parsed.append(item["id"]) or from_item(item, **where))
    found = index.search(root)
    assert len(found) == 5 and not parsed
    scenes = iter(found)
    assert next(scenes).id == "S0" and parsed == ["S0"]
    root.delete(item_key(make_scene("S2", day=3)))  # removed since: the index still has it
    root.delete(item_key(make_scene("S3", day=4)))
    root.delete_prefix("index")
    assert [scene.id for scene in scenes] == ["S1", "S4"]
    assert [scene.id for scene in found.where(lambda row: row.id > "S3")] == ["S4"]


def test_a_few_items_of_a_large_part_are_read_without_it(root: ArchiveStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(5):
        put_item(root, make_scene(f"S{i}", day=i + 1), run="a")
    index.rebuild(root)
    read: list[list[str]] = []
    part = index._read_part
    monkeypatch.setattr(index, "_read_part", lambda *where: read.append(where[2]) or part(*where))
    monkeypatch.setattr(index, "FEW_ROWS", 2)
    assert [scene.id for scene in index.search(root, ids=["S1", "S3"])] == ["S1", "S3"]
    assert "item" not in [name for names in read for name in names]
    assert len(list(index.search(root))) == 5 and read[-1] == ["key", "item"]


def test_the_query_of_a_stac_api_is_read_as_it_is_written() -> None:
    filters = ItemFilter.of(query=["a<5", "a>=2", "b!=x", "c=y"])
    assert ItemFilter.of_query(filters.as_query()) == filters
    properties = {"n": 5, "s": "12", "t": "text", "yes": True, "none": None, "list": [1]}
    for query, holds in (
        ({"n": {"in": [4, 5]}}, True),
        ({"n": {"in": []}}, False),
        ({"s": {"eq": 12}}, True),
        ({"t": {"contains": "ex"}}, True),
        ({"t": {"startsWith": "ex"}}, False),
        ({"n": {"startsWith": "5"}}, False),
        ({"yes": {"eq": True}}, True),
        ({"yes": {"eq": False}}, False),
        ({"none": {"neq": 1}}, False),
        ({"no": {"eq": 1}}, False),
        ({"list": {"in": ["x"]}}, False),
    ):
        assert ItemFilter.of_query(query).holds(properties) is holds, query


def test_an_item_that_cannot_be_read_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = ArchiveStore(tmp_path)
    fill_archive(root)
    for name, text in (("torn", "{"), ("list", "[1]"), ("no-id", '{"properties": {}}'), ("alien", '{"id": "x"}')):
        root.put(f"items/enmap/2022-07-24/{name}.json", text.encode())
    with caplog.at_level(logging.WARNING):
        assert len(ids(root)) == 4
    assert all(f"{name}.json" in caplog.text for name in ("torn", "list", "no-id", "alien"))
    assert hypermend.open(tmp_path).reindex() == 4


def test_parts_of_a_run_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "PART_ROWS", 3)
    root = ArchiveStore(tmp_path)
    for i in range(8):
        put_item(root, make_scene(f"S{i}"), run="r/1")
    assert len(list(root.list("index"))) == 3
    reads = []
    monkeypatch.setattr(ArchiveStore, "get_json", lambda self, key: reads.append(key))
    assert len(ids(root)) == 8 and not reads  # all from the index


def test_what_query_prints_is_a_valid_item_collection_that_opens(tmp_path: Path) -> None:
    from tests.small_cubes import make_cube

    root = ArchiveStore(tmp_path)
    fill_archive(root)
    make_cube(root, "source/S1/i.zarr", make_spec())
    printed = json.loads(json.dumps(hypermend.feature_collection(index.search(root))))
    items = list(pystac.ItemCollection.from_dict(printed))
    assert len(items) == 4
    ds = xr.open_zarr(next(i for i in items if "cube" in i.assets).assets["cube"].href)
    assert ds.sizes == {"band": 5, "y": 100, "x": 70}


def test_the_served_archive_answers_a_stac_api_client(
    tmp_path: Path, stac_api: Callable[[list[dict[str, Any]]], str]
) -> None:
    import pystac_client

    root = ArchiveStore(tmp_path)
    fill_archive(root)
    url = stac_api(hypermend.feature_collection(index.search(root))["features"])
    found = pystac_client.Client.open(url).search(collections=["enmap-source"], bbox=BOX).item_collection()
    assert [i.id for i in found] == ["S1"]


# ----------------------------------------------------------------------------------------------------- wavelengths


def dataset(wavelength: list[float], fwhm: list[float], good: list[bool] | None = None) -> xr.Dataset:
    n = len(wavelength)
    return xr.Dataset(
        coords={
            "band": np.arange(1, n + 1),
            "wavelength": ("band", np.array(wavelength)),
            "fwhm": ("band", np.array(fwhm)),
            "good": ("band", np.array(good or [True] * n)),
        }
    )


def test_nearest_takes_good_bands_in_the_order_asked_for() -> None:
    ds = dataset([400, 500, 510, 600], [10, 10, 10, 10], [True, True, False, True])
    assert hypermend.nearest(ds, [590, 509, 400]).band.values.tolist() == [4, 2, 1]
    ds["good"][:] = False
    assert hypermend.nearest(ds, [509]).band.values.tolist() == [3]


def test_where_detectors_overlap_the_narrower_band_is_taken() -> None:
    ds = dataset([900, 905.0, 905.5, 910], [10, 12, 8, 10])
    assert hypermend.nearest(ds, [905]).band.values.tolist() == [3]
    assert hypermend.nearest(ds, [907.6]).band.values.tolist() == [3]
    assert hypermend.nearest(dataset([900.0, 900.0], [np.nan, np.nan]), [901]).band.values.tolist() == [1]


def test_a_wavelength_outside_the_cube_is_refused() -> None:
    ds = dataset([400.0, 500.0], [10, 10])
    assert hypermend.nearest(ds, [395, 505]).band.values.tolist() == [1, 2]
    with pytest.raises(Refused, match=r"1400 nm is outside this cube: its bands reach from 400\.0 to 500\.0"):
        hypermend.nearest(ds, [450, 1400])


def test_arrow_leaves_no_threads_behind(tmp_path: Path) -> None:
    """Its pools have been seen to abort the interpreter at exit: an innocent verb then ends with -6."""
    code = (
        "import os, sys; import pyarrow; from hypermend.catalog.stac import index\n"
        "from hypermend.catalog.storage.archive_store import ArchiveStore\n"
        "count = lambda: len(os.listdir('/proc/self/task'))\n"
        "root = ArchiveStore(sys.argv[1])\n"
        "root.put('index/c/a.parquet', index._to_parquet([dict.fromkeys(index._SCHEMA.names)]))\n"
        "root.get('index/c/a.parquet'); before = count()\n"  # the store's own threads are there by then
        "assert index._read_part(root, 'index/c/a.parquet', ['key']).num_rows == 1\n"
        "sys.exit(count() - before)"
    )
    said = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
