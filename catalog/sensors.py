"""Sensors: the bands of each instrument, and the response of one instrument to the spectrum of another.

A sensor is a file `<name>.csv` (comment lines `# quantity:` and `# source:`, then
`band,wavelength_nm,fwhm_nm,detector,usable,gsd_m` in the order of the product's bands). A measured response goes to
`<name>_srf.csv` (`wavelength_nm`, then one column for each band). Those in `data/` are shipped; users' own tables are
read from an archive or a folder (`sensor_tables`) and passed on as a `SensorTables`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

import numpy as np

from hypermend.catalog.arrays import F64
from hypermend.catalog.errors import BadSensor
from hypermend.catalog.sensor_csv import SRF, Sensor, parse_sensor

__all__ = ["SHIPPED", "Sensor", "SensorTables", "UserTable", "band_coverage", "names", "sensor", "srf"]
_NO_RESPONSE = 1e-9
WIDEST_NM = 50.0
"""Largest distance from its centre at which a band of a cube still stands for the spectrum."""


def names() -> list[str]:
    """Names of the sensors whose tables are shipped, sorted."""
    files = (f.name for f in resources.files("hypermend.catalog").joinpath("data").iterdir())
    return sorted(n.removesuffix(".csv") for n in files if n.endswith(".csv") and not n.endswith(f"{SRF}.csv"))


def sensor(name: str) -> Sensor:
    """The shipped table of one sensor.

    Raises:
        BadSensor: no sensor of this name; the error gives the nearest name and all names.
    """
    return SHIPPED.sensor(name)


@cache
def _shipped(name: str) -> Sensor:
    folder = resources.files("hypermend.catalog").joinpath("data")
    measured = folder.joinpath(f"{name}{SRF}.csv")
    return parse_sensor(
        name,
        folder.joinpath(f"{name}.csv").read_text(encoding="utf-8"),
        measured.read_text(encoding="utf-8") if measured.is_file() else None,
        where=f"data/{name}",
    )


@dataclass(frozen=True, kw_only=True)
class UserTable:
    """A table that is not shipped."""

    sensor: Sensor
    text: str
    """the CSV"""
    where: str
    """its folder, for messages"""


@dataclass(frozen=True, kw_only=True)
class SensorTables:
    """The sensor tables of a command: those that are shipped, and the user's own."""

    own: Mapping[str, UserTable] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Why a table of the archive cannot be read, by its name; only who needs that table sees the error."""

    def names(self) -> list[str]:
        """Names of all sensors that have a table, sorted."""
        return sorted({*names(), *self.own})

    def get(self, name: str) -> Sensor | None:
        """The table of one sensor, or None.

        Raises:
            BadSensor: the archive has one that cannot be read.
        """
        if name in self.unreadable:
            raise BadSensor(self.unreadable[name])
        if name in self.own:
            return self.own[name].sensor
        return _shipped(name) if name in names() else None

    def sensor(self, name: str) -> Sensor:
        """The table of one sensor.

        Raises:
            BadSensor: no sensor of this name; the error gives the nearest name and all names.
        """
        if (table := self.get(name)) is None:
            raise BadSensor(f"unknown sensor {name!r}: {self.hint(name)}")
        return table

    def hint(self, name: str, others: Sequence[str] = ()) -> str:
        """For a message about an unknown name: the nearest name, all names, and `others` that have no table."""
        known = sorted({*self.names(), *others})
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.4)
        return (f"did you mean {near[0]!r}? " if near else "") + f"known are {', '.join(known)}"

    def of_count(self, bands: int) -> list[str]:
        """Names of the sensors with this many bands, all or usable: the likely instruments of a file."""
        tables = ((name, self.sensor(name)) for name in self.names())
        return [name for name, table in tables if bands in (table.bands, table.usable.count(True))]

    def joined(self, other: SensorTables) -> SensorTables:
        """These tables and those of another place.

        Raises:
            BadSensor: two tables of one name differ.
        """
        for name in self.own.keys() & other.own.keys():
            one, two = self.own[name], other.own[name]
            if one.text != two.text:
                raise BadSensor(
                    f"sensor {name}: its tables in {one.where} and {two.where} differ; give one of them another name"
                )
        unreadable = {**other.unreadable, **self.unreadable}
        return SensorTables(own={**other.own, **self.own}, unreadable=unreadable)


SHIPPED = SensorTables()


def srf(
    hyper: Sensor | str | Sequence[float] | F64,
    multi: Sensor | str,
    *,
    bands: Sequence[str] | None = None,
) -> F64:
    """Response of `multi` to a spectrum sampled by `hyper`: (m, b), rows sum to 1.

    The response of each multispectral band (measured where the sensor has `<multi>_srf.csv`, else a Gaussian of its
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
    if band in target.response:
        nm, response = target.response["wavelength_nm"], target.response[band]
        return np.interp(wavelength_nm, nm, response, left=0.0, right=0.0)
    i = target.band_name.index(band)
    if not math.isfinite(target.fwhm_nm[i]):
        raise BadSensor(
            f"{target.name} band {band} has no width (fwhm), so its response is not known; give a table with --sensors"
        )
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
