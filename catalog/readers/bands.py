"""Identification of the bands of a file, and the CubeSpec and flags that follow. Shared by all readers; no files.

A file identifies its bands by wavelengths, names, numbers or only their count; the sensor table fills in the rest.
Bands are returned sorted by wavelength (stable), each with its 1-based number in the original product. A file that
gives its wavelengths needs no table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hypermend.catalog.arrays import Flags, LonLat, Mask, Stored
from hypermend.catalog.band_names import match_band, plain_name
from hypermend.catalog.cube.spec import NODATA, SOURCES_ATTR, VALID, CubeSpec
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.meaning.resolve import Meaning
from hypermend.catalog.meaning.statement import Field, Source
from hypermend.catalog.sensors import Sensor

RANGE_SLACK_NM = 50.0
NEAREST_NM = 25.0
"""A file's band that lies farther from every band of the sensor table is none of that sensor."""
SAME_ORDER_NM = 5.0
"""A file whose centres differ less from the table's, one by one, lists its bands in the order of the table."""
UNKNOWN_UNIT = "unknown"
UNITS = {"reflectance": "1", "counts": "1", "radiance": "W m-2 sr-1 um-1"}


@dataclass(frozen=True, kw_only=True)
class Band:
    """One band of a file."""

    number: int
    """1-based, in the original product"""
    name: str
    wavelength_nm: float
    fwhm_nm: float
    detector: str
    good: bool
    gsd_m: float
    scale_factor: float = 1.0
    """physical = stored * scale_factor + add_offset"""
    add_offset: float = 0.0


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


def by_number(table: Sensor, numbers: Sequence[int], label: str) -> list[Band]:
    """Bands given by their 1-based number in the sensor table."""
    if wrong := [n for n in numbers if not 1 <= n <= table.bands]:
        raise BadAsset(f"{label}: band numbers {wrong[:8]} do not exist; {table.name} has 1-{table.bands}")
    return [
        Band(
            number=int(n),
            name=table.band_name[n - 1],
            wavelength_nm=table.wavelength_nm[n - 1],
            fwhm_nm=table.fwhm_nm[n - 1],
            detector=table.detector[n - 1],
            good=table.usable[n - 1],
            gsd_m=table.gsd_m[n - 1],
        )
        for n in numbers
    ]


def by_name(table: Sensor, names: Sequence[str], label: str) -> list[Band]:
    """Bands given by name; B4, b04 and B04 are one."""
    matches = [match_band(n, table) for n in names]
    if unknown := [n for n, match in zip(names, matches, strict=True) if match is None]:
        raise BadAsset(
            f"{label}: {table.name} has no band {', '.join(map(repr, unknown[:8]))}; "
            f"it has {', '.join(table.band_name[:15])}{' ...' if table.bands > 15 else ''}"
        )
    return by_number(table, [table.band_name.index(match) + 1 for match in matches if match is not None], label)


def by_count(table: Sensor, count: int, label: str) -> list[Band]:
    """Bands known only by their count: all of the table, or its usable ones."""
    usable = [i + 1 for i, u in enumerate(table.usable) if u]
    if count == table.bands:
        return by_number(table, range(1, count + 1), label)
    if count == len(usable):
        return by_number(table, usable, label)
    raise BadAsset(
        f"{label}: {count} bands, sensor {table.name} has {table.bands} ({len(usable)} usable); "
        "name the right sensor, or give the file's wavelengths or band numbers"
    )


def by_wavelength(
    table: Sensor | None,
    wavelength_nm: Sequence[float],
    label: str,
    *,
    fwhm_nm: Sequence[float] | None = None,
    good: Sequence[bool] | None = None,
    names: Sequence[str] | None = None,
    detector: Sequence[str] | None = None,
) -> list[Band]:
    """Bands whose centre wavelengths the file gives, in file order; without a table, what the file lacks is unknown.

    The detector comes from the sensor table: by position when the file has the table's bands, else by ascending
    runs of the file's order when there are as many as detectors, else that of the nearest band.
    """
    count = len(wavelength_nm)
    if table is None:
        return _self_described(wavelength_nm, fwhm_nm, good, names, detector)
    low, high = min(table.wavelength_nm), max(table.wavelength_nm)
    if wrong := [w for w in wavelength_nm if not low - RANGE_SLACK_NM <= w <= high + RANGE_SLACK_NM]:
        raise BadAsset(
            f"{label}: {len(wrong)} of {count} wavelengths (first {wrong[0]:g} nm) lie outside sensor {table.name} "
            f"({low:.0f}-{high:.0f} nm); wrong sensor, or wavelengths not in nanometres"
        )
    nearest = [int(np.argmin(np.abs(np.asarray(table.wavelength_nm) - w))) for w in wavelength_nm]
    apart = [abs(table.wavelength_nm[n] - w) for n, w in zip(nearest, wavelength_nm, strict=True)]
    worst = int(np.argmax(apart))
    if apart[worst] > _nearest_nm(table):
        raise BadAsset(
            f"{label}: its band at {wavelength_nm[worst]:g} nm lies {apart[worst]:.0f} nm from the nearest of sensor "
            f"{table.name}; it is another sensor's, or its wavelengths are wrong"
        )
    if detector is None:
        detector = _detectors(table, wavelength_nm, nearest)
    return [
        Band(
            number=i + 1,
            name=names[i] if names is not None else str(i + 1),
            wavelength_nm=float(w),
            fwhm_nm=float(fwhm_nm[i]) if fwhm_nm is not None else table.fwhm_nm[nearest[i]],
            detector=detector[i],
            good=bool(good[i]) if good is not None else _usable(table, w, detector[i]),
            gsd_m=table.gsd_m[nearest[i]],
        )
        for i, w in enumerate(wavelength_nm)
    ]


