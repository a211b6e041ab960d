"""Names of bands: what writers spell in several ways is one name of the sensor table."""

from __future__ import annotations

import re
from functools import lru_cache

from hypermend.catalog.sensors import Sensor


def match_band(name: str, table: Sensor) -> str | None:
    """B4, b04 and B04 are one band; None when the table has no such band."""
    return _by_plain_name(table.band_name).get(plain_name(name))


@lru_cache
def _by_plain_name(names: tuple[str, ...]) -> dict[str, str]:
    return {plain_name(name): name for name in names}


def plain_name(name: str) -> str:
    """A band's name without what writers differ in: B04, b4 and 4 are one."""
    return re.sub(r"^b(?=\d)", "", re.sub(r"(?<!\d)0+(?=\d)", "", name.strip().lower()))
