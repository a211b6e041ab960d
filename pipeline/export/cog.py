"""Cloud Optimized GeoTIFF: spectrum in GDAL's IMAGERY domain, band names, scale, offset and nodata of each band.

Source: https://gdal.org/en/stable/drivers/raster/cog.html and .../user/raster_data_model.html (IMAGERY domain).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from rasterio.shutil import copy

from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.storage.gdal import local_gdal
from hypermend.pipeline.export.profile import GDAL_OPTIONS, raster_profile
from hypermend.pipeline.export.selection import Selection

_FEW_BANDS = 16
"""A block of a COG holds all bands: of many bands it is kept small."""


def write_cog(selection: Selection, path: Path) -> None:
    """Write a GeoTIFF tile by tile and let GDAL order it as a COG, with overviews."""
    spec = selection.spec
    plain = path.with_name("plain.tif")
    with local_gdal(**GDAL_OPTIONS):
        with rasterio.open(
            plain,
            "w",
            driver="GTiff",
            tiled=True,
            interleave="band",
            bigtiff="IF_SAFER",
            **raster_profile(spec),
        ) as file:
            _describe(file, spec)
            for block in selection.blocks():
                file.write(block.stored, window=block.window)
        copy(
            plain,
            path,
            driver="COG",
            compress="DEFLATE",
            predictor="YES",
            bigtiff="IF_SAFER",
            blocksize=512 if spec.bands <= _FEW_BANDS else 128,
            overview_resampling="AVERAGE",
        )
    plain.unlink()


def _describe(file: rasterio.io.DatasetWriter, spec: CubeSpec) -> None:
    file.scales, file.offsets = (spec.scale_factor,) * spec.bands, (spec.add_offset,) * spec.bands
    file.units = (spec.units,) * spec.bands
    tags = {"quantity": spec.quantity, "sensor": spec.sensor, "AREA_OR_POINT": "Area"}
    if spec.time is not None:
        tags["acquisition_time"] = spec.time
        file.update_tags(ns="IMAGERY", ACQUISITIONDATETIME=spec.time.replace("T", " ").replace("Z", ""))
    file.update_tags(**tags)
    for i in range(spec.bands):
        file.set_band_description(i + 1, spec.band_name[i])
        imagery = {"CENTRAL_WAVELENGTH_UM": f"{spec.wavelength_nm[i] / 1000:.10g}"}
        if np.isfinite(spec.fwhm_nm[i]):
            imagery["FWHM_UM"] = f"{spec.fwhm_nm[i] / 1000:.10g}"
        file.update_tags(i + 1, ns="IMAGERY", **imagery)
        file.update_tags(i + 1, bbl=str(int(spec.good[i])), band=str(spec.band[i]))
