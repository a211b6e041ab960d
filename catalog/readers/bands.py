"""Identification of the bands of a file. Shared by all readers; no files.

A file identifies its bands by wavelengths, names, numbers or only their count; the sensor table fills in the rest.
Bands are returned sorted by wavelength (stable), each with its 1-based number in the original product. A file that
gives its wavelengths needs no table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hypermend.catalog.band_names import match_band, plain_name
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.sensors import Sensor

RANGE_SLACK_NM = 50.0
NEAREST_NM = 25.0
"""A file's band that lies farther from every band of the sensor table is none of that sensor."""
SAME_ORDER_NM = 5.0
"""A file whose centres differ less from the table's, one by one, lists its bands in the order of the table."""


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
