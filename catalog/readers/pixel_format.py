"""Format of the numbers that a file stores, as the resolved meaning gives it, and the CubeSpec that follows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hypermend.catalog.cube.spec import SOURCES_ATTR, CubeSpec
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.meaning.resolve import Meaning
from hypermend.catalog.meaning.statement import Field, Source
from hypermend.catalog.readers.bands import Band

UNKNOWN_UNIT = "unknown"
UNITS = {"reflectance": "1", "counts": "1", "radiance": "W m-2 sr-1 um-1"}


@dataclass(frozen=True, kw_only=True)
class PixelFormat:
    """Type, scale, quantity and georeference of the numbers that a file stores."""

    dtype: str
    fill: float | int | None = None
    quantity: str
    units: str | None = None
    crs: str | None = None
    transform: tuple[float, float, float, float, float, float] | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)


def pixel_format(
    meaning: Meaning,
    bands: Sequence[Band],
    *,
    dtype: str,
    crs: str | None = None,
    transform: tuple[float, float, float, float, float, float] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> tuple[PixelFormat, list[Band]]:
    """The format that the resolved meaning gives, and the bands with their scale and offset.

    Integers without a scale are counts, whatever they are called: nobody knows their unit.

    Args:
        bands: all bands of the file, in its order; scale and offset are one number or one for each of them.

    Raises:
        BadAsset: a scale of 0, or as many factors as the file has no bands.
    """
    scale, offset = _factors(meaning, Field.SCALE, len(bands)), _factors(meaning, Field.OFFSET, len(bands))
    quantity, sources = meaning.get(Field.QUANTITY), meaning.sources()
    if quantity is None:
        quantity, sources["quantity"] = "counts", "guess (no source names it)"
    elif quantity != "counts" and scale is None and np.dtype(dtype).kind in "iu":
        told = f"guess ({quantity} by {sources['quantity']}, but no source has a scale)"
        quantity, sources["quantity"] = "counts", told
    if quantity not in UNITS:
        raise BadAsset(f"quantity {quantity!r}; known are {', '.join(UNITS)}")
    if scale is not None and not all(math.isfinite(s) and s != 0 for s in scale):
        raise BadAsset(f"scale {scale[:4]} by {sources['scale']}; a scale is a finite number and not 0")
    scaled = [
        replace(b, scale_factor=1.0 if scale is None else scale[i], add_offset=0.0 if offset is None else offset[i])
        for i, b in enumerate(bands)
    ]
    pixels = PixelFormat(
        dtype=dtype,
        fill=default_fill(dtype, meaning.get(Field.NODATA)),
        quantity=quantity,
        units=_unit(meaning, quantity),
        crs=meaning.get(Field.CRS, crs),
        transform=transform,
        attrs={**(attrs or {}), SOURCES_ATTR: _of_table(meaning, bands) | sources},
    )
    return pixels, scaled


def _of_table(meaning: Meaning, bands: Sequence[Band]) -> dict[str, str]:
    """Sources of what no source stated about the spectrum, and the sensor table filled."""
    told = {
        Field.WAVELENGTH: True,
        Field.FWHM: any(math.isfinite(b.fwhm_nm) for b in bands),
        Field.GOOD: not all(b.good for b in bands),
    }
    where = f"{Source.TABLE} ({meaning.get(Field.SENSOR)})"
    return {str(field): where for field, filled in told.items() if filled}


def _unit(meaning: Meaning, quantity: str) -> str | None:
    """The unit of the values; None for that which goes without saying. Radiance has many, and none is guessed."""
    if quantity == "counts":
        return None
    unit: str | None = meaning.get(Field.UNITS, UNKNOWN_UNIT if quantity == "radiance" else None)
    return unit


def _factors(meaning: Meaning, field: Field, count: int) -> tuple[float, ...] | None:
    """One factor for each band; None where no source gives any."""
    value = meaning.get(field)
    if value is None:
        return None
    factors = tuple(float(v) for v in np.atleast_1d(np.asarray(value, dtype=np.float64)))
    if len(factors) not in (1, count):
        raise BadAsset(f"{len(factors)} values of {field} by {meaning.resolved[field]}, the file has {count} bands")
    return factors * count if len(factors) == 1 else factors


def make_spec(
    bands: Sequence[Band], size: tuple[int, int], pixels: PixelFormat, *, sensor: str
) -> tuple[CubeSpec, list[int]]:
    """Spec of the source cube of these bands, and for each cube band its position in `bands`.

    Where scale or offset differ between bands the spec has none: the source is wrapped by `decode.decoded`.

    Args:
        size: (y, x)
    """
    order = sorted(range(len(bands)), key=lambda i: bands[i].wavelength_nm)  # sorted is stable
    chosen = [bands[i] for i in order]
    common = {(b.scale_factor, b.add_offset) for b in chosen}
    scale_factor, add_offset = common.pop() if len(common) == 1 else (1.0, 0.0)  # else `decoded` applies them
    shape = (len(chosen), *size)
    chunk, shard = CubeSpec.layout(shape, pixels.dtype)
    spec = CubeSpec(
        shape=shape,
        dtype=pixels.dtype,
        scale_factor=scale_factor,
        add_offset=add_offset,
        fill=pixels.fill,
        band=tuple(b.number for b in chosen),
        band_name=tuple(b.name for b in chosen),
        wavelength_nm=tuple(b.wavelength_nm for b in chosen),
        fwhm_nm=tuple(b.fwhm_nm for b in chosen),
        detector=tuple(b.detector for b in chosen),
        good=tuple(b.good for b in chosen),
        gsd_m=tuple(b.gsd_m for b in chosen),
        crs=pixels.crs,
        transform=pixels.transform,
        quantity=pixels.quantity,
        units=pixels.units or UNITS[pixels.quantity],
        sensor=sensor,
        stage="source",
        chunk=chunk,
        shard=shard,
        attrs=pixels.attrs,
    )
    return spec, order


def default_fill(dtype: str, nodata: float | None) -> float | int | None:
    """The stored number for "no data": the file's own, else NaN for floats, else None."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return math.nan if nodata is None else float(nodata)
    if nodata is None or math.isnan(nodata):
        return None
    info = np.iinfo(kind)
    # a uint16 file may declare nodata -9999 in GDAL: no stored number equals it, so there is no fill
    return int(nodata) if info.min <= nodata <= info.max and nodata == int(nodata) else None


def mosaic_fill(dtype: str) -> float | int:
    """A fill for holes in a mosaic whose files declare none."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return math.nan
    info = np.iinfo(kind)
    return int(info.max) if kind.kind == "u" else int(info.min)
