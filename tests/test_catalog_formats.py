"""The table of docs/formats.md is made from the `ROWS` of every product profile and format.

`python -m tests.test_catalog_formats` writes it.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from hypermend.catalog.readers import envi, png, products, tiff
from hypermend.catalog.readers.hierarchical import cf
from hypermend.catalog.readers.matlab import layouts
from hypermend.catalog.readers.profile import FormatRow

PAGE = Path(__file__).parents[1] / "docs" / "formats.md"
MARK = "<!-- The table is made from the profiles: python -m tests.test_catalog_formats -->\n"
PARTS = {"registry"}
"""Modules of `products` that are no profile."""
COLUMNS = ("product", "level", "what is read", "masks", "grid", "refused")


def profile_rows() -> dict[str, tuple[FormatRow, ...]]:
    """The rows of every product profile, by module."""
    names = sorted(module.name for module in pkgutil.iter_modules(products.__path__) if module.name not in PARTS)
    modules = {name: importlib.import_module(f"{products.__name__}.{name}") for name in names}
    return {name: getattr(module, "ROWS", ()) for name, module in modules.items()}


def page() -> str:
    """The page as it should be."""
    rows = [row for of_profile in profile_rows().values() for row in of_profile]
    rows.sort(key=lambda row: row.product)
    rows += [*tiff.ROWS, *envi.ROWS, *cf.ROWS, *layouts.ROWS, *png.ROWS]
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    lines += [f"| {r.product} | {r.levels} | {r.read} | {r.masks} | {r.grid} | {r.refused} |" for r in rows]
    return PAGE.read_text().split(MARK)[0] + MARK + "\n" + "\n".join(lines) + "\n"


def test_every_profile_has_a_row() -> None:
    assert not [name for name, rows in profile_rows().items() if not rows], "add ROWS, see catalog/readers/profile.py"


def test_the_table_is_that_of_the_profiles() -> None:
    assert PAGE.read_text() == page(), "docs/formats.md is stale; write it with `python -m tests.test_catalog_formats`"


if __name__ == "__main__":
    PAGE.write_text(page())
