"""Sensors: the bands of each instrument, and the response of one instrument to the spectrum of another.

A new sensor is a new file `data/<name>.csv` (comment lines `# quantity:` and `# source:`, then
`band,wavelength_nm,fwhm_nm,detector,usable,gsd_m` in the order of the product's bands). A measured response goes
to `data/<name>_srf.csv` (`wavelength_nm`, then one column for each band).
"""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

from hypermend.catalog.arrays import F64
from hypermend.catalog.errors import BadSensor

_SRF = "_srf"
_NO_RESPONSE = 1e-9
WIDEST_NM = 50.0
"""Largest distance from its centre at which a band of a cube still stands for the spectrum."""


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """One instrument, its bands in product order (band number = position + 1)."""

    name: str
    band_name: tuple[str, ...]
    wavelength_nm: tuple[float, ...]
    """centre of each band"""
    fwhm_nm: tuple[float, ...]
    """full width at half maximum"""
    detector: tuple[str, ...]
    """VNIR, SWIR ...; a spectral window never mixes two. TIR bands never join a reflective cube"""
    usable: tuple[bool, ...]
    """False: not calibrated, or blind in the usual product"""
    gsd_m: tuple[float, ...]
    """ground sampling distance; NaN in a laboratory"""
    quantity: str
    """quantity of the usual product: reflectance, radiance or counts"""
    source: str

    @property
    def bands(self) -> int:
        return len(self.band_name)


def names() -> list[str]:
    """Names of all sensors that have a table, sorted."""
    files = (f.name for f in resources.files("hypermend.catalog").joinpath("data").iterdir())
    return sorted(n.removesuffix(".csv") for n in files if n.endswith(".csv") and not n.endswith(f"{_SRF}.csv"))


