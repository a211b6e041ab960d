"""The door through which GDAL reaches servers: a SOCKS5 proxy of this process that checks every connection.

GDAL resolves names itself and follows any redirect, so that a check before it opens a file says nothing about the
hosts that it then asks. Through the gate it connects to the addresses that `connect` has checked, and to allowed hosts
only. TLS passes through: GDAL compares the certificate with the name. Source: RFC 1928, RFC 1929.

The gate is a process of its own, which ends with the one that started it: GDAL holds the interpreter while it waits.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import socket
import socketserver
import subprocess
import sys
import threading
import urllib.request
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from hypermend.catalog.errors import BadAsset
from hypermend.catalog.storage.connect import connect
from hypermend.catalog.storage.hrefs import ALLOWED_HOSTS, refuse_host

IDLE_S = 300.0
"""GDAL keeps connections for its next request; one that is idle for longer is closed."""
_USER = "hypermend"
_CHUNK_BYTES = 1 << 18
_NOT_ALLOWED, _UNREACHABLE = 2, 4


def gdal_proxy(url: str) -> str | None:
    """GDAL's proxy for a URL: the gate; None where the user's own proxy (https_proxy) is asked."""
    parts = urlsplit(url)
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return _gate(os.getpid(), os.environ.get(ALLOWED_HOSTS)).address


@lru_cache(1)
def _gate(pid: int, allowed: str | None) -> _Gate:
    """The gate of the process `pid` under these allowed hosts."""
    return _Gate()


class _Gate:
    """A gate that runs."""

    def __init__(self) -> None:
        folder = str(Path(str(sys.modules["hypermend"].__file__)).parents[1])
        code = f"import sys; sys.path.insert(0, {folder!r}); from {__name__} import serve; serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().decode().strip()

    def __del__(self) -> None:
        self._process.kill()  # not by its input alone: a forked process may hold that open
        self._process.wait()


def serve() -> None:
    """Serve until standard input ends, as it does when the process at its other end does; prints the address."""
    threading.stack_size(1 << 18)
    with _Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"socks5h://{_USER}:{server.password}@127.0.0.1:{server.server_address[1]}", flush=True)
        sys.stdin.read()
        os._exit(0)


class _Server(socketserver.ThreadingTCPServer):
    """Listens on this machine; its password keeps the machine's other users out."""

    daemon_threads = True

    def __init__(self) -> None:
        self.password = secrets.token_hex(16)
        super().__init__(("127.0.0.1", 0), _Passage)


class _Passage(socketserver.BaseRequestHandler):
    """One connection of GDAL's to one server."""

    request: socket.socket
    server: _Server

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the one or the other side went away; GDAL reports it
            self.request.settimeout(IDLE_S)
            host, port = self._greet()
            try:
                refuse_host(f"http://[{host}]" if ":" in host else f"http://{host}")
                target = connect((host, port))
            except (ValueError, BadAsset):
                self._reply(_NOT_ALLOWED)
            except OSError:
                self._reply(_UNREACHABLE)
            else:
                with target:
                    self._reply(0)
                    _relay(self.request, target)

    def _greet(self) -> tuple[str, int]:
        """The host and port that GDAL asks for, when it has given the password.

        Raises:
            OSError: somebody else asks.
        """
        self._read(self._read(2)[1])
        self.request.sendall(b"\x05\x02")
        user = self._read(self._read(2)[1])
        password = self._read(self._read(1)[0])
        if not secrets.compare_digest(user + b":" + password, f"{_USER}:{self.server.password}".encode()):
            raise PermissionError("not GDAL")
        self.request.sendall(b"\x01\x00")
        kind = self._read(4)[3]
        if kind == 3:
            host = self._read(self._read(1)[0]).decode("ascii", "replace")
        else:
            host = socket.inet_ntop(
                *((socket.AF_INET6, self._read(16)) if kind == 4 else (socket.AF_INET, self._read(4)))
            )
        return host, int.from_bytes(self._read(2), "big")

    def _reply(self, code: int) -> None:
        self.request.sendall(bytes((5, code, 0, 1, 0, 0, 0, 0, 0, 0)))

    def _read(self, count: int) -> bytes:
        received = b""
        while len(received) < count:
            if not (part := self.request.recv(count - len(received))):
                raise ConnectionError("closed")
            received += part
        return received


def _relay(one: socket.socket, other: socket.socket) -> None:
    """Pass bytes both ways until a side ends or both are idle."""
    while ready := select.select([one, other], [], [], IDLE_S)[0]:
        for side in ready:
            if not (part := side.recv(_CHUNK_BYTES)):
                return
            (other if side is one else one).sendall(part)
