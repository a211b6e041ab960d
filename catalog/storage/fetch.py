"""Access to the files of a scene: local paths, http(s) whole or by ranges, s3. Transport errors are classified here.

404 is NotFound. 401 and 403 are signed again once, then Refused. Timeouts, resets, truncated bodies, 429 and 5xx are
retried a few times with jitter, then Unreachable (transient). A failed read is always an error, never NaN.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import logging
import os
import re
import urllib.request
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

import fsspec
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from tenacity import retry as tenacity_retry
from tenacity import retry_if_exception_type, stop_after_attempt, wait_random_exponential

from hypermend.catalog.errors import ArchiveError, BadAsset, NotFound, Refused, Unreachable
from hypermend.catalog.scene import Asset
from hypermend.catalog.storage.hrefs import is_remote, refuse_host, resolve_href, shown
from hypermend.catalog.storage.ranged_file import RangeFile
from hypermend.catalog.storage.signing import Signed, Signer, Unsigned

TRIES = 4
FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 4.0
TIMEOUT_S = 60.0
CHUNK_BYTES = 1 << 20
# GDAL's own default is 5 % of the machine: a worker would grow with its scene (measured: 234 -> 521 MiB)
GDAL_CACHE_BYTES = 16 << 20
GIB = 2**30
GDAL_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no listing, no probing for sidecars
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "0.3",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    # GDAL caches bytes and failures per process; a retry, or an asset replaced since, must reach the server
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/",
}
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
T = TypeVar("T")


class _NoSecrets(logging.Filter):
    """Removes signatures from the URLs of failed requests, which GDAL logs."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _without_query(record.getMessage()), ()
        return True


for _name in ("rasterio._env", "rasterio._io", "rasterio._err", "rasterio._base"):
    logging.getLogger(_name).addFilter(_NoSecrets())


@dataclass(frozen=True, kw_only=True)
class Stat:
    """Size and version of a file, before reading it."""

    size: int | None
    version: str
    """ETag, else modification time: changes when the file does"""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to allowed hosts only, and sends no token to another host."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        check_href(newurl)
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None and urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            new.remove_header("Authorization")
        return new


_OPENER = urllib.request.build_opener(_Redirects)


