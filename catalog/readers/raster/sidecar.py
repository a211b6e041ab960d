"""Files beside a raster file: an ENVI header whose image it is, although it is a GeoTIFF."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hypermend.catalog.errors import BadAsset
from hypermend.catalog.meaning.statement import Source, Statement
from hypermend.catalog.readers.profile import file_name
from hypermend.catalog.readers.raster.companions import HEADER_BYTES
from hypermend.catalog.readers.raster.envi_header import header_statements, parse_header
from hypermend.catalog.readers.raster.header import Header
from hypermend.catalog.scene import Asset
from hypermend.catalog.storage.fetch import AssetFetcher


def header_text(asset: Asset, fetcher: AssetFetcher) -> str:
    """Text of an ENVI header.

    Raises:
        Refused: it is larger than a header can be.
    """
    return AssetFetcher(fetcher.sign, max_bytes=HEADER_BYTES).read(asset.href).decode("latin-1")


def header_beside(image: Asset, listed: Mapping[str, Asset]) -> Asset | None:
    """The `.hdr` of an image among the assets of its scene."""
    name = file_name(image).lower()
    names = (f"{name.rpartition('.')[0]}.hdr", f"{name}.hdr")
    headers = (a for a in listed.values() if ".hdr" in a.href.lower())  # few: a scene may have hundreds of files
    found = (a for a in headers if file_name(a).lower() in names)
    return next((a for a in found if _folder(a) == _folder(image)), None)


def _folder(asset: Asset) -> str:
    return asset.href.split("?")[0].rpartition("/")[0]


def sidecar_statements(header: Header, beside: Asset | None, fetcher: AssetFetcher) -> Iterable[Statement]:
    """The statements of the ENVI header beside a raster file.

    Raises:
        BadAsset: it describes an image of another shape.
    """
    if beside is None:
        return ()
    where = file_name(beside)
    fields = parse_header(header_text(beside, fetcher))
    told = " x ".join(fields.get(key, "?").strip() for key in ("lines", "samples", "bands"))
    own = " x ".join(map(str, (*header.size, header.count)))
    if told != own:
        raise BadAsset(
            f"{where}: describes an image of {told} (lines, samples, bands), {file_name(header.asset)} has {own}; "
            "remove or rename the header that is not its own"
        )
    return header_statements(fields, header.count, Source.SIDECAR, where)
