"""A file that was written is compared with the cube before it gets its name: GDAL and HDF5 do not tell every error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import rasterio
from rasterio.errors import RasterioError

from hypermend.catalog.errors import ArchiveError, Full
from hypermend.catalog.storage.archive_store import error_of_disk
from hypermend.catalog.storage.gdal import local_gdal
from hypermend.pipeline.export.profile import GDAL_OPTIONS
from hypermend.pipeline.export.selection import Block, Selection


class TellingFile(FileIO):
    """A file that keeps its first error of writing and shows none: HDF5 would crash as it closes such a file."""

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        done = 0
        with self._told():
            while done < len(view):  # a disk that is nearly full takes a part
                done += super().write(view[done:])
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        with self._told():
            super().truncate(size)
        return size or 0

    def flush(self) -> None:
        with self._told():
            super().flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        if self.error is None:
            try:
                yield
            except OSError as error:
                self.error = error
        else:
            with suppress(OSError):
                yield

    def check(self) -> None:
        """Raise the error that was kept."""
        if self.error is not None:
            raise self.error


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Raise what a disk, GDAL or HDF5 says of a file as errors of this package.

    Raises:
        Full, ReadOnly: there is no room, or nothing may be written.
        ArchiveError: any other error.
    """
    try:
        yield
    except (OSError, RasterioError, UnicodeError) as error:
        kind = error_of_disk(error) or ArchiveError
        reason = str(getattr(error, "strerror", None) or error).splitlines() or [type(error).__name__]
        raise kind(f"{out} cannot be written ({reason[0]}); nothing is left of it") from error


def check_written(selection: Selection, path: Path, out: Path) -> None:
    """Compare the numbers of a file with those of the cube.

    Raises:
        Full: they differ: a part was not written.
    """
    with _reader(selection, path) as read:
        for block in selection.blocks():
            if not np.array_equal(read(block), block.stored, equal_nan=block.stored.dtype.kind == "f"):
                raise Full(
                    f"{out}: the disk does not hold what was written to it (rows from {block.y.start}, columns from "
                    f"{block.x.start}): make room, and export again"
                )


@contextmanager
def _reader(selection: Selection, path: Path) -> Iterator[Callable[[Block], Any]]:
    """Give a function that reads the numbers of a block from the file."""
    if h5py.is_hdf5(path):
        with h5netcdf.File(path, "r") as netcdf:
            yield lambda block: netcdf["reflectance"][:, block.y, block.x]
    else:
        with local_gdal(**GDAL_OPTIONS), rasterio.open(path) as raster:
            yield lambda block: raster.read(window=block.window)
