"""Write a synthetic scene in the format of its instrument's product. Files that exist are left as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine

from hypermend.catalog.storage.gdal import local_gdal
from hypermend.models.arrays import F32, Mask

ENMAP_FILL = -32768.0
ENMAP_SCALE = 1e-4
SENTINEL2_FILL = 0
SENTINEL2_NUMBERS = 1e4
"""Stored number per reflectance in a Sentinel-2 product."""
HYPERION_FILL = 0
HYPERION_FACTOR = {"VNIR": 40.0, "SWIR": 80.0}
"""Stored number per W m-2 sr-1 um-1 in a Hyperion L1 product, by detector."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Position of a scene: the coordinate system and the outer corner of its top left pixel."""

    crs: str
    west: float
    north: float
    pixel_m: float = 30.0

    @property
    def transform(self) -> Affine:
        return Affine(self.pixel_m, 0, self.west, 0, -self.pixel_m, self.north)

    def shifted(self, x: int, y: int) -> Place:
        """Return the place whose corner lies x pixels further east and y further south."""
        return replace(self, west=self.west + x * self.pixel_m, north=self.north - y * self.pixel_m)


def write_enmap_tiles(
    folder: Path,
    reflectance: F32,
    valid: Mask,
    *,
    name: str,
    wavelength_nm: Sequence[float],
    fwhm_nm: Sequence[float],
    good: Sequence[bool],
    place: Place,
    start_time: str,
    tile_px: int,
    missing: Sequence[tuple[int, int]] = (),
) -> list[Path]:
    """Write one acquisition as EnMAP-like GeoTIFF tiles: float32, scale 1e-4, wavelength, fwhm and bbl tags.

    Args:
        reflectance: (band, y, x), between 0 and 1, in the order of the product.
        valid: (y, x); invalid pixels get the fill number in all bands.
        start_time: ISO 8601 without zone, the same in every tile: it tells which tiles belong together.
        missing: (row, column) of tiles that are not delivered, so that the tiles do not fill a rectangle.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bands, height, width = reflectance.shape
    stored = np.where(valid[None], np.rint(reflectance / ENMAP_SCALE), ENMAP_FILL).astype(np.float32)
    written = []
    for y in range(0, height, tile_px):
        for x in range(0, width, tile_px):
            path = folder / f"{name}_tile_{y}_{x}.tif"
            if (y // tile_px, x // tile_px) in missing:
                continue
            written.append(path)
            if path.exists():
                continue
            part = stored[:, y : y + tile_px, x : x + tile_px]
            half = path.with_suffix(".part")
            with _new_tiff(
                half,
                **_profile(part.shape, "float32", ENMAP_FILL),
                crs=place.crs,
                transform=place.shifted(x, y).transform,
                predictor=3,
            ) as file:
                file.write(part)
                file.update_tags(start_time=start_time)
                file.scales = (ENMAP_SCALE,) * bands
                for b in range(bands):
                    tags = {
                        "wavelength": f"{wavelength_nm[b]:g}",
                        "wavelength_units": "Nanometers",
                        "fwhm": f"{fwhm_nm[b]:g}",
                        "bbl": str(int(good[b])),
                    }
                    file.update_tags(b + 1, **tags)
                    file.set_band_description(b + 1, f"band {b + 1} ({wavelength_nm[b]:g} Nanometers)")
            half.rename(path)
    return written


def write_sentinel2_file(
    folder: Path,
    reflectance: F32,
    *,
    name: str,
    bands: Sequence[str],
    place: Place,
    time: str,
) -> Path:
    """Write a GeoTIFF of Sentinel-2 bands on one grid, reflectance x 1e4, as a provider derives it from a product.

    Args:
        reflectance: (band, y, x).
        bands: their names, such as B04.
        time: ISO 8601 without zone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.tif"
    if path.exists():
        return path
    stored = np.clip(np.rint(reflectance * SENTINEL2_NUMBERS), 1, 65535).astype(np.uint16)
    half = path.with_suffix(".part")
    profile = _profile(stored.shape, "uint16", SENTINEL2_FILL)
    with _new_tiff(half, **profile, crs=place.crs, transform=place.transform, predictor=2) as file:
        file.write(stored)
        file.update_tags(DATETIME=time)
        for number, band in enumerate(bands, 1):
            file.set_band_description(number, band)
    half.rename(path)
    return path


