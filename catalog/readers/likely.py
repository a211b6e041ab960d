"""Likely instruments of a file that does not name its own: for messages only, never to decide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hypermend.catalog.band_names import match_band
from hypermend.catalog.sensors import SHIPPED, SensorTables

SAME_NM = 3.0
"""Largest distance of centres at which a file's spectrum is a table's"""


def likely_sensors(
    count: int,
    tables: SensorTables = SHIPPED,
    *,
    names: Sequence[str] | None = None,
    wavelength_nm: Sequence[float] | None = None,
) -> list[str]:
    """Names of the sensor tables that fit: by centres if there are any, else by names, else by count."""
    known = [tables.sensor(name) for name in tables.names()]
    if wavelength_nm is not None:
        centres = np.sort(np.asarray(wavelength_nm, dtype=np.float64))
        same = [t for t in known if t.bands == len(centres)]
        return [t.name for t in same if np.all(np.abs(np.sort(t.wavelength_nm) - centres) <= SAME_NM)]
    if names is not None:
        matches = {t.name: sum(match_band(n, t) is not None for n in names) for t in known}
        best = max(matches.values(), default=0)
        if best > len(names) / 2:  # beside its bands a file may hold classes, or alpha
            return [name for name, count in matches.items() if count == best]
    return [t.name for t in known if count in (t.bands, sum(t.usable))]
