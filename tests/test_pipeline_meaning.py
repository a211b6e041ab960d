"""From files that no table knows, or that say too little, to restored cubes: with the user's word, and undated."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

import hypermend
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.spec import NODATA, VALID
from hypermend.catalog.errors import BadSensor, Refused
from hypermend.catalog.keys import cube_key
from hypermend.catalog.meaning.overrides import Overrides
from hypermend.catalog.meaning.statement import Field
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.sensors import sensor
from hypermend.catalog.stac.publish import put_item
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.cli import models as models_verb
from hypermend.pipeline.config import EvaluateJob, IngestJob, NightlyJob, RestoreJob, SearchJob, TrainJob
from hypermend.pipeline.engine.ray_actors import on_ray
from hypermend.pipeline.engine.serial import serial
from hypermend.pipeline.evaluate.protocols import _Fuse
from hypermend.pipeline.ingest import catalog_folder, ingest
from hypermend.pipeline.maintenance.verify import verify
from hypermend.pipeline.nightly import nightly
from hypermend.pipeline.restore.driver import restore
from hypermend.pipeline.restore.dry_run import estimate_scenes
from hypermend.pipeline.search.driver import search_archive
from hypermend.pipeline.train.make_plan import plan_training

MAP = "{UTM, 1, 1, 300000, 5800000, %d, %d, 33, North, WGS-84}"
TABLE = "# quantity: radiance\n# source: my sheet\nband,wavelength_nm,fwhm_nm,detector,usable,gsd_m\n"


def camera(path: Path, nm: list[float], *, size: int = 32, pixel_m: int = 30, nodata: bool = True, **more: str) -> Path:
    """An ENVI image: 100 in its first column, elsewhere a ramp along x that differs from band to band."""
    ramp = 1000 + 10 * np.arange(size)[None, None, :] + 50 * np.arange(len(nm))[:, None, None]
    pixels = np.broadcast_to(ramp, (len(nm), size, size)).astype(np.uint16)
    pixels[:, :, 0] = 100
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pixels.tobytes())
    fields = {"samples": size, "lines": size, "bands": len(nm), "data type": 12, "interleave": "bsq", "byte order": 0}
    fields |= {"wavelength": f"{{{', '.join(map(str, nm))}}}", "map info": MAP % (pixel_m, pixel_m)}
    fields |= {"data ignore value": 100} if nodata else {}
    fields |= {key.replace("_", " "): value for key, value in more.items()}
    path.with_suffix(".hdr").write_text("ENVI\n" + "".join(f"{k} = {v}\n" for k, v in fields.items()))
    return path


NM = [float(nm) for nm in range(420, 821, 20)]
WIDTHS = f"{{{', '.join(['20'] * len(NM))}}}"


@pytest.fixture(scope="module")
def undated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with one source cube of a camera without a name, a table and a time."""
    folder = tmp_path_factory.mktemp("meaning")
    camera(folder / "files" / "flight.img", NM, fwhm=WIDTHS)
    made = catalog_folder(str(folder / "a"), folder / "files")
    assert (made.scenes, made.undated) == (("flight",), 1), made
    report = ingest(IngestJob(archive=str(folder / "a")), engine=serial).wait()
    assert report.exit_code == 0 and report.notes == {"undated": 1}, report.scenes
    return folder / "a"


def sources_of(ds: Any) -> dict[str, str]:
    """{field: source} of an opened cube."""
    sources: dict[str, str] = json.loads(ds.attrs["sources"])
    return sources


def source_of(archive: Path, scene: str = "flight") -> Scene:
    (item,) = hypermend.open(archive).search(stage="source", ids=[scene])
    return item.scene


def test_a_file_that_describes_its_bands_needs_no_sensor(undated: Path) -> None:
    scene = source_of(undated)
    assert (scene.sensor, scene.collection, scene.datetime) == ("unknown", "unknown-source", None)
    ds = hypermend.open(undated).search(stage="source", sensor="unknown")[0].dataset()
    assert ds.reflectance.attrs["quantity"] == "counts"
    assert sources_of(ds)["wavelength"].startswith("file header (flight.hdr")
    assert ds.wavelength.attrs["source"] == sources_of(ds)["wavelength"]
    assert ds.wavelength.values.tolist() == NM and set(ds.fwhm.values) == {20.0}
    assert int((ds.valid & NODATA > 0).sum()) == 32


