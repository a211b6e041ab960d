"""Small deliveries of products, as folders: names, masks and metadata as the product has them, known numbers.

The pixel [row 2, column 3] of band n (from 1) holds `KNOWN + n` unless told otherwise; [0, 0] holds nodata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine

from hypermend.catalog.sensors import sensor
from hypermend.catalog.storage.gdal import local_gdal

ORIGIN = (370000.0, 5810000.0)
SIZE = (12, 10)
KNOWN = 2000


def write_raster(
    path: Path,
    array: npt.NDArray[Any],
    *,
    pixel: float = 30.0,
    crs: str | None = "EPSG:32633",
    nodata: float | None = None,
    tags: Mapping[str, str] | None = None,
    **profile: Any,
) -> Path:
    """A small GeoTIFF or lossless JPEG 2000 of (band, y, x) or (y, x)."""
    array = array if array.ndim == 3 else array[None]
    count, height, width = array.shape
    jp2 = {"driver": "JP2OpenJPEG", "QUALITY": 100, "REVERSIBLE": "YES", "BLOCKXSIZE": 64, "BLOCKYSIZE": 64}
    place = {"crs": crs, "transform": Affine(pixel, 0, ORIGIN[0], 0, -pixel, ORIGIN[1])} if crs else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = jp2 if path.suffix == ".jp2" else {"driver": "GTiff"}
    form = {"count": count, "height": height, "width": width, "dtype": array.dtype, "nodata": nodata}
    with (
        local_gdal(),
        rasterio.open(path, "w", **kind, **form, **place, **profile) as out,
    ):
        out.write(array)
        out.update_tags(**(tags or {}))
    return path


def numbers(bands: int, dtype: str = "int16", nodata: float | None = None, *, first: int = 1) -> npt.NDArray[Any]:
    """(band, y, x): band n holds KNOWN + n."""
    out = np.empty((bands, *SIZE), dtype)
    out[:] = (KNOWN + first + np.arange(bands))[:, None, None]
    if nodata is not None:
        out[:, 0, 0] = nodata
    return out


def layer(marks: Mapping[tuple[int, int], int], dtype: str = "uint8", *, base: int = 0) -> npt.NDArray[Any]:
    """(y, x) of one number, with others at some pixels."""
    out = np.full(SIZE, base, dtype)
    for pixel, number in marks.items():
        out[pixel] = number
    return out


ENMAP = "ENMAP01-____{}-DT0000001867_20220724T104526Z_008_V010302_20230628T165614Z"


def enmap_folder(
    folder: Path,
    level: str,
    *,
    gains: Sequence[float] | None = None,
    sorted_bands: bool = False,
    xml: str = "METADATA.XML",
    suffix: str = "",
) -> str:
    """An EnMAP delivery of 224 bands. Returns its stem.

    Its masks mark [1, 1] as cloud, [1, 2] as shadow, [1, 3] as snow, [1, 4] as cirrus, [1, 5] as haze, [1, 6] as
    background, and band 5 of [3, 3] as defective.
    """
    table, stem = sensor("enmap"), ENMAP.format(level)
    order = list(range(224))
    if sorted_bands:
        order.sort(key=lambda i: table.wavelength_nm[i])
    gains = gains or [1e-4] * 224
    rows = "".join(
        f'<bandID number="{k + 1}"><wavelengthCenterOfBand>{table.wavelength_nm[i] + 0.25}</wavelengthCenterOfBand>'
        f"<FWHMOfBand>{table.fwhm_nm[i]}</FWHMOfBand><GainOfBand>{gains[k]}</GainOfBand>"
        "<OffsetOfBand>0</OffsetOfBand></bandID>"
        for k, i in enumerate(order)
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}-{xml}").write_text(
        f"<level_X><base><level>{level}</level><temporalCoverage><startTime>2022-07-24T10:45:26.123Z</startTime>"
        f"</temporalCoverage></base><specific><bandCharacterisation>{rows}</bandCharacterisation></specific></level_X>"
    )
    nodata = -32768 if level == "L2A" else 0
    marks = {"CLOUD": (1, 1), "CLOUDSHADOW": (1, 2), "SNOW": (1, 3), "CIRRUS": (1, 4), "HAZE": (1, 5)}
    crs = None if level == "L1B" else "EPSG:32633"
    for name, pixel in marks.items():
        write_raster(folder / f"{stem}-QL_QUALITY_{name}{suffix}.TIF", layer({pixel: 1}), crs=crs)
    write_raster(folder / f"{stem}-QL_QUALITY_CLASSES{suffix}.TIF", layer({(1, 6): 3}, base=1), crs=crs)
    write_raster(folder / f"{stem}-QL_QUALITY_TESTFLAGS{suffix}.TIF", layer({(4, 4): 7}), crs=crs)
    write_raster(folder / f"{stem}-QL_VNIR{suffix}.TIF", layer({}, base=9), crs=crs)
    parts = {"": (0, 224)} if level != "L1B" else {"_VNIR": (0, 91), "_SWIR": (91, 224)}
    for part, (first, stop) in parts.items():
        image = numbers(stop - first, nodata=nodata, first=first + 1)
        declared = nodata if level == "L2A" else None  # a Level-1 file may leave its zeros unsaid
        write_raster(folder / f"{stem}-SPECTRAL_IMAGE{part}{suffix}.TIF", image, nodata=declared, crs=crs)
        defects = np.zeros((stop - first, *SIZE), "uint8")
        if first == 0:
            defects[4, 3, 3] = 1
        write_raster(folder / f"{stem}-QL_PIXELMASK{part}{suffix}.TIF", defects, crs=crs)
    return stem


def landsat_folder(folder: Path, stem: str, craft: str, instrument: str, *, mtl: bool = True) -> None:
    """A Collection 2 delivery: Level-2 if the stem says so, else Level-1.

    QA_PIXEL marks [1, 1] as cloud, [1, 2] as shadow, [1, 3] as snow, [1, 4] as cirrus; QA_RADSAT [1, 5] as saturated.
    """
    surface = "_L2SP_" in stem
    reflective = (1, 2, 3, 4, 5, 7) if instrument in ("TM", "ETM") else (1, 2, 3, 4, 5, 6, 7)
    part = "SR_" if surface else ""
    for n in reflective:
        image = numbers(1, "uint16", 0, first=n)
        image[0, 2, 3] = 10000 + 100 * n
        write_raster(folder / f"{stem}_{part}B{n}.TIF", image, nodata=0)
    thermal = (
        "ST_B6" if surface and instrument == "TM" else "ST_B10" if surface else "B6" if instrument == "TM" else "B10"
    )
    write_raster(folder / f"{stem}_{thermal}.TIF", numbers(1, "uint16", 0), nodata=0)
    clear = 1 << 6
    marks = {(1, 1): 8, (1, 2): 16, (1, 3): 32, (1, 4): 4, (0, 0): 1}
    write_raster(folder / f"{stem}_QA_PIXEL.TIF", layer(marks, "uint16", base=clear), nodata=1)
    write_raster(folder / f"{stem}_QA_RADSAT.TIF", layer({(1, 5): 2}, "uint16"))
    if not mtl:
        return

    def group(name: str, lines: Sequence[str]) -> str:
        return "\n".join([f"  GROUP = {name}", *(f"    {line}" for line in lines), f"  END_GROUP = {name}"])

    def factors(kind: str, mult: float, add: float) -> list[str]:
        return [f"{kind}_{k}_BAND_{n} = {v * (1 + n if kind == 'RADIANCE' else 1)}" for n in (*reflective, 10)
                for k, v in (("MULT", mult), ("ADD", add))]  # fmt: skip

    level2 = [group("LEVEL2_SURFACE_REFLECTANCE_PARAMETERS", factors("REFLECTANCE", 2.75e-5, -0.2))] * surface
    level1 = group("LEVEL1_RADIOMETRIC_RESCALING", factors("RADIANCE", 0.01, -5.0) + factors("REFLECTANCE", 2e-5, -0.1))
    image = [f'SPACECRAFT_ID = "{craft}"', f'SENSOR_ID = "{instrument}"', "DATE_ACQUIRED = 2021-11-05"]
    image.append('SCENE_CENTER_TIME = "18:36:31.1234560Z"')
    body = [group("IMAGE_ATTRIBUTES", image), *level2, level1]
    text = "\n".join(["GROUP = LANDSAT_METADATA_FILE", *body, "END_GROUP = LANDSAT_METADATA_FILE", "END"])
    (folder / f"{stem}_MTL.txt").write_text(text)


def hyperion_folder(folder: Path, *, start: str = "2005 105 17:53:20") -> npt.NDArray[np.bool_]:
    """An L1T delivery of a slanted swath, 0 outside, and 0 in one band of a pixel inside. Returns the swath (y, x)."""
    stem = "EO1H0380342005105110KF"
    yy, xx = np.mgrid[: SIZE[0], : SIZE[1]]
    inside = (xx - yy // 4 >= 1) & (xx - yy // 4 < 7)
    uncalibrated = {*range(1, 8), *range(58, 77), *range(225, 243)}
    for b in range(1, 243):
        band = np.where(inside, 0 if b in uncalibrated else KNOWN + b, 0).astype("int16")
        if b == 120:
            band[5, 4] = 0  # measured
        write_raster(folder / f"{stem}_B{b:03d}_L1T.TIF", band)
    (folder / f"{stem}_MTL_L1T.TXT").write_text(
        'GROUP = L1_METADATA_FILE\n  GROUP = PRODUCT_METADATA\n    SPACECRAFT_ID = "EO1"\n'
        f'    ACQUISITION_DATE = 2005-04-15\n    START_TIME = "{start}"\n  END_GROUP = PRODUCT_METADATA\n'
        "  GROUP = RADIANCE_SCALING\n    SCALING_FACTOR_VNIR = 40\n    SCALING_FACTOR_SWIR = 80\n"
        "  END_GROUP = RADIANCE_SCALING\nEND_GROUP = L1_METADATA_FILE\nEND\n"
    )
    return inside


SAFE = "S2{}_MSIL{}_20240607T101559_N{}_R065_T32TPS_20240607T132713.SAFE"


def safe_folder(
    folder: Path, level: str, *, craft: str = "B", baseline: str = "0510", metadata: str = "<n1/>", n: int = 12
) -> Path:
    """A SAFE product with one granule of n x n pixels of 60 m; the first pixel is 0, all others hold 1000 + 100 k."""
    home = folder / SAFE.format(craft, level, baseline)
    tile = "T32TPS_20240607T101559"
    granule = home / "GRANULE" / f"L{level}_T32TPS_A037889_20240607T102209"
    bands = {"B01": 60, "B02": 10, "B03": 10, "B04": 10, "B05": 20, "B06": 20, "B07": 20, "B08": 10} | {
        "B8A": 20, "B09": 60, "B10": 60, "B11": 20, "B12": 20
    }  # fmt: skip
    sizes = {10: 6 * n, 20: 3 * n, 60: n}
    for k, (band, gsd) in enumerate(bands.items()):
        if level == "2A" and band == "B10":
            continue
        for px in sorted({gsd, 20, 60} if level == "2A" and gsd <= 20 else {gsd}):
            image = np.full((sizes[px], sizes[px]), 1000 + 100 * k, "uint16")
            image[: 60 // px, : 60 // px] = 0
            name = f"{tile}_{band}_{px}m.jp2" if level == "2A" else f"{tile}_{band}.jp2"
            where = granule / "IMG_DATA" / (f"R{px}m" if level == "2A" else "")
            write_raster(where / name, image, pixel=px, crs="EPSG:32632")
    if level == "2A":
        for px in (20, 60):
            classes = np.full((sizes[px], sizes[px]), 4, "uint8")
            classes[60 // px, 60 // px] = 9
            write_raster(
                granule / "IMG_DATA" / f"R{px}m" / f"{tile}_SCL_{px}m.jp2", classes, pixel=px, crs="EPSG:32632"
            )
        write_raster(granule / "QI_DATA" / "MSK_CLDPRB_20m.jp2", np.zeros((sizes[20],) * 2, "uint8"), pixel=20)
    else:
        clouds = np.zeros((3, n, n), "uint8")
        clouds[0, 2, 2], clouds[1, 2, 3], clouds[2, 2, 4] = 1, 1, 1
        write_raster(granule / "QI_DATA" / "MSK_CLASSI_B00.jp2", clouds, pixel=60, crs="EPSG:32632")
        quality = np.zeros((8, 6 * n, 6 * n), "uint8")
        quality[4, 30, 31], quality[7, 40, 41] = 1, 1
        write_raster(granule / "QI_DATA" / "MSK_QUALIT_B02.jp2", quality, pixel=10, crs="EPSG:32632")
    (home / f"MTD_MSIL{level}.xml").write_text(metadata)
    (granule / "MTD_TL.xml").write_text("<n1/>")
    return home


def hls_folder(folder: Path, kind: str = "S30") -> None:
    """An HLS product; Fmask marks [1, 1] as cloud, [1, 2] as shadow, [1, 3] as snow, [1, 4] as beside a cloud."""
    stem = f"HLS.{kind}.T17TPF.2023001T161231.v2.0"
    bands = ["B02", "B03", "B04", "B8A" if kind == "S30" else "B05"]
    for k, band in enumerate(bands, start=1):
        write_raster(folder / f"{stem}.{band}.tif", numbers(1, "int16", -9999, first=k), nodata=-9999)
    marks = {(1, 1): 2, (1, 2): 8, (1, 3): 16, (1, 4): 4, (0, 0): 255}
    write_raster(folder / f"{stem}.Fmask.tif", layer(marks, base=64), nodata=255)
    write_raster(folder / f"{stem}.SZA.tif", numbers(1, "uint16"))


def desis_folder(folder: Path, level: str, *, bands: int = 235) -> str:
    """A DESIS product; QL_QUALITY-2 marks [1, 1] as cloud over land, [1, 2] as shadow, [1, 3] as snow."""
    stem = f"DESIS-HSI-{level}-DT0483531728_001-20200801T234520-V0210"
    centres = np.linspace(401.5, 999.5, bands)
    rows = "".join(
        f"<band><bandNumber>{i + 1}</bandNumber><wavelengthCenterOfBand>{nm:.3f}</wavelengthCenterOfBand>"
        f"<wavelengthWidthOfBand>3.5</wavelengthWidthOfBand>"
        f"<gainOfBand>{1e-4 if level == 'L2A' else 1e-3 + 1e-6 * i}</gainOfBand>"
        f"<offsetOfBand>{0.0 if level == 'L2A' else 0.01 * i}</offsetOfBand></band>"
        for i, nm in enumerate(centres)
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}-METADATA.xml").write_text(
        "<hsi_doc><base><temporalCoverage><startTime>2020-08-01T23:45:20.5Z</startTime></temporalCoverage></base>"
        f"<specific><bandCharacterisation>{rows}</bandCharacterisation><interiorOrientation><band>"
        "<bandNumber>1</bandNumber></band></interiorOrientation></specific></hsi_doc>"
    )
    write_raster(folder / f"{stem}-SPECTRAL_IMAGE.tif", numbers(bands, nodata=-32768))
    if level == "L2A":
        quality = np.zeros((10, *SIZE), "uint8")
        quality[5, 1, 1], quality[0, 1, 2], quality[2, 1, 3] = 1, 1, 1
        quality[1] = 1  # land
        write_raster(folder / f"{stem}-QL_QUALITY-2.tif", quality)
    return stem
