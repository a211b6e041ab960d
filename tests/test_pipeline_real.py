"""Real scenes, all the way: files -> items -> STAC API and HTTP -> source cube -> (restored cube) -> bare xarray."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import imageio.v3 as imageio
import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  (ds.rio)
import scipy.io
import xarray as xr

import hypermend
from hypermend.catalog.cube.spec import NODATA, VALID
from hypermend.pipeline.config import IngestJob, RestoreJob
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.ingest import catalog_folder, ingest
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.runs.report import RunReport

HttpServer = Callable[[Path], str]
StacApi = Callable[[Sequence[Mapping[str, Any]]], str]


@dataclass
class Delivery:
    """A folder of the shared data, served as an operator would find it."""

    folder: Path
    sensor: str
    archive: str
    report: RunReport

    def cubes(self, stage: str = "source") -> dict[str, xr.Dataset]:
        """Every cube of the stage by scene id, opened with nothing of ours and without decoding."""
        items = hypermend.feature_collection([i.scene for i in hypermend.open(self.archive).search(stage=stage)])
        return {
            item["id"]: xr.open_zarr(item["assets"]["cube"]["href"], mask_and_scale=False) for item in items["features"]
        }


@pytest.fixture
def deliver(shared_data: Path, tmp_path: Path, http_server: HttpServer, stac_api: StacApi) -> Callable[..., Delivery]:
    """Catalogue a folder, serve its files over HTTP and its items through a STAC API, and ingest from there."""

    def deliver(name: str, sensor: str, *, only: str | None = None, **settings: Any) -> Delivery:
        folder = shared_data / name
        made = catalog_folder(str(tmp_path / "made"), folder, sensor=sensor)
        assert made.scenes
        assert not made.skipped
        files = http_server(folder)
        items = hypermend.feature_collection([i.scene for i in hypermend.open(str(tmp_path / "made")).search()])
        features = [f for f in items["features"] if only is None or only in f["id"]]
        for feature in features:
            for asset in feature["assets"].values():
                asset["href"] = f"{files}/{Path(asset['href']).resolve().relative_to(folder.resolve()).as_posix()}"
        archive = str(tmp_path / "archive")
        job = IngestJob(archive=archive, stac=stac_api(features), collections=(sensor,), **settings)
        return Delivery(folder, sensor, archive, ingest(job, engine=serial).wait())

    return deliver


def published(delivery: Delivery, count: int = 1) -> dict[str, xr.Dataset]:
    report = delivery.report
    assert report.exit_code == 0, [s for s in report.scenes if s.status != "published"]
    cubes = delivery.cubes()
    assert len(cubes) == count
    return cubes


def test_enmap_tiles_become_one_scene_with_the_files_numbers(deliver: Callable[..., Delivery]) -> None:
    delivery = deliver("enmap_potsdam", "enmap")
    ((_, cube),) = published(delivery).items()
    stored, valid = cube["reflectance"].values, cube["valid"].values
    original = cube["band"].values
    covered = np.zeros(valid.shape, bool)
    for path in sorted(delivery.folder.glob("*.tif")):
        with rasterio.open(path) as tile:
            assert cube.rio.crs == tile.crs
            a = cube.rio.transform()
            assert (a.a, a.b, a.d, a.e) == (30.0, 0.0, 0.0, -30.0)
            column, row = (round(v) for v in ~a * (tile.transform.c, tile.transform.f))
            assert a * (column, row) == (tile.transform.c, tile.transform.f)
            window = (slice(row, row + tile.height), slice(column, column + tile.width))
            numbers = tile.read()[original - 1]
            np.testing.assert_array_equal(stored[(slice(None), *window)], numbers)
            covered[window] = True
            nm = [float(tile.tags(int(b))["wavelength"]) for b in original]
            np.testing.assert_allclose(cube["wavelength"].values, nm)
    assert (np.diff(cube["wavelength"].values) >= 0).all()
    assert not covered.all()
    assert ((valid[~covered] & NODATA) != 0).all()
    assert (valid[covered] & VALID).any()
    assert sorted(original[~cube["good"].values.astype(bool)])[:6] == [130, 131, 132, 133, 134, 135]


def test_cave(deliver: Callable[..., Delivery]) -> None:
    delivery = deliver("cave", "cave", only="thread_spools")
    ((name, cube),) = published(delivery).items()
    band = imageio.imread(next(delivery.folder.glob(f"{name}*/*_07.png")))
    np.testing.assert_array_equal(cube["reflectance"].values[6], band)
    assert cube["wavelength"].values.tolist() == list(range(400, 701, 10))
    assert cube["reflectance"].attrs["quantity"] == "counts"
    assert cube.rio.crs is None


def test_hyperion_paris_and_its_ali(deliver: Callable[..., Delivery]) -> None:
    delivery = deliver("hyperion_paris", "hyperion")
    ((_, cube),) = published(delivery).items()
    mat = scipy.io.loadmat(delivery.folder / "paris_data_hs_ms.mat")
    numbers = {int(b): mat["HSim"][:, :, i] for i, b in enumerate(mat["non_del_bands"].ravel())}
    for i in (0, 60, 127):
        expected = numbers[int(cube["band"].values[i])]
        np.testing.assert_allclose(cube["reflectance"].values[i], expected, rtol=1e-6)
    assert cube["reflectance"].attrs["quantity"] != "reflectance"


def test_pavia_muufl_and_jasper(deliver: Callable[..., Delivery], shared_data: Path) -> None:
    delivery = deliver("pavia", "rosis", only="centre")
    ((_, cube),) = published(delivery).items()
    centre = scipy.io.loadmat(shared_data / "pavia" / "pavia_centre_crop.mat")["PaviaCenter"]
    np.testing.assert_array_equal(cube["reflectance"].values, centre.transpose(2, 0, 1))


def test_muufl(deliver: Callable[..., Delivery]) -> None:
    delivery = deliver("muufl", "muufl")
    ((_, cube),) = published(delivery).items()
    with h5py.File(delivery.folder / "muufl_100x100x64.mat") as file:
        np.testing.assert_array_equal(cube["reflectance"].values, file["data"][:].transpose(0, 2, 1))


def test_sentinel2_sample_and_its_scl(deliver: Callable[..., Delivery]) -> None:
    delivery = deliver("sentinel2", "sentinel2a", only="S2_L2A")
    ((_, cube),) = published(delivery).items()
    with rasterio.open(delivery.folder / "S2_L2A_sample.tif") as file:
        red, blue = file.read(1), file.read(3)
        scl = file.read(5)
        assert cube.rio.transform() == file.transform
    names = {round(w): i for i, w in enumerate(cube["wavelength"].values)}
    assert len(names) == 4
    np.testing.assert_array_equal(cube["reflectance"].values[0], blue)
    np.testing.assert_array_equal(cube["reflectance"].values[2], red)
    assert ((cube["valid"].values[np.isin(scl, (8, 9, 10))] & VALID) == 0).all()


def test_landsat_delivery(deliver: Callable[..., Delivery]) -> None:
    delivery = deliver("landsat5", "landsat5-tm")
    ((_, cube),) = published(delivery).items()
    mtl = next(delivery.folder.glob("*_MTL.txt")).read_text()
    factors = {k: float(v) for k, v in re.findall(r"(RADIANCE_(?:MULT|ADD)_BAND_1) = (\S+)", mtl)}
    with rasterio.open(next(delivery.folder.glob("*_B1.TIF"))) as file:
        radiance = factors["RADIANCE_MULT_BAND_1"] * file.read(1) + factors["RADIANCE_ADD_BAND_1"]
        np.testing.assert_allclose(cube["reflectance"].values[0], radiance, rtol=1e-6)
        assert cube.rio.crs == file.crs
    assert cube["reflectance"].attrs["quantity"] == "radiance"


def test_the_static_stac_example(shared_data: Path, tmp_path: Path) -> None:
    where = shared_data / "stac" / "recursive-stac-example" / "collection.json"
    job = IngestJob(archive=str(tmp_path / "a"), stac=str(where), sensor="sentinel2a")
    report = ingest(job, engine=serial).wait()
    assert report.count("published") == 3, report.scenes
    (item, *_) = hypermend.open(job.archive).search(stage="source", datetime="2023-06-04/2023-06-05")
    with rasterio.open(where.parent / "sub-folder" / "openEO_2023-06-04Z.tif") as file:
        red = file.read(1)
    cube = xr.open_zarr(item.scene.assets["cube"].href, mask_and_scale=False)
    np.testing.assert_array_equal(cube["reflectance"].values[2], red)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "sensor", "only"),
    [
        pytest.param("enmap_potsdam", "enmap", None, marks=pytest.mark.long),
        ("hyperion_paris", "hyperion", None),
        ("cave", "cave", "paints"),
    ],
)
def test_real_scenes_are_restored_published_and_found(
    folder: str, sensor: str, only: str | None, deliver: Callable[..., Delivery]
) -> None:
    delivery = deliver(folder, sensor, only=only)
    report = restore(RestoreJob(archive=delivery.archive), engine=serial).wait()
    assert report.exit_code == 0, report.scenes
    ((name, after),) = delivery.cubes("restored").items()
    before = delivery.cubes()[name]
    assert after["reflectance"].shape == before["reflectance"].shape
    np.testing.assert_array_equal(after["valid"].values & VALID, before["valid"].values & VALID)
    usable = (before["valid"].values & VALID) != 0
    good = before["good"].values.astype(bool)
    a, b = after["reflectance"].values, before["reflectance"].values
    assert np.isfinite(a[good][:, usable]).all()
    np.testing.assert_array_equal(a[~good], b[~good])  # bad bands are not invented
    if sensor == "cave":
        np.testing.assert_array_equal(a, b)  # a clean scene
    else:
        assert (a[good] != b[good])[:, usable].mean() > 0.9
        assert_cells_keep_their_means(a[good], b[good], usable)
    (item,) = hypermend.open(delivery.archive).search(stage="restored", sensor=sensor)
    assert item.scene.collection == f"{sensor}-denoise"


def assert_cells_keep_their_means(after: np.ndarray, before: np.ndarray, usable: np.ndarray) -> None:
    """8x8 pixels of the scene's grid that hold data in every pixel."""

    def means(x: np.ndarray) -> np.ndarray:
        h, w = x.shape[-2:]
        return np.asarray(x.reshape(*x.shape[:-2], h // 8, 8, w // 8, 8).astype(float).mean(axis=(-3, -1)))

    full = means(usable) == 1
    assert full.sum() > 50
    value = means(before)[:, full]
    least = 0.01 * np.abs(before[:, usable].mean(axis=1))[:, None]
    assert (np.abs(means(after)[:, full] - value) / np.maximum(np.abs(value), least)).max() < 1e-4
