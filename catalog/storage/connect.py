"""Connections to hosts that others name: resolved once, checked, and connected to at the address that was checked.

A second look-up, by a library that connects to the name, could give another address than the one that was checked.
urllib connects here (`transport`), and GDAL through `gate`. The hosts of S3 are those of the user's own environment.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import Any

from hypermend.catalog.errors import BadAsset
from hypermend.catalog.storage.hrefs import is_metadata_address

TIMEOUT_S = 60.0
"""Longest wait for one piece of an answer."""
PATIENCE_S = 90.0
"""Longest time for an answer as a whole, and ..."""
SLOWEST_BYTES_S = 16 << 10
"""... a second more for as many bytes: one that arrives more slowly has broken off."""


def connect(
    address: tuple[str, int], timeout: float | None = TIMEOUT_S, source_address: tuple[str, int] | None = None
) -> socket.socket:
    """A TCP connection; the arguments are those of `socket.create_connection`.

    Raises:
        BadAsset: the name leads to an address at which clouds keep a machine's credentials.
        OSError: no such host, or none of its addresses answers.
    """
    host, port = address
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if bad := next((str(info[4][0]) for info in found if is_metadata_address(str(info[4][0]))), None):
        raise BadAsset(f"{host} leads to {bad}, a link-local address, where machines keep their credentials")
    error: OSError | None = None
    for family, kind, protocol, _, target in found:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(timeout)
            connection.connect(target)
        except OSError as e:
            connection.close()
            error = e
            continue
        return connection
    raise error or OSError(f"{host} has no address")


class _Paced(io.RawIOBase):
    """The bytes of a connection, which must arrive in time, headers and body."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._raw: Any = connection.makefile("rb", buffering=0)
        self._since = time.monotonic()
        self._received = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._since + PATIENCE_S + self._received / SLOWEST_BYTES_S - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"{self._received} bytes in {PATIENCE_S:.0f} s and more: too slow")
        self._connection.settimeout(min(left, TIMEOUT_S))
        count: int = self._raw.readinto(buffer)
        self._received += count
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class Response(http.client.HTTPResponse):
    """An answer that arrives in time."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_Paced(sock))


class Connection(http.client.HTTPConnection):
    """To the address that was checked; the Host header has the name."""

    response_class = Response

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._create_connection = connect


class SecureConnection(http.client.HTTPSConnection):
    """The same over TLS; the certificate is compared with the name."""

    response_class = Response

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._create_connection = connect
