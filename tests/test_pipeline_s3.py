"""The same walk on S3: same bytes as on disk, resumable, opened by bare xarray."""

from __future__ import annotations

import hashlib
from itertools import islice
from pathlib import Path

import pytest
import xarray as xr

import hypermend
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.config import IngestJob, RestoreJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.ingest import catalog_folder, ingest
from hypermend.pipeline.maintenance.verify import verify
from hypermend.pipeline.restore.driver import restore
from tests.synthetic import enmap_folder


def cubes(archive: str) -> dict[str, str]:
    """sha256 of every object of source and restored cubes; plans name no path, so they are compared too."""
    root = ArchiveStore(archive)
    return {
        entry.key: hashlib.sha256(root.get(entry.key)).hexdigest()
        for stage in ("source", "restored")
        for entry in root.list(stage)
    }


def restore_job(archive: str) -> RestoreJob:
    return RestoreJob(archive=archive, model="identity", tile_px=32)


@pytest.mark.slow
def test_the_walk_on_s3_gives_the_bytes_of_the_walk_on_disk(
    tmp_path: Path, moto_s3: str, s3_bucket: str, ray_session: None
) -> None:
    enmap_folder(tmp_path / "files")
    places = {"disk": str(tmp_path / "archive"), "s3": f"s3://{s3_bucket}/deep/archive"}
    for archive in places.values():
        catalog_folder(archive, tmp_path / "files", sensor="enmap")
        assert ingest(IngestJob(archive=archive, tile_px=32), engine=serial).wait().exit_code == 0
    assert restore(restore_job(places["disk"]), engine=serial).wait().exit_code == 0

    # The first driver on S3 stops in the middle; the second, on Ray, finishes its work.
    events = iter(restore(restore_job(places["s3"]), engine=serial))
    assert [e.kind for e in islice(events, 3)][-1] == "tile"
    events.close()
    assert hypermend.open(places["s3"]).search(stage="restored") == []
    report = restore(restore_job(places["s3"])).wait()
    assert report.exit_code == 0, report.scenes
    assert report.tiles_written == 6 - 2
    assert cubes(places["s3"]) == cubes(places["disk"])
    assert restore(restore_job(places["s3"]), engine=serial).wait().bytes_written == 0

    (item,) = hypermend.feature_collection(
        [i.scene for i in hypermend.open(places["s3"]).search(stage="restored", sensor="enmap")]
    )["features"]
    href = item["assets"]["cube"]["href"]
    assert href.startswith(f"s3://{s3_bucket}/deep/archive/restored/")
    cube = xr.open_zarr(href, storage_options={"endpoint_url": moto_s3})
    assert cube["reflectance"].shape == (224, 64, 96)

    root = ArchiveStore(places["s3"])
    shard = next(e.key for e in root.list("restored") if "/reflectance/c/0/1/1" in e.key)
    root.put(shard, root.get(shard)[:-20])
    (torn,) = verify(places["s3"]).torn
    assert torn.index == (1, 1)
    assert restore(restore_job(places["s3"]), engine=serial).wait().tiles_written == 1
    assert cubes(places["s3"]) == cubes(places["disk"])
