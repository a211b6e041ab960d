"""Access to the files of a scene: local paths, http(s) whole or by ranges, s3. A failed read is an error, never NaN.

Transport errors are classified in `transport`; 401 and 403 are signed again once. Where an asset has alternate hrefs,
the first that is neither refused nor missing is read.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec
import rasterio
from botocore.exceptions import BotoCoreError, NoCredentialsError
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.session import DummySession, Session

from hypermend.catalog.errors import AccessDenied, ArchiveError, BadAsset, NotFound, Refused, Unreachable
from hypermend.catalog.scene import Asset
from hypermend.catalog.storage.download import Download, too_large
from hypermend.catalog.storage.gate import gdal_proxy
from hypermend.catalog.storage.gdal import (
    GDAL_CACHE_BYTES,
    GDAL_OPTIONS,
    driver_of,
    http_headers,
    is_raster,
    s3_options,
)
from hypermend.catalog.storage.hrefs import is_remote, shown
from hypermend.catalog.storage.ranged_file import RangeFile
from hypermend.catalog.storage.regular_file import open_regular, status_of
from hypermend.catalog.storage.signing import Signed, Signer, Unsigned
from hypermend.catalog.storage.transport import (
    TRIES,
    USER_AGENT,
    check_href,
    content_length,
    content_range,
    message_of,
    send,
    with_retries,
)
from hypermend.catalog.storage.versions import Stat, Versions, changed

GIB = 2**30
T = TypeVar("T")


class AssetFetcher:
    """Reads the files of one scene: signer, size limit, retries, alternate hrefs."""

    def __init__(
        self,
        sign: Signer | None = None,
        *,
        max_bytes: int = 4 * GIB,
        alternates: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`alternates` are further hrefs of the same files, by their first href."""
        self.sign: Signer = sign or Unsigned()
        self.max_bytes = max_bytes
        self.gdal_cache_bytes = GDAL_CACHE_BYTES
        self._alternates = alternates or {}
        self._chosen: dict[str, str] = {}
        # The final address of a chain of redirects that `stat` followed last: GDAL need not follow it for each window.
        self._redirects: dict[str, str | None] = {}
        self._versions = Versions()
        self._read: set[str] = set()
        self._stores: dict[Callable[[], str], str] = {}

    @cached_property
    def _aws(self) -> Session:
        """Credentials of S3 from the environment, if it has any; GDAL itself looks for others.

        By itself rasterio makes a session for every read; so it is made once, and none for a file of this machine.
        """
        return (
            Session.from_environ()
            if {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= os.environ.keys()
            else DummySession()
        )

    def stat(self, href: str) -> Stat:
        """Size and version; raises NotFound, Refused, AccessDenied or Unreachable."""
        return self._stat(self._choose(href))

    def _choose(self, href: str) -> str:
        """The href to read: the first of an asset's that may be followed and is neither refused nor missing."""
        if not self._alternates.get(href):
            return check_href(href)
        if href not in self._chosen:
            errors: list[ArchiveError] = []
            for candidate in (href, *self._alternates[href]):
                try:
                    resolved = check_href(candidate)
                    self._stat(resolved)
                except (BadAsset, NotFound, Refused, AccessDenied) as e:
                    errors.append(e)
                    continue
                self._chosen[href] = resolved
                return resolved
            first, *others = errors
            raise type(first)("; alternate: ".join([str(first), *map(str, others)]))
        return self._chosen[href]

    def _stat(self, href: str) -> Stat:
        return self._versions.check(href, self._stat_now(href))

    def _stat_now(self, href: str) -> Stat:
        if not is_remote(href):
            try:
                status = status_of(href)
            except OSError as e:
                raise NotFound(f"{href}: no such file") from e
            return Stat(size=status.st_size, version=f"mtime:{status.st_mtime_ns}", changed_ns=status.st_ctime_ns)
        return with_retries(lambda: self._stat_remote(href))

    def _stat_remote(self, href: str) -> Stat:
        if href.startswith("s3://"):
            info = self._s3(href, lambda fs, key: fs.info(key))
            return Stat(size=info.get("size"), version=str(info.get("ETag") or info.get("LastModified")))
        with self._get(href, {"Range": "bytes=0-0"}) as response:
            self._redirects[href] = None if response.url == self.sign(href).url else response.url
            _, total = content_range(response)
            size = total if total is not None or response.status != 200 else content_length(response)
            version = response.headers.get("ETag") or response.headers.get("Last-Modified") or f"size:{size}"
            return Stat(size=size, version=version)

    def fetch(self, href: str) -> Path | io.BytesIO:
        """A local path, or the whole body of a remote file, whose size is checked first.

        Raises:
            Refused: the file is larger than max_bytes.
        """
        href = self._choose(href)
        size = self._stat(href).size
        if size is not None and size > self.max_bytes:
            raise Refused(too_large(href, size, self.max_bytes))
        if not is_remote(href):
            return Path(href)
        if href.startswith("s3://"):
            return io.BytesIO(self._cat(href, {}))
        return io.BytesIO(self._download(href, {}).read())  # whole, so of one version

    def read(self, href: str) -> bytes:
        """The whole file: for documents, whose size `max_bytes` limits.

        Raises:
            Refused: the file is larger than max_bytes.
        """
        body = self.fetch(href)
        if isinstance(body, io.BytesIO):
            return body.getvalue()
        with open_regular(body) as file:
            if len(data := file.read(self.max_bytes + 1)) > self.max_bytes:
                raise Refused(too_large(href, len(data), self.max_bytes))
        return data

    def _get(self, href: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        """One signed GET; signed again once if it is refused."""
        signed = self.sign(href)
        try:
            return send(href, signed.url, headers={**headers, **signed.headers})
        except (Refused, AccessDenied):
            if isinstance(self.sign, Unsigned):
                raise
        signed = self.sign(href, fresh=True)
        return send(href, signed.url, headers={**headers, **signed.headers})

    def _s3(self, href: str, request: Callable[[Any, str], T]) -> T:
        signed = self.sign(href)
        filesystem = fsspec.filesystem("s3", **_s3fs_options(signed))
        try:
            filesystem.invalidate_cache()
            return request(filesystem, href)
        except FileNotFoundError:
            raise NotFound(f"{href}: no such object") from None
        except (PermissionError, NoCredentialsError) as e:
            raise Refused(f"{href}: access denied; set AWS_* credentials or --sign s3-requester-pays") from e
        except (OSError, BotoCoreError) as e:
            if _error_code(e) in ("PreconditionFailed", "412"):
                raise changed(href) from None
            raise Unreachable(f"{href}: {message_of(e)}") from e

    def gdal(self, href: str, *, conditional: bool = True) -> tuple[str, dict[str, str | int]]:
        """GDAL's name for the file, and the options to open it with.

        Args:
            conditional: read only the version of the file that was looked at first.
        """
        href = self._choose(href)
        options: dict[str, str | int] = {**GDAL_OPTIONS, "GDAL_CACHEMAX": self.gdal_cache_bytes}
        if not is_remote(href):
            self._stat(href)
            return href, options
        signed = self.sign(href)
        condition = self._versions.precondition(href) if conditional else {}
        if href.startswith("s3://"):
            return f"/vsis3/{href.removeprefix('s3://')}", options | s3_options(signed) | http_headers(condition)
        if href not in self._redirects:
            self._stat(href)
        url = self._redirects[href] or signed.url
        if (proxy := gdal_proxy(url)) is not None:
            options["GDAL_HTTP_PROXY"] = proxy
        secrets = signed.headers if urlsplit(url)[:2] == urlsplit(href)[:2] else {}
        return f"/vsicurl/{url}", options | http_headers({**secrets, **condition})

    def raster(self, href: str, use: Callable[[Any], T], *, opened: dict[str, Any] | None = None) -> T:
        """`use(dataset)` on the raster at `href`; datasets are kept open in `opened` when given.

        After a remote failure the server itself is queried, so that the error is NotFound, Refused or Unreachable and
        not GDAL's guess.
        """
        href = self._choose(href)
        remote = is_remote(href)
        tries = TRIES if remote else 1
        said = ""
        for attempt in range(tries):
            # The last tries make no condition: some servers are wrong about the versions of their own files.
            name, options = self.gdal(href, conditional=attempt < tries // 2)
            if attempt:
                options["CPL_VSIL_CURL_USE_HEAD"] = "NO"  # some signatures are good for GET only
            try:
                session = self._aws if name.startswith("/vsis3/") else DummySession()
                with rasterio.Env(session=session, **options), warnings.catch_warnings():
                    warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a lab image has no place on Earth
                    if opened is None:
                        with rasterio.open(name, driver=driver_of(href)) as dataset:
                            return use(dataset)
                    if href not in opened:
                        opened[href] = rasterio.open(name, driver=driver_of(href))
                    return use(opened[href])
            except (RasterioError, RasterioIOError) as e:
                if opened is not None and (broken := opened.pop(href, None)) is not None:
                    broken.close()
                said = message_of(e)
                self._stat(href)  # raises the error of the server or the disk; signs again if a signature expired
                if not remote:
                    raise BadAsset(f"{href}: cannot be read: {said}") from e
                if not is_raster(self.head(href, 16)):
                    raise BadAsset(f"{shown(href)}: is not a raster file") from None
        raise Unreachable(
            f"{shown(href)}: reading failed {tries} times although the server answers; try again later. GDAL: {said}"
        )

    def head(self, href: str, size: int) -> bytes:
        """The first bytes of a file, to identify its format."""
        href = self._choose(href)
        total = self._stat(href).size
        if not is_remote(href):
            with open_regular(href) as file:
                return file.read(size)
        return self._range(href, 0, size if total is None else min(size, total)) if total else b""

    def seekable(self, href: str) -> str | RangeFile:
        """A local path, or a remote file that is read by ranges."""
        href = self._choose(href)
        stat = self._stat(href)
        if not is_remote(href):
            return href
        if stat.size is None:
            raise Refused(f"{shown(href)}: the server does not give its size, so it cannot be read by ranges")
        return RangeFile(stat.size, lambda start, stop: self._range(href, start, stop))

    def _range(self, href: str, start: int, stop: int) -> bytes:
        """Bytes of the version of the file that was looked at first."""
        return self._same_version(href, lambda condition: self._range_if(href, start, stop, condition))

    def _same_version(self, href: str, read: Callable[[Mapping[str, str]], T]) -> T:
        """Bytes of a remote file, on condition that it is the version that was looked at first."""
        try:
            return read(self._versions.precondition(href))
        except BadAsset:
            self._stat(href)  # raises where the file has changed; else the server is wrong about its own versions
            return read({})

    def _range_if(self, href: str, start: int, stop: int, condition: Mapping[str, str]) -> bytes:
        if not href.startswith("s3://"):
            return self._download(href, condition, max_bytes=stop - start, start=start, stop=stop).read()
        part = self._cat(href, condition, start=start, end=stop)
        if len(part) != stop - start:
            raise Unreachable(f"{shown(href)}: received {len(part)} of {stop - start} bytes; truncated")
        return part

    def _download(self, href: str, condition: Mapping[str, str], **options: Any) -> Download:
        return Download(
            href=href, get=lambda h: self._get(href, {**h, **condition}), **{"max_bytes": self.max_bytes, **options}
        )

    def _cat(self, href: str, condition: Mapping[str, str], **span: int) -> bytes:
        def request(fs: Any, key: str) -> bytes:
            if etag := condition.get("If-Match"):
                fs.req_kw = {**fs.req_kw, "IfMatch": etag}  # sent with every get_object
            return bytes(fs.cat_file(key, **span))

        return with_retries(lambda: self._s3(href, request))

    def identity(self, assets: Iterable[Asset]) -> str:
        """A hash that changes with any of the files: checksum, ETag, or size and mtime. They are read from now on."""
        assets = sorted(assets, key=lambda a: a.key)
        with ThreadPoolExecutor(max_workers=8) as pool:
            stats = list(pool.map(lambda a: self.stat(a.href), assets))
        self._read |= {self._choose(asset.href) for asset in assets}
        digest = hashlib.sha256()
        for asset, stat in zip(assets, stats, strict=True):
            digest.update(f"{asset.key}\0{asset.checksum or stat.version}\0{stat.size}\n".encode())
        return digest.hexdigest()[:32]

    def store_identity(self, identify: Callable[[], str]) -> str:
        """What `identify` returns for a store of many objects. The store is read from now on."""
        return self._stores.setdefault(identify, identify())

    @property
    def state(self) -> str:
        """A hash of all files that are read, as they were at the first look: no checksum stands for one."""
        return "-".join([self._versions.digest(sorted(self._read)), *self._stores.values()])

    def check_unchanged(self, *, whole: bool) -> None:
        """Check that the files are those that were first looked at.

        Args:
            whole: remote files and local stores, too; else what costs next to nothing, the local files.

        Raises:
            BadAsset: a file has changed.
        """
        files = [href for href in sorted(self._read) if whole or not is_remote(href)]
        if any(map(is_remote, files)):
            with ThreadPoolExecutor(max_workers=8) as pool:
                list(pool.map(self._stat, files))
        else:
            for href in files:
                with nullcontext() if whole else suppress(NotFound):  # one that is gone is missed where it is read
                    self._stat(href)
        for identify, before in self._stores.items() if whole else ():
            if identify() != before:
                raise BadAsset("the files of a Zarr store changed while it was read; run the same command again")


def _error_code(error: BaseException) -> str:
    """S3's own code of an error of s3fs; "" where there is none."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _s3fs_options(signed: Signed) -> dict[str, Any]:
    options: dict[str, Any] = {
        "requester_pays": signed.requester_pays,
        "skip_instance_cache": True,
        "config_kwargs": {"user_agent": USER_AGENT},
    }
    if os.environ.get("AWS_NO_SIGN_REQUEST", "").upper() in ("YES", "TRUE", "1"):
        options["anon"] = True
    if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
        options["endpoint_url"] = endpoint
    return options
