"""`Recent`: which values are made, kept and closed, in order."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hypermend.catalog.recent import Recent


class Log:
    """Values are their keys in upper case; every making and closing is noted."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def make(self, key: str) -> Callable[[], str]:
        def make() -> str:
            self.lines.append(f"+{key}")
            return key.upper()

        return make

    def close(self, value: str) -> None:
        self.lines.append(f"-{value}")


def test_the_value_unused_for_longest_is_closed_after_the_new_one_is_made() -> None:
    log = Log()
    recent = Recent[str, str](2, log.close)
    assert [recent.get(key, log.make(key)) for key in "abacab"] == ["A", "B", "A", "C", "A", "B"]
    assert log.lines == ["+a", "+b", "+c", "-B", "+b", "-C"]


def test_a_dropped_value_is_closed_once_and_made_anew() -> None:
    log = Log()
    recent = Recent[str, str](2, log.close)
    recent.get("a", log.make("a"))
    recent.drop("a")
    recent.drop("a")
    recent.get("a", log.make("a"))
    assert log.lines == ["+a", "-A", "+a"]


def test_clear_closes_all_the_oldest_first() -> None:
    log = Log()
    recent = Recent[str, str](3, log.close)
    for key in "abc":
        recent.get(key, log.make(key))
    recent.clear()
    recent.clear()
    assert log.lines == ["+a", "+b", "+c", "-A", "-B", "-C"]


def test_a_value_that_could_not_be_made_is_not_kept() -> None:
    log = Log()
    recent = Recent[str, str](2)

    def fail() -> str:
        raise OSError("no way there")

    with pytest.raises(OSError, match="no way there"):
        recent.get("a", fail)
    assert recent.get("a", log.make("a")) == "A"