def write_hyperion_files(
    folder: Path,
    radiance: F32,
    valid: Mask,
    *,
    name: str,
    detector: Sequence[str],
    good: Sequence[bool],
    place: Place,
    date: str,
) -> list[Path]:
    """Write a Hyperion-like L1T delivery: one int16 GeoTIFF for each band and a metadata text, in scaled radiance.

    Args:
        radiance: (band, y, x) in W m-2 sr-1 um-1, bands 1, 2, 3 ... of the instrument.
        valid: (y, x); invalid pixels and bad bands hold 0.
        name: the scene's id, such as EO1H1940252011180110KF.
        date: YYYY-MM-DD of the acquisition.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bands, height, width = radiance.shape
    factor = np.array([HYPERION_FACTOR[d] for d in detector], dtype=np.float32)
    stored = np.clip(np.rint(radiance * factor[:, None, None]), 1, 32767)
    stored = np.where(valid[None] & np.asarray(good)[:, None, None], stored, HYPERION_FILL).astype(np.int16)
    written = []
    for b in range(bands):
        path = folder / f"{name}_B{b + 1:03d}_L1T.TIF"
        written.append(path)
        if path.exists():
            continue
        half = path.with_suffix(".part")
        profile = _profile((1, height, width), "int16", HYPERION_FILL)
        with _new_tiff(half, **profile, crs=place.crs, transform=place.transform, predictor=2) as file:
            file.write(stored[b], 1)
        half.rename(path)
    metadata = folder / f"{name}_MTL_L1T.TXT"
    if not metadata.exists():
        metadata.write_text(_hyperion_metadata(name, date, written))
    return [*written, metadata]


@contextmanager
def _new_tiff(path: Path, **profile: Any) -> Iterator[Any]:
    with local_gdal(), rasterio.open(path, "w", **profile) as file:
        yield file


def _profile(shape: tuple[int, ...], dtype: str, nodata: float) -> dict[str, Any]:
    count, height, width = shape
    return {
        "driver": "GTiff",
        "count": count,
        "height": height,
        "width": width,
        "dtype": dtype,
        "nodata": nodata,
        "compress": "deflate",
        "zlevel": 1,
    }


def _hyperion_metadata(name: str, date: str, files: Sequence[Path]) -> str:
    lines = [
        "GROUP = L1_METADATA_FILE",
        "  GROUP = METADATA_FILE_INFO",
        '    ORIGIN = "Synthetic scene made by Hypermend; not a measurement"',
        "  END_GROUP = METADATA_FILE_INFO",
        "  GROUP = PRODUCT_METADATA",
        '    PRODUCT_TYPE = "L1T"',
        '    SPACECRAFT_ID = "EO1"',
        '    SENSOR_ID = "HYPERION"',
        f"    ACQUISITION_DATE = {date}",
        f"    DATE_ACQUIRED = {date}",
        '    START_TIME = "10:30:00"',
        "    SCENE_CENTER_TIME = 10:30:00.0000000Z",
        *(f'    BAND{n}_FILE_NAME = "{path.name}"' for n, path in enumerate(files, 1)),
        "  END_GROUP = PRODUCT_METADATA",
        "  GROUP = RADIANCE_SCALING",
        f"    SCALING_FACTOR_VNIR = {HYPERION_FACTOR['VNIR']:g}",
        f"    SCALING_FACTOR_SWIR = {HYPERION_FACTOR['SWIR']:g}",
        "  END_GROUP = RADIANCE_SCALING",
        f'  LANDSAT_SCENE_ID = "{name}"',
        "END_GROUP = L1_METADATA_FILE",
        "END",
    ]
    return "\n".join(lines) + "\n"
