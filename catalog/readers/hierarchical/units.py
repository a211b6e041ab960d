"""Units of radiance in one spelling, and names of lists of wavelengths. A unit that is not understood is said."""

from __future__ import annotations

import re
from collections import Counter

WAVELENGTH_NAME = re.compile(
    r"^(wave_?lengths?(_nm|_um|_3d)?|wl|wvl|lambda|(band_?)?(centers?|centres?)|(center|centre|central)_wavelengths?)$",
    re.I,
)
"""Names of lists of wavelengths."""
_SYMBOLS = {
    "w": "W", "watt": "W", "mw": "mW", "milliwatt": "mW", "uw": "uW", "microwatt": "uW",
    "m": "m", "meter": "m", "metre": "m", "cm": "cm", "centimeter": "cm", "centimetre": "cm",
    "um": "um", "micron": "um", "micrometer": "um", "micrometre": "um",
    "nm": "nm", "nanometer": "nm", "nanometre": "nm",
    "sr": "sr", "str": "sr", "ster": "sr", "steradian": "sr",
}  # fmt: skip
_LENGTHS = ("m", "cm", "um", "nm")
_TOKEN = re.compile(r"\(|\)|/|\*\*|\*|\^|-?\d+|[A-Za-z]+|.")
_POWER = re.compile(r"\^|\*\*")
_NONE = {"", "1", "unitless", "none", "dimensionless", "-"}


def is_none(unit: str) -> bool:
    """Whether a unit says that the number has none."""
    return _plain(unit).lower() in _NONE


def is_percent(unit: str) -> bool:
    """Whether numbers are percent."""
    return _plain(unit).lower() in ("%", "percent", "percentage")


def radiance_unit(unit: str) -> str | None:
    """A unit of spectral radiance in the spelling of UDUNITS, such as "uW cm-2 sr-1 nm-1"; None for another unit."""
    counts = _exponents(_plain(unit))
    if counts is None or counts.get("sr") != -1:
        return None
    power = [u for u in ("W", "mW", "uW") if counts.get(u) == 1]
    lengths = {u: counts[u] for u in _LENGTHS if counts.get(u)}
    if len(power) != 1 or sum(lengths.values()) != -3 or set(counts) - {*power, *lengths, "sr"}:
        return None
    area = [u for u, n in lengths.items() if n == -2]
    spectral = [u for u, n in lengths.items() if n == -1]
    if len(area) == 1 and len(spectral) == 1:
        return f"{power[0]} {area[0]}-2 sr-1 {spectral[0]}-1"
    return f"{power[0]} m-3 sr-1" if lengths == {"m": -3} else None


def _plain(unit: str) -> str:
    """The text without the many ways to write micro, a product and a square."""
    for old, new in (("µ", "u"), ("μ", "u"), ("·", " "), ("−", "-"), ("²", "2"), ("micro ", "micro")):
        unit = unit.replace(old, new)
    unit = re.sub(r"\b(centi|milli|micro|nano)?(meters?|metres?)[_ ]squared", r"\1meter2", unit, flags=re.I)
    return re.sub(r"\bper\b", "/", unit.replace("_", " "), flags=re.I).strip()


def _exponents(unit: str) -> dict[str, int] | None:
    """{symbol: exponent} of a product of units; None if a word of it is no unit."""
    found: Counter[str] = Counter()
    groups = [1]  # direction of each open parenthesis
    sign = 1  # -1 directly after a slash
    last: tuple[str, int] | None = None  # unit to which a number that follows belongs, and its direction
    for token in _TOKEN.findall(unit):
        if token == "/":
            sign, last = -1, None
        elif token == "(":
            groups.append(groups[-1] * sign)
            sign = 1
        elif token == ")" and len(groups) > 1:
            groups.pop()
        elif re.fullmatch(r"-?\d+", token) and (last is not None or token == "1"):
            if last is not None:
                found[last[0]] += last[1] * (int(token) - 1)
            last = None
        elif symbol := _SYMBOLS.get(token.lower(), _SYMBOLS.get(token.lower().removesuffix("s"))):
            last, sign = (symbol, groups[-1] * sign), 1
            found[symbol] += last[1]
        elif not token.isspace() and not _POWER.fullmatch(token) and token not in ("*", "."):
            return None
    return {u: n for u, n in found.items() if n}
