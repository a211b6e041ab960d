"""A file that changes while it is ingested never becomes a cube of two versions (G2 of docs/faults.md)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import imageio.v3 as imageio
import numpy as np
import pytest
import rasterio
import scipy.io
import zarr
from rasterio.transform import from_origin

import hypermend
from hypermend.catalog.readers.raster.source import TiffSource
from hypermend.catalog.sensors import sensor
from hypermend.catalog.stac.item import to_item
from hypermend.catalog.storage import transport
from hypermend.catalog.storage.archive_store import to_json
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.pipeline.config import IngestJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.ingest import catalog_folder, ingest
from hypermend.pipeline.ingest_worker import IngestWorker
from hypermend.pipeline.runs.report import RunReport

pytestmark = pytest.mark.fault
PX, TILE_PX = 96, 32
OLD, NEW = 100, 200
BANDS = sensor("ali").bands
Change = Callable[[Path, Path], None]


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "FIRST_WAIT_S", 0.01)


def write_tiff(path: Path, value: int) -> Path:
    options = {"height": PX, "width": PX, "count": BANDS, "dtype": "int16", "tiled": True}
    place = {"crs": "EPSG:32633", "transform": from_origin(366000, 5810000, 30, 30)}
    with rasterio.open(path, "w", driver="GTiff", blockxsize=32, blockysize=32, **options, **place) as file:
        file.write(np.full((BANDS, PX, PX), value, "int16"))
    return path


def in_place(new: Path, victim: Path) -> None:
    shutil.copyfile(new, victim)  # same inode


def in_place_with_its_time(new: Path, victim: Path) -> None:
    before = victim.stat()
    shutil.copyfile(new, victim)
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(new: Path, victim: Path) -> None:
    beside = victim.with_name("beside.part")
    shutil.copyfile(new, beside)
    os.utime(beside, ns=(victim.stat().st_atime_ns, victim.stat().st_mtime_ns))
    beside.replace(victim)


def ingest_and_change(archive: str, change: Callable[[], None], *, after: int = 4, **options: Any) -> RunReport:
    """Ingest in one worker; the files change after so many events."""
    run = ingest(IngestJob(archive=archive, tile_px=TILE_PX, **options), engine=serial)
    for number, _ in enumerate(run, 1):
        if number == after:
            change()
    return run.report


def assert_refused(report: RunReport, archive: str) -> None:
    assert [scene.status for scene in report.scenes] == ["failed"]
    assert "changed while" in report.scenes[0].reason
    assert hypermend.open(archive).search(stage="source") == []


def assert_new_alone(archive: str, **options: Any) -> None:
    """The same command ingests the new files, and no number of the old ones."""
    assert ingest(IngestJob(archive=archive, tile_px=TILE_PX, **options), engine=serial).wait().exit_code == 0
    (item,) = hypermend.open(archive).search(stage="source")
    (value,) = np.unique(item.dataset().reflectance.values)
    assert value in (NEW, np.float32(NEW / 65535))  # a PNG of 16 bits is scaled


@pytest.mark.parametrize("change", [in_place, in_place_with_its_time, replaced])
def test_g2_a_local_file_that_changes_is_not_mixed(tmp_path: Path, change: Change) -> None:
    archive, new = str(tmp_path / "archive"), write_tiff(tmp_path / "new.tif", NEW)
    (tmp_path / "delivery").mkdir()
    victim = write_tiff(tmp_path / "delivery" / "scene.tif", OLD)
    catalog_folder(archive, victim.parent, sensor="ali")
    assert_refused(ingest_and_change(archive, lambda: change(new, victim)), archive)
    in_place(new, victim)
    assert_new_alone(archive)


def test_g2_a_tile_read_while_its_file_changes_is_not_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file put back as it was must not resume into tiles of the other version."""
    archive, new = tmp_path / "archive", write_tiff(tmp_path / "new.tif", NEW)
    (tmp_path / "delivery").mkdir()
    victim = write_tiff(tmp_path / "delivery" / "scene.tif", OLD)
    catalog_folder(str(archive), victim.parent, sensor="ali")
    os.utime(victim, ns=(10**18, 10**18))
    real, reads = TiffSource.read, []

    def read(self: TiffSource, y: slice, x: slice) -> Any:
        pixels = real(self, y, x)
        reads.append(x)
        if len(reads) == 4:  # after the first bytes of a tile and before its last
            in_place(new, victim)
        return pixels

    with monkeypatch.context() as patched:
        patched.setattr(TiffSource, "read", read)
        report = ingest(IngestJob(archive=str(archive), tile_px=TILE_PX), engine=serial).wait()
    assert_refused(report, str(archive))
    marks = list(archive.glob("source/*/*.zarr.done/*.json"))
    assert len(marks) == 3  # those before the change
    write_tiff(victim, OLD)
    os.utime(victim, ns=(10**18, 10**18))
    assert ingest(IngestJob(archive=str(archive), tile_px=TILE_PX), engine=serial).wait().exit_code == 0
    (item,) = hypermend.open(str(archive)).search(stage="source")
    assert np.unique(item.dataset().reflectance.values).tolist() == [OLD]


