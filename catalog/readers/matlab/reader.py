"""Scenes in MATLAB files: v5 read whole, v7.3 by windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hypermend.catalog.arrays import Stored
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.meaning.instrument import instrument
from hypermend.catalog.meaning.of_scene import item_statements, stac_statements, user_statements
from hypermend.catalog.meaning.resolve import Meaning, Resolved, resolve
from hypermend.catalog.meaning.statement import Field, Source, Statement, Statements
from hypermend.catalog.meaning.wavelengths import wavelengths_nm
from hypermend.catalog.readers.array_source import ArraySource
from hypermend.catalog.readers.bands import Band, by_count, by_number, by_wavelength, select_bands
from hypermend.catalog.readers.decode import decoded
from hypermend.catalog.readers.hierarchical.source import HierarchicalSource, Part, Parts
from hypermend.catalog.readers.hierarchical.units import WAVELENGTH_NAME
from hypermend.catalog.readers.matlab.benchmarks import Layout
from hypermend.catalog.readers.matlab.file import BYTES, DTYPES, MatFile, path_of
from hypermend.catalog.readers.matlab.layouts import axes_of, pick_layout
from hypermend.catalog.readers.pixel_format import make_spec, pixel_format
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.sensors import SHIPPED, Sensor, SensorTables
from hypermend.catalog.storage.fetch import AssetFetcher

_UNCORRECTED = 10
"""A benchmark cube that lacks fewer bands of its instrument still has those of the water vapour."""


def open_mat(
    scene: Scene,
    assets: Sequence[Asset],
    fetcher: AssetFetcher,
    *,
    tables: SensorTables = SHIPPED,
    bands: Sequence[str] | None = None,
) -> Any:
    """The cube of a .mat file; the module `layouts` says which variable that is."""
    label = f"scene {scene.id}"
    if len(assets) != 1:
        raise BadAsset(f"{label}: {len(assets)} .mat files; one scene is one file")
    asset = assets[0]
    file = MatFile(asset, fetcher)
    user = user_statements(scene)
    spectrum = _spectrum(file)
    counts = [len(s.value) for s in [*user, *spectrum] if s.field is Field.WAVELENGTH][:1]
    key = scene.properties.get("hypermend:mat_key")
    layout = pick_layout(file, tables.get(scene.sensor), scene.sensor, key, bands=counts)
    said = Statements([*user, *item_statements(scene), *stac_statements(scene, [asset])])
    said.add(Field.SENSOR, layout.sensor, Source.PRODUCT, layout.name)
    said.add(Field.QUANTITY, layout.quantity, Source.PRODUCT, layout.name)
    name, table = instrument(resolve(said, label=label), tables)
    lines, columns, count, axes = _size(layout, table, counts, file)
    said.extend(s for s in spectrum if len(s.value) == count)
    of_table = _add_known_bands(said, layout, table, count, file, own=bool(counts))
    meaning = resolve(said, label=label)
    found = _centres(meaning, layout, count, f"{label}: {file.where}", tables)
    if of_table is None or found.value != tuple(b.wavelength_nm for b in of_table):
        good = [True] * count if found.source is Source.GUESS else None  # the table knows nothing of a guess
        file_bands = by_wavelength(table, found.value, file.where, good=good)
    else:
        file_bands = of_table
    picked = select_bands(file_bands, bands, label)
    dtype, loaded = DTYPES.get(kind := file.variables[layout.cube][1], kind), None
    if not file.v73 or axes == "bn":  # read whole
        file.check_bytes(layout.cube)
    if not file.v73:
        loaded = _as_bands(file.load(layout.cube), axes, (lines, columns, count))
        dtype = str(loaded.dtype)  # MATLAB stores a double as uint16 if it fits: the type of the stored numbers counts
    attrs = {"hypermend:mat_key": layout.cube, "hypermend:layout": layout.name}
    pixels, file_bands = pixel_format(meaning, file_bands, dtype=dtype, attrs=attrs)
    spec, order = make_spec([file_bands[i] for i in picked], (lines, columns), pixels, sensor=name)
    order = [picked[i] for i in order]
    identity = fetcher.identity([asset])
    if file.v73 and axes != "bn":  # HDF5 has the axes reversed
        part = Part(
            path=path_of(layout.cube), axes=axes[::-1], file_bands=tuple(order), cube_bands=tuple(range(len(order)))
        )
        source: Any = HierarchicalSource(spec, identity, [asset], fetcher, Parts(cube=(part,)), meaning=meaning)
    else:
        source = ArraySource(
            spec,
            identity,
            lambda: _as_bands(file.load(layout.cube), axes, (lines, columns, count)),
            order,
            loaded=loaded,
            meaning=meaning,
        )
    return decoded(source, [file_bands[i] for i in order])


def _add_known_bands(
    said: Statements, layout: Layout, table: Sensor | None, count: int, file: MatFile, *, own: bool
) -> list[Band] | None:
    """Add the centres that a table or a public list gives; the bands of the table, if it is these.

    Args:
        own: the user or the file gives wavelengths.
    """
    of_table, source = _bands_of_table(layout, table, count, file, own=own)
    if of_table is not None and table is not None:
        centres = tuple(b.wavelength_nm for b in of_table)
        said.add(Field.WAVELENGTH, centres, source, f"{layout.name}, table of {table.name}")
    elif layout.nominal_nm is not None and not own:
        where = f"{layout.name}: no list of its bands is published; evenly spaced"
        said.add(Field.WAVELENGTH, tuple(np.linspace(*layout.nominal_nm, count).tolist()), Source.GUESS, where)
    return of_table


def _centres(meaning: Meaning, layout: Layout, count: int, where: str, tables: SensorTables) -> Resolved:
    """The wavelengths of the bands.

    Raises:
        BadAsset: no source gives them, or another number of them.
    """
    found = meaning.resolved.get(Field.WAVELENGTH)
    if found is None:
        raise BadAsset(
            f"{where}: no source gives the wavelengths of the {count} bands of {layout.cube}; "
            f"give them with --wavelengths, or name the sensor with --sensor{_likely(count, tables)}"
        )
    if len(found.value) != count:
        raise BadAsset(f"{where}: {layout.cube} has {count} bands, {len(found.value)} wavelengths by {found}")
    return found


def _likely(count: int, tables: SensorTables) -> str:
    """The sensors of that many bands, for the end of a message."""
    names = tables.of_count(count)
    return f" (of that many bands: {', '.join(names)})" if names else ""


def _spectrum(file: MatFile) -> list[Statement]:
    """The wavelengths that the file lists in a variable of its own."""
    for name, (shape, kind) in file.variables.items():
        is_list = len(shape) == 2 and 1 in shape and max(shape) > 1 and kind in BYTES
        if is_list and WAVELENGTH_NAME.match(name.rpartition(".")[2]):
            read = wavelengths_nm([float(v) for v in file.load(name).ravel()], None)
            if read is not None:
                where = f"{name}, {read.how}"
                return [Statement(field=Field.WAVELENGTH, value=read.nm, source=Source.FILE, where=where)]
    return []


def _as_bands(array: Stored, axes: str, size: tuple[int, int, int]) -> Stored:
    """MATLAB's order of axes as (band, y, x)."""
    lines, columns, count = size
    if axes == "bn":
        return array.reshape(count, columns, lines).transpose(0, 2, 1)  # pixels run down the columns
    return array.transpose([axes.index(a) for a in "byx"])


