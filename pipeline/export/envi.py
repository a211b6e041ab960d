"""ENVI: a raw image, bands interleaved by line, and the header beside it.

Source: https://www.nv5geospatialsoftware.com/docs/enviheaderfiles.html
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path

import rasterio

from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.documents import visible
from hypermend.catalog.storage.gdal import local_gdal
from hypermend.pipeline.export.profile import GDAL_OPTIONS, raster_profile
from hypermend.pipeline.export.selection import Selection


def header_of(path: Path) -> Path:
    """The header of an image."""
    return path.with_suffix(".hdr")


def write_envi(selection: Selection, path: Path) -> None:
    """Write the image tile by tile; GDAL makes the header with the georeference, and the spectrum is added to it."""
    spec = selection.spec
    with (
        local_gdal(**GDAL_OPTIONS),
        rasterio.open(path, "w", driver="ENVI", interleave="bil", **raster_profile(spec)) as file,
    ):
        for i, name in enumerate(spec.band_name):
            file.set_band_description(i + 1, _text(name))
        for block in selection.blocks():
            file.write(block.stored, window=block.window)
    header = header_of(path)
    said = header.read_text(encoding="utf-8", errors="replace")
    # GDAL describes an image by the path under which it is made.
    said = re.sub(r"^description = .*^(?=samples )", f"description = {{{_text(path.name)}}}\n", said, flags=re.M | re.S)
    lines = [line for line in said.splitlines() if line.strip()]
    header.write_text("\n".join([*lines, *_spectral_lines(spec)]) + "\n", encoding="utf-8")


def _spectral_lines(spec: CubeSpec) -> Iterable[str]:
    """Fields that GDAL does not write. One kind of scale only, so that no reader applies two."""
    yield f"sensor type = {_text(spec.sensor)}"
    if spec.time is not None:
        yield f"acquisition time = {_text(spec.time)}"
    yield "wavelength units = Nanometers"
    yield f"wavelength = {_list(spec.wavelength_nm)}"
    if all(math.isfinite(width) for width in spec.fwhm_nm):
        yield f"fwhm = {_list(spec.fwhm_nm)}"
    yield f"bbl = {_list(int(good) for good in spec.good)}"
    if spec.quantity == "reflectance" and spec.add_offset == 0 and spec.scale_factor != 1:
        yield f"reflectance scale factor = {1 / spec.scale_factor:.12g}"
    elif spec.scale_factor != 1 or spec.add_offset != 0:
        yield f"data gain values = {_list([spec.scale_factor] * spec.bands)}"
        yield f"data offset values = {_list([spec.add_offset] * spec.bands)}"
    yield f"data units = {_text(spec.quantity)}, {_text(spec.units)}"


def _text(text: str) -> str:
    """A text of a delivery as one value: a line end, a brace or a comma in it would begin another field or band."""
    return re.sub(r"[{},=]", "_", visible(text)).strip() or "_"


def _list(values: Iterable[float]) -> str:
    return "{" + ", ".join(f"{value:.10g}" for value in values) + "}"