class AssetFetcher:
    """Reads the files of one scene: signer, size limit, retries."""

    def __init__(self, sign: Signer | None = None, *, max_bytes: int = 4 * GIB) -> None:
        self.sign: Signer = sign or Unsigned()
        self.max_bytes = max_bytes
        self.gdal_cache_bytes = GDAL_CACHE_BYTES
        # GDAL follows any redirect and has no option against it. So it gets the final address of a chain of redirects
        # that `stat` followed last, checking each.
        self._redirects: dict[str, str | None] = {}

    def stat(self, href: str) -> Stat:
        """Size and version; raises NotFound, Refused or Unreachable."""
        href = check_href(href)
        if not is_remote(href):
            path = Path(href)
            try:
                status = path.stat()
            except OSError as e:
                raise NotFound(f"{href}: no such file") from e
            if not path.is_file():
                raise BadAsset(f"{href}: is no file")
            return Stat(size=status.st_size, version=f"mtime:{status.st_mtime_ns}")
        return with_retries(lambda: self._stat_remote(href))

    def _stat_remote(self, href: str) -> Stat:
        if href.startswith("s3://"):
            info = self._s3(href, lambda fs, key: fs.info(key))
            return Stat(size=info.get("size"), version=str(info.get("ETag") or info.get("LastModified")))
        with self._get(href, {"Range": "bytes=0-0"}) as response:
            self._redirects[href] = None if response.url == self.sign(href).url else response.url
            total = re.search(r"/(\d+)$", response.headers.get("Content-Range", ""))
            length = response.headers.get("Content-Length") if response.status == 200 else None
            size = int(total[1]) if total else int(length) if length else None
            version = response.headers.get("ETag") or response.headers.get("Last-Modified") or f"size:{size}"
            return Stat(size=size, version=version)

    def fetch(self, href: str) -> Path | io.BytesIO:
        """A local path, or the whole body of a remote file, whose size is checked first.

        Raises:
            Refused: the file is larger than max_bytes.
        """
        href = check_href(href)
        stat = self.stat(href)
        if stat.size is not None and stat.size > self.max_bytes:
            raise Refused(self._too_large(href, stat.size))
        if not is_remote(href):
            return Path(href)
        return io.BytesIO(with_retries(lambda: self._body(href)))

    def _body(self, href: str) -> bytes:
        if href.startswith("s3://"):
            body: bytes = self._s3(href, lambda fs, key: fs.cat_file(key))
            return body
        parts: list[bytes] = []
        received = 0
        with self._get(href, {}) as response:
            declared = response.headers.get("Content-Length")
            try:
                while part := response.read(CHUNK_BYTES):
                    parts.append(part)
                    received += len(part)
                    if received > self.max_bytes:
                        raise Refused(self._too_large(href, received))
            except (OSError, http.client.HTTPException) as e:
                raise Unreachable(
                    f"{shown(href)}: connection closed after {received} bytes ({type(e).__name__})"
                ) from e
        if declared is not None and received != int(declared):
            raise Unreachable(f"{shown(href)}: received {received} of {declared} bytes; truncated")
        return b"".join(parts)

    def _too_large(self, href: str, size: int) -> str:
        return f"{shown(href)}: {size} bytes, this format is read whole and the limit is {self.max_bytes}"

    def _get(self, href: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        """One signed GET; signed again once after 401 or 403."""
        for fresh in (False, True):
            signed = self.sign(href, fresh=fresh)
            request = urllib.request.Request(signed.url, headers={**headers, **signed.headers})
            try:
                response: http.client.HTTPResponse = _OPENER.open(request, timeout=TIMEOUT_S)
                return response
            except urllib.error.HTTPError as e:
                if e.code in (401, 403) and not fresh and not isinstance(self.sign, Unsigned):
                    continue
                raise http_error(href, e.code) from None
            except (OSError, http.client.HTTPException) as e:
                raise Unreachable(f"{shown(href)}: {_message(e)}") from None
        raise AssertionError("unreachable")

    def _s3(self, href: str, request: Callable[[Any, str], T]) -> T:
        signed = self.sign(href)
        filesystem = fsspec.filesystem("s3", **_s3fs_options(signed))
        try:
            filesystem.invalidate_cache()
            return request(filesystem, href)
        except FileNotFoundError:
            raise NotFound(f"{href}: no such object") from None
        except PermissionError as e:
            raise Refused(f"{href}: access denied; set AWS_* credentials or --sign s3-requester-pays") from e
        except OSError as e:
            raise Unreachable(f"{href}: {_message(e)}") from e

    def gdal(self, href: str) -> tuple[str, dict[str, str | int]]:
        """GDAL's name for the file, and the options to open it with."""
        href = check_href(href)
        options: dict[str, str | int] = {**GDAL_OPTIONS, "GDAL_CACHEMAX": self.gdal_cache_bytes}
        if not is_remote(href):
            return href, options
        signed = self.sign(href)
        if href.startswith("s3://"):
            options |= _gdal_s3_options(signed)
            return f"/vsis3/{href.removeprefix('s3://')}", options
        if href not in self._redirects:
            self.stat(href)
        url = self._redirects[href] or signed.url
        if signed.headers and urlsplit(url).netloc == urlsplit(href).netloc:
            options["GDAL_HTTP_HEADERS"] = "\n".join(f"{k}: {v}" for k, v in signed.headers.items())
        return f"/vsicurl/{url}", options

    def raster(self, href: str, use: Callable[[Any], T], *, opened: dict[str, Any] | None = None) -> T:
        """`use(dataset)` on the raster at `href`; datasets are kept open in `opened` when given.

        After a remote failure the server itself is queried, so that the error is NotFound, Refused or Unreachable and
        not GDAL's guess.
        """
        remote = is_remote(check_href(href))
        tries = TRIES if remote else 1
        for attempt in range(tries):
            name, options = self.gdal(href)
            if attempt:
                options["CPL_VSIL_CURL_USE_HEAD"] = "NO"  # some signatures are good for GET only
            try:
                with rasterio.Env(**options), warnings.catch_warnings():
                    warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a lab image has no place on Earth
                    if opened is None:
                        with rasterio.open(name, driver=_driver(href)) as dataset:
                            return use(dataset)
                    if href not in opened:
                        opened[href] = rasterio.open(name, driver=_driver(href))
                    return use(opened[href])
            except (RasterioError, RasterioIOError) as e:
                if opened is not None and (broken := opened.pop(href, None)) is not None:
                    broken.close()
                self.stat(href)  # raises the error of the server or the disk; signs again if a signature expired
                if not remote:
                    raise BadAsset(f"{href}: cannot be read: {_message(e)}") from e
                if not self._looks_like_raster(href):
                    raise BadAsset(f"{shown(href)}: is not a raster file") from None
        raise Unreachable(f"{shown(href)}: reading failed {tries} times although the server answers; try again")

    def _looks_like_raster(self, href: str) -> bool:
        return self.head(href, 16).startswith(_MAGIC)

    def head(self, href: str, size: int) -> bytes:
        """The first bytes of a file, to identify its format."""
        href = check_href(href)
        if not is_remote(href):
            self.stat(href)
            with Path(href).open("rb") as file:
                return file.read(size)
        return with_retries(lambda: self._head_remote(href, size))

    def _head_remote(self, href: str, size: int) -> bytes:
        total = self.stat(href).size
        return self._range(href, 0, size if total is None else min(size, total)) if total else b""

    def seekable(self, href: str) -> str | RangeFile:
        """A local path, or a remote file that is read by ranges."""
        href = check_href(href)
        stat = self.stat(href)
        if not is_remote(href):
            return href
        if stat.size is None:
            raise Refused(f"{shown(href)}: the server does not give its size, so it cannot be read by ranges")
        return RangeFile(stat.size, lambda start, stop: with_retries(lambda: self._range(href, start, stop)))

    def _range(self, href: str, start: int, stop: int) -> bytes:
        if href.startswith("s3://"):
            part: bytes = self._s3(href, lambda fs, key: fs.cat_file(key, start=start, end=stop))
        else:
            with self._get(href, {"Range": f"bytes={start}-{stop - 1}"}) as response:
                if response.status != 206:
                    raise Refused(f"{shown(href)}: the server does not serve ranges (it answers {response.status})")
                try:
                    part = response.read()
                except (OSError, http.client.HTTPException) as e:
                    raise Unreachable(f"{shown(href)}: connection closed ({type(e).__name__})") from None
        if len(part) != stop - start:
            raise Unreachable(f"{shown(href)}: received {len(part)} of {stop - start} bytes; truncated")
        return part

    def identity(self, assets: Iterable[Asset]) -> str:
        """A hash that changes with any of the files: checksum, ETag, or size and mtime."""
        assets = sorted(assets, key=lambda a: a.key)
        with ThreadPoolExecutor(max_workers=8) as pool:
            stats = list(pool.map(lambda a: self.stat(a.href), assets))
        digest = hashlib.sha256()
        for asset, stat in zip(assets, stats, strict=True):
            digest.update(f"{asset.key}\0{asset.checksum or stat.version}\0{stat.size}\n".encode())
        return digest.hexdigest()[:32]


def check_href(href: str) -> str:
    """The resolved href, if a reader may follow it; file:// becomes a path.

    Raises:
        BadAsset: a scheme or host that is not allowed.
    """
    try:
        refuse_host(href)
        return resolve_href(href)
    except ValueError as e:
        raise BadAsset(str(e)) from e


def with_retries(call: Callable[[], T]) -> T:
    """Result of the call, which is tried again while its error is transient."""
    again = tenacity_retry(
        retry=retry_if_exception_type(Unreachable),
        stop=stop_after_attempt(TRIES),
        wait=wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S),
        reraise=True,
    )
    return again(call)()