@cache
def sensor(name: str) -> Sensor:
    """The table of one sensor.

    Raises:
        BadSensor: no sensor of this name; the error gives the nearest name and all names.
    """
    all_names = names()
    if name not in all_names:
        near = difflib.get_close_matches(name.lower(), all_names, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise BadSensor(f"unknown sensor {name!r}: {hint}known are {', '.join(all_names)}")
    head, rows = _read_csv(f"{name}.csv")
    return Sensor(
        name=name,
        band_name=tuple(r["band"] for r in rows),
        wavelength_nm=tuple(float(r["wavelength_nm"]) for r in rows),
        fwhm_nm=tuple(float(r["fwhm_nm"]) for r in rows),
        detector=tuple(r["detector"] for r in rows),
        usable=tuple(r["usable"] == "true" for r in rows),
        gsd_m=tuple(float(r["gsd_m"]) for r in rows),
        quantity=head["quantity"],
        source=head["source"],
    )


def srf(
    hyper: Sensor | str | Sequence[float] | F64,
    multi: Sensor | str,
    *,
    bands: Sequence[str] | None = None,
) -> F64:
    """Response of `multi` to a spectrum sampled by `hyper`: (m, b), rows sum to 1.

    The response of each multispectral band (tabulated where `data/<multi>_srf.csv` exists, else a Gaussian of its
    centre and FWHM) is sampled at the hyperspectral centres and weighted with the spectral interval that each
    stands for, so that two detectors sharing an interval do not count it twice. Unusable bands of a hyper sensor
    get weight 0. `bands` picks rows by name.

    Raises:
        BadSensor: unknown name, or a band of `multi` that no usable hyperspectral band covers.
    """
    if isinstance(hyper, str):
        hyper = sensor(hyper)
    if isinstance(hyper, Sensor):
        wavelength_nm, usable = np.asarray(hyper.wavelength_nm), np.asarray(hyper.usable)
    else:
        wavelength_nm = np.asarray(hyper, dtype=np.float64)
        usable = np.ones(wavelength_nm.size, dtype=bool)
    target = sensor(multi) if isinstance(multi, str) else multi
    multi_bands = list(target.band_name if bands is None else bands)
    if missing := [b for b in multi_bands if b not in target.band_name]:
        raise BadSensor(f"{target.name} has no band {missing}; it has {list(target.band_name)}")
    rows = np.stack([_response(target, band, wavelength_nm) for band in multi_bands])  # (m, b)
    rows[:, usable] *= _intervals(wavelength_nm[usable])
    rows[:, ~usable] = 0.0
    total = rows.sum(axis=1, keepdims=True)
    if blind := [b for b, t in zip(multi_bands, total[:, 0], strict=True) if t < _NO_RESPONSE]:
        centres = wavelength_nm[usable]
        raise BadSensor(
            f"{target.name} bands {blind} lie outside the usable bands at {centres.min():.0f}-{centres.max():.0f} nm; "
            "choose others with bands="
        )
    return np.asarray(rows / total)


def band_coverage(wavelength_nm: Sequence[float], multi: Sensor | str, bands: Sequence[str]) -> tuple[float, ...]:
    """Share of each band's response, 0 to 1, that lies where a hyperspectral cube has bands.

    For a band at the end of the cube's range, or over a gap in it, `srf` still returns a row of sum 1, made of the
    tail of its response alone. A centre covers the wavelengths within 1.5 median spacings of it, at most `WIDEST_NM`: a
    sparse cube says nothing about a band between two of its own. The share is 0 where no centre meets the response,
    for which `srf` has no row.

    Raises:
        BadSensor: `multi` has no band of this name.
    """
    target = sensor(multi) if isinstance(multi, str) else multi
    if missing := [b for b in bands if b not in target.band_name]:
        raise BadSensor(f"{target.name} has no band {missing}; it has {list(target.band_name)}")
    centres = np.unique(np.asarray(wavelength_nm, dtype=np.float64))
    nm = np.arange(300.0, 2700.0)
    radius_nm = min(1.5 * float(np.median(np.diff(centres))), WIDEST_NM) if centres.size > 1 else 0.0
    nearest = np.abs(nm[:, None] - centres[None, :]).min(axis=1)
    responses = [_response(target, band, nm) for band in bands]
    met = [_response(target, band, centres).sum() > _NO_RESPONSE for band in bands]
    return tuple(
        float(r[nearest <= radius_nm].sum() / r.sum()) if m and r.sum() > 0 else 0.0
        for r, m in zip(responses, met, strict=True)
    )


def _response(target: Sensor, band: str, wavelength_nm: F64) -> F64:
    """Response of one band at the wavelengths, any scale."""
    table = _measured_response(target.name)
    if band in table:
        nm, response = table["wavelength_nm"], table[band]
        return np.interp(wavelength_nm, nm, response, left=0.0, right=0.0)
    i = target.band_name.index(band)
    sigma_nm = target.fwhm_nm[i] / (2 * math.sqrt(2 * math.log(2)))
    return np.asarray(np.exp(-0.5 * ((wavelength_nm - target.wavelength_nm[i]) / sigma_nm) ** 2))


def _intervals(wavelength_nm: F64) -> F64:
    """The spectral interval of each centre: half the way to its neighbours on either side."""
    if wavelength_nm.size < 2:
        return np.ones_like(wavelength_nm)
    order = np.argsort(wavelength_nm, kind="stable")
    nm = wavelength_nm[order]
    middle = (nm[1:] + nm[:-1]) / 2
    edges = np.concatenate([[2 * nm[0] - middle[0]], middle, [2 * nm[-1] - middle[-1]]])
    out = np.empty_like(nm)
    out[order] = np.diff(edges)
    return out


@cache
def _measured_response(name: str) -> dict[str, F64]:
    """Columns of `data/<name>_srf.csv`; empty where there is no such file."""
    if not resources.files("hypermend.catalog").joinpath("data", f"{name}{_SRF}.csv").is_file():
        return {}
    _, rows = _read_csv(f"{name}{_SRF}.csv")
    return {key: np.array([float(r[key]) for r in rows]) for key in rows[0]}


def _read_csv(file: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Comment lines as a dict, then the rows."""
    lines = resources.files("hypermend.catalog").joinpath("data", file).read_text(encoding="utf-8").splitlines()
    head = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
    return head, list(csv.DictReader(line for line in lines if not line.startswith("#")))
