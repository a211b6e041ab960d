"""The METADATA.XML of an official EnMAP delivery: centres, widths and scale of the bands, and the time.

Source: DLR, EnMAP Product Specification, EN-PCV-ICD-2009 (bandCharacterisation, temporalCoverage).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from hypermend.catalog.errors import BadAsset
from hypermend.catalog.scene import Asset
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.hrefs import shown

LIMIT_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class EnmapMetadata:
    """Bands, scale and time of the spectral image, from the XML."""

    wavelength_nm: tuple[float, ...]
    fwhm_nm: tuple[float, ...]
    scale: float
    offset: float
    start: str | None
    """start of the acquisition, as written"""


def find_metadata(assets: Mapping[str, Asset]) -> Asset | None:
    """The XML among a scene's assets."""
    return next((a for a in assets.values() if a.href.split("?")[0].upper().endswith("METADATA.XML")), None)


def read_metadata(asset: Asset, fetcher: AssetFetcher) -> EnmapMetadata:
    """Parse the metadata file.

    Raises:
        BadAsset: it is no EnMAP metadata, or the bands differ in scale.
    """
    body = AssetFetcher(fetcher.sign, max_bytes=LIMIT_BYTES).fetch(asset.href)
    text = body.getvalue() if isinstance(body, io.BytesIO) else Path(body).read_bytes()
    where = shown(asset.href)
    if b"<!ENTITY" in text:  # entities can blow up a small file; the product has none
        raise BadAsset(f"{where}: defines XML entities, an EnMAP metadata file has none")
    try:
        root = ElementTree.fromstring(text)
        bands = root.findall(".//bandCharacterisation/bandID")
        bands.sort(key=lambda b: int(b.attrib["number"]))
        columns = [
            tuple(float(b.findtext(tag, "")) for b in bands)
            for tag in ("wavelengthCenterOfBand", "FWHMOfBand", "GainOfBand", "OffsetOfBand")
        ]
    except (ElementTree.ParseError, ValueError, KeyError) as e:
        raise BadAsset(f"{where}: cannot be read as EnMAP metadata: {e}") from e
    centres, widths, gains, offsets = columns
    if not bands or len(set(gains)) > 1 or len(set(offsets)) > 1:
        raise BadAsset(f"{where}: {len(bands)} bands with gains {sorted(set(gains))[:4]}; one cube has one scale")
    return EnmapMetadata(
        wavelength_nm=centres,
        fwhm_nm=widths,
        scale=gains[0],
        offset=offsets[0],
        start=root.findtext(".//temporalCoverage/startTime"),
    )
