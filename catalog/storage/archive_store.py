"""ArchiveStore: the objects of one archive, in a local folder or under a prefix of an S3 bucket.

Keys are relative, with "/" between parts: "items/enmap/2024-06-01/a.json". Every object of an archive is read and
written here or, for the chunks of cubes, through the Zarr store that `cube/stores.py` puts on `ArchiveStore.store`.

Writes are atomic: an object exists whole or not at all, even if the writer is killed in the middle. On S3 every put
is atomic; in a local folder obstore writes `<name>#1` beside the file and renames it. The remains of a killed writer
are never listed and never read.

S3 takes its credentials and endpoint from the environment, as other tools do:
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL. They are never kept in
an ArchiveStore, so it can be printed, pickled and sent.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import random
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, S3Store

from hypermend.catalog.documents import MALFORMED, parse_json
from hypermend.catalog.errors import (
    AccessDenied,
    ArchiveError,
    BadAsset,
    Full,
    NotFound,
    ReadOnly,
    Refused,
    Unreachable,
)
from hypermend.catalog.storage.hrefs import redact
from hypermend.catalog.storage.regular_file import files_below, open_regular, refuse_links, status_of
from hypermend.catalog.storage.transport import USER_AGENT

# obstore tries again by itself on 429, 5xx, time-outs and resets, with exponential waits and jitter.
_RETRY = {
    "max_retries": 6,
    "retry_timeout": timedelta(seconds=90),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=10), "base": 2},
}
MOST_BYTES = 1 << 30
"""Of an object that is read whole; a sparse file of any size costs its writer nothing."""
LINK = "link"
LOCK = ".lock"
LOCK_WAIT_S = 30.0
"""A lock is held for one comparison and one put."""
T = TypeVar("T")
_HASHED = re.compile(r"--[0-9a-f]{32}$")
# Remains of a killed writer in a local folder: obstore's "name#1", zarr's "name.<uuid>.partial".
_LEFTOVER = re.compile(r"#\d+$|\.[0-9a-f]{32}\.partial$")


class NotJson(ArchiveError):
    """An object that should be JSON and is not: damaged, or not written by Hypermend."""


class TooLarge(Refused):
    """An object that would not fit into memory."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One object of a listing."""

    key: str
    size: int
    """bytes"""
    version: str
    """changes with the object: its ETag, or the time of its last change; `LINK` of a link"""