def test_an_undated_scene_is_found_planned_and_restored(undated: Path) -> None:
    archive = hypermend.open(undated)
    assert not archive.search(datetime="2000-01-01/..") and len(archive.search(stage="source")) == 1
    item = json.loads(next(undated.glob("items/unknown-source/undated/*.json")).read_text())
    assert item["properties"]["datetime"] is None and item["properties"]["hypermend:datetime_from"] == "unknown"
    job = RestoreJob(archive=str(undated), model="identity")
    (row,) = estimate_scenes(job)
    assert row.plan is not None
    assert restore(job, engine=serial).wait().exit_code == 0
    (restored,) = archive.search(stage="restored")
    assert restored.scene.datetime is None and not verify(str(undated)).torn
    assert archive.reindex() == 3
    assert len(archive.search(sensor="unknown")) == 3


def test_a_night_restores_an_undated_scene_once(undated: Path, tmp_path: Path) -> None:
    job = NightlyJob(
        archive=str(tmp_path / "b"), stac=str(undated / "items" / "unknown" / "catalog.json"), model="identity"
    )
    (tmp_path / "b").mkdir()
    night = nightly(job, engine=serial)
    assert (night.published, night.exit_code) == (1, 0), night.line()
    assert nightly(job, engine=serial).bytes_written == 0
    assert (
        nightly(job.model_copy(update={"quantity": "radiance", "scale_factor": (0.1,)}), engine=serial).published == 1
    )


def test_a_misspelt_sensor_is_refused_with_those_that_are_there(undated: Path) -> None:
    for start in (
        lambda: list(hypermend.open(undated).search(sensor="unknwon")),
        lambda: restore(RestoreJob(archive=str(undated), sensor="unknwon", model="identity"), engine=serial).wait(),
    ):
        with pytest.raises(BadSensor, match=r"unknown sensor 'unknwon': did you mean 'unknown'\?"):
            start()


def test_what_needs_a_table_is_refused_by_name_before_work_starts(undated: Path) -> None:
    archive = str(undated)
    with pytest.raises(Refused, match="unknown"):
        search_archive(SearchJob(archive=archive, sensors=("unknown",), budget="smoke"), print)
    with pytest.raises(BadSensor, match="unknown sensor 'unknwon'"):
        search_archive(SearchJob(archive=archive, sensors=("unknwon",), budget="smoke"), print)
    evaluation = EvaluateJob(archive=archive, model="least-squares", task="fuse", guide_sensor="unknwon")
    with pytest.raises(BadSensor, match="unknown sensor 'unknwon'"):
        _Fuse(evaluation, ArchiveStore(archive), 32)
    job = TrainJob(archive=archive, task="fuse", name="n", steps=1, guide_collection="unknown")
    with pytest.raises(Refused, match=r"(sensor unknown of guide collection|two scenes at least)"):
        plan_training(job)
    assert models_verb._spectrum(hypermend.open(archive), "unknown") == NM


@pytest.mark.parametrize("widths", [True, False])
def test_a_guide_without_a_table_is_fused_by_the_widths_of_its_bands(tmp_path: Path, widths: bool) -> None:
    camera(tmp_path / "coarse" / "coarse.img", NM, fwhm=WIDTHS)
    camera(
        tmp_path / "sharp" / "sharp.img",
        [480, 560, 660],
        size=96,
        pixel_m=10,
        **({"fwhm": "{60, 60, 60}"} if widths else {}),
    )
    archive = str(tmp_path / "a")
    for name in ("coarse", "sharp"):
        assert catalog_folder(archive, tmp_path / name, collection=name).scenes == (name,)
    assert ingest(IngestJob(archive=archive), engine=serial).wait().exit_code == 0
    job = RestoreJob(
        archive=archive, task="fuse", collections=("coarse",), guide_collection="sharp", model="least-squares"
    )
    (row,) = estimate_scenes(job)
    if widths:
        assert row.plan is not None and row.plan.guide.days_apart is None, row
        return
    assert row.plan is None and "unknown band 1 has no width (fwhm)" in row.reason


