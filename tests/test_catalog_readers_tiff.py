"""GeoTIFF readers: mosaics, one file per band, headers against items, and files that are not what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp

from hypermend.catalog.cube.spec import NODATA, VALID
from hypermend.catalog.errors import BadAsset, NotFound
from hypermend.catalog.meaning.overrides import Overrides
from hypermend.catalog.meaning.statement import Field
from hypermend.catalog.readers.scene_reader import Source, open_scene
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.sensors import sensor
from hypermend.catalog.stac.discover import Skipped, from_folder

ORIGIN = (366000.0, 5810000.0)


def write_tiff(
    path: Path,
    array: np.ndarray,
    *,
    origin: tuple[float, float] = ORIGIN,
    pixel: float = 30.0,
    crs: str | None = "EPSG:32633",
    nodata: float | None = None,
    wavelength_nm: Sequence[float] | None = None,
    bbl: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    tags: dict[str, str] | None = None,
    scale: float = 1.0,
) -> Path:
    """A small GeoTIFF, (band, y, x)."""
    bands, height, width = array.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=bands,
        height=height,
        width=width,
        dtype=array.dtype,
        crs=crs,
        transform=Affine(pixel, 0, origin[0], 0, -pixel, origin[1]) if crs else Affine.identity(),
        nodata=nodata,
    ) as out:
        out.write(array)
        out.update_tags(**(tags or {}))
        out.scales = [scale] * bands
        for i in range(bands):
            if wavelength_nm is not None:
                out.update_tags(i + 1, wavelength=str(wavelength_nm[i]), wavelength_units="Nanometers", fwhm="8")
            if bbl is not None:
                out.update_tags(i + 1, bbl=str(bbl[i]))
            if names is not None:
                out.set_band_description(i + 1, names[i])
    return path


def scene_of(*paths: Path, sensor: str = "enmap", properties: dict[str, Any] | None = None, **asset: Any) -> Scene:
    assets = {p.stem: Asset(key=p.stem, href=str(p), roles=("data",), media_type="image/tiff", **asset) for p in paths}
    return Scene(
        id="scene",
        collection="c",
        datetime=datetime(2022, 7, 24, tzinfo=UTC),
        sensor=sensor,
        assets=assets,
        properties=properties or {},
    )


def everything(source: Source) -> tuple[np.ndarray, np.ndarray]:
    return source.read(slice(None), slice(None))


@pytest.fixture(scope="module")
def enmap_scene(shared_data: Path) -> Scene:
    # the tiles have a scale, but nothing in them says that it gives reflectance
    told = Overrides(values={Field.QUANTITY: "reflectance"})
    found = list(from_folder(shared_data / "enmap_potsdam", sensor="enmap", collection="enmap", overrides=told))
    assert len(found) == 1 and isinstance(found[0], Scene)
    return found[0]


def test_enmap_tiles_are_one_scene(enmap_scene: Scene) -> None:
    assert len(enmap_scene.assets) == 18
    assert enmap_scene.datetime == datetime(2022, 7, 24, 10, 45, 26, tzinfo=UTC)
    assert enmap_scene.grid is not None and tuple(enmap_scene.grid.shape) == (192, 160)


def test_enmap_numbers_crs_and_transform_are_rasterios(enmap_scene: Scene) -> None:
    source = open_scene(enmap_scene)
    stored, flags = everything(source)
    spec = source.spec
    assert (spec.dtype, spec.scale_factor, spec.fill, spec.quantity) == ("float32", 1e-4, -32768, "reflectance")
    covered = np.zeros(flags.shape, dtype=bool)
    order = np.array(spec.band) - 1
    for asset in enmap_scene.assets.values():
        with rasterio.open(asset.href) as file:
            assert file.crs == rasterio.crs.CRS.from_user_input(spec.crs)
            a, b, c, d, e, f = spec.transform
            col, row = (file.transform.c - c) / a, (file.transform.f - f) / e
            assert (col, row) == (round(col), round(row))
            assert tuple(file.transform[:6]) == (a, b, c + a * col, d, e, f + e * row)
            y, x = slice(round(row), round(row) + 32), slice(round(col), round(col) + 32)
            np.testing.assert_array_equal(stored[:, y, x], file.read()[order])
            covered[y, x] = True
    assert (flags[covered] == VALID).all() and (flags[~covered] == NODATA).all()
    assert (stored[:, ~covered] == -32768).all()
    assert 0 < covered.sum() == 18 * 32 * 32 < covered.size  # the tiles do not fill the rectangle


def test_enmap_bands_are_sorted_and_keep_their_number_and_detector(enmap_scene: Scene) -> None:
    spec = open_scene(enmap_scene).spec
    assert list(spec.wavelength_nm) == sorted(spec.wavelength_nm)
    assert spec.band != tuple(range(1, 225)) and sorted(spec.band) == list(range(1, 225))
    assert {b for b, d in zip(spec.band, spec.detector, strict=True) if d == "VNIR"} == set(range(1, 92))
    assert [b for b, g in zip(spec.band, spec.good, strict=True) if not g] == list(range(130, 136))
    assert spec.fwhm_nm[0] == 6.99561


def test_a_window_opens_only_the_files_it_touches(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(1, 99, (9, 16, 32)).astype("uint16")
    for i in range(2):
        part = values[:, :, 16 * i : 16 * i + 16]
        write_tiff(
            tmp_path / f"a_{i}.tif",
            part,
            origin=(ORIGIN[0] + 480 * i, ORIGIN[1]),
            tags={"start_time": "2022-01-01T00:00:00"},
            names=sensor("ali").band_name,
        )
    (scene,) = from_folder(tmp_path, sensor="ali", collection="c")
    assert isinstance(scene, Scene)
    source = open_scene(scene)
    (tmp_path / "a_1.tif").unlink()
    stored, _ = source.read(slice(2, 9), slice(3, 16))
    np.testing.assert_array_equal(stored, values[:, 2:9, 3:16])
    with pytest.raises(NotFound, match=r"a_1\.tif"):
        source.read(slice(0, 4), slice(10, 20))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(data=st.data())
def test_any_window_is_a_part_of_the_whole(enmap_scene: Scene, data: st.DataObject) -> None:
    if not hasattr(test_any_window_is_a_part_of_the_whole, "whole"):
        source = open_scene(enmap_scene, bands=["3", "95", "200"])
        test_any_window_is_a_part_of_the_whole.whole = (source, *everything(source))  # type: ignore[attr-defined]
    source, stored, flags = test_any_window_is_a_part_of_the_whole.whole  # type: ignore[attr-defined]
    y = data.draw(st.integers(0, 191)), data.draw(st.integers(1, 70))
    x = data.draw(st.integers(0, 159)), data.draw(st.integers(1, 70))
    ys, xs = slice(y[0], y[0] + y[1]), slice(x[0], x[0] + x[1])
    part, part_flags = source.read(ys, xs)
    np.testing.assert_array_equal(part, stored[:, ys, xs])
    np.testing.assert_array_equal(part_flags, flags[ys, xs])


def test_the_identity_changes_with_the_file(tmp_path: Path) -> None:
    values = np.ones((9, 4, 4), "uint16")
    path = write_tiff(tmp_path / "a.tif", values)
    scene = scene_of(path, sensor="ali")
    first = open_scene(scene).identity
    assert open_scene(scene).identity == first
    write_tiff(path, values + 1)
    assert open_scene(scene).identity != first


@pytest.mark.parametrize(
    ("grid", "both"),
    [
        (GeoBox((5, 4), Affine(30, 0, *ORIGIN[:1], 0, -30, ORIGIN[1]), "EPSG:32633"), r"\(5, 4\).*\(4, 4\)"),
        (GeoBox((4, 4), Affine(30, 0, *ORIGIN[:1], 0, -30, ORIGIN[1]), "EPSG:32632"), "EPSG:32632.*EPSG:32633"),
        (GeoBox((4, 4), Affine(30, 0, 1.0, 0, -30, ORIGIN[1]), "EPSG:32633"), r"\(30.0, 0.0, 1.0.*366000.0"),
    ],
    ids=["shape", "crs", "transform"],
)
@pytest.mark.parametrize("level", ["asset", "item"])
@pytest.mark.fault
def test_f14_metadata_that_contradict_the_header_name_both(tmp_path: Path, grid: GeoBox, both: str, level: str) -> None:
    path = write_tiff(tmp_path / "a.tif", np.ones((9, 4, 4), "uint16"))
    scene = scene_of(path, sensor="ali", **({"grid": grid} if level == "asset" else {}))
    if level == "item":
        scene = replace(scene, grid=grid)
    with pytest.raises(BadAsset, match=both):
        open_scene(scene)


@pytest.mark.fault
def test_f14_a_band_list_that_contradicts_the_header_names_both(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", np.ones((3, 4, 4), "uint16"))
    with pytest.raises(BadAsset, match="lists 2 bands, the file has 3"):
        open_scene(scene_of(path, sensor="ali", bands=("MS-1", "MS-2")))


def test_a_wrong_band_count_names_file_and_sensor(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", np.ones((7, 4, 4), "uint16"))
    with pytest.raises(BadAsset, match=r"7 bands, sensor enmap has 224 \(218 usable\)"):
        open_scene(scene_of(path))


def test_wrong_wavelengths_are_refused(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", np.ones((3, 4, 4), "uint16"), wavelength_nm=[0.45, 0.55, 0.65])
    with pytest.raises(BadAsset, match=r"0\.45 nm.*outside sensor enmap \(418-2446 nm\)"):
        open_scene(scene_of(path))


def test_unsorted_wavelengths_are_sorted_and_the_order_kept(tmp_path: Path) -> None:
    values = np.arange(4, dtype="uint16")[:, None, None] * np.ones((1, 4, 4), "uint16")
    path = write_tiff(tmp_path / "a.tif", values, wavelength_nm=[500, 980, 910, 2000], bbl=[1, 1, 0, 1], nodata=9)
    source = open_scene(scene_of(path))
    assert source.spec.wavelength_nm == (500, 910, 980, 2000)
    assert source.spec.band == (1, 3, 2, 4)
    assert source.spec.detector == ("VNIR", "SWIR", "VNIR", "SWIR")
    assert source.spec.good == (True, False, True, True)
    assert everything(source)[0][:, 0, 0].tolist() == [0, 2, 1, 3]


@pytest.mark.fault
def test_f14_bands_are_chosen_by_name_and_none_is_an_error(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", np.ones((9, 4, 4), "uint16"), names=sensor("ali").band_name)
    scene = scene_of(path, sensor="ali")
    assert open_scene(scene, bands=["MS-3", "MS-1"]).spec.band_name == ("MS-1", "MS-3")
    with pytest.raises(BadAsset, match="no band MS-9; there are MS-1p, MS-1"):
        open_scene(scene, bands=["MS-9"])
    with pytest.raises(BadAsset, match="empty selection"):
        open_scene(scene, bands=[])


def test_a_pixel_with_one_good_band_missing_is_not_valid(tmp_path: Path) -> None:
    values = np.ones((9, 4, 4), "int16")
    values[3, 0, 0] = -9
    values[:, 1, 1] = -9
    path = write_tiff(tmp_path / "a.tif", values, nodata=-9)
    stored, flags = everything(open_scene(scene_of(path, sensor="ali")))
    assert flags[0, 0] == NODATA and flags[1, 1] == NODATA and flags[2, 2] == VALID
    assert stored[0, 0, 0] == 1  # what was measured is kept


def test_nan_is_never_valid(tmp_path: Path) -> None:
    values = np.ones((9, 4, 4), "float32")
    values[2, 0, 0] = np.nan
    source = open_scene(scene_of(write_tiff(tmp_path / "a.tif", values), sensor="ali"))
    assert np.isnan(source.spec.fill) and everything(source)[1][0, 0] == NODATA


def test_an_all_nodata_scene_has_no_valid_pixel(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", np.zeros((9, 4, 4), "uint16"), nodata=0)
    assert (everything(open_scene(scene_of(path, sensor="ali")))[1] == NODATA).all()


def test_unreadable_files_are_bad_assets(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_text("no raster")
    with pytest.raises(BadAsset, match=r"a\.tif: cannot be read"):
        open_scene(scene_of(path, sensor="ali"))
    with pytest.raises(NotFound, match=r"b\.tif"):
        open_scene(scene_of(tmp_path / "b.tif", sensor="ali"))
    whole = write_tiff(tmp_path / "c.tif", np.random.default_rng(0).random((9, 64, 64)).astype("float32"))
    whole.write_bytes(whole.read_bytes()[:60000])
    with pytest.raises(BadAsset, match=r"c\.tif: cannot be read"):
        everything(open_scene(scene_of(whole, sensor="ali")))


def test_a_file_that_points_to_others_is_refused(tmp_path: Path) -> None:
    inner = write_tiff(tmp_path / "inner.tif", np.ones((9, 4, 4), "uint16"))
    vrt = tmp_path / "a.tif"
    rows = "".join(
        f'<VRTRasterBand dataType="UInt16" band="{i}"><SimpleSource><SourceFilename>{inner}</SourceFilename>'
        f"<SourceBand>{i}</SourceBand></SimpleSource></VRTRasterBand>"
        for i in range(1, 10)
    )
    vrt.write_text(f'<VRTDataset rasterXSize="4" rasterYSize="4">{rows}</VRTDataset>')
    with rasterio.open(vrt) as file:
        assert file.read(1).max() == 1  # GDAL itself would follow it
    with pytest.raises(BadAsset, match=r"a\.tif: cannot be read"):
        open_scene(scene_of(vrt, sensor="ali"))


def test_the_identity_covers_the_metadata_file(hyperion: tuple[Path, Scene, np.ndarray], tmp_path: Path) -> None:
    _, scene, _ = hyperion
    other = tmp_path / "x_MTL.txt"
    other.write_text(Path(scene.assets["mtl"].href).read_text() + "# newer\n")
    changed = replace(scene, assets={**scene.assets, "mtl": replace(scene.assets["mtl"], href=str(other))})
    assert open_scene(changed, bands=["B9"]).identity != open_scene(scene, bands=["B9"]).identity


def test_huge_declared_shapes_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "huge.tif"
    profile = {"driver": "GTiff", "count": 9, "height": 900_000, "width": 900_000, "dtype": "float64"}
    with rasterio.open(
        path, "w", **profile, tiled=True, blockxsize=4096, blockysize=4096, SPARSE_OK=True, BIGTIFF="YES"
    ):
        pass
    assert path.stat().st_size < 2**20
    with pytest.raises(BadAsset, match=r"declares \(9, 900000, 900000\) = 58320000000000 bytes, limit"):
        open_scene(scene_of(path, sensor="ali"))


def test_grids_that_no_cube_can_have(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", np.ones((9, 4, 4), "uint16"))
    with pytest.raises(BadAsset, match="no pixel of 500 fits; the files have pixels of 30"):
        open_scene(scene_of(path, sensor="ali"), gsd_m=500)
    with rasterio.open(path, "r+") as file:
        file.transform = Affine(30, 0, ORIGIN[0], 0, 30, ORIGIN[1])
    with pytest.raises(BadAsset, match="from south to north"):
        open_scene(scene_of(path, sensor="ali"))


def test_jpeg_2000(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 60000, (9, 32, 40)).astype("uint16")
    profile = {"driver": "JP2OpenJPEG", "count": 9, "height": 32, "width": 40, "dtype": "uint16"}
    place = {"crs": "EPSG:32633", "transform": Affine(30, 0, *ORIGIN[:1], 0, -30, ORIGIN[1])}
    with rasterio.open(tmp_path / "a.jp2", "w", **profile, **place, QUALITY="100", REVERSIBLE="YES") as out:
        out.write(values)
    source = open_scene(scene_of(tmp_path / "a.jp2", sensor="ali"))
    assert source.spec.crs == "EPSG:32633"
    np.testing.assert_array_equal(source.read(slice(3, 30), slice(0, 40))[0], values[:, 3:30])


def test_files_off_the_grid_name_both_transforms(tmp_path: Path) -> None:
    tags = {"start_time": "2022-07-24T00:00:00"}
    a = write_tiff(tmp_path / "a.tif", np.ones((9, 4, 4), "uint16"), tags=tags, names=sensor("ali").band_name)
    b = write_tiff(
        tmp_path / "b.tif",
        np.ones((9, 4, 4), "uint16"),
        origin=(ORIGIN[0] + 130, ORIGIN[1]),
        tags=tags,
        names=sensor("ali").band_name,
    )
    with pytest.raises(BadAsset, match=r"off the grid.*366130.*366000"):
        open_scene(scene_of(a, b, sensor="ali"))


@pytest.fixture(scope="module")
def hyperion(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Scene, np.ndarray]:
    """A small Hyperion L1T delivery: 242 one-band GeoTIFFs of int16 and their MTL file."""
    folder = tmp_path_factory.mktemp("hyperion")
    values = np.random.default_rng(0).integers(1, 2000, (242, 6, 5)).astype("int16")
    for i in range(242):
        write_tiff(folder / f"EO1H0140412003193110PZ_B{i + 1:03d}_L1T.TIF", values[i : i + 1])
    (folder / "EO1H0140412003193110PZ_MTL_L1T.TXT").write_text(
        'GROUP = L1_METADATA_FILE\n  GROUP = PRODUCT_METADATA\n    SPACECRAFT_ID = "EO1"\n'
        "    ACQUISITION_DATE = 2003-07-12\n  END_GROUP = PRODUCT_METADATA\n"
        "  GROUP = RADIANCE_SCALING\n    SCALING_FACTOR_VNIR = 40\n    SCALING_FACTOR_SWIR = 80\n"
        "  END_GROUP = RADIANCE_SCALING\nEND_GROUP = L1_METADATA_FILE\nEND\n"
    )
    (scene,) = from_folder(folder, sensor="hyperion", collection="c")
    assert isinstance(scene, Scene)
    return folder, scene, values


def test_a_hyperion_delivery_is_one_scene_of_radiance_with_the_factors_of_each_detector(
    hyperion: tuple[Path, Scene, np.ndarray],
) -> None:
    _, scene, values = hyperion
    assert scene.id == "EO1H0140412003193110PZ" and scene.datetime == datetime(2003, 7, 12, tzinfo=UTC)
    assert scene.properties["hypermend:datetime_from"] == "guess" and scene.trusted_datetime is None  # the day alone
    source = open_scene(scene)
    spec = source.spec
    assert spec.bands == 242 and spec.good.count(False) == 44
    assert (spec.quantity, spec.units, spec.dtype) == ("radiance", "W m-2 sr-1 um-1", "float32")
    factor = np.where(np.array(spec.band) <= 70, 1 / 40, 1 / 80)[:, None, None]
    np.testing.assert_allclose(everything(source)[0], values[np.array(spec.band) - 1] * factor, rtol=1e-6)


def test_bands_of_one_detector_keep_their_numbers(hyperion: tuple[Path, Scene, np.ndarray]) -> None:
    spec = open_scene(hyperion[1], bands=["B8", "B009", "B10"]).spec
    assert (spec.quantity, spec.scale_factor, spec.band) == ("radiance", 1 / 40, (8, 9, 10))
    assert spec.dtype == "int16"


def test_a_delivery_without_scale_says_which_bands(hyperion: tuple[Path, Scene, np.ndarray], tmp_path: Path) -> None:
    _, scene, _ = hyperion
    short = tmp_path / "x_MTL.txt"
    short.write_text("SCALING_FACTOR_VNIR = 40\n")
    broken = replace(scene, assets={**scene.assets, "mtl": replace(scene.assets["mtl"], href=str(short))})
    with pytest.raises(BadAsset, match="no SCALING_FACTOR_SWIR for band B71"):
        open_scene(broken)


def test_landsat_delivery(shared_data: Path) -> None:
    (scene,) = from_folder(shared_data / "landsat5", sensor="landsat5-tm", collection="l5")
    assert isinstance(scene, Scene)
    assert scene.datetime == datetime(1988, 8, 14, 13, 0, 47, 375019, tzinfo=UTC)
    source = open_scene(scene)
    spec = source.spec
    assert spec.band_name == ("B1", "B2", "B3", "B4", "B5", "B7") and spec.sensor == "landsat5-tm"
    assert (spec.quantity, spec.units, spec.dtype) == ("radiance", "W m-2 sr-1 um-1", "float32")
    assert spec.attrs["hypermend:left_out"] == ["B6"]  # thermal, another instrument in all but name
    assert spec.attrs["hypermend:stored"]["scale_factor"][0] == 0.671
    stored, flags = everything(source)
    mult, add = (np.array(spec.attrs["hypermend:stored"][k]) for k in ("scale_factor", "add_offset"))
    for i, name in enumerate(spec.band_name):
        with rasterio.open(scene.assets[name].href) as file:
            np.testing.assert_allclose(
                stored[i][flags == VALID], (file.read(1) * mult[i] + add[i])[flags == VALID], rtol=1e-5
            )
            assert tuple(file.transform[:6]) == spec.transform


def test_the_static_stac_example(shared_data: Path) -> None:
    from hypermend.catalog.stac.discover import discover

    found = list(discover(shared_data / "stac" / "recursive-stac-example", sensor="sentinel2a"))
    assert len(found) == 3 and not any(isinstance(f, Skipped) for f in found)
    for scene in found:
        assert isinstance(scene, Scene)
        source = open_scene(scene)
        assert source.spec.band_name == ("B02", "B03", "B04")
        (asset,) = scene.assets.values()
        with rasterio.open(asset.href) as file:
            np.testing.assert_array_equal(everything(source)[0], file.read([3, 2, 1]))


def test_an_enmap_delivery_takes_the_image_and_not_its_quality_layers(tmp_path: Path) -> None:
    stem = "ENMAP01-____L2A-DT0000001000_20220724T104526Z_001_V010303_20230101T000000Z"
    table = sensor("enmap")
    write_tiff(tmp_path / f"{stem}-SPECTRAL_IMAGE.TIF", np.full((224, 4, 4), 100, "int16"), nodata=-32768)
    write_tiff(tmp_path / f"{stem}-QL_QUALITY_CLOUD.TIF", np.zeros((1, 4, 4), "uint8"))
    rows = "".join(
        f'<bandID number="{i + 1}"><wavelengthCenterOfBand>{nm + 0.5}</wavelengthCenterOfBand>'
        f"<FWHMOfBand>{fwhm}</FWHMOfBand><GainOfBand>0.0001</GainOfBand><OffsetOfBand>0</OffsetOfBand></bandID>"
        for i, (nm, fwhm) in enumerate(zip(table.wavelength_nm, table.fwhm_nm, strict=True))
    )
    (tmp_path / f"{stem}-METADATA.XML").write_text(
        f"<level_X><base><temporalCoverage><startTime>2022-07-24T10:45:26.1Z</startTime></temporalCoverage></base>"
        f"<specific><bandCharacterisation>{rows}</bandCharacterisation></specific></level_X>"
    )
    (scene,) = from_folder(tmp_path, sensor="enmap", collection="c")
    assert isinstance(scene, Scene) and scene.datetime == datetime(2022, 7, 24, 10, 45, 26, 100000, tzinfo=UTC)
    spec = open_scene(scene).spec
    assert spec.wavelength_nm[0] == table.wavelength_nm[0] + 0.5
    assert (spec.scale_factor, spec.quantity, spec.fill) == (1e-4, "reflectance", -32768)
    assert spec.detector.count("VNIR") == 91


@pytest.mark.parametrize(("name", "colour"), [("alpha", False), ("Alpha", False), ("mask of the writer", True)])
def test_an_alpha_band_is_a_mask_by_its_colour_or_its_name(tmp_path: Path, name: str, colour: bool) -> None:
    pixels = np.full((5, 6, 8), 1500, "uint16")
    pixels[4] = 65535
    pixels[4, :, :2] = 0
    write_tiff(tmp_path / "scene.tif", pixels)
    with rasterio.open(tmp_path / "scene.tif", "r+") as file:
        if colour:
            file.colorinterp = [*file.colorinterp[:4], ColorInterp.alpha]
        for i, band in enumerate(("B2", "B3", "B4", "B8", name), 1):
            file.set_band_description(i, band)
    (scene,) = from_folder(tmp_path, sensor="sentinel2a", collection="c")
    assert isinstance(scene, Scene)
    source = open_scene(scene)
    _, flags = everything(source)
    assert source.spec.band_name == ("B02", "B03", "B04", "B08")
    assert (flags[:, :2] == NODATA).all() and (flags[:, 2:] == VALID).all()


@pytest.mark.parametrize("table", ["enmap", "prisma", "emit"])
def test_bands_named_as_a_multispectral_sensor_names_them_are_not_a_spectrometers(tmp_path: Path, table: str) -> None:
    write_tiff(tmp_path / "scene.tif", np.ones((4, 6, 8), "uint16"))
    with rasterio.open(tmp_path / "scene.tif", "r+") as file:
        for i, band in enumerate(("B2", "B3", "B4", "B8"), 1):
            file.set_band_description(i, band)
    (skipped,) = from_folder(tmp_path, sensor=table, collection="c")
    assert isinstance(skipped, Skipped)
    assert "B2, B3, B4, B8" in skipped.reason and "sentinel2a" in skipped.reason
