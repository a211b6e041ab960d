"""Times as products write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_YEARS = range(1972, 2200)
"""A year outside is a default of some writer, not a time of an image of the Earth."""


def utc_time(text: str, *, any_year: bool = False) -> datetime | None:
    """A time in ISO 8601, with UTC for one without a zone; None for another text, or a year that no image has."""
    text = re.sub(r"(\.\d{6})\d+", r"\1", text.strip())  # nanoseconds
    try:
        when = datetime.fromisoformat(text)
        when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return when if any_year or when.year in _YEARS else None
