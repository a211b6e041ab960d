"""Export one cube of an archive as one file."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any, Literal

import hypermend
from hypermend.catalog.archive import Item
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.layout import open_cube
from hypermend.catalog.errors import NotFound, Refused
from hypermend.catalog.keys import cube_key
from hypermend.pipeline.export.cog import write_cog
from hypermend.pipeline.export.envi import header_of, write_envi
from hypermend.pipeline.export.netcdf import write_netcdf
from hypermend.pipeline.export.selection import Bbox, Selection, select
from hypermend.pipeline.export.written import check_written, writing

Format = Literal["cog", "envi", "netcdf"]
_PREFIX = ".{}.export-"
"""Of the folder in which a file is made."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Result of ``export``: the files, the last of which is the image, and the shape of its pixels."""

    files: tuple[Path, ...]
    shape: tuple[int, int, int]
    cube: str
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "files": [str(path) for path in self.files],
            "shape": list(self.shape),
            "cube": self.cube,
            "warnings": list(self.warnings),
        }


def export(
    archive: str, item: str, *, format: Format, out: Path, bbox: Bbox | None = None, bands: str | None = None
) -> Exported:
    """Export the cube of an item.

    Args:
        archive: folder or URL.
        item: id of a scene, or its collection and id with a slash where several collections have it.
        format: of the file.
        out: the file, which must not exist. An ENVI image gets its header beside it.
        bbox: west, south, east, north in degrees; None for the whole scene.
        bands: names, numbers and ranges of numbers with commas; None for all.

    Raises:
        NotFound: no such archive or item, or its cube is gone.
        Refused: the file exists, the item is not unique, or the box or a band does not exist.
        Full: there is no room for the file.
        BadCube: a tile of the cube is damaged.
    """
    found = find_item(archive, item)
    files = (header_of(out), out) if format == "envi" else (out,)
    _remove_remains(files)
    _check(files)
    cube = Cube(found.root, cube_key(found.scene))
    selection = select(cube, bbox=bbox, bands=bands)
    with writing(out), _complete(files) as partial:
        _write(selection, partial, format)
        check_written(selection, partial, out)
    warnings: tuple[str, ...] = ()
    if selection.spec.grid is None:
        warnings = ("the scene has no map coordinates: the file has none",)
    return Exported(files=files, shape=selection.spec.shape, cube=cube.path, warnings=warnings)


def find_item(archive: str, item: str) -> Item:
    """The one item with a cube that ``item`` names.

    Raises:
        NotFound: none does.
        Refused: several do.
    """
    opened = hypermend.open(archive)
    collection, _, id = item.rpartition("/")
    if collection and not opened.search(ids=[id], collection=collection):
        collection, id = "", item  # an id may contain a slash
    found = [i for i in opened.search(ids=[id], collection=collection or None) if i.scene.stage != "raw"]
    if not found:
        raise NotFound(
            f"{archive} has no cube of an item {item!r}; `hypermend query --archive {archive}` lists its items, and "
            "raw ones must be ingested first"
        )
    if len(found) > 1:
        names = ", ".join(sorted(f"{i.scene.collection}/{i.scene.id}" for i in found))
        raise Refused(f"several items are called {item!r}; name one of {names}")
    return found[0]


def _check(files: tuple[Path, ...]) -> None:
    """Check that the files of an export can be made.

    Raises:
        Refused: one exists, the folder does not, or the name is that of a header.
    """
    out = files[-1]
    if len(files) > 1 and out.suffix.lower() == ".hdr":
        raise Refused(f"--out {out} is the name of a header; name the image, such as {out.with_suffix('.img')}")
    for path in files:
        if os.path.lexists(path):  # a link that points nowhere, too
            raise Refused(f"{path} exists; remove it, or name another file with --out")
    if not out.parent.is_dir():
        raise Refused(f"{out.parent} is no folder; make it, or name another file with --out")


@contextmanager
def _complete(files: tuple[Path, ...]) -> Iterator[Path]:
    """A place for the image in a temporary folder beside it; its files are renamed once they are complete."""
    out = files[-1]
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX.format(out.name), dir=out.parent))
    lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system without locks: then nobody removes remains
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder / out.name
        for path in files:  # the image last: whoever sees it finds its header
            try:
                _name(folder / path.name, path)
            except FileExistsError:
                raise Refused(f"{path} was made while the export ran; remove it and export again") from None
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def _name(file: Path, path: Path) -> None:
    """Give a complete file its name, whatever moment a kill may choose.

    Raises:
        FileExistsError: something has the name; of two exports one makes it.
    """
    try:
        path.hardlink_to(file)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        path.open("xb").close()  # a file system without links
        file.replace(path)


def _remove_remains(files: tuple[Path, ...]) -> None:
    """Remove what killed exports to these names have left: a living one holds the lock of its folder.

    A header that has its name already, and whose image has none, goes, too.
    """
    out = files[-1]
    for folder in out.parent.glob(f"{escape(_PREFIX.format(out.name))}????????"):
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                named = [path for path in files if _is_one(folder / path.name, path)]
                if out not in named:
                    for path in named:
                        path.unlink()
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _write(selection: Selection, path: Path, format: Format) -> None:
    if format == "cog":
        write_cog(selection, path)
    elif format == "envi":
        write_envi(selection, path)
    else:
        ds = open_cube(selection.cube.root, selection.cube.path)
        lonlat = None
        if "lon" in ds.coords:
            lonlat = tuple(ds[name].values[selection.y, selection.x] for name in ("lon", "lat"))
        write_netcdf(selection, path, lonlat)  # type: ignore[arg-type]


def _is_one(one: Path, other: Path) -> bool:
    """Whether two names are those of one file."""
    try:
        return one.samefile(other)
    except OSError:
        return False
