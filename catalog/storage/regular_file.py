"""Files of this machine that others name: regular ones only. A FIFO would make a reader wait, a device never ends."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from hypermend.catalog.errors import BadAsset


def status_of(path: str | Path) -> os.stat_result:
    """Size and time of a regular file; links are followed.

    Raises:
        FileNotFoundError, OSError: no such file, or one that may not be looked at.
        BadAsset: a folder, a FIFO, a socket or a device.
    """
    status = os.stat(path)  # noqa: PTH116
    if not stat.S_ISREG(status.st_mode):
        raise BadAsset(f"{path}: is no file")
    return status


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file to read.

    Raises:
        OSError, BadAsset: see `status_of`; the file that is open is the one that was looked at.
    """
    status_of(path)  # an open alone can set a device in motion
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadAsset(f"{path}: is no file")
    return os.fdopen(descriptor, "rb")