class ArchiveStore:
    """One archive: a local folder or s3://bucket/prefix.

    Raises:
        Refused: a scheme that is neither, credentials in the URL, a key that leaves the root; a link inside it.
        NotFound, AccessDenied, Unreachable: see `catalog.errors`; only Unreachable is worth another try.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        text = os.fspath(url)
        try:
            parts = urlsplit(text)
        except ValueError as e:
            raise Refused(f"archive {redact(text)}: an archive is a local folder or s3://bucket/prefix ({e})") from None
        if parts.scheme == "s3":
            if "@" in parts.netloc or parts.query or not parts.netloc:
                raise Refused(
                    f"archive {redact(text)}: write s3://bucket/prefix; credentials come from the AWS_* environment"
                )
            self._folder: Path | None = None
            self.url = f"s3://{parts.netloc}/{parts.path.strip('/')}".rstrip("/")
        elif parts.scheme in ("", "file"):
            self._folder = Path(unquote(parts.path) if parts.scheme else text).expanduser().absolute()
            self.url = str(self._folder)
        else:
            raise Refused(f"archive {redact(text)}: an archive is a local folder or s3://bucket/prefix")

    def __repr__(self) -> str:
        return f"ArchiveStore({self.url!r})"

    def __eq__(self, other: object) -> bool:
        return self.url == other.url if isinstance(other, ArchiveStore) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.url)

    def __reduce__(self) -> tuple[type[ArchiveStore], tuple[str]]:
        return ArchiveStore, (self.url,)

    @property
    def is_local(self) -> bool:
        return self._folder is not None

    @cached_property
    def store(self) -> LocalStore | S3Store:
        """The obstore store of the archive; a local folder is made now: until something is written, there is none."""
        if self._folder is not None:
            return LocalStore(self._folder, mkdir=True)
        parts = urlsplit(self.url)
        return _s3(parts.netloc, parts.path.strip("/"))

    def _checked(self, key: str) -> str:
        """`key` without slashes at its ends.

        Raises:
            Refused: see `check_key`; or a link is on its way, in a local folder.
            BadAsset: a FIFO, a socket or a device, for which obstore would wait.
        """
        bare = check_key(key)
        if self._folder is not None:
            status = refuse_links(self._folder, bare)
            if status is not None and not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                raise BadAsset(f"{self._folder / bare}: is no file")
        return bare

    def _is_absent(self, key: str) -> bool:
        self._checked(key)
        return self._folder is not None and not self._folder.is_dir()

    def href(self, key: str) -> str:
        """Absolute path or s3:// URL of `key`, as xarray, pystac and rasterio take it."""
        key = check_key(key)
        return f"{self.url.rstrip('/')}/{key}" if key else self.url

    def local_path(self, key: str) -> Path | None:
        """The file of `key`, or None when the archive is not a local folder."""
        return None if self._folder is None else self._folder / self._checked(key)

    def at(self, key: str) -> LocalStore | S3Store:
        """The obstore store whose root is the folder `key`, for a Zarr store on top of it."""
        return ArchiveStore(self.href(key)).store

    def get(self, key: str, *, most: int = MOST_BYTES) -> bytes:
        """The whole object.

        Raises:
            TooLarge: it has more than `most` bytes.
        """
        with self.errors("read", key):
            if (file := self.local_path(key)) is not None:
                with open_regular(file) as opened:  # takes a third of obstore's time for a small file
                    self._check_size(key, size := os.fstat(opened.fileno()).st_size, most)
                    return opened.read(size)
            result = obstore.get(self.store, self._checked(key))
            self._check_size(key, result.meta["size"], most)
            return bytes(result.bytes())

    def _check_size(self, key: str, size: int, most: int) -> None:
        if size > most:
            raise TooLarge(f"{self.href(key)} has {size} bytes, the limit is {most}; it was not written by Hypermend")

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        """Bytes of one object, from start up to stop."""
        if self._is_absent(key):
            raise NotFound(f"{self.href(key)} is not there")
        with self.errors("read", key):
            if (file := self.local_path(key)) is not None:
                with open_regular(file) as opened:
                    opened.seek(start)
                    return opened.read(stop - start)
            return bytes(obstore.get_range(self.store, self._checked(key), start=start, end=stop))

    def get_versioned(self, key: str) -> tuple[bytes, str]:
        """The object and its version, as `put_if` takes it."""
        if self._is_absent(key):
            raise NotFound(f"{self.href(key)} is not there")
        with self.errors("read", key):
            if (file := self.local_path(key)) is not None:
                status_of(file)  # obstore would wait for a FIFO
            result = obstore.get(self.store, self._checked(key))
            self._check_size(key, result.meta["size"], MOST_BYTES)
            return bytes(result.bytes()), _entry(result.meta).version

    def put(self, key: str, data: bytes) -> str:
        """Write the object whole, or leave the old one. Returns its version, as `stat` and `list` give it."""
        with self.errors("write", key):
            tag = obstore.put(self.store, self._checked(key), data)["e_tag"]
        return tag.strip('"') if tag else ""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write the object unless it exists. Returns whether it was written: one of several writers wins."""
        with self.errors("write", key):
            try:
                obstore.put(self.store, self._checked(key), data, mode="create")
            except AlreadyExistsError:
                return False
        return True

    def put_if(self, key: str, data: bytes, version: str | None) -> str | None:
        """Write the object if it is still at `version` (None: does not exist). Returns the new version, else None.

        A folder has no conditional put: there a lock that every driver of the archive takes stands in for it.
        """
        if version is not None and self._folder is not None:
            with self.errors("lock", key), _locked(self._folder / self._checked(f"leases/{LOCK}")):
                entry = self.stat(key)
                return self.put(key, data) if entry is not None and entry.version == version else None
        with self.errors("write", key):
            try:
                mode: Any = "create" if version is None else {"e_tag": f'"{version}"'}
                tag = obstore.put(self.store, self._checked(key), data, mode=mode)["e_tag"]
            except (PreconditionError, AlreadyExistsError, FileNotFoundError):
                return None
        return tag.strip('"') if tag else ""

    def age_s(self, key: str, version: str) -> float | None:
        """Seconds since `version` of the object was written, by the store's own clock; None if it is no longer current.

        Writing an object gives the time of the store: its clock is compared with no other.
        """
        probe = f"leases/.clock-{secrets.token_hex(8)}"
        self.put(probe, b"")
        with self.errors("look at", key):
            try:
                now = obstore.head(self.store, probe)["last_modified"]
                then = obstore.head(self.store, self._checked(key))
            except FileNotFoundError:
                return None
            finally:
                obstore.delete(self.store, probe)
        return (now - then["last_modified"]).total_seconds() if _entry(then).version == version else None

    def put_if_changed(self, key: str, data: bytes) -> bool:
        """Write the object unless it already holds exactly these bytes. Returns whether it was written."""
        try:
            if self.get(key, most=len(data)) == data:
                return False
        except (NotFound, TooLarge):
            pass
        self.put(key, data)
        return True

    def get_json(self, key: str) -> Any:
        """
        Raises:
            NotJson: the object is damaged, or was not written by Hypermend.
        """
        try:
            return parse_json(self.get(key))
        except TooLarge as e:
            raise NotJson(str(e)) from e
        except ValueError as e:
            raise NotJson(f"{self.href(key)} is no JSON ({e}); it was not written by Hypermend") from e

    def get_document(self, key: str, read: Callable[[Any], T]) -> T:
        """What `read` makes of the JSON document at `key`.

        Raises:
            NotJson: the document is damaged, or `read` finds another shape than it expects.
        """
        value = self.get_json(key)
        try:
            return read(value)
        except MALFORMED as e:
            raise NotJson(f"{self.href(key)} is damaged ({type(e).__name__}: {e})") from e

    def put_json(self, key: str, value: Any) -> bool:
        """Write `value` as JSON (keys sorted, no NaN) if that changes the object. Returns whether it was written."""
        return self.put_if_changed(key, to_json(value))

    def exists(self, key: str) -> bool:
        return self.stat(key) is not None

    def stat(self, key: str) -> Entry | None:
        """Size and version of one object, or None."""
        if self._is_absent(key):
            return None
        try:
            with self.errors("look at", key):
                return _entry(obstore.head(self.store, self._checked(key)))
        except NotFound:
            return None

    def changed_at(self, key: str) -> datetime | None:
        """When an object was written last, by the store's clock; None where there is none."""
        if self._is_absent(key):
            return None
        try:
            with self.errors("look at", key):
                changed: datetime = obstore.head(self.store, self._checked(key))["last_modified"]
                return changed
        except NotFound:
            return None

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders directly under `prefix`, sorted."""
        if self._is_absent(prefix):
            return []
        with self.errors("list", prefix):
            listing = obstore.list_with_delimiter(self.store, self._checked(prefix) or None)
        return sorted(p.rstrip("/").rsplit("/", 1)[-1] for p in listing["common_prefixes"])

    def list(self, prefix: str) -> Iterator[Entry]:
        """Every object under the folder `prefix`, in no order.

        A link in a local folder is not followed: it comes as an entry of version `LINK`, which every method refuses.
        """
        if self._is_absent(prefix):
            return
        with self.errors("list", prefix):
            if self._folder is not None:
                yield from _files(self._folder, self._checked(prefix))
                return
            for batch in obstore.list(self.store, self._checked(prefix) or None, chunk_size=1000):
                yield from map(_entry, batch)

    def delete(self, key: str) -> None:
        """Delete one object; a missing one is no error."""
        if self._is_absent(key):
            return
        try:
            with self.errors("delete", key):
                obstore.delete(self.store, self._checked(key))
        except NotFound:
            pass

    def delete_prefix(self, prefix: str) -> int:
        """Delete every object under the folder `prefix`. Returns their number."""
        if not self._checked(prefix):
            raise Refused(f"delete everything in {self.url}: name a folder")
        keys = [self._checked(entry.key) for entry in self.list(prefix)]  # all, before one is deleted
        for start in range(0, len(keys), 1000):
            with self.errors("delete", prefix):
                obstore.delete(self.store, keys[start : start + 1000])
        if (folder := self.local_path(prefix)) is not None and folder.is_dir():
            _clear(folder)
        return len(keys)

    @contextmanager
    def errors(self, verb: str, key: str) -> Iterator[None]:
        """Raise the store's errors as those of `catalog.errors`: first line only, without signatures.

        On S3 every error but missing and forbidden is Unreachable (obstore has tried several times by then). In a
        folder it is an ArchiveError, such as a full disk: trying again would not help.
        """
        try:
            yield
        except FileNotFoundError as e:
            raise NotFound(f"{self.href(key)} is not there") from e
        except (PermissionDeniedError, UnauthenticatedError) as e:
            raise AccessDenied(
                f"{verb} {self.href(key)}: not allowed ({_first_line(e)}); check the AWS_* environment"
            ) from e
        except AlreadyExistsError:
            raise
        except (BaseError, OSError) as e:
            kind = error_of_disk(e) or (ArchiveError if self.is_local else Unreachable)
            raise kind(f"{verb} {self.href(key)}: {_first_line(e)}") from e


_NO_ROOM = {
    errno.ENOSPC: Full,
    errno.EDQUOT: Full,
    errno.EFBIG: Full,
    errno.EROFS: ReadOnly,
}
"""Errors of a disk after which every further write would fail, too."""


def error_of_disk(error: BaseException) -> type[ArchiveError] | None:
    """The class of an error of the disk; obstore gives the text of the operating system in place of its number."""
    number, said = getattr(error, "errno", None), str(error)
    return next((k for n, k in _NO_ROOM.items() if n == number or f"{os.strerror(n)} (os error {n})" in said), None)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold a lock among all processes and machines that share the folder; a dead process holds none.

    A lock can be held through any open file, so nobody may open this one who may not write the folder.

    Raises:
        Unreachable: another process has held it for too long: it was stopped, or means harm.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    mode = _of_writers(file.parent.stat().st_mode)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        status = os.fstat(descriptor)
        if stat.S_IMODE(status.st_mode) != mode and status.st_uid == os.geteuid():
            os.fchmod(descriptor, mode)
        until = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise Unreachable(
                        f"{file}: another process has held this lock for {LOCK_WAIT_S:.0f} s; `fuser {file}` on each "
                        "machine that shares the folder names it: continue or end it"
                    ) from None
                time.sleep(random.uniform(0.002, 0.02))
        yield
    finally:
        os.close(descriptor)


def _of_writers(folder: int) -> int:
    """Mode of a file that those may read and write who may write its folder, and nobody else may open."""
    return 0o600 | (0o060 if folder & stat.S_IWGRP else 0) | (0o006 if folder & stat.S_IWOTH else 0)


def check_key(key: str) -> str:
    """`key` without slashes at its ends.

    Raises:
        Refused: absolute, empty parts, "." or "..", backslashes or control characters.
    """
    bare = key.strip("/") if not key.startswith("/") else key
    if not bare:
        return ""
    if bare.startswith("/") or any(part in ("", ".", "..") for part in bare.split("/")):
        raise Refused(f"key {key!r} leaves the archive or has empty parts; keys are relative, like 'items/a/b.json'")
    if "\\" in bare or any(ord(c) < 32 for c in bare):
        raise Refused(f"key {key!r} has a backslash or a control character")
    return bare


def safe_name(text: str) -> str:
    """`text` as one part of a key: two texts never have the same name.

    Other characters become "_", and such names end in a hash. A text that itself ends like one gets a hash, too.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", text).lstrip(".")[:150]
    if plain == text and text and text != "catalog" and not _HASHED.search(text):  # catalog.json is beside the items
        return text
    return f"{plain}--{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:32]}"


