"""The variables of a .mat file: v5 read whole by SciPy, v7.3 (which is HDF5 with reversed axes) by h5py."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from hypermend.catalog.arrays import Stored
from hypermend.catalog.errors import BadAsset, Refused
from hypermend.catalog.readers.hierarchical.file import arrays_of, as_text, open_file, require
from hypermend.catalog.readers.matlab.elements import check_elements
from hypermend.catalog.scene import Asset
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.hrefs import shown

BYTES = {"double": 8, "single": 4, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4}
"""Bytes of a number, by MATLAB class."""
DTYPES = {"double": "float64", "single": "float32"}
_CLASSES = {DTYPES.get(kind, kind): kind for kind in BYTES}
_HEADER_BYTES = 128
_READ_ERRORS = (ValueError, TypeError, KeyError, OSError, NotImplementedError, zlib.error)
"""Errors of SciPy for a damaged file, or one that is not MATLAB's."""


class MatFile:
    """Variables of a .mat file, v5 or v7.3: name -> (MATLAB shape, MATLAB class)."""

    def __init__(self, asset: Asset, fetcher: AssetFetcher) -> None:
        self.where = shown(asset.href)
        self.asset, self.fetcher = asset, fetcher
        self.body: Path | io.BytesIO | None = None
        self.v73 = _is_v73(asset, fetcher)
        if self.v73:
            self.variables = _hdf5_variables(asset, fetcher)
            return
        from scipy.io import whosmat  # takes half a second to import; other readers do not need it

        self.body = fetcher.fetch(asset.href)
        with self.body.open("rb") if isinstance(self.body, Path) else nullcontext(self.body) as stream:
            check_elements(stream, self.where, fetcher.max_bytes)
        try:
            self.variables = {n: (tuple(s), c) for n, s, c in whosmat(self._stream())}
            self.variables |= self._fields()
        except _READ_ERRORS as e:
            raise BadAsset(f"{self.where}: is no MATLAB v5 file: {e}") from e

    def _stream(self) -> Any:
        """A path, or the bytes from their start."""
        if isinstance(self.body, io.BytesIO):
            self.body.seek(0)
        return self.body

    def _fields(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """The numeric fields of a struct, as "struct.field"; read only where no variable is a cube by itself."""
        if any(len(shape) == 3 and kind in BYTES for shape, kind in self.variables.values()):
            return {}
        found: dict[str, tuple[tuple[int, ...], str]] = {}
        for name in [n for n, (shape, kind) in self.variables.items() if kind == "struct" and math.prod(shape) == 1]:
            struct = self._loaded(name)
            for field in struct.dtype.names or ():
                value = struct.ravel()[0][field]
                if isinstance(value, np.ndarray) and (kind := _CLASSES.get(str(value.dtype))) is not None:
                    found[f"{name}.{field}"] = value.shape, kind
        return found

    def _loaded(self, name: str) -> Stored:
        from scipy.io import loadmat

        return np.asarray(loadmat(self._stream(), variable_names=[name])[name])

    def load(self, name: str) -> Stored:
        """A variable in MATLAB's axis order.

        Raises:
            Refused: it is too large to be read whole.
        """
        self.check_bytes(name)
        if self.v73:
            with open_file(self.asset, self.fetcher) as file:
                array = require(file, path_of(name), self.where, max_bytes=self.fetcher.max_bytes)
                return np.asarray(array[()]).T
        try:
            variable, _, field = name.partition(".")
            value = self._loaded(variable)
            return np.asarray(value.ravel()[0][field]) if field else value
        except _READ_ERRORS as e:
            raise BadAsset(f"{self.where}: {name} cannot be read: {e}") from e

    def check_bytes(self, name: str) -> None:
        """Refuse a variable that is too large to be read whole."""
        shape, kind = self.variables[name]
        declared = math.prod(shape) * BYTES.get(kind, 8)
        if declared > self.fetcher.max_bytes:
            raise Refused(
                f"{self.where}: {name} holds {declared} bytes, read whole, the limit is {self.fetcher.max_bytes}"
            )

    def contents(self) -> str:
        """Variables with shape and class, for messages."""
        return ", ".join(f"{n} {' x '.join(map(str, s))} {c}" for n, (s, c) in sorted(self.variables.items())) or "none"


def path_of(name: str) -> str:
    """Path of a variable, or of a field of a struct, in a v7.3 file."""
    return name.replace(".", "/")


def _hdf5_variables(asset: Asset, fetcher: AssetFetcher) -> Mapping[str, tuple[tuple[int, ...], str]]:
    """Variables of a MATLAB v7.3 file: name -> (shape in MATLAB's order, MATLAB class)."""
    with open_file(asset, fetcher) as file:
        found = {}
        for path, dataset in arrays_of(file).items():
            if path.count("/") <= 1 and not path.startswith("#"):
                found[path.replace("/", ".")] = tuple(reversed(dataset.shape)), _matlab_class(dataset)
        return found


def _matlab_class(item: Any) -> str:
    return as_text(item.attrs.get("MATLAB_class", b"")) or str(item.dtype)


def _is_v73(asset: Asset, fetcher: AssetFetcher) -> bool:
    """Whether the text at the start of the file says v7.3."""
    head = fetcher.head(asset.href, _HEADER_BYTES)
    if not head.startswith(b"MATLAB "):
        raise BadAsset(
            f"{shown(asset.href)}: is no MATLAB file (v5 or v7.3); one of v4 holds matrices only, no cube: "
            "save it with -v7 or -v7.3"
        )
    return head.startswith(b"MATLAB 7.3")
