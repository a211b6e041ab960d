"""Regular expressions on text that others write: none takes longer than the text is long."""

from __future__ import annotations

import ast
import importlib
import re
import time
from collections.abc import Iterator
from itertools import product

import pytest

from hypermend.catalog.readers.raster.envi_header import acquisition_time, number, parse_header
from tests.conftest import ROOT

pytestmark = pytest.mark.fault
FUNCTIONS = {"search", "match", "fullmatch", "sub", "split", "findall", "finditer"}
SEPARATORS = (" ", "\n", "/", "_", "-", ".", ",", "(", "0", "a", "A", "http://")
LONG = 8_000
SLOW_S = 0.25
BOUNDED = {"catalog/readers/folder.py _PNG": 255, "catalog/readers/folder.py _PER_BAND": 255}
"""Longest text of a pattern: a file's name on this machine."""


def patterns() -> Iterator[tuple[str, str, int, str]]:
    """(where, pattern, flags, function) of a module's own patterns, and of those written where they are used."""
    for path in sorted((ROOT / "catalog").rglob("*.py")):
        text = path.read_text()
        name = ".".join(("hypermend", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        for key, value in vars(importlib.import_module(name)).items():
            if isinstance(value, re.Pattern):
                for how in set(re.findall(rf"\b{key}\.(\w+)\(", text)) & FUNCTIONS or {"search"}:
                    yield f"{path.relative_to(ROOT)} {key}", value.pattern, value.flags, how
        for node in ast.walk(ast.parse(text)):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FUNCTIONS
            if called and ast.unparse(node.func.value) == "re" and (written := _written(node.args[0])):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", written, int(re.I), node.func.attr


def _written(node: ast.expr) -> str:
    """A pattern as it is written, with a word for each value put in; "" for a name."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "word" for part in node.values)
    return node.value if isinstance(node, ast.Constant) else ""


def pieces(pattern: str) -> list[str]:
    """Texts that a pattern may begin to match again and again: its own words, and what separates words."""
    plain = re.sub(r"\(\?P<\w+>|\\[bdwsDWSA]|\(\?[:=!<]+", " ", pattern)
    words = re.findall(r"[A-Za-z]{2,}", plain)[:4]
    return list(dict.fromkeys([*SEPARATORS, *words, *(w + s for w in words for s in ("(", "=(", "/", " ", "_"))]))


@pytest.mark.parametrize(("where", "pattern", "flags", "how"), dict.fromkeys(patterns()))
def test_g5_no_pattern_is_slower_than_its_text_is_long(where: str, pattern: str, flags: int, how: str) -> None:
    compiled, parts = re.compile(pattern, flags), pieces(pattern)
    look = getattr(compiled, how if how in ("match", "fullmatch") else "search")
    for size in (300, LONG):
        size = min(size, BOUNDED.get(where, LONG))
        for head, body in product(["", *parts[len(SEPARATORS) :][:2]], [*parts, *("." + p for p in parts[-10:])]):
            text = head + body * (size // len(body)) + "\n!"
            begun = time.thread_time()
            look(text)
            taken = time.thread_time() - begun
            assert taken < SLOW_S, f"{where}: {pattern!r} takes {taken:.1f} s for {size} of {body!r} after {head!r}"


@pytest.mark.parametrize("line", ["{} ;", "x = {{ {}", "{} = 1", "acquisition date = {}", "{{}}{}", "wavelength = {}"])
@pytest.mark.parametrize("piece", [" ", "DATE(", "=", "{", "1,", "\t;"])
def test_g5_a_header_is_parsed_in_the_time_that_its_length_takes(line: str, piece: str) -> None:
    text = "ENVI\nlines = 3\n" + line.format(piece * (200_000 // len(piece))) + "\nbands = 1\nstart time = 10:00:00\n"
    begun = time.thread_time()
    fields = parse_header(text)
    acquisition_time(fields)
    number(fields.get("acquisition date", ""))
    assert time.thread_time() - begun < 1