def test_g2_two_workers_that_opened_two_versions_publish_nothing(tmp_path: Path) -> None:
    archive, new = str(tmp_path / "archive"), write_tiff(tmp_path / "new.tif", NEW)
    (tmp_path / "delivery").mkdir()
    victim = write_tiff(tmp_path / "delivery" / "scene.tif", OLD)
    catalog_folder(archive, victim.parent, sensor="ali")
    workers = [IngestWorker(archive), IngestWorker(archive)]
    turns: list[str] = []

    def alternate() -> Callable[[Any], Any]:
        def handle(task: Any) -> Any:
            turns.append(type(task).__name__)
            if len(turns) == 4:
                in_place_with_its_time(new, victim)  # each tile that follows is read by the other worker
            return workers[len(turns) > 3](task)

        return handle

    run = ingest(
        IngestJob(archive=archive, tile_px=TILE_PX),
        engine=lambda factory, tasks, **options: serial(alternate, tasks, **options),
    )
    assert_refused(run.wait(), archive)
    assert turns[0] == "Prepare" and turns.count("WriteTiles") == 9


@pytest.mark.parametrize("way", ["plain", "careless", "dated"])
def test_g2_a_file_that_changes_on_its_server_is_not_mixed(tmp_path: Path, traps: Any, way: str) -> None:
    """A server that knows If-Match refuses the other version; one that does not is asked again before the commit."""
    archive, delivery = str(tmp_path / "archive"), tmp_path / "delivery"
    delivery.mkdir()
    victim, new = write_tiff(delivery / "scene.tif", OLD), write_tiff(tmp_path / "new.tif", NEW)
    os.utime(victim, ns=(10**18, 10**18))
    server = traps(delivery)
    item = remote_item(tmp_path, victim, f"{server.url}/{way}/scene.tif")
    report = ingest_and_change(archive, lambda: in_place(new, victim), stac=str(item))
    assert_refused(report, archive)
    marks = len(list(Path(archive).glob("source/*/*.zarr.done/*.json")))
    # GDAL had read ahead what the tiles before the refused one needed.
    assert (report.tiles_written, marks) == (9, 0) if way == "careless" else marks == report.tiles_written < 9
    assert_new_alone(archive, stac=str(item))


def remote_item(tmp_path: Path, local: Path, href: str) -> Path:
    """The item of a local file, whose asset is served at `href`."""
    shelf = str(tmp_path / "shelf")
    catalog_folder(shelf, local.parent, sensor="ali", collection="c")
    (found,) = hypermend.open(shelf).search()
    item = to_item(found.scene)
    (asset,) = item["assets"].values()
    asset["href"] = href
    path = tmp_path / "item.json"
    path.write_bytes(to_json(item))
    return path


def test_g2_ranges_of_a_remote_file_are_of_one_version(tmp_path: Path, traps: Any, s3_bucket: str) -> None:
    import boto3

    body = bytes(range(256)) * 4096
    (tmp_path / "a.bin").write_bytes(body)
    server = traps(tmp_path)
    s3 = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    for href in (f"{server.url}/plain/a.bin", f"{server.url}/dated/a.bin", f"s3://{s3_bucket}/a.bin"):
        (tmp_path / "a.bin").write_bytes(body)
        os.utime(tmp_path / "a.bin", ns=(10**18, 10**18))
        s3.put_object(Bucket=s3_bucket, Key="a.bin", Body=body)
        file = AssetFetcher().seekable(href)
        assert not isinstance(file, str)
        assert file.read(10) == body[:10]
        (tmp_path / "a.bin").write_bytes(body[::-1])
        s3.put_object(Bucket=s3_bucket, Key="a.bin", Body=body[::-1])
        file.seek(600_000)
        with pytest.raises(hypermend.catalog.errors.BadAsset, match="changed while it was read"):
            file.read(10)


@pytest.mark.parametrize("kind", ["hdf5", "envi", "matlab", "png", "zarr"])
def test_g2_every_format_is_checked(tmp_path: Path, kind: str) -> None:
    """Formats that are read whole, too; a Zarr store of many files is looked at once more before the commit."""
    archive, delivery, new = str(tmp_path / "archive"), tmp_path / "delivery", tmp_path / "new"
    overrides = IngestJob(archive=archive, wavelengths=(450, 500, 550, 600)).overrides
    for folder, value in ((delivery, OLD), (new, NEW)):
        folder.mkdir()
        write_format(folder, kind, value)
    catalog_folder(archive, delivery, overrides=overrides)

    def change() -> None:
        for file in [p for p in new.rglob("*") if p.is_file()]:
            in_place(file, delivery / file.relative_to(new))

    assert_refused(ingest_and_change(archive, change, after=2), archive)
    assert_new_alone(archive)


def write_format(folder: Path, kind: str, value: int) -> None:
    cube = np.full((4, PX, PX), value, "uint16")
    if kind == "hdf5":
        with h5py.File(folder / "s.h5", "w") as file:
            file.create_dataset("cube", data=cube, chunks=(4, 32, 32))
    elif kind == "matlab":
        scipy.io.savemat(folder / "s.mat", {"cube": cube.transpose(1, 2, 0)})
    elif kind == "envi":
        cube.tofile(folder / "s.img")
        (folder / "s.hdr").write_text(
            f"ENVI\nsamples = {PX}\nlines = {PX}\nbands = 4\ndata type = 12\ninterleave = bsq\nbyte order = 0\n"
        )
    elif kind == "png":
        for number, band in enumerate(cube, 1):
            imageio.imwrite(folder / f"s_{number:02d}.png", band)
    else:
        group = zarr.create_group(folder / "s.zarr")
        array = group.create_array("cube", shape=cube.shape, dtype="uint16", chunks=(4, 32, 32))
        array[...] = cube