def _self_described(
    wavelength_nm: Sequence[float],
    fwhm_nm: Sequence[float] | None,
    good: Sequence[bool] | None,
    names: Sequence[str] | None,
    detector: Sequence[str] | None,
) -> list[Band]:
    """Bands that only the file describes."""
    runs = _ascending_runs(wavelength_nm)
    return [
        Band(
            number=i + 1,
            name=names[i] if names is not None else str(i + 1),
            wavelength_nm=float(w),
            fwhm_nm=float(fwhm_nm[i]) if fwhm_nm is not None else math.nan,
            detector=detector[i] if detector is not None else f"run{runs[i]}" if runs[-1] else "unnamed",
            good=bool(good[i]) if good is not None else True,
            gsd_m=math.nan,
        )
        for i, w in enumerate(wavelength_nm)
    ]


def _ascending_runs(wavelength_nm: Sequence[float]) -> list[int]:
    """Number of the ascending run that each band of the file lies in: detectors that overlap are listed one by one."""
    steps = np.diff(np.asarray(wavelength_nm, dtype=np.float64))
    descending = steps.size > 0 and bool(np.all(steps < 0))
    return [0] * len(wavelength_nm) if descending else [0, *np.cumsum(steps < 0).tolist()]


def _nearest_nm(table: Sensor) -> float:
    """Largest distance of a file's band from the table's nearest: its usual step, or a width."""
    centres = np.unique(np.asarray(table.wavelength_nm))
    widths = [w for w in table.fwhm_nm if math.isfinite(w)]
    step = float(np.median(np.diff(centres))) if centres.size > 1 else 0.0
    return max(NEAREST_NM, step, float(np.median(widths or [0.0])))


def _detectors(table: Sensor, wavelength_nm: Sequence[float], nearest: Sequence[int]) -> list[str]:
    detectors = list(dict.fromkeys(table.detector))
    if len(detectors) == 1:
        return detectors * len(wavelength_nm)
    centres = np.asarray(wavelength_nm)
    if len(centres) == table.bands and np.all(np.abs(centres - np.asarray(table.wavelength_nm)) < SAME_ORDER_NM):
        return list(table.detector)
    runs = np.concatenate([[0], np.cumsum(np.diff(centres) < 0)])
    if runs[-1] + 1 == len(detectors):
        return [detectors[int(r)] for r in runs]
    return [table.detector[n] for n in nearest]


def _usable(table: Sensor, nm: float, detector: str) -> bool:
    """Usable flag of the nearest band on the same detector."""
    same = [i for i, d in enumerate(table.detector) if d == detector]
    return table.usable[min(same, key=lambda i: abs(table.wavelength_nm[i] - nm))]


def select_bands(bands: Sequence[Band], wanted: Sequence[str] | None, label: str) -> list[int]:
    """Positions of the wanted bands (by name), all when None.

    Raises:
        BadAsset: an unknown name.
    """
    if wanted is None:
        return list(range(len(bands)))
    plain = {plain_name(b.name): i for i, b in enumerate(bands)}
    picked = [plain.get(plain_name(w)) for w in wanted]
    if unknown := [w for w, p in zip(wanted, picked, strict=True) if p is None]:
        raise BadAsset(f"{label}: no band {', '.join(unknown)}; there are {', '.join(b.name for b in bands)}")
    return sorted({p for p in picked if p is not None})


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


def flags_of(stored: Stored, spec: CubeSpec) -> Flags:
    """VALID where every good band has data, else NODATA; a pixel without any good band becomes fill in all bands.

    A pixel with only some bands missing keeps its stored numbers but is not VALID: no network may see its fill.
    """
    good = [i for i, g in enumerate(spec.good) if g] or list(range(spec.bands))
    some_missing = np.zeros(stored.shape[1:], dtype=bool)
    all_missing = np.ones(stored.shape[1:], dtype=bool)
    for band in good:  # one band at a time: no second copy of the window
        missing = _missing(stored[band], spec.fill)
        some_missing |= missing
        all_missing &= missing
    if spec.fill is not None and all_missing.any():
        stored[:, all_missing] = spec.fill
    return np.where(some_missing, NODATA, VALID).astype(np.uint8)


def _missing(band: Stored, fill: float | int | None) -> Mask:
    """Where a band (y, x) has no data: its fill, and for floats any number that is not finite."""
    missing = np.zeros(band.shape, dtype=bool) if fill is None else np.asarray(band == fill)
    return missing | ~np.isfinite(band) if band.dtype.kind == "f" else missing


class ArraySource:
    """A scene that is read whole: the first read loads the file."""

    windowed = False
    lonlat: LonLat | None = None

    def __init__(
        self,
        spec: CubeSpec,
        identity: str,
        load: Callable[[], Stored],
        order: Sequence[int],
        *,
        meaning: Meaning,
        loaded: Stored | None = None,
    ) -> None:
        """
        Args:
            load: returns (band, y, x) in file order.
            order: position in the file of each cube band.
            loaded: the array, if it has been loaded already.
        """
        self.spec = spec
        self.identity = identity
        self.meaning = meaning
        self._load = load
        self._order = list(order)
        self._array = loaded

    def read(self, y: slice, x: slice) -> tuple[Stored, Flags]:
        """(bands, h, w) stored numbers and (h, w) flags."""
        if self._array is None:
            self._array = self._load()
        stored = np.stack([self._array[i, y, x] for i in self._order]).astype(self.spec.dtype, copy=False)
        return stored, flags_of(stored, self.spec)

    def defects(self, y: slice, x: slice) -> Mask | None:
        """None: see `Source.defects`."""
        return None

    def close(self) -> None:
        self._array = None
