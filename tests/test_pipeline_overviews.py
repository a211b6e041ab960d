"""Overviews of a job: written with the cube, told by its item, verified, repaired and removed with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine

import hypermend
from hypermend.catalog.cube.spec import VALID
from hypermend.catalog.keys import cube_key
from hypermend.catalog.scene import Scene
from hypermend.pipeline.config import IngestJob, RestoreJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.ingest import catalog_folder, ingest
from hypermend.pipeline.maintenance.prune import prune
from hypermend.pipeline.maintenance.verify import verify
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.restore.plan import plan_key

PROFILE = "; profile=multiscales"


@pytest.fixture
def archive(tmp_path: Path) -> str:
    """An archive with the raw item of one GeoTIFF of 300 x 270 pixels with a hole."""
    numbers = np.random.default_rng(1).integers(500, 3000, (4, 300, 270)).astype("u2")
    numbers[:, 100:150, 40:90] = 0
    (tmp_path / "files").mkdir()
    with rasterio.open(
        tmp_path / "files" / "img.tif", "w", driver="GTiff", width=270, height=300, count=4, dtype="uint16", nodata=0,
        crs="EPSG:32633", transform=Affine(10, 0, 500000, 0, -10, 5800000),
    ) as file:  # fmt: skip
        file.write(numbers)
        file.update_tags(start_time="2022-07-24T10:45:26")
        for band, name in enumerate(("B02", "B03", "B04", "B08"), 1):
            file.update_tags(band, DESCRIPTION=name)
    root = str(tmp_path / "archive")
    assert catalog_folder(root, tmp_path / "files", sensor="sentinel2a").scenes == ("img",)
    return root


def run(archive: str, verb: Any, **options: Any) -> Scene:
    """Run a job; the scene that it publishes."""
    kind, stage = (IngestJob, "source") if verb is ingest else (RestoreJob, "restored")
    more = {} if verb is ingest else {"model": "identity"}
    report = verb(kind(archive=archive, tile_px=128, **more, **options), engine=serial).wait()
    assert report.exit_code == 0, report.scenes
    (item,) = hypermend.open(archive).search(stage=stage)
    return item.scene


def cube_of(archive: str, scene: Scene) -> Path:
    return Path(archive) / cube_key(scene)


@pytest.mark.parametrize("verb", [ingest, restore])
def test_a_job_writes_overviews_unless_asked_not_to(archive: str, verb: Any) -> None:
    run(archive, ingest)
    scene = run(archive, verb)
    cube = cube_of(archive, scene)
    assert str(scene.assets["cube"].media_type).endswith(PROFILE)
    full, part = (xr.open_zarr(path, mask_and_scale=False) for path in (cube, cube / "ovr_4x"))
    usable = full.valid.values == VALID
    block = usable[:4, :4]
    assert part.reflectance.values[0, 0, 0] == np.rint(full.reflectance.values[0, :4, :4][block].mean())
    assert (part.reflectance.values[:, 26:37, 11:22] == 0).all() and part.reflectance.shape == (4, 75, 68)
    assert str(full.time.values) == "2022-07-24T10:45:26.000000000"


def test_a_restored_cube_has_none_where_none_are_wanted(archive: str) -> None:
    run(archive, ingest)
    scene = run(archive, restore, overviews=False)
    assert not (cube_of(archive, scene) / "ovr_4x").exists()
    assert scene.assets["cube"].media_type == "application/vnd.zarr; version=3"


def test_overviews_are_a_part_of_the_source_cube_and_of_its_id(archive: str) -> None:
    plain = cube_of(archive, run(archive, ingest, overviews=False))
    assert not (plain / "ovr_4x").exists()
    scene = run(archive, ingest)
    assert cube_of(archive, scene) != plain and str(scene.assets["cube"].media_type).endswith(PROFILE)
    for name in ("reflectance", "valid"):
        assert {p.name: p.read_bytes() for p in (plain / name / "c").rglob("*") if p.is_file()} == {
            p.name: p.read_bytes() for p in (cube_of(archive, scene) / name / "c").rglob("*") if p.is_file()
        }
    (removed,) = prune(archive, older_than_hours=0).removed
    assert removed.cube == str(plain.relative_to(archive)) and not plain.exists()


@pytest.mark.parametrize("verb", [ingest, restore])
def test_a_damaged_overview_is_found_and_its_tile_is_done_again(archive: str, verb: Any) -> None:
    run(archive, ingest)
    cube = cube_of(archive, run(archive, verb))
    shard = cube / "ovr_4x/reflectance/c/0/1/1"
    clean = shard.read_bytes()
    shard.write_bytes(clean[:-9] + bytes([clean[-9] ^ 1]) + clean[-8:])
    (torn,) = verify(archive).torn
    assert torn.index == (1, 1) and torn.cube == str(cube.relative_to(archive))
    run(archive, verb)
    assert shard.read_bytes() == clean and verify(archive).torn == ()


def test_prune_removes_the_overviews_of_a_replaced_cube(archive: str) -> None:
    run(archive, ingest)
    old = cube_of(archive, run(archive, restore))
    report = restore(RestoreJob(archive=archive, tile_px=64, model="identity"), engine=serial).wait()
    assert report.exit_code == 0
    prune(archive, older_than_hours=0)
    assert not old.exists()


def test_a_cube_whose_plan_is_lost_is_gone_on_with_as_it_is(archive: str) -> None:
    """Overviews are no part of a plan's id: the cube that lies there decides."""
    run(archive, ingest)
    cube = cube_of(archive, run(archive, restore, overviews=False))
    (Path(archive) / plan_key(str(cube.relative_to(archive)))).unlink()
    (cube / "reflectance/c/0/1/1").unlink()
    assert len(verify(archive).torn) == 1
    assert cube_of(archive, run(archive, restore)) == cube and not (cube / "ovr_4x").exists()
    assert verify(archive).torn == ()
