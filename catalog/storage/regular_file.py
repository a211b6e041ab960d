"""Files of this machine that others name: regular ones only. A FIFO would make a reader wait, a device never ends.

In an archive links are refused, too: what one points to is not the archive's, to read, to write or to delete.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hypermend.catalog.errors import BadAsset, Refused


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


def refuse_links(folder: Path, key: str) -> os.stat_result | None:
    """Check that no part of a key below a folder is a link; the folder itself may be one.

    Returns:
        The status of the last part; None where there is no such file or folder.

    Raises:
        Refused: names the link.
    """
    path, status = os.fspath(folder), None
    for part in key.split("/"):
        path = f"{path}/{part}"
        try:
            status = os.lstat(path)
        except OSError:
            return None  # who opens it sees the error
        if stat.S_ISLNK(status.st_mode):
            raise Refused(
                f"{path} is a link, and links in an archive are not followed: put what it points to in its place, or "
                "remove it"
            )
    return status


def files_below(folder: Path, prefix: str) -> Iterator[tuple[str, os.stat_result | None]]:
    """Key and status of every regular file below a folder, and every link with None: links are not followed.

    A name that is no part of a key, such as one with a control character, is left out.
    """
    waiting = [prefix]
    while waiting:
        above = waiting.pop()
        try:
            with os.scandir(folder / above) as entries:
                found = [entry for entry in entries if entry.name.isprintable() and "\\" not in entry.name]
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in found:
            key = f"{above}/{entry.name}" if above else entry.name
            if entry.is_dir(follow_symlinks=False):
                waiting.append(key)
            elif entry.is_symlink():
                yield key, None
            elif entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):  # deleted since
                    yield key, entry.stat(follow_symlinks=False)
