"""Metadata files of USGS deliveries (`*_MTL.txt`): groups of KEY = VALUE lines.

A key may occur in several groups with other values: a Collection 2 Level-2 file repeats the factors of its Level-1
input. A value is therefore asked for by group and key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hypermend.catalog.scene import Asset
from hypermend.catalog.storage.fetch import AssetFetcher

LIMIT_BYTES = 4 << 20


@dataclass(frozen=True)
class Mtl:
    """Groups of a metadata file; a value lies in its innermost group."""

    groups: Mapping[str, Mapping[str, str]]

    def get(self, key: str, *groups: str) -> str | None:
        """A value from the first of the named groups that has it; of all groups when none is named."""
        for group in groups or self.groups:
            if (value := self.groups.get(group, {}).get(key)) is not None:
                return value
        return None


def read_mtl(asset: Asset, fetcher: AssetFetcher) -> Mtl:
    """Read a metadata file.

    Raises:
        Refused: it is larger than such a file can be.
    """
    return parse_mtl(AssetFetcher(fetcher.sign, max_bytes=LIMIT_BYTES).read(asset.href).decode("latin-1"))


def parse_mtl(text: str) -> Mtl:
    """The groups of a metadata text; lines outside of any group form the group ""."""
    groups: dict[str, dict[str, str]] = {}
    open_groups: list[str] = []
    for line in text.splitlines():
        key, sign, value = line.partition("=")
        key, value = key.strip(), value.strip().strip('"')
        if not sign:
            continue
        if key == "GROUP":
            open_groups.append(value)
        elif key == "END_GROUP":
            if value in open_groups:
                del open_groups[open_groups.index(value) :]
        else:
            groups.setdefault(open_groups[-1] if open_groups else "", {}).setdefault(key, value)
    return Mtl(groups)
