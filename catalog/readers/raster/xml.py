"""XML metadata of products: read under a size limit, without entities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from hypermend.catalog.errors import BadAsset, Refused
from hypermend.catalog.readers.raster.numbers import metadata_number
from hypermend.catalog.scene import Asset
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.hrefs import shown

LIMIT_BYTES = 16 << 20
MAX_ELEMENTS = 200_000
"""An element takes 30 times its bytes."""


def read_xml(asset: Asset, fetcher: AssetFetcher) -> ElementTree.Element:
    """Root of a metadata file; namespaces are removed from the tags.

    Raises:
        BadAsset: it is no XML, or defines entities.
        Refused: it is larger than a metadata file can be.
    """
    text = AssetFetcher(fetcher.sign, max_bytes=LIMIT_BYTES).read(asset.href)
    where = shown(asset.href)
    if b"<!ENTITY" in text:  # entities can blow up a small file; no product has any
        raise BadAsset(f"{where}: defines XML entities, the metadata of a product has none")
    try:
        root = ElementTree.fromstring(text, ElementTree.XMLParser(target=_Builder(where)))
    except (ElementTree.ParseError, ValueError, LookupError) as e:  # LookupError: an unknown encoding
        raise BadAsset(f"{where}: is no XML: {e}") from e
    for element in root.iter():
        element.tag = str(element.tag).rpartition("}")[2]
    return root


class _Builder(ElementTree.TreeBuilder):
    """Builds a tree of a limited number of elements."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where, self._count = where, 0

    def start(self, tag: Any, attrs: Any) -> ElementTree.Element:
        self._count += 1
        if self._count > MAX_ELEMENTS:
            raise Refused(f"{self._where}: more than {MAX_ELEMENTS} XML elements; the metadata of a product have fewer")
        return super().start(tag, attrs)


def columns(elements: Sequence[ElementTree.Element], tags: Sequence[str], where: str) -> list[tuple[float, ...]]:
    """For each tag the numbers of all elements.

    Raises:
        BadAsset: a number is missing.
    """
    return [tuple(metadata_number(e.findtext(tag, ""), f"{where}: {tag}") for e in elements) for tag in tags]
