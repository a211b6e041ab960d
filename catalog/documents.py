"""Documents and texts that others wrote: parsed with limits and shown without control characters.

A bad one is one error, and never ends a run.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")
MALFORMED = (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError)
"""Errors of Python where a document has another shape than expected: caught once around each item, card, mark or plan,
whose name is given; the rest goes on."""
MAX_NESTED = 100
"""Lists and objects in each other; a consolidated Zarr group has about ten."""


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON document.

    Raises:
        ValueError: no JSON, or nested deeper than Python follows.
    """
    try:
        return json.loads(data)
    except RecursionError as e:
        raise ValueError("it is nested too deeply") from e


def validated(kind: type[T], values: Any) -> T:
    """A dataclass of JSON values whose types fit its fields.

    Raises:
        ValueError: names the first field that does not fit.
    """
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    try:
        value: T = _ADAPTERS[kind].validate_python(values)
    except ValidationError as e:
        first = e.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "the value"
        raise ValueError(f"{where}: {first['msg']}, found {repr(first['input'])[:60]}") from e
    return value


_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def check_storable(value: Any) -> None:
    """Refuse a value that could be parsed, and neither copied nor written again.

    Raises:
        ValueError: nested deeper than `MAX_NESTED`, or with text that is no Unicode (half of a surrogate pair).
    """
    layer, depth = [value], 0
    while layer:
        depth += 1
        if depth > MAX_NESTED:
            raise ValueError(f"it is nested deeper than {MAX_NESTED}")
        parts = [part for part in layer if isinstance(part, Mapping | list | tuple)]
        layer = [inner for part in parts for inner in (part.values() if isinstance(part, Mapping) else part)]
    json.dumps(value, ensure_ascii=False).encode()


def visible(text: str) -> str:
    """A text in which each character that a terminal obeys and does not show is replaced by one that it shows.

    Those are control characters (ANSI escapes begin with one), marks of writing direction, which let a text be read in
    another order, halves of surrogate pairs, and line separators.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    code = ord(character)
    if code < 32:
        return chr(0x2400 + code)  # the picture of the control character
    if code == 127:
        return "\u2421"
    hidden = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _DIRECTION
    return "\ufffd" if hidden else character


_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
