"""Numbers in the text of metadata files."""

from __future__ import annotations

import math

from hypermend.catalog.errors import BadAsset


def metadata_number(text: str, where: str) -> float:
    """A finite number.

    Args:
        where: file and key, for the message.

    Raises:
        BadAsset: another text.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadAsset(f"{where}: {text[:40]!r} is no number")
    return value


def metadata_factor(text: str, where: str) -> float:
    """A finite number that is not 0.

    Raises:
        BadAsset: another text.
    """
    if (value := metadata_number(text, where)) == 0:
        raise BadAsset(f"{where}: a factor of 0")
    return value
