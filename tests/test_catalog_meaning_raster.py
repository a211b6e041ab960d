"""What raster files say and what becomes of it, by the kinds of fault that users meet (docs/reading.md)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from hypermend.catalog.cube.spec import CLOUD, NODATA, VALID
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.meaning.overrides import Overrides
from hypermend.catalog.meaning.statement import Field
from hypermend.catalog.readers.border import constant_border
from hypermend.catalog.readers.folder import Skipped, from_folder
from hypermend.catalog.readers.scene_reader import Source, open_scene
from hypermend.catalog.scene import Scene
from hypermend.catalog.sensors import sensor
from hypermend.catalog.stac.item import from_item, to_item
from tests.deliveries import KNOWN, SIZE, numbers, write_raster

NM = (450.0, 550.0, 650.0, 800.0)


def write_envi(
    folder: Path,
    fields: str = "",
    *,
    name: str = "image",
    data: str | None = "image.img",
    header: str | None = None,
    array: np.ndarray | None = None,
    wavelength: Sequence[float] | None = NM,
) -> np.ndarray:
    """An ENVI image of int16, bsq; returns (band, y, x)."""
    folder.mkdir(parents=True, exist_ok=True)
    array = numbers(4) if array is None else array
    count, lines, samples = array.shape
    kind = {"int16": 2, "uint16": 12, "float32": 4}[str(array.dtype)]
    centres = f"wavelength = {{{', '.join(map(str, wavelength))}}}\n" if wavelength else ""
    (folder / (header or f"{name}.hdr")).write_text(
        f"ENVI\nsamples = {samples}\nlines = {lines}\nbands = {count}\nheader offset = 0\ndata type = {kind}\n"
        f"interleave = bsq\nbyte order = 0\n{centres}{fields}\n"
    )
    if data is not None:
        (folder / data).write_bytes(array.tobytes())
    return array


def write_tiff(path: Path, array: np.ndarray | None = None, *, nm: Sequence[float] | None = NM, **options: Any) -> Path:
    """A GeoTIFF with a wavelength tag in every band."""
    array = numbers(4) if array is None else array
    write_raster(path, array, **options)
    if nm is not None:
        with rasterio.open(path, "r+") as out:
            for band, centre in enumerate(nm, start=1):
                out.update_tags(band, wavelength=str(centre), wavelength_units="Nanometers")
    return path


def found(folder: Path, **options: Any) -> Scene:
    (scene,) = from_folder(folder, **options)
    assert isinstance(scene, Scene), scene
    return scene


def opened(folder: Path, **options: Any) -> Source:
    return open_scene(found(folder, **options))


def refused(folder: Path, **options: Any) -> str:
    (skipped,) = from_folder(folder, **options)
    assert isinstance(skipped, Skipped), skipped
    return skipped.reason


def values(source: Source) -> np.ndarray:
    """Physical values of the known pixel, one for each band."""
    stored, _ = source.read(slice(2, 3), slice(3, 4))
    return stored[:, 0, 0] * source.spec.scale_factor + source.spec.add_offset


def flags(source: Source) -> np.ndarray:
    return source.read(slice(None), slice(None))[1]


# A, E: scale and offset


@pytest.mark.parametrize(
    ("fields", "expected", "quantity"),
    [
        ("reflectance scale factor = 10000", [0.2001, 0.2002, 0.2003, 0.2004], "reflectance"),
        (
            "reflectance scale factor = 10000.0\ndata gain values = {1, 1, 1, 1}",
            [0.2001, 0.2002, 0.2003, 0.2004],
            "reflectance",
        ),
        (
            "data gain values = {0.01, 0.02,\n 0.03, 0.04}\ndata offset values = {1, 2, 3, 4}",
            [21.01, 42.04, 63.09, 84.16],
            "counts",
        ),
        ("data gain values = {0.5, 0.5, 0.5, 0.5}\ndata units = radiance", [1000.5, 1001, 1001.5, 1002], "radiance"),
        ("data reflectance gain values = {1e-4, 1e-4, 1e-4, 1e-4}", [0.2001, 0.2002, 0.2003, 0.2004], "reflectance"),
        ("data offset values = {-10, -10, -10, -10}", [1991, 1992, 1993, 1994], "counts"),
    ],
)
def test_the_scale_of_an_envi_header(tmp_path: Path, fields: str, expected: list[float], quantity: str) -> None:
    write_envi(tmp_path, fields)
    source = opened(tmp_path)
    assert values(source) == pytest.approx(expected, rel=1e-6) and source.spec.quantity == quantity
    if "gain" in fields and quantity != "reflectance":
        assert "gain values" in source.spec.attrs["sources"]["scale"]


def test_two_scales_that_contradict_each_other_are_named(tmp_path: Path) -> None:
    write_envi(tmp_path, "reflectance scale factor = 10000\ndata gain values = {0.01, 0.01, 0.01, 0.01}")
    reason = refused(tmp_path)
    assert "0.01" in reason and "0.0001" in reason and "--scale-factor" in reason
    told = Overrides(values={Field.SCALE: 0.01, Field.OFFSET: 0.0})
    assert values(opened(tmp_path, overrides=told))[0] == pytest.approx(20.01)


def test_each_band_of_a_geotiff_has_its_scale(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif")
    with rasterio.open(path, "r+") as out:
        out.scales, out.offsets = (1e-4, 2e-4, 3e-4, 4e-4), (0.0, 0.1, 0.2, 0.3)
    source = opened(tmp_path)
    assert source.spec.dtype == "float32" and source.spec.scale_factor == 1.0
    assert values(source) == pytest.approx([0.2001, 0.5004, 0.8009, 1.1016], rel=1e-6)
    assert source.spec.attrs["hypermend:stored"]["scale_factor"] == [1e-4, 2e-4, 3e-4, 4e-4]


def test_a_nodata_of_a_decoded_cube_is_nan(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", numbers(4, nodata=-9999), nodata=-9999)
    with rasterio.open(path, "r+") as out:
        out.scales = (1.0, 2.0, 3.0, 4.0)
    source = opened(tmp_path)
    stored, valid = source.read(slice(0, 1), slice(0, 2))
    assert np.isnan(stored[:, 0, 0]).all() and valid.tolist() == [[NODATA, VALID]]


def test_scale_and_wavelengths_of_an_item_hold_for_each_band(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", nm=None)
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": "x", "geometry": None, "links": [], "collection": "c",
        "properties": {"datetime": "2024-01-02T03:04:05Z", "hypermend:sensor": "my-camera"},
        "assets": {"image": {
            "href": str(tmp_path / "a.tif"), "type": "image/tiff", "roles": ["data"],
            "eo:bands": [{"name": f"b{i}", "center_wavelength": nm / 1000, "full_width_half_max": 0.01}
                         for i, nm in enumerate(NM)],
            "raster:bands": [{"scale": 1e-4 * (i + 1), "offset": 0.1, "nodata": 65535} for i in range(4)],
        }},
    }  # fmt: skip
    scene = from_item(item, own=True)
    source = open_scene(scene)
    assert source.spec.wavelength_nm == NM and source.spec.fwhm_nm == (10.0,) * 4
    assert values(source) == pytest.approx([0.3001, 0.5004, 0.7009, 0.9016], rel=1e-6)
    assert "STAC asset" in source.spec.attrs["sources"]["scale"]
    assert from_item(to_item(scene), own=True) == scene


def test_a_file_that_contradicts_its_item_is_refused(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif")
    with rasterio.open(path, "r+") as out:
        out.scales = (1e-4,) * 4
    raw = to_item(found(tmp_path))
    raw["assets"]["a"]["raster:scale"] = 1e-3
    with pytest.raises(BadAsset, match=r"0\.001 by STAC asset.*0\.0001 by file header.*--scale-factor"):
        open_scene(from_item(raw, own=True))


# B: masks


def masked(path: Path, *, internal: bool) -> Path:
    array = numbers(4, "uint16")
    array[:, :, :3] = 0
    mask = np.full(SIZE, 255, "uint8")
    mask[:, :3] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
        write_tiff(path, array)
        with rasterio.open(path, "r+") as out:
            out.write_mask(mask)
    return path


@pytest.mark.parametrize("internal", [True, False], ids=["internal", "msk"])
def test_a_mask_of_the_whole_image(tmp_path: Path, internal: bool) -> None:
    path = masked(tmp_path / "a.tif", internal=internal)
    assert Path(f"{path}.msk").exists() is not internal
    source = opened(tmp_path)
    found_flags = flags(source)
    assert (found_flags[:, :3] == NODATA).all() and (found_flags[:, 3:] == VALID).all()
    assert source.spec.attrs["hypermend:masks"] == ["mask"] and constant_border(source) is None
    part = source.read(slice(3, 7), slice(1, 5))[1]
    np.testing.assert_array_equal(part, found_flags[3:7, 1:5])


def test_a_mask_file_changes_the_identity_and_must_fit(tmp_path: Path) -> None:
    path = masked(tmp_path / "a.tif", internal=False)
    scene = found(tmp_path)
    first = open_scene(scene).identity
    masked(tmp_path / "b" / "b.tif", internal=False)
    Path(f"{path}.msk").write_bytes((tmp_path / "b" / "b.tif.msk").read_bytes() + b"\0")
    assert open_scene(scene).identity != first
    write_raster(Path(f"{path}.msk"), np.zeros((3, 3), "uint8"))
    with pytest.raises(BadAsset, match=r"a\.tif\.msk: is \(3, 3\).*\(12, 10\)"):
        open_scene(scene)


@pytest.mark.parametrize("named", [None, "alpha"])
def test_alpha_by_colour_interpretation_masks_and_is_no_band(tmp_path: Path, named: str | None) -> None:
    """In a file of five bands GDAL itself ignores it."""
    profile = {"driver": "GTiff", "count": 5, "height": SIZE[0], "width": SIZE[1], "dtype": "uint16"}
    alpha = np.full(SIZE, 65535, "uint16")
    alpha[:, :3] = 0
    with rasterio.open(tmp_path / "a.tif", "w", **profile) as out:
        out.colorinterp = [ColorInterp.gray, *[ColorInterp.undefined] * 3, ColorInterp.alpha]
        out.write(np.concatenate([numbers(4, "uint16"), alpha[None]]))
        for band, nm in enumerate(NM, start=1):
            out.update_tags(band, wavelength=str(nm))
        if named is not None:
            out.set_band_description(5, named)
    source = opened(tmp_path)
    assert source.spec.bands == 4 and source.spec.wavelength_nm == NM
    assert (flags(source)[:, :3] == NODATA).all() and (flags(source)[:, 3:] == VALID).all()


def test_a_band_with_a_wavelength_is_no_alpha(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", numbers(4, "uint8") * 0 + 7, photometric="RGB", alpha="yes")  # GDAL's own choice
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.colorinterp[3] is ColorInterp.alpha
    assert opened(tmp_path).spec.bands == 4


@pytest.mark.parametrize(("name", "masks"), [("alpha", True), ("quality", False)])
def test_only_a_band_that_is_named_alpha_masks_by_its_name(tmp_path: Path, name: str, masks: bool) -> None:
    """GDAL loses the colour interpretation of a fifth band that is set after its numbers are written."""
    alpha = np.full((1, *SIZE), 65535, "uint16")
    alpha[:, :, :3] = 0
    path = write_tiff(tmp_path / "a.tif", np.concatenate([numbers(4, "uint16"), alpha]), nm=None)
    with rasterio.open(path, "r+") as out:
        for band, described in enumerate(["B2", "B3", "B4", "B8", name], start=1):
            out.set_band_description(band, described)
    source = opened(tmp_path, sensor="sentinel2a")
    assert source.spec.bands == 4 and (flags(source)[:, 3:] == VALID).all()
    assert (flags(source)[:, :3] == (NODATA if masks else VALID)).all()
    assert source.spec.attrs.get("hypermend:left_out") == (None if masks else ["quality"])


def test_a_swath_cut_out_by_a_mask_is_the_swath_that_nodata_tells(tmp_path: Path) -> None:
    yy, xx = np.mgrid[: SIZE[0], : SIZE[1]]
    outside = (xx - yy // 3 < 2) | (xx - yy // 3 > 7)
    array = numbers(4, "uint16")
    array[:, outside] = 0
    write_tiff(tmp_path / "told" / "a.tif", array, nodata=0)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = write_tiff(tmp_path / "masked" / "a.tif", array)
        with rasterio.open(path, "r+") as out:
            out.write_mask(np.where(outside, 0, 255).astype("uint8"))
    write_tiff(tmp_path / "untold" / "a.tif", array)
    told, by_mask, untold = (opened(tmp_path / name) for name in ("told", "masked", "untold"))
    np.testing.assert_array_equal(flags(told), np.where(outside, NODATA, VALID))
    np.testing.assert_array_equal(flags(by_mask), flags(told))
    assert (flags(untold) == VALID).all()  # nobody says it: reported, not masked
    border = constant_border(untold)
    assert border is not None and border.value == 0 and "--nodata 0" in str(border)
    assert constant_border(told) is None and constant_border(by_mask) is None
    fixed = opened(tmp_path / "untold", overrides=Overrides(values={Field.NODATA: 0}))
    np.testing.assert_array_equal(flags(fixed), flags(told))


def test_a_border_is_found_where_each_band_has_its_scale(tmp_path: Path) -> None:
    array = numbers(4)
    array[:, :, :4] = -1
    path = write_tiff(tmp_path / "a.tif", array)
    with rasterio.open(path, "r+") as out:
        out.scales, out.offsets = (1.0, 2.0, 3.0, 4.0), (0.5, 0.0, 0.0, 0.0)
    border = constant_border(opened(tmp_path))
    assert border is not None and (border.value, border.pixels) == (-1, 20)


def test_an_image_without_a_border_has_none(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_tiff(tmp_path / "a.tif", rng.integers(1, 3000, (4, *SIZE)).astype("uint16"))
    assert constant_border(opened(tmp_path)) is None


def test_a_finer_mask_counts_every_reason(tmp_path: Path) -> None:
    """A class of 20 m inside a pixel of 60 m is not averaged away."""
    from hypermend.catalog.readers.raster.masks import mask_at_pixels

    fine = np.zeros((4, 4), np.uint8)
    fine[0, 1], fine[1, 0] = CLOUD, NODATA
    assert mask_at_pixels(fine, 1, 2, (0, 0), (2, 2)).tolist() == [[CLOUD | NODATA, 0], [0, 0]]
    assert mask_at_pixels(fine[:2, :2], 2, 1, (1, 0), (2, 3)).tolist() == [[0, 0, CLOUD], [NODATA, NODATA, 0]]


# C: spectrum


def test_the_files_spectrum_wins_where_the_band_count_fits(tmp_path: Path) -> None:
    table = sensor("enmap")
    own = sorted(table.wavelength_nm)  # another order than the table's
    array = np.arange(224, dtype="int16")[:, None, None] * np.ones((1, *SIZE), "int16")
    write_tiff(tmp_path / "a.tif", array, nm=own)
    spec = opened(tmp_path, sensor="enmap").spec
    assert list(spec.wavelength_nm) == own and "wavelength" in spec.attrs["sources"]["wavelength"]
    swir = {nm for nm, d in zip(table.wavelength_nm, table.detector, strict=True) if d == "SWIR"}
    assert {nm for nm, d in zip(spec.wavelength_nm, spec.detector, strict=True) if d == "SWIR"} == swir


def test_the_imagery_domain_of_gdal(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", numbers(4))
    with rasterio.open(path, "r+") as out:
        for band, nm in enumerate(NM, start=1):
            out.update_tags(band, ns="IMAGERY", CENTRAL_WAVELENGTH_UM=str(nm / 1000), FWHM_UM="0.012")
    spec = opened(tmp_path).spec
    assert spec.wavelength_nm == pytest.approx(NM) and spec.fwhm_nm == pytest.approx([12.0] * 4)


@pytest.mark.parametrize("unit", ["Micrometers", "um", "Nanometers", None])
def test_the_envi_domain_of_a_geotiff(tmp_path: Path, unit: str | None) -> None:
    path = write_raster(tmp_path / "a.tif", numbers(4))
    factor = 1.0 if unit == "Nanometers" else 1e-3
    listed = ", ".join(f"{nm * factor:g}" for nm in NM)
    tags = {"wavelength": f"{{{listed}}}", "fwhm": f"{{{', '.join([f'{8 * factor:g}'] * 4)}}}", "bbl": "{1, 0, 1, 1}"}
    with rasterio.open(path, "r+") as out:
        out.update_tags(ns="ENVI", **tags, **({} if unit is None else {"wavelength_units": unit}))
    spec = opened(tmp_path).spec
    assert spec.wavelength_nm == pytest.approx(NM) and spec.fwhm_nm == pytest.approx([8.0] * 4)
    assert spec.good == (True, False, True, True)


@pytest.mark.parametrize("unit", ["Index", "Wavenumber", "GHz"])
def test_numbers_that_are_no_wavelengths_are_not_taken(tmp_path: Path, unit: str) -> None:
    write_envi(tmp_path, f"wavelength units = {unit}", wavelength=(5000.0, 6000.0, 7000.0, 8000.0))
    reason = refused(tmp_path)
    assert unit in reason and "--wavelengths" in reason
    told = Overrides(values={Field.WAVELENGTH: list(NM)})
    assert opened(tmp_path, overrides=told).spec.wavelength_nm == NM


def test_band_indices_called_unknown_are_no_wavelengths(tmp_path: Path) -> None:
    write_envi(tmp_path, "wavelength units = Unknown", array=numbers(120), wavelength=range(1, 121))
    assert "without wavelengths" in refused(tmp_path)


def test_an_items_rounded_centres_give_way_to_the_table(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", numbers(2, "uint16"))
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": "x", "geometry": None, "links": [], "collection": "c",
        "properties": {"datetime": "2024-01-02T03:04:05Z", "hypermend:sensor": "landsat8-oli"},
        "assets": {"image": {"href": str(tmp_path / "a.tif"), "type": "image/tiff", "roles": ["data"],
                             "eo:bands": [{"name": "B2", "center_wavelength": 0.48},
                                          {"name": "B3", "center_wavelength": 0.56}]}},
    }  # fmt: skip
    spec = open_scene(from_item(item, own=True)).spec
    assert spec.wavelength_nm == (482.0, 561.5) and spec.band == (2, 3)


# D: time


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("acquisition time = 2022-07-24T10:45:26.5Z", datetime(2022, 7, 24, 10, 45, 26, 500000, tzinfo=UTC)),
        ("acquisition time = 2022-07-24T12:45:26+02:00", datetime(2022, 7, 24, 10, 45, 26, tzinfo=UTC)),
        (
            "acquisition date = DATE(dd-mm-yyyy): 24-07-2022\nStart Time = UTC TIME: 10:45:26",
            datetime(2022, 7, 24, 10, 45, 26, tzinfo=UTC),
        ),
        (
            "acquisition date = DATE(yyyy-mm-dd): 2022-07-24\nStart Time = UTC TIME: 9:45:26",
            datetime(2022, 7, 24, 9, 45, 26, tzinfo=UTC),
        ),
        ("acquisition date = DATE(yyyy-mm-dd): 2022-07-24", None),
        ("acquisition time = yesterday", None),
        ("", None),
    ],
)
def test_the_time_of_an_envi_header(tmp_path: Path, fields: str, expected: datetime | None) -> None:
    write_envi(tmp_path, fields)
    os.utime(tmp_path / "image.hdr", (0, 0))
    scene = found(tmp_path)
    assert scene.datetime == expected == scene.trusted_datetime


@pytest.mark.parametrize("tag", ["start_time", "ACQUISITION_DATETIME", "acquisition_time"])
def test_the_time_of_a_geotiff(tmp_path: Path, tag: str) -> None:
    write_tiff(tmp_path / "a.tif", tags={tag: "2022-07-24T10:45:26"})
    assert found(tmp_path).trusted_datetime == datetime(2022, 7, 24, 10, 45, 26, tzinfo=UTC)


def test_the_time_of_a_tiffs_creation_is_a_guess(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", tags={"TIFFTAG_DATETIME": "2023:06:28 16:56:14"})
    scene = found(tmp_path)
    assert scene.datetime == datetime(2023, 6, 28, 16, 56, 14, tzinfo=UTC)
    assert scene.properties["hypermend:datetime_from"] == "guess" and scene.trusted_datetime is None
    write_tiff(
        tmp_path / "a.tif", tags={"TIFFTAG_DATETIME": "2023:06:28 16:56:14", "start_time": "2022-07-24T10:45:26"}
    )
    assert found(tmp_path).trusted_datetime == datetime(2022, 7, 24, 10, 45, 26, tzinfo=UTC)


def test_the_change_of_a_file_dates_a_scene_only_where_the_user_allows_it(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert found(tmp_path).datetime is None
    allowed = found(tmp_path, overrides=Overrides(allow_mtime=True))
    assert allowed.datetime == datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC) and allowed.trusted_datetime is None
    told = found(tmp_path, overrides=Overrides(datetime=datetime(2020, 1, 2, tzinfo=UTC)))
    assert told.trusted_datetime == datetime(2020, 1, 2, tzinfo=UTC)


def test_an_item_of_another_day_than_its_file_is_refused(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", tags={"start_time": "2022-07-24T10:45:26"})
    raw = to_item(found(tmp_path))
    raw["properties"] |= {"datetime": "2024-01-01T00:00:00Z"}
    raw["properties"].pop("hypermend:datetime_from")
    with pytest.raises(BadAsset, match=r"2024-01-01.*STAC item.*2022-07-24.*start_time"):
        open_scene(from_item(raw, own=True))


# H: which file


def noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


@pytest.mark.parametrize(
    ("data", "header"),
    [
        ("flight1.rfl", "flight1.hdr"),
        ("flight1.raw", "flight1.hdr"),
        ("FLIGHT1.IMG", "flight1.HDR"),
        ("flight1.img", "flight1.img.hdr"),
        ("flight1_rfl_v2_img", "flight1_rfl_v2_img.hdr"),
    ],
)
def test_the_data_file_of_a_header_among_its_neighbours(tmp_path: Path, data: str, header: str) -> None:
    write_envi(tmp_path, data=data, header=header)
    for name in ("flight1.jpg", "flight1.aux", "flight1.log", "flight1_rfl_v2_img.png.txt", "flight1.wld"):
        noise(tmp_path / name)
    assert values(opened(tmp_path)).tolist() == [KNOWN + 1, KNOWN + 2, KNOWN + 3, KNOWN + 4]


def test_a_quicklook_of_the_right_size_is_still_no_image(tmp_path: Path) -> None:
    array = write_envi(tmp_path, data=None)
    (tmp_path / "image.jpg").write_bytes(array.tobytes())
    reason = refused(tmp_path)
    assert "its data file is not beside it" in reason and "image.jpg" in reason


def test_a_data_file_of_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    array = write_envi(tmp_path)
    for content in (array.tobytes()[:-1], array.tobytes() + b"\0"):
        (tmp_path / "image.img").write_bytes(content)
        reason = refused(tmp_path)
        assert str(len(content)) in reason and str(array.nbytes) in reason


def test_two_files_that_fit_one_header_are_named(tmp_path: Path) -> None:
    write_envi(tmp_path)
    write_envi(tmp_path, data="image.dat")
    reason = refused(tmp_path)
    assert "image.dat" in reason and "image.img" in reason and "both fit" in reason


def test_a_header_beside_a_geotiff_describes_the_geotiff(tmp_path: Path) -> None:
    write_raster(tmp_path / "WYV_scene.tif", numbers(4))
    write_envi(tmp_path, "reflectance scale factor = 10000\nfwhm = {9, 9, 9, 9}", name="WYV_scene", data=None)
    source = opened(tmp_path)
    assert source.spec.wavelength_nm == NM and source.spec.fwhm_nm == (9.0,) * 4 and source.spec.crs == "EPSG:32633"
    assert values(source) == pytest.approx([0.2001, 0.2002, 0.2003, 0.2004])
    assert source.spec.attrs["sources"]["wavelength"] == "sidecar (WYV_scene.hdr: wavelength)"


def test_a_header_of_another_shape_beside_a_geotiff_is_refused(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", numbers(4))
    write_envi(tmp_path, name="a", data=None, array=numbers(3), wavelength=NM[:3])
    assert "12 x 10 x 3" in (reason := refused(tmp_path)) and "12 x 10 x 4" in reason


def test_a_raw_image_keeps_its_header_although_a_geotiff_has_its_name(tmp_path: Path) -> None:
    write_envi(tmp_path, name="a", data="a.img", array=numbers(4, first=50))
    write_tiff(tmp_path / "a.tif", nm=(500.0, 600.0, 700.0, 900.0))
    scenes = [s for s in from_folder(tmp_path) if isinstance(s, Scene)]
    assert len(scenes) == 1  # both are called a: one is said to be a duplicate
    (tmp_path / "a.tif").rename(tmp_path / "b.tif")
    by_id = {s.id: open_scene(s) for s in from_folder(tmp_path) if isinstance(s, Scene)}
    assert by_id["a"].spec.wavelength_nm == NM and values(by_id["a"])[0] == KNOWN + 50
    assert by_id["b"].spec.wavelength_nm[0] == 500.0


def test_one_file_is_catalogued_alone(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif")
    write_tiff(tmp_path / "b.tif")
    write_envi(tmp_path, name="c", data="c.img")
    assert found(tmp_path / "a.tif").id == "a"
    assert found(tmp_path / "c.img").id == "c" and found(tmp_path / "c.hdr").id == "c"


# I: which sensor


def test_a_file_that_describes_itself_needs_no_table(tmp_path: Path) -> None:
    write_envi(tmp_path, "fwhm = {7, 8, 9, 10}\nsensor type = Specim FX10")
    scene = found(tmp_path)
    spec = open_scene(scene).spec
    assert scene.sensor == spec.sensor == "specim-fx10" and spec.fwhm_nm == (7.0, 8.0, 9.0, 10.0)
    assert spec.quantity == "counts"


def test_the_bands_of_a_known_sensor_without_its_name_are_asked_for(tmp_path: Path) -> None:
    array = np.ones((224, *SIZE), "int16")
    write_tiff(tmp_path / "a.tif", array, nm=sensor("enmap").wavelength_nm)
    assert "give --sensor enmap, or --sensor unknown" in refused(tmp_path)
    assert found(tmp_path, sensor="enmap").sensor == "enmap"
    assert found(tmp_path, sensor="unknown").sensor == "unknown"


def test_band_names_of_several_sensors_are_asked_for(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", numbers(4, "uint16"), nm=None)
    with rasterio.open(path, "r+") as out:
        for band, name in enumerate(["B02", "B03", "B04", "B8A"], start=1):
            out.set_band_description(band, name)
    reason = refused(tmp_path)
    assert all(f"sentinel2{craft}" in reason for craft in "abc") and "--wavelengths" in reason
    assert found(tmp_path, sensor="sentinel2c").sensor == "sentinel2c"


def test_a_wrong_sensor_is_not_believed(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", numbers(4, "uint16"), nm=None)
    with rasterio.open(path, "r+") as out:
        for band, name in enumerate(["B2", "B3", "B4", "B8"], start=1):
            out.set_band_description(band, name)
    reason = refused(tmp_path, sensor="enmap")
    assert "B2" in reason and "enmap" in reason
    write_envi(tmp_path / "e", "sensor type = Hyperion")
    assert "hyperion" in refused(tmp_path / "e", sensor="desis")


def test_a_table_that_contradicts_the_wavelengths_is_refused(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", nm=(450.0, 550.0, 650.0, 1500.0))
    assert "1500 nm" in refused(tmp_path, sensor="desis")


# K: quantity


def test_integers_without_a_scale_are_counts_whatever_the_sensor(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif")
    spec = opened(tmp_path, sensor="hyperion").spec
    assert (spec.quantity, spec.units, spec.scale_factor) == ("counts", "1", 1.0)
    told = Overrides(values={Field.QUANTITY: "reflectance", Field.SCALE: 1e-4})
    spec = opened(tmp_path, sensor="hyperion", overrides=told).spec
    assert (spec.quantity, spec.scale_factor) == ("reflectance", 1e-4)
    assert spec.attrs["sources"]["quantity"].startswith("user")


def test_a_quantity_without_a_scale_stays_counts_for_integers(tmp_path: Path) -> None:
    write_envi(tmp_path, "data units = Reflectance")
    spec = opened(tmp_path).spec
    assert spec.quantity == "counts" and "no source has a scale" in spec.attrs["sources"]["quantity"]
    write_envi(tmp_path, "data units = Reflectance", array=numbers(4, "float32") / 10000)
    assert opened(tmp_path).spec.quantity == "reflectance"


@pytest.mark.parametrize("text", ["-9999", "{-9999}", " -9999.0 ", "-9.999e3", "-9999 (no data)"])
def test_odd_spellings_of_the_ignore_value(tmp_path: Path, text: str) -> None:
    write_envi(tmp_path, f"data ignore value = {text}", array=numbers(4, nodata=-9999))
    source = opened(tmp_path)
    assert source.spec.fill == -9999 and flags(source)[0, 0] == NODATA


def test_a_long_header_is_parsed_in_no_time(tmp_path: Path) -> None:
    import time

    from hypermend.catalog.readers.raster.envi_header import parse_header

    for filler in (" " * 2_000_000, "\n" * 500_000, "a" * 2_000_000, "x = {\n" * 200_000, "{" * 1_000_000):
        began = time.process_time()
        parse_header(f"ENVI\nsamples = 3\n{filler}\n")
        assert time.process_time() - began < 2


def test_control_points_are_kept(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", crs=None)
    points = [rasterio.control.GroundControlPoint(row=r, col=c, x=13 + c / 100, y=52 - r / 100) for r, c in
              ((0, 0), (0, 9), (11, 0), (11, 9))]  # fmt: skip
    with rasterio.open(path, "r+") as out:
        out.gcps = (points, rasterio.crs.CRS.from_epsg(4326))
    spec = opened(tmp_path).spec
    assert spec.crs is None
    kept = spec.attrs["hypermend:places"]["a"]["gcps"]
    assert kept["crs"] == "EPSG:4326" and kept["points"][3][:2] == [11, 9]
