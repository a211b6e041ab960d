"""The sensor of a STAC item: from platform, constellation, mission and instruments, else from its product's name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# What the item says of its instrument, in one lower-case line -> sensor; the first that fits. HLS says the satellite
# of the original and is told by its product's name.
_INSTRUMENTS = (
    (r"sentinel-?2a", "sentinel2a"),
    (r"sentinel-?2b", "sentinel2b"),
    (r"sentinel-?2c", "sentinel2c"),
    (r"\benmap", "enmap"),
    (r"\bprisma\b", "prisma"),
    (r"\bemit\b", "emit"),
    (r"\bdesis\b", "desis"),
    (r"\btanager", "tanager"),
    (r"\bwyvern\b|\bdragonette", "wyvern"),
    (r"\bhyperion\b", "hyperion"),
    (r"(eo-?1|earth observing-?1).*\bali\b", "ali"),
    (r"landsat[-_ ]?4.*\btm\b", "landsat4-tm"),
    (r"landsat[-_ ]?5.*\btm\b|landsat[-_ ]?5$", "landsat5-tm"),
    (r"landsat[-_ ]?7.*\betm\b|landsat[-_ ]?7.*\betm\+|landsat[-_ ]?7$", "landsat7-etm"),
    (r"landsat[-_ ]?8.*\boli\b|landsat[-_ ]?8$", "landsat8-oli"),
    (r"landsat[-_ ]?9.*\boli\b|landsat[-_ ]?9$", "landsat9-oli"),
)
# The beginning of an id, or of a collection's, as the product's specification fixes it.
_PRODUCTS = (
    (r"HLS[._]?L30", "hls-l30"),
    (r"HLS[._]?S30", "hls-s30"),
    (r"S2A_", "sentinel2a"),
    (r"S2B_", "sentinel2b"),
    (r"S2C_", "sentinel2c"),
    (r"ENMAP(01|_HSI)", "enmap"),
    (r"DESIS[-_]HSI", "desis"),
    (r"PRS_L[012]", "prisma"),
    (r"EMIT_?L[12]", "emit"),
    (r"EO1H\d", "hyperion"),
    (r"EO1A\d", "ali"),
    (r"LT04_", "landsat4-tm"),
    (r"LT05_", "landsat5-tm"),
    (r"LE07_", "landsat7-etm"),
    (r"LC08_", "landsat8-oli"),
    (r"LC09_", "landsat9-oli"),
)


def identify_sensor(id: str, collection: str, properties: Mapping[str, Any]) -> str | None:
    """Name of the sensor; None if nothing names one that is known.

    A name need not have a sensor table: files that describe their own bands need none.
    """
    product = next((name for name in (id, collection) if re.match(r"HLS[._]?[LS]30", name, re.I)), None)
    if product is None:
        instruments = properties.get("instruments")
        words = [properties.get(name) for name in ("platform", "constellation", "mission", "eo:instrument")]
        words += list(instruments) if isinstance(instruments, list | tuple) else [instruments]
        line = " ".join(str(word).lower() for word in words if word)
        for pattern, name in _INSTRUMENTS:
            if re.search(pattern, line):
                return name
    for text in (id, collection):
        for pattern, name in _PRODUCTS:
            if re.match(pattern, text, re.I):
                return name
    return None