def to_json(value: Any) -> bytes:
    """JSON as an archive stores it: equal values give equal bytes."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _first_line(e: BaseException) -> str:
    """The first line of obstore's message without signed URLs; the others show internals."""
    line = (str(e).strip() or type(e).__name__).splitlines()[0]
    return re.sub(r"https?://[^\s\"')]+", lambda m: redact(m.group()), line)


def _files(folder: Path, prefix: str) -> Iterator[Entry]:
    """The objects of an archive in a folder, with the versions that obstore gives them."""
    for key, status in files_below(folder, prefix):
        if status is None:
            yield Entry(key=key, size=0, version=LINK)
        elif not _LEFTOVER.search(key):
            tag = f"{status.st_ino:x}-{status.st_mtime_ns // 1000:x}-{status.st_size:x}"
            yield Entry(key=key, size=status.st_size, version=tag)


def _entry(meta: Any) -> Entry:
    version = meta["e_tag"] or meta["last_modified"].isoformat()
    return Entry(key=meta["path"], size=meta["size"], version=version.strip('"'))


def _s3(bucket: str, prefix: str) -> S3Store:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
    if not any(name in os.environ for name in ("AWS_REGION", "AWS_DEFAULT_REGION")):
        config["region"] = "us-east-1"
    return S3Store(
        bucket,
        prefix=prefix or None,
        client_options={
            "allow_http": bool(endpoint and endpoint.startswith("http://")),
            "user_agent": USER_AGENT,
        },
        retry_config=_RETRY,  # type: ignore[arg-type]
        **config,
    )


def _clear(folder: Path) -> None:
    """Remove folders without objects, and the remains of killed writers; objects put there since then stay."""
    for inner in sorted(folder.rglob("*"), reverse=True):
        if inner.is_file() and _LEFTOVER.search(inner.name):
            inner.unlink(missing_ok=True)
    for inner in (*sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True), folder):
        with suppress(OSError):
            inner.rmdir()


def digest(value: Any) -> str:
    """16 hex digits of the canonical JSON of ``value``."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