def http_error(href: str, code: int) -> ArchiveError:
    """The error for an HTTP status."""
    where = shown(href)
    if code in (404, 410):
        return NotFound(f"{where}: the server answers {code}")
    if code in (408, 425, 429) or code >= 500:
        return Unreachable(f"{where}: the server answers {code}; try again")
    if code in (401, 403):
        return Refused(f"{where}: the server answers {code}; it may need --sign")
    return BadAsset(f"{where}: the server answers {code}")


def _message(error: BaseException) -> str:
    """Text of an error, without secrets."""
    return _without_query(str(error)) or type(error).__name__


def _without_query(text: str) -> str:
    """Any URL in the text without its query string."""
    return re.sub(r"(https?://[^\s'\"?]+)\?[^\s'\",]*", r"\1", text)


def _driver(href: str) -> str:
    """The one GDAL driver for a file: if it may guess, GDAL follows a VRT to any other file, local or remote."""
    return "JP2OpenJPEG" if re.search(r"\.(jp2|j2k)$", urlsplit(href).path, re.I) else "GTiff"


def _s3fs_options(signed: Signed) -> dict[str, Any]:
    options: dict[str, Any] = {"requester_pays": signed.requester_pays, "skip_instance_cache": True}
    if os.environ.get("AWS_NO_SIGN_REQUEST", "").upper() in ("YES", "TRUE", "1"):
        options["anon"] = True
    if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
        options["endpoint_url"] = endpoint
    return options


def _gdal_s3_options(signed: Signed) -> dict[str, str]:
    options: dict[str, str] = {}
    if signed.requester_pays:
        options["AWS_REQUEST_PAYER"] = "requester"
    if endpoint := os.environ.get("AWS_ENDPOINT_URL"):  # GDAL takes it without a scheme
        parts = urlsplit(endpoint)
        options["AWS_S3_ENDPOINT"] = parts.netloc
        options["AWS_HTTPS"] = "YES" if parts.scheme == "https" else "NO"
        options["AWS_VIRTUAL_HOSTING"] = "FALSE"
    return options
