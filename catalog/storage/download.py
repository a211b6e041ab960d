"""The body of a file over HTTP, or a range of it, received in as many connections as it takes.

Some servers end every connection after some 75 MB. What has arrived is kept: the rest is asked for with Range and
If-Range, so that bytes of two versions of a file are never joined (RFC 9110, section 13.1.5). Limits hold for the
bytes after decompression, where a server sends a body compressed although nobody asked for it.
"""

from __future__ import annotations

import http.client
import random
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from hypermend.catalog.errors import BadAsset, Refused, Unreachable
from hypermend.catalog.storage import transport
from hypermend.catalog.storage.hrefs import shown
from hypermend.catalog.storage.transport import (
    content_length,
    content_range,
    is_web_page,
    login_page,
    receive,
    with_retries,
)

CHUNK_BYTES = 1 << 20
"""Bytes read at a time; a connection that brought as many before it broke is progress, and is not counted as a try."""
Get = Callable[[dict[str, str]], http.client.HTTPResponse]


@dataclass(kw_only=True)
class Download:
    """One file, or bytes `start` to `stop` of it (None: to its end)."""

    href: str
    get: Get
    """sends a request with these headers"""
    max_bytes: int
    start: int = 0
    stop: int | None = None
    _received: bytearray = field(default_factory=bytearray)
    _encoding: str = ""
    _version: str | None = None
    """strong ETag, else Last-Modified: what If-Range compares; None where the server tells neither"""

    def read(self) -> bytes:
        """All bytes.

        Raises:
            Refused: more bytes than allowed, or the server serves no ranges.
            BadAsset: the file changed while it was read.
            NotFound, AccessDenied, Unreachable: see `transport.send`.
        """
        in_vain = 0
        while True:
            had = len(self._received)
            reason = self._one_connection()
            if reason is None:
                return decompressed(bytes(self._received), self._encoding, self.href, self.max_bytes)
            in_vain = 0 if self._version and len(self._received) - had >= CHUNK_BYTES else in_vain + 1
            if in_vain >= transport.TRIES:
                raise Unreachable(f"{shown(self.href)}: {reason}")
            time.sleep(random.uniform(0, min(transport.LONGEST_WAIT_S, transport.FIRST_WAIT_S * 2**in_vain)))

    def _one_connection(self) -> str | None:
        """Receive more bytes. Returns None at the end, else the reason why bytes are missing."""
        if self._version is None:
            self._received.clear()  # nothing says that the rest would belong to these bytes
        with with_retries(lambda: self.get(self._headers())) as response:
            self._check(response)
            total = self._expected(response)
            try:
                while part := receive(response, CHUNK_BYTES):
                    self._received += part
                    if len(self._received) > self.max_bytes:
                        raise Refused(too_large(self.href, len(self._received), self.max_bytes))
            except (OSError, http.client.HTTPException) as e:
                return f"connection closed after {len(self._received)} bytes ({type(e).__name__})"
        if self.start == 0 and is_web_page(bytes(self._received[:64])):
            raise login_page(self.href, response.url)
        if total is not None and len(self._received) != total:
            return f"received {len(self._received)} of {total} bytes; truncated"
        return None

    def _headers(self) -> dict[str, str]:
        if not self._received and self.start == 0 and self.stop is None:
            return {}
        end = "" if self.stop is None else self.stop - 1
        headers = {"Range": f"bytes={self.start + len(self._received)}-{end}"}
        if self._received and self._version:
            headers["If-Range"] = self._version
        return headers

    def _check(self, response: http.client.HTTPResponse) -> None:
        """Check that the answer continues what has been received, or begin again."""
        ranged = self.start > 0 or self.stop is not None
        version = _version(response)
        if response.status == 206:
            wanted = self.start + len(self._received)
            first, total = content_range(response)
            if self.stop is None and total is None:
                raise BadAsset(f"{shown(self.href)}: the server sends a part of it, and not the size of the whole")
            if first != wanted:
                raise Unreachable(f"{shown(self.href)}: asked for byte {wanted}, received another part")
            if self._received and version is not None and version != self._version:
                raise BadAsset(f"{shown(self.href)}: it changed while it was read; run the same command again")
        elif ranged and self._received:
            raise BadAsset(f"{shown(self.href)}: it changed while it was read; run the same command again")
        elif ranged:
            if is_web_page(receive(response, 64)):
                raise login_page(self.href, response.url)
            raise Refused(f"{shown(self.href)}: the server does not serve ranges (it answers {response.status})")
        else:
            self._received.clear()
        self._version = version
        self._encoding = response.headers.get("Content-Encoding", "")

    def _expected(self, response: http.client.HTTPResponse) -> int | None:
        """Number of bytes when all have arrived; None if the server does not say."""
        if self.stop is not None:
            return self.stop - self.start
        _, total = content_range(response)
        if total is not None:
            return total - self.start
        return content_length(response) if response.status == 200 else None


def read_all(response: http.client.HTTPResponse, href: str, max_bytes: int) -> bytes:
    """The whole body of one answer.

    Raises:
        Refused: it is larger than `max_bytes`.
        IncompleteRead, OSError: the connection broke off.
    """
    received = bytearray()
    while part := receive(response, CHUNK_BYTES):
        received += part
        if len(received) > max_bytes:
            raise Refused(too_large(href, len(received), max_bytes))
    if response.length:
        raise http.client.IncompleteRead(bytes(received), response.length)
    return decompressed(bytes(received), response.headers.get("Content-Encoding", ""), href, max_bytes)


def decompressed(body: bytes, encoding: str, href: str, max_bytes: int) -> bytes:
    """A body without its Content-Encoding.

    Raises:
        Refused: more than `max_bytes` come out of it.
        BadAsset: it is damaged, or its encoding is not known.
    """
    if encoding.strip().lower() in ("", "identity"):
        return body
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        raise BadAsset(f"{shown(href)}: its server sends it as {encoding!r}, which nobody asked for")
    stream = zlib.decompressobj(wbits=47)  # gzip or zlib, by the header
    try:
        out = stream.decompress(body, max_bytes + 1)
    except zlib.error as e:
        raise BadAsset(f"{shown(href)}: its {encoding} encoding is damaged: {e}") from None
    if len(out) > max_bytes:
        raise Refused(f"{shown(href)}: {len(body)} bytes of {encoding} hold more than the limit of {max_bytes}")
    if not stream.eof or stream.unused_data:
        raise BadAsset(f"{shown(href)}: its {encoding} encoding is cut short, or has more after its end")
    return out


def too_large(href: str, size: int, max_bytes: int) -> str:
    """The message for a file that is read whole and is larger than allowed."""
    return f"{shown(href)}: {size} bytes, this format is read whole and the limit is {max_bytes}"


def _version(response: http.client.HTTPResponse) -> str | None:
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
