"""Ingest never mixes two versions of a file, loses scenes of one name, or invents pixels where tiles overlap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

import hypermend
from hypermend.catalog.cube.spec import NODATA, VALID
from hypermend.catalog.errors import BadAsset, Unreachable
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline import ingest as module
from hypermend.pipeline.config import IngestJob, RestoreJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.ingest import IngestUnit, catalog_folder, find_scenes, ingest
from hypermend.pipeline.ingest_worker import IngestWorker
from hypermend.pipeline.restore.driver import restore


def write_tif(path: Path, value: float, *, x: float = 0, y: float = 0, nodata: float | None = None) -> None:
    """A Landsat-like image of 7 bands and 48 x 48 pixels of 30 m, all of one value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = Affine(30, 0, 500000 + 30 * x, 0, -30, 5800000 - 30 * y)
    profile = {"driver": "GTiff", "width": 48, "height": 48, "count": 4, "dtype": "uint16", "crs": "EPSG:32633"}
    with rasterio.open(path, "w", **profile, transform=transform, nodata=nodata) as file:
        file.write(np.full((4, 48, 48), value, np.uint16))
        file.update_tags(start_time="2022-07-24T10:45:26")
        for band, name in enumerate(("B02", "B03", "B04", "B08"), 1):
            file.update_tags(band, DESCRIPTION=name)


def ingested(folder: Path) -> Any:
    archive = str(folder / "archive")
    made = catalog_folder(archive, folder / "files", sensor="sentinel2a")
    assert len(made.scenes) == 1, made
    report = ingest(IngestJob(archive=archive), engine=serial).wait()
    assert report.exit_code == 0, report.scenes
    (item,) = hypermend.open(archive).search(stage="source")
    return item.dataset()


def test_overlapping_tiles_do_not_hide_a_hole(tmp_path: Path) -> None:
    write_tif(tmp_path / "files" / "scene_1.tif", 100)
    write_tif(tmp_path / "files" / "scene_2.tif", 200, x=16, y=16)
    valid = ingested(tmp_path)["valid"].values
    assert valid.shape == (64, 64)
    assert int((valid & NODATA != 0).sum()) == 2 * 16 * 16


def test_a_tile_without_data_does_not_erase_its_neighbour(tmp_path: Path) -> None:
    write_tif(tmp_path / "files" / "scene_1.tif", 100, nodata=0)
    write_tif(tmp_path / "files" / "scene_2.tif", 0, x=16, nodata=0)
    valid = ingested(tmp_path)["valid"].values
    assert int((valid & VALID).sum()) == 48 * 48


def test_two_files_of_one_name_are_not_one_scene(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_tif(tmp_path / "files" / folder / "img.tif", 100)
    made = catalog_folder(str(tmp_path / "archive"), tmp_path / "files", sensor="sentinel2a")
    assert made.scenes == ("img",)
    assert "have the same name" in made.skipped[0].reason


def test_a_file_that_changes_under_way_is_never_mixed_in(tmp_path: Path) -> None:
    write_tif(tmp_path / "files" / "img.tif", 100)
    archive = str(tmp_path / "archive")
    catalog_folder(archive, tmp_path / "files", sensor="sentinel2a")
    job = IngestJob(archive=archive, tile_px=16)
    (scene,) = find_scenes(job)
    unit = IngestUnit(scene, job, ArchiveStore(archive), "run")  # type: ignore[arg-type]
    opened = IngestWorker(archive)(unit.prepare())
    first, second, *_ = unit.tiles(opened)
    IngestWorker(archive)(first)
    write_tif(tmp_path / "files" / "img.tif", 999)
    with pytest.raises(BadAsset, match="its files changed while they were ingested"):
        IngestWorker(archive)(second)


def test_query_filters_the_archives_own_items(tmp_path: Path) -> None:
    write_tif(tmp_path / "files" / "img.tif", 100)
    archive = str(tmp_path / "archive")
    catalog_folder(archive, tmp_path / "files", sensor="sentinel2a")
    assert not list(find_scenes(IngestJob(archive=archive, query=("eo:cloud_cover<20",))))


@pytest.mark.fault
def test_f10_a_store_that_fails_at_the_commit_costs_that_scene_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        write_tif(tmp_path / name / f"{name}.tif", 100)
        catalog_folder(str(tmp_path / "archive"), tmp_path / name, sensor="sentinel2a")
    put = module.put_item

    def flaky(root: ArchiveStore, item: Any, *, run: str) -> int:
        if item.id == "one":
            raise Unreachable("the store is gone")
        return put(root, item, run=run)

    monkeypatch.setattr(module, "put_item", flaky)
    job = IngestJob(archive=str(tmp_path / "archive"))
    report = ingest(job, engine=serial).wait()
    assert {s.scene: s.status for s in report.scenes} == {"one": "failed", "two": "published"}
    assert report.exit_code == 1
    monkeypatch.undo()
    assert [s.status for s in ingest(job, engine=serial).wait().scenes] == ["published", "current"]


def test_one_scene_id_in_two_collections_is_ingested_and_restored_twice(tmp_path: Path) -> None:
    """The same files in both: one cube, two items."""
    write_tif(tmp_path / "files" / "img.tif", 100)
    archive = str(tmp_path / "archive")
    for collection in ("one", "two"):
        catalog_folder(archive, tmp_path / "files", sensor="sentinel2a", collection=collection)
    both = [("one", "img", "published"), ("two", "img", "published")]
    report = ingest(IngestJob(archive=archive), engine=serial).wait()
    assert sorted((str(s.collection), s.scene, s.status) for s in report.scenes) == both
    report = restore(RestoreJob(archive=archive, model="identity"), engine=serial).wait()
    assert sorted((str(s.collection), s.scene, s.status) for s in report.scenes) == both
    restored = hypermend.open(archive).search(stage="restored")
    assert [item.scene.collection for item in restored] == ["one-denoise", "two-denoise"]
    assert [float(item.dataset()["reflectance"].max()) for item in restored] == [
        100.0,
        100.0,
    ]  # counts: no source has a scale
    assert restore(RestoreJob(archive=archive, model="identity"), engine=serial).wait().bytes_written == 0
