"""Names of bands: the spellings of different writers match one name of the sensor table."""

from __future__ import annotations

import re
from functools import lru_cache

from hypermend.catalog.sensors import Sensor


def match_band(name: str, table: Sensor) -> str | None:
    """The sensor table's name of a band, which may be spelled B4, b04 or B04; None if the table lacks it.

    A table of bare numbers has no band B4: that is a name of another sensor.
    """
    if table.band_name[0].isdigit() and name.strip()[:1] in "bB":
        return None
    return _by_plain_name(table.band_name).get(plain_name(name))


@lru_cache
def _by_plain_name(names: tuple[str, ...]) -> dict[str, str]:
    return {plain_name(name): name for name in names}


def plain_name(name: str) -> str:
    """A band's name without case, leading B and zeros: B04, b4 and 4 become one."""
    return re.sub(r"^b(?=\d)", "", re.sub(r"(?<!\d)0+(?=\d)", "", name.strip().lower()))
