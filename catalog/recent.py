"""A least-recently-used cache that can close what it drops; `functools.lru_cache` cannot."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The values used last; the one unused for longest is closed when there are more than `keep`."""

    def __init__(self, keep: int, close: Callable[[V], object] = lambda value: None) -> None:
        self._keep, self._close = keep, close
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of `key`; made now unless it is kept."""
        if key not in self._values:
            self._values[key] = make()
            while len(self._values) > self._keep:
                self._close(self._values.popitem(last=False)[1])
        self._values.move_to_end(key)
        return self._values[key]

    def drop(self, key: K) -> None:
        """Close the value of `key`, if it is kept."""
        if key in self._values:
            self._close(self._values.pop(key))

    def clear(self) -> None:
        """Close every value."""
        while self._values:
            self._close(self._values.popitem(last=False)[1])
