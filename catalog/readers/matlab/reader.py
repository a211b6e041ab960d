"""Scenes in MATLAB files: v5 read whole, v7.3 by windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypermend.catalog.arrays import Stored
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.meaning.instrument import instrument
from hypermend.catalog.meaning.of_scene import item_statements, stac_statements, user_statements
from hypermend.catalog.meaning.resolve import Meaning, Resolved, resolve
from hypermend.catalog.meaning.statement import Field, Source, Statements
from hypermend.catalog.readers.bands import (
    ArraySource,
    Band,
    by_count,
    by_number,
    by_wavelength,
    make_spec,
    pixel_format,
    select_bands,
)
from hypermend.catalog.readers.decode import decoded
from hypermend.catalog.readers.hierarchical.source import HierarchicalSource, Part, Parts
from hypermend.catalog.readers.matlab.file import DTYPES, MatFile
from hypermend.catalog.readers.matlab.layouts import Layout, pick_layout
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.sensors import SHIPPED, Sensor, SensorTables
from hypermend.catalog.storage.fetch import AssetFetcher


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
    table = tables.get(scene.sensor)
    layout = pick_layout(file, table, scene.sensor, scene.properties.get("hypermend:mat_key"))
    said = Statements([*user_statements(scene), *item_statements(scene), *stac_statements(scene, [asset])])
    said.add(Field.SENSOR, layout.sensor, Source.PRODUCT, layout.name)
    said.add(Field.QUANTITY, layout.quantity, Source.PRODUCT, layout.name)
    name, table = instrument(resolve(said, label=label), tables)
    lines, columns, count = _size(layout, file)
    of_table = _bands_of_table(layout, table, count, file)
    if of_table is not None:
        said.add(Field.WAVELENGTH, tuple(b.wavelength_nm for b in of_table), Source.TABLE, f"sensor {name}")
    if layout.wavelength_um is not None:
        centres = tuple(float(w) * 1000 for w in file.load(layout.wavelength_um).ravel())
        said.add(Field.WAVELENGTH, centres, Source.FILE, layout.wavelength_um)
    meaning = resolve(said, label=label)
    found = _centres(meaning, layout, count, f"{label}: {file.where}")
    if of_table is None or found.source is not Source.TABLE:
        file_bands = by_wavelength(table, found.value, file.where)
    else:
        file_bands = of_table
    picked = select_bands(file_bands, bands, label)
    kind = file.variables[layout.cube][1]
    dtype, loaded = DTYPES.get(kind, kind), None
    if not file.v73:
        file.check_bytes(layout.cube)
        loaded = _as_bands(file.load(layout.cube), layout, (lines, columns, count))
        dtype = str(loaded.dtype)  # MATLAB stores a double as uint16 if it fits: the type of the stored numbers counts
    attrs = {"hypermend:mat_key": layout.cube, "hypermend:layout": layout.name}
    pixels, file_bands = pixel_format(meaning, file_bands, dtype=dtype, attrs=attrs)
    spec, order = make_spec([file_bands[i] for i in picked], (lines, columns), pixels, sensor=name)
    order = [picked[i] for i in order]
    identity = fetcher.identity([asset])
    if file.v73 and layout.axes == "yxb":
        part = Part(path=layout.cube, axes="bxy", file_bands=tuple(order), cube_bands=tuple(range(len(order))))
        source: Any = HierarchicalSource(spec, identity, [asset], fetcher, Parts(cube=(part,)), meaning=meaning)
    else:
        source = ArraySource(
            spec,
            identity,
            lambda: _as_bands(file.load(layout.cube), layout, (lines, columns, count)),
            order,
            loaded=loaded,
            meaning=meaning,
        )
    return decoded(source, [file_bands[i] for i in order])


def _centres(meaning: Meaning, layout: Layout, count: int, where: str) -> Resolved:
    """The wavelengths of the bands.

    Raises:
        BadAsset: no source gives them, or another number of them.
    """
    found = meaning.resolved.get(Field.WAVELENGTH)
    if found is None:
        raise BadAsset(
            f"{where}: no source gives the wavelengths of the {count} bands of {layout.cube}; "
            "give them with --wavelengths, or name a sensor of that many bands with --sensor"
        )
    if len(found.value) != count:
        raise BadAsset(f"{where}: {layout.cube} has {count} bands, {len(found.value)} wavelengths by {found}")
    return found


def _as_bands(array: Stored, layout: Layout, size: tuple[int, int, int]) -> Stored:
    """MATLAB's order of axes as (band, y, x)."""
    lines, columns, count = size
    if layout.axes == "bn":
        return array.reshape(count, columns, lines).transpose(0, 2, 1)  # pixels run down the columns
    return array.transpose(2, 0, 1)


def _size(layout: Layout, file: MatFile) -> tuple[int, int, int]:
    """Return (lines, columns, bands)."""
    shape, _ = file.variables[layout.cube]
    if layout.axes == "bn" and layout.size is not None and len(shape) == 2:
        lines, columns = (int(file.load(n).ravel()[0]) for n in layout.size)
        if lines * columns != shape[1]:
            raise BadAsset(
                f"{file.where}: {layout.cube} has {shape[1]} pixels, {layout.size[0]} x {layout.size[1]} is "
                f"{lines} x {columns} = {lines * columns}"
            )
        return lines, columns, shape[0]
    if len(shape) != 3:
        raise BadAsset(f"{file.where}: {layout.cube} has {len(shape)} axes, a cube has 3; it holds {file.contents()}")
    return shape[0], shape[1], shape[2]


def _bands_of_table(layout: Layout, table: Sensor | None, count: int, file: MatFile) -> list[Band] | None:
    """Bands as the sensor table has them; None where the file has its own, or there is no table."""
    if table is None or layout.wavelength_um is not None:
        return None
    if layout.numbers is not None:
        numbers = [int(n) for n in file.load(layout.numbers).ravel()]
        if len(numbers) != count:
            raise BadAsset(
                f"{file.where}: {layout.cube} has {count} bands, {layout.numbers} lists {len(numbers)} band numbers"
            )
        return by_number(table, numbers, file.where)
    if layout.first == count:
        return by_number(table, range(1, count + 1), file.where)
    return by_count(table, count, file.where)
