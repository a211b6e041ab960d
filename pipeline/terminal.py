"""The terminal: whatever is printed, no text of an item, a file or a server can steer it.

Control characters and marks of writing direction are replaced by characters that can be seen (`documents.visible`),
and no text is read as Rich's markup. Only Rich itself writes escapes.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from hypermend.catalog.documents import visible

_KEPT = re.compile(r"[^\n\t]+")
_HIDDEN = re.compile(r"[^\x20-\x7e\n]")


class Terminal(Console):
    """A Rich console for texts of any origin: colours come from styles, never from markup."""

    def __init__(self, *, stderr: bool = False) -> None:
        stream = sys.stderr if stderr else sys.stdout
        super().__init__(file=getattr(stream, "bare", stream), markup=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render segments without control characters but those of Rich."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(_shown(segment.text), segment.style)


class _Visible:
    """A text stream that shows control characters."""

    def __init__(self, bare: TextIO) -> None:
        self.bare = bare
        """where Rich writes"""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bare, name)

    def write(self, text: str) -> int:
        """Write the text with all but line ends and tabs made visible."""
        return self.bare.write(_encodable(_shown(text), self.bare.encoding))

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)


@contextlib.contextmanager
def safe_streams() -> Iterator[None]:
    """Let everything that is printed meanwhile be visible, and never fail for a character that the terminal lacks."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Visible(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def to_json(value: Any) -> str:
    """JSON for a program: the same values, with escapes for what a terminal would obey."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=list)
    return _HIDDEN.sub(lambda m: m[0] if visible(m[0]) == m[0] else f"\\u{ord(m[0]):04x}", text)


def _shown(text: str) -> str:
    return _KEPT.sub(lambda m: visible(m[0]), text)


def _encodable(text: str, encoding: str | None) -> str:
    code = encoding or "utf-8"
    return text.encode(code, "backslashreplace").decode(code)
