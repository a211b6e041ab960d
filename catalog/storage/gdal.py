"""GDAL's driver and options for a file: no sidecars, no listing, small caches, our User-Agent, no secret in logs."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import rasterio
from rasterio.session import DummySession

from hypermend.catalog.storage.signing import Signed
from hypermend.catalog.storage.transport import USER_AGENT, without_query

# GDAL's own default is 5 % of the machine: a worker would grow with its scene (measured: 234 -> 521 MiB)
GDAL_CACHE_BYTES = 16 << 20
GDAL_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no listing, no probing for sidecars
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "0.3",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_USERAGENT": f"{USER_AGENT} GDAL/{rasterio.__gdal_version__}",
    # GDAL caches bytes and failures per process; a retry, or an asset replaced since, must reach the server
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/",
}
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")


class _NoSecrets(logging.Filter):
    """Removes signatures from the URLs of failed requests, which GDAL logs."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_query(record.getMessage()), ()
        return True


for _name in ("rasterio._env", "rasterio._io", "rasterio._err", "rasterio._base"):
    logging.getLogger(_name).addFilter(_NoSecrets())


def driver_of(href: str) -> str:
    """The one GDAL driver for a file: if it may guess, GDAL follows a VRT to any other file, local or remote."""
    return "JP2OpenJPEG" if re.search(r"\.(jp2|j2k)$", urlsplit(href).path, re.I) else "GTiff"


def is_raster(head: bytes) -> bool:
    """Whether a file begins as a TIFF or a JPEG 2000 does."""
    return head.startswith(_MAGIC)


def local_gdal(**options: Any) -> rasterio.Env:
    """GDAL for files of this machine. By itself rasterio makes a session of S3 for each, once the environment has
    credentials.
    """
    return rasterio.Env(session=DummySession(), **options)


def http_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """GDAL's option for headers of every request. Without its line ends GDAL splits them at commas, as in a date."""
    return {"GDAL_HTTP_HEADERS": "".join(f"{k}: {v}\r\n" for k, v in headers.items())} if headers else {}


def s3_options(signed: Signed) -> dict[str, Any]:
    """GDAL's options for S3."""
    options: dict[str, Any] = {}
    if signed.requester_pays:
        options["AWS_REQUEST_PAYER"] = "requester"
    if endpoint := os.environ.get("AWS_ENDPOINT_URL"):  # GDAL takes it without a scheme
        parts = urlsplit(endpoint)
        options["AWS_S3_ENDPOINT"] = parts.netloc
        options["AWS_HTTPS"] = "YES" if parts.scheme == "https" else "NO"
        options["AWS_VIRTUAL_HOSTING"] = "FALSE"
    return options
