"""Scenes in HDF5 and NetCDF-4 files: the layout that fits the content of the file, else the general rules of CF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hypermend.catalog.errors import BadAsset
from hypermend.catalog.meaning.instrument import instrument
from hypermend.catalog.meaning.of_scene import item_statements, stac_statements, user_statements
from hypermend.catalog.meaning.resolve import Meaning, resolve
from hypermend.catalog.meaning.statement import Field, Statements
from hypermend.catalog.readers.bands import Band, by_wavelength, make_spec, pixel_format, select_bands
from hypermend.catalog.readers.decode import decoded
from hypermend.catalog.readers.hierarchical.file import Node, contents, open_file
from hypermend.catalog.readers.hierarchical.layout import Arrays, CubeArray, Layout, MaskArray
from hypermend.catalog.readers.hierarchical.source import HierarchicalSource, Part, Parts
from hypermend.catalog.readers.products import emit, prisma
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.sensors import SHIPPED, SensorTables
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.hrefs import shown

LAYOUTS: tuple[Layout, ...] = (*prisma.LAYOUTS, *emit.LAYOUTS)
"""The general rules come last."""


def open_hdf(
    scene: Scene,
    assets: Sequence[Asset],
    fetcher: AssetFetcher,
    *,
    tables: SensorTables = SHIPPED,
    bands: Sequence[str] | None = None,
) -> Any:
    """The cube of an HDF5 or NetCDF-4 file; see `scene_reader.open_scene`."""
    label = f"scene {scene.id}"
    if len(assets) != 1:
        raise BadAsset(f"{label}: {len(assets)} HDF files; one scene is one file")
    asset = assets[0]
    identity = fetcher.identity(assets)
    with open_file(asset, fetcher) as file:
        node = Node(file, shown(asset.href))
        layout = layout_of(node)
        arrays = layout.arrays(node)
        size, dtype = _size_and_type(node, arrays.cubes)
        _check_masks(node, arrays, size)
    said = Statements([*user_statements(scene), *item_statements(scene), *stac_statements(scene, [asset])])
    said.extend(arrays.statements)
    meaning = resolve(said, label=label)
    name, file_bands = _bands(meaning, arrays, tables, label)
    picked = select_bands(file_bands, bands, label)
    attrs = {"hypermend:layout": layout.product, **arrays.attrs}
    pixels, file_bands = pixel_format(meaning, file_bands, dtype=dtype, transform=arrays.transform, attrs=attrs)
    spec, order = make_spec([file_bands[i] for i in picked], size, pixels, sensor=name)
    order = [picked[i] for i in order]
    parts = Parts(
        cube=_parts(arrays.cubes, order),
        masks=tuple(m for m in arrays.masks if not m.rule.defect),
        defects=tuple((m, part) for m in arrays.masks if m.rule.defect for part in _parts_of_mask(m, order)),
        uncertainty=_parts((arrays.uncertainty,), order) if arrays.uncertainty is not None else (),
    )
    source = HierarchicalSource(spec, identity, [asset], fetcher, parts, meaning=meaning, lonlat=arrays.lonlat)
    return decoded(source, [file_bands[i] for i in order])


def layout_of(node: Node) -> Layout:
    """The layout of a file, by its content.

    Raises:
        BadAsset: no layout fits; the error lists the arrays of the file.
    """
    for layout in LAYOUTS:
        if layout.matches(node):
            return layout
    raise BadAsset(
        f"{node.where}: is none of {', '.join(layout.product for layout in LAYOUTS)}; "
        f"it holds {', '.join(contents(node.group)) or 'nothing'}"
    )


def _size_and_type(node: Node, cubes: Sequence[CubeArray]) -> tuple[tuple[int, int], str]:
    """(y, x) and type of the arrays of a cube, which must agree."""
    found = {}
    for cube in cubes:
        array = node.array(cube.path)
        if len(array.shape) != 3:
            raise BadAsset(f"{node.where}: {cube.path} has shape {array.shape}; a cube has three axes")
        if array.dtype.kind not in "iuf":
            raise BadAsset(f"{node.where}: {cube.path} holds {array.dtype}, a cube holds integers or floats")
        if cube.bands and max(cube.bands) >= array.shape[cube.axes.index("b")]:
            count = array.shape[cube.axes.index("b")]
            raise BadAsset(f"{node.where}: {cube.path} has {count} bands, {max(cube.bands) + 1} wavelengths")
        size = array.shape[cube.axes.index("y")], array.shape[cube.axes.index("x")]
        found[cube.path] = (size, np.dtype(array.dtype).newbyteorder("=").name)
    if len(set(found.values())) > 1:
        listed = "; ".join(f"{path} {size[0]} x {size[1]} {dtype}" for path, (size, dtype) in found.items())
        raise BadAsset(f"{node.where}: the arrays of one cube differ in size or type: {listed}")
    (size, dtype), *_ = found.values()
    return size, dtype


def _check_masks(node: Node, arrays: Arrays, size: tuple[int, int]) -> None:
    """Every mask and every place has the pixels of the cube."""
    for mask in arrays.masks:
        if mask.file:
            continue
        shape = node.array(mask.path).shape
        if len(shape) != len(mask.axes) or (shape[mask.axes.index("y")], shape[mask.axes.index("x")]) != size:
            raise BadAsset(f"{node.where}: mask {mask.path} is {shape}, the cube has {size[0]} x {size[1]} pixels")
    if arrays.lonlat is not None and any(a.shape != size for a in arrays.lonlat):
        raise BadAsset(f"{node.where}: longitude is {arrays.lonlat[0].shape}, the cube {size[0]} x {size[1]} pixels")


def _bands(meaning: Meaning, arrays: Arrays, tables: SensorTables, label: str) -> tuple[str, list[Band]]:
    """Name of the sensor, and the bands of the file."""
    name, table = instrument(meaning, tables)
    wavelength_nm = meaning.get(Field.WAVELENGTH)
    count = sum(len(c.bands) for c in arrays.cubes)
    if wavelength_nm is None:
        raise BadAsset(
            f"{label}: no source gives the wavelengths of its {count} bands; give them with --wavelengths, "
            "or name a sensor of that many bands with --sensor"
        )
    if len(wavelength_nm) != count:
        raise BadAsset(f"{label}: {len(wavelength_nm)} wavelengths for {count} bands")
    found = by_wavelength(
        table,
        wavelength_nm,
        label,
        fwhm_nm=meaning.get(Field.FWHM),
        good=meaning.get(Field.GOOD),
        names=arrays.names,
        detector=arrays.detector,
    )
    if arrays.numbers is not None:
        found = [replace(b, number=n) for b, n in zip(found, arrays.numbers, strict=True)]
    return name, found


def _parts(cubes: Sequence[CubeArray], order: Sequence[int]) -> tuple[Part, ...]:
    """The bands that each array gives to a cube whose bands are `order`, positions in the bands of the scene."""
    parts, first = [], 0
    for cube in cubes:
        parts += _part(cube.path, cube.axes, cube.bands, first, order, cube.file)
        first += len(cube.bands)
    return tuple(parts)


def _parts_of_mask(mask: MaskArray, order: Sequence[int]) -> list[Part]:
    return _part(mask.path, mask.axes, mask.bands, mask.first, order, mask.file)


def _part(path: str, axes: str, bands: Sequence[int], first: int, order: Sequence[int], file: int) -> list[Part]:
    pairs = [(k, bands[i - first]) for k, i in enumerate(order) if first <= i < first + len(bands)]
    if not pairs:
        return []
    cube_bands, file_bands = zip(*pairs, strict=True)
    return [Part(path=path, axes=axes, file_bands=file_bands, cube_bands=cube_bands, file=file)]