def test_the_users_word_reaches_the_cube(tmp_path: Path) -> None:
    camera(tmp_path / "files" / "flight.img", NM, nodata=False)
    archive = str(tmp_path / "a")
    said = Overrides(
        values={Field.QUANTITY: "reflectance", Field.SCALE: 1e-4, Field.OFFSET: -0.1, Field.NODATA: 100},
        datetime=datetime(2024, 5, 1, 10, tzinfo=UTC),
    )
    made = catalog_folder(archive, tmp_path / "files", overrides=said, collection="c")
    assert made.undated == 0
    assert ingest(IngestJob(archive=archive), engine=serial).wait().exit_code == 0
    (item,) = hypermend.open(archive).search(stage="source", datetime="2024-05-01")
    ds = item.dataset()
    assert ds.reflectance.attrs["quantity"] == "reflectance" and np.isnan(ds.reflectance.values[:, :, 0]).all()
    assert ds.reflectance.values[0, 0, 1] == pytest.approx(1010e-4 - 0.1)
    assert {k: v for k, v in sources_of(ds).items() if v.startswith("user")} == {
        "quantity": "user (--quantity)",
        "scale": "user (--scale-factor)",
        "offset": "user (--add-offset)",
        "nodata": "user (--nodata)",
        "datetime": "user (--datetime)",
    }
    names = set(item.scene.properties)
    assert "hypermend:scale_factor" not in names and "hypermend:nodata" not in names  # of the files, not of the cube
    (raw,) = hypermend.open(archive).search(stage="raw")
    assert raw.scene.properties["hypermend:scale_factor"] == 1e-4


def test_the_time_of_a_file_is_used_only_if_the_user_says_so_and_pairs_nothing(tmp_path: Path) -> None:
    camera(tmp_path / "files" / "flight.img", NM)
    archive = str(tmp_path / "a")
    made = catalog_folder(archive, tmp_path / "files", overrides=Overrides(allow_mtime=True))
    (raw,) = hypermend.open(archive).search(stage="raw")
    assert made.undated == 0 and raw.scene.datetime is not None and raw.scene.trusted_datetime is None
    assert ingest(IngestJob(archive=archive), engine=serial).wait().notes == {}
    (item,) = hypermend.open(archive).search(stage="source")
    assert item.scene.trusted_datetime is None and sources_of(item.dataset())["datetime"].startswith("guess")
    report = ingest(IngestJob(archive=archive, scene_datetime="2024-05-01T10:00:00Z"), engine=serial).wait()
    assert report.exit_code == 0
    (item,) = hypermend.open(archive).search(stage="source")
    assert item.scene.trusted_datetime == datetime(2024, 5, 1, 10, tzinfo=UTC)


def stac_item(folder: Path, id: str, **properties: Any) -> Path:
    """An item with a GeoTIFF of three bands that nothing describes."""
    folder.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "width": 32, "height": 32, "count": 3, "dtype": "int16", "crs": "EPSG:32633"}
    with rasterio.open(folder / f"{id}.tif", "w", **profile, transform=Affine(30, 0, 3e5, 0, -30, 5.8e6)) as file:
        file.write(np.arange(3 * 32 * 32, dtype=np.int16).reshape(3, 32, 32))
    item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": id,
        "collection": "c",
        "geometry": None,
        "properties": {"datetime": "2024-05-01T10:00:00Z", **properties},
        "links": [],
        "assets": {"image": {"href": f"./{id}.tif", "type": "image/tiff", "roles": ["data"]}},
    }
    path = folder / f"{id}.json"
    path.write_text(json.dumps(item))
    return path


def catalog_of(folder: Path, *ids: str) -> Path:
    links = [{"rel": "item", "href": f"./{id}.json"} for id in ids]
    catalog = {"type": "Catalog", "stac_version": "1.1.0", "id": "c", "description": "", "links": links}
    (folder / "catalog.json").write_text(json.dumps(catalog))
    return folder / "catalog.json"


def test_the_users_word_holds_for_every_item_that_is_found(tmp_path: Path) -> None:
    for id in ("one", "two"):
        stac_item(tmp_path / "feed", id)
    job = IngestJob(
        archive=str(tmp_path / "a"),
        stac=str(catalog_of(tmp_path / "feed", "one", "two")),
        wavelengths=(450.0, 550.0, 650.0),
        quantity="radiance",
        scale_factor=(0.1, 0.2, 0.3),
        units="W m-2 sr-1 um-1",
    )
    report = ingest(job, engine=serial).wait()
    assert [s.status for s in report.scenes] == ["published"] * 2, report.scenes
    for id in ("one", "two"):
        ds = next(i for i in hypermend.open(job.archive).search(stage="source", ids=[id])).dataset()
        assert ds.reflectance.values[:, 0, 1] == pytest.approx([0.1 * 1, 0.2 * 1025, 0.3 * 2049], rel=1e-6)
        assert ds.reflectance.attrs["units"] == "W m-2 sr-1 um-1" and ds.wavelength.values.tolist() == [450, 550, 650]


