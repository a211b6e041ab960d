"""Tags of a GeoTIFF: the statements in GDAL's default, IMAGERY and ENVI domains.

Source: GDAL, "Raster Data Model" (IMAGERY domain: CENTRAL_WAVELENGTH_UM and FWHM_UM, written by GDAL 3.10 and later).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hypermend.catalog.meaning.statement import Field, Source, Statements
from hypermend.catalog.meaning.times import utc_time
from hypermend.catalog.meaning.wavelengths import wavelengths_nm
from hypermend.catalog.readers.raster.envi_header import header_statements, number

_TIMES = ("start_time", "acquisition_datetime", "acquisition_time", "acquisitiondatetime", "datetime")
"""Tags of the whole file that hold the time of its acquisition, in lower case"""
_IMAGERY_TIME = "acquisitiondatetime"
_TIFF_TIME = re.compile(r"(\d{4}):(\d\d):(\d\d) (\d\d:\d\d:\d\d)")
_ENVI_FIELDS = ("wavelength", "fwhm", "bbl")


@dataclass(frozen=True, kw_only=True)
class BandTags:
    """Tags of one band, keys in lower case."""

    default: Mapping[str, str]
    imagery: Mapping[str, str]

    @classmethod
    def of(cls, dataset: Any, band: int) -> BandTags:
        """Those of band `band`, 1-based."""
        return cls(default=_lower(dataset.tags(band)), imagery=_lower(dataset.tags(band, ns="IMAGERY")))

    def get(self, key: str) -> str | None:
        return self.default.get(key)

    @property
    def centre(self) -> float | None:
        """Of the IMAGERY domain, in nm."""
        return _nm(self.imagery.get("central_wavelength_um"))

    @property
    def width(self) -> float | None:
        return _nm(self.imagery.get("fwhm_um"))

    @property
    def measures(self) -> bool:
        """Whether the band has a wavelength, as no alpha band has."""
        return self.centre is not None or "wavelength" in self.default


def tag_statements(dataset: Any, kept: Sequence[int], tags: Sequence[BandTags], name: str) -> Statements:
    """The statements of a raster file.

    Args:
        kept: 1-based numbers of its bands, without alpha.
        tags: of these bands.
        name: of the file, for messages.

    Raises:
        BadAsset: a list that does not fit the bands.
    """
    said = Statements()

    def add(field: Field, value: object, key: str, source: Source = Source.FILE) -> None:
        said.add(field, value, source, f"{name}: {key}")

    scales, offsets = ([float(of_band[i - 1]) for i in kept] for of_band in (dataset.scales, dataset.offsets))
    if any(s != 1.0 for s in scales) or any(o != 0.0 for o in offsets):
        add(Field.SCALE, tuple(scales) if len(set(scales)) > 1 else scales[0], "scale")
        add(Field.OFFSET, tuple(offsets) if len(set(offsets)) > 1 else offsets[0], "offset")
    add(Field.NODATA, dataset.nodata, "nodata")
    whole = _lower(dataset.tags())
    _add_spectrum(said, tags, whole, name)
    envi = {k.replace("_", " "): v.strip("{} ") for k, v in _lower(dataset.tags(ns="ENVI")).items()}
    listed = {k: _listed(whole[k]) for k in _ENVI_FIELDS if "," in whole.get(k, "")}
    if unit := whole.get("wavelength_units"):
        listed["wavelength units"] = unit
    count = dataset.count
    for fields, domain in ((envi, "ENVI domain"), (listed, "tags")):
        of_bands = header_statements(fields, count, Source.FILE, f"{name}, {domain}")
        for s in of_bands:
            per_band = isinstance(s.value, tuple) and len(s.value) == count
            said.add(s.field, tuple(s.value[i - 1] for i in kept) if per_band else s.value, s.source, s.where)
    for key in _TIMES:
        if (text := whole.get(key)) and (when := utc_time(text)) is not None:
            add(Field.DATETIME, when, key)
            break
    imagery = _lower(dataset.tags(ns="IMAGERY"))
    add(Field.DATETIME, utc_time(imagery.get(_IMAGERY_TIME, "")), "IMAGERY domain, ACQUISITIONDATETIME")
    # by the TIFF standard this is the time of the file's creation, and often that of its processing
    add(Field.DATETIME, _tiff_time(whole.get("tifftag_datetime", "")), "TIFF DateTime", Source.GUESS)
    return said


def _add_spectrum(said: Statements, tags: Sequence[BandTags], whole: Mapping[str, str], name: str) -> None:
    """Centres, widths and good bands, where every band has its tag."""
    # GDAL writes both, the micrometres with fewer digits
    values = [number(t.default.get("wavelength", "")) for t in tags]
    if tags and all(v is not None for v in values):
        unit = tags[0].get("wavelength_units") or whole.get("wavelength_units")
        found = wavelengths_nm([v for v in values if v is not None], unit)
        said.add(Field.WAVELENGTH, None if found is None else found.nm, Source.FILE, f"{name}: wavelength")
        widths = [number(t.default.get("fwhm", "")) for t in tags]
        if found is not None and all(w is not None for w in widths):
            in_nm = tuple(w * found.factor for w in widths if w is not None)
            said.add(Field.FWHM, in_nm, Source.FILE, f"{name}: fwhm")
    centres = [t.centre for t in tags]
    if tags and all(c is not None for c in centres):
        said.add(Field.WAVELENGTH, tuple(centres), Source.FILE, f"{name}: CENTRAL_WAVELENGTH_UM")
        imagery = [t.width for t in tags]
        if any(w is not None for w in imagery):
            known = tuple(math.nan if w is None else w for w in imagery)
            said.add(Field.FWHM, known, Source.FILE, f"{name}: FWHM_UM")
    if any("bbl" in t.default for t in tags):
        good = tuple(number(t.default.get("bbl", "1")) != 0 for t in tags)
        said.add(Field.GOOD, good, Source.FILE, f"{name}: bbl")


def _listed(text: str) -> str:
    return text.strip("{}[]() ")


def _lower(tags: Mapping[str, str]) -> dict[str, str]:
    return {k.lower(): v for k, v in tags.items()}


def _nm(micrometres: str | None) -> float | None:
    value = None if micrometres is None else number(micrometres)
    return None if value is None else value * 1000


def _tiff_time(text: str) -> datetime | None:
    match = _TIFF_TIME.match(text.strip())
    return None if match is None else utc_time(f"{match[1]}-{match[2]}-{match[3]}T{match[4]}")