def _size(layout: Layout, table: Sensor | None, counts: Sequence[int], file: MatFile) -> tuple[int, int, int, str]:
    """Return (lines, columns, bands, axes)."""
    shape, _ = file.variables[layout.cube]
    if layout.axes == "bn" and layout.size is not None and len(shape) == 2:
        lines, columns = (int(file.load(n).ravel()[0]) for n in layout.size)
        if lines * columns != shape[1]:
            raise BadAsset(
                f"{file.where}: {layout.cube} has {shape[1]} pixels, {layout.size[0]} x {layout.size[1]} is "
                f"{lines} x {columns} = {lines * columns}"
            )
        return lines, columns, shape[0], "bn"
    if len(shape) != 3:
        raise BadAsset(f"{file.where}: {layout.cube} has {len(shape)} axes, a cube has 3; it holds {file.contents()}")
    known = list(counts)
    if not known and layout.bands is not None:
        known = [layout.bands]
    elif not known and layout.numbers is not None:
        known = [math.prod(file.variables[layout.numbers][0])]
    elif not known and table is not None:
        known = [table.bands, sum(table.usable), *([] if layout.first is None else [layout.first])]
    axes = axes_of(file, layout, known)
    lines, columns, count = (shape[axes.index(a)] for a in "yxb")
    return lines, columns, count, axes


def _bands_of_table(
    layout: Layout, table: Sensor | None, count: int, file: MatFile, *, own: bool
) -> tuple[list[Band] | None, Source]:
    """Bands as the sensor table has them, and who says that it is these; None where the file has its own."""
    if table is None or layout.nominal_nm is not None:
        return None, Source.TABLE
    if layout.numbers is not None:
        numbers = [int(n) for n in file.load(layout.numbers).ravel()]
        if len(numbers) != count:
            raise BadAsset(
                f"{file.where}: {layout.cube} has {count} bands, {layout.numbers} lists {len(numbers)} band numbers"
            )
        return by_number(table, numbers, file.where), Source.TABLE
    if layout.kept is not None and len(layout.kept) == count:
        kept = by_number(table, layout.kept, file.where)
        corrected = count < table.bands - _UNCORRECTED  # its bad bands are those that were removed
        return [replace(b, good=True) for b in kept] if corrected else kept, Source.PRODUCT
    if layout.first == count:  # no record says which channels these are
        return by_number(table, range(1, count + 1), file.where), Source.GUESS
    if own and count not in (table.bands, sum(table.usable)):
        return None, Source.TABLE
    return by_count(table, count, file.where), Source.TABLE