def test_workers_on_ray_read_with_the_users_table_and_the_archive_keeps_it(ray_session: None, tmp_path: Path) -> None:
    tables = tmp_path / "tables"
    tables.mkdir()
    (tables / "my-camera.csv").write_text(TABLE + "1,450,9,VNIR,true,1\n2,550,9,VNIR,true,1\n3,650,9,VNIR,false,1\n")
    (tables / "other.csv").write_text(TABLE + "1,450,9,VNIR,true,1\n")
    stac_item(tmp_path / "feed", "one")
    feed = str(catalog_of(tmp_path / "feed", "one"))
    job = IngestJob(archive=str(tmp_path / "a"), stac=feed, sensor="my-camera", sensors=tables)
    report = ingest(job, engine=on_ray).wait()
    assert [s.status for s in report.scenes] == ["published"], report.scenes
    assert [p.name for p in (tmp_path / "a" / "sensors").iterdir()] == ["my-camera.csv"]  # the one in use
    (item,) = hypermend.open(job.archive).search(stage="source", sensor="my-camera")
    ds = item.dataset()
    assert ds.good.values.tolist() == [True, True, False] and ds.fwhm.values.tolist() == [9, 9, 9]
    assert sources_of(ds)["wavelength"] == "sensor table (my-camera)"
    again = job.model_copy(update={"sensors": None})  # the archive is enough now
    assert [s.status for s in ingest(again, engine=on_ray).wait().scenes] == ["current"]
    (tables / "my-camera.csv").write_text(TABLE + "1,460,9,VNIR,true,1\n2,560,9,VNIR,true,1\n3,660,9,VNIR,true,1\n")
    with pytest.raises(BadSensor, match="give one of them another name"):
        ingest(job, engine=on_ray)
    with pytest.raises(BadSensor, match=r"unknown sensor 'my-camara': did you mean 'my-camera'"):
        list(hypermend.open(job.archive).search(sensor="my-camara"))


def test_a_table_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    camera(tmp_path / "files" / "flight.img", NM)
    made = catalog_folder(str(tmp_path / "a"), tmp_path / "files", sensor="landsat5-tm")
    assert not made.scenes and "landsat5-tm" in made.skipped[0].reason


def test_a_border_of_one_number_is_told_and_stays_data(tmp_path: Path) -> None:
    camera(tmp_path / "files" / "flight.img", NM, nodata=False)
    archive = str(tmp_path / "a")
    catalog_folder(archive, tmp_path / "files")
    report = ingest(IngestJob(archive=archive, tile_px=16), engine=serial).wait()
    (line,) = report.notes["borders"]
    assert "32 of the 64 pixels at its left and right edge hold 100 in every band" in line and "--nodata 100" in line
    scene = source_of(tmp_path / "a")
    _, flags = Cube(ArchiveStore(archive), cube_key(scene)).read(slice(0, 32), slice(0, 32))
    assert (flags & VALID).all()
    told = ingest(IngestJob(archive=archive, tile_px=16, nodata=100), engine=serial).wait()
    assert told.notes.get("borders") is None


def test_the_outside_of_a_swath_is_restored_to_nothing(tmp_path: Path) -> None:
    """Zeros outside, told by a mask or as nodata=0: the same cube. Untold, they became values and spoilt the noise."""
    rng = np.random.default_rng(0)
    yy, xx = np.mgrid[:48, :48]
    inside = (xx - yy // 3 >= 10) & (xx - yy // 3 <= 30)
    scene = 1500 + 200 * np.sin(yy / 9) + 30 * np.arange(8)[:, None, None]
    pixels = np.where(inside, scene + rng.normal(0, 40, (8, 48, 48)), 0).astype(np.uint16)
    restored = {}
    for told, nodata in (("nodata", 0), ("internal mask", None)):
        file = tmp_path / told / "swath.tif"
        file.parent.mkdir()
        profile = {"height": 48, "width": 48, "dtype": "uint16", "nodata": nodata, "crs": "EPSG:32633"}
        profile |= {"count": 8, "transform": Affine(30, 0, 370000, 0, -30, 5810000)}
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=told == "internal mask"),
            rasterio.open(file, "w", driver="GTiff", **profile) as out,
        ):
            out.write(pixels)
            if nodata is None:
                out.write_mask(np.where(inside, 255, 0).astype("uint8"))
        archive = str(tmp_path / told / "archive")
        words = Overrides(values={Field.WAVELENGTH: tuple(NM[:8]), Field.QUANTITY: "counts"})
        assert len(catalog_folder(archive, file, overrides=words).scenes) == 1
        assert ingest(IngestJob(archive=archive), engine=serial).wait().exit_code == 0
        assert restore(RestoreJob(archive=archive, tile_px=48), engine=serial).wait().exit_code == 0
        (item,) = hypermend.open(archive).search(stage="restored")
        cube = Cube(ArchiveStore(archive), cube_key(item.scene))
        stored, flags = cube.read(slice(0, 48), slice(0, 48))
        assert np.array_equal((flags & NODATA) == 0, inside)
        restored[told] = np.where(inside, stored, 0)
    assert np.array_equal(restored["nodata"], restored["internal mask"])
    removed = np.std((restored["nodata"].astype(float) - pixels)[:, inside])
    assert 25 < removed < 45  # most of the noise of 40, not the 8.6 of 15.3 that zeros left


def enmap_delivery(folder: Path) -> Path:
    """A small EnMAP L2A delivery: 20 x 24 pixels of 224 bands; band 3 of pixel (2, 5) is defective."""
    table, stem = sensor("enmap"), "ENMAP01-____L2A-DT0000001867_20220724T104526Z_008_V010302_20230628T165614Z"
    folder.mkdir(parents=True)
    bands = "".join(
        f'<bandID number="{n}"><wavelengthCenterOfBand>{nm}</wavelengthCenterOfBand><FWHMOfBand>{fwhm}</FWHMOfBand>'
        "<GainOfBand>0.0001</GainOfBand><OffsetOfBand>0</OffsetOfBand></bandID>"
        for n, (nm, fwhm) in enumerate(zip(table.wavelength_nm, table.fwhm_nm, strict=True), 1)
    )
    (folder / f"{stem}-METADATA.XML").write_text(
        "<level_X><metadata><schema><processingLevel>L2A</processingLevel></schema></metadata><base><level>L2A</level>"
        "<temporalCoverage><startTime>2022-07-24T10:45:26.123Z</startTime></temporalCoverage></base>"
        f"<specific><bandCharacterisation>{bands}</bandCharacterisation></specific></level_X>"
    )
    place = {"crs": "EPSG:32633", "transform": Affine(30, 0, 370000, 0, -30, 5810000), "height": 20, "width": 24}
    image = np.full((224, 20, 24), 2000, np.int16)
    mask = np.zeros((224, 20, 24), np.uint8)
    mask[2, 2, 5] = 1
    for name, pixels, nodata in (("SPECTRAL_IMAGE", image, -32768), ("QL_PIXELMASK", mask, 255)):
        profile = {"driver": "GTiff", "count": 224, "dtype": pixels.dtype, "nodata": nodata, **place}
        with rasterio.open(folder / f"{stem}-{name}.TIF", "w", **profile) as file:
            file.write(pixels)
    return folder


def test_defects_of_a_product_are_written_beside_the_flags(tmp_path: Path) -> None:
    archive = str(tmp_path / "a")
    made = catalog_folder(archive, enmap_delivery(tmp_path / "files"))
    assert len(made.scenes) == 1, made.skipped
    assert ingest(IngestJob(archive=archive), engine=serial).wait().exit_code == 0
    (item,) = hypermend.open(archive).search(stage="source", sensor="enmap", datetime="2022-07-24")
    cube = Cube(ArchiveStore(archive), cube_key(item.scene))
    defects = cube.read_defects(slice(0, 20), slice(0, 24))
    (position,) = (i for i, number in enumerate(cube.spec.band) if number == 3)
    assert np.argwhere(defects).tolist() == [[position, 2, 5]]
    assert sources_of(item.dataset())["scale"].startswith("sidecar")


def test_an_item_without_a_sensor_that_a_table_knows_comes_back(tmp_path: Path) -> None:
    """A raw item may name any instrument: search returns it, and its filter takes the name."""
    root = ArchiveStore(tmp_path)
    scene = Scene(
        id="s",
        collection="c",
        datetime=None,
        sensor="dragonette",
        assets={"data": Asset(key="data", href="/x.tif", roles=("data",), bands=("Red", "B2"))},
        properties={"hypermend:datetime_from": "unknown"},
    )
    put_item(root, scene, run="r")
    (item,) = hypermend.open(tmp_path).search(sensor="dragonette")
    assert item.scene.sensor == "dragonette" and item.scene.assets["data"].bands == ("Red", "B2")
