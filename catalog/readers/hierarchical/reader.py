"""Scenes in HDF5 and NetCDF-4 files: the layout that fits the content of the file, else the general rules of CF."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from hypermend.catalog.errors import BadAsset
from hypermend.catalog.meaning.instrument import instrument
from hypermend.catalog.meaning.of_scene import item_statements, stac_statements, user_statements
from hypermend.catalog.meaning.resolve import Meaning, resolve
from hypermend.catalog.meaning.statement import Field, Source, Statement, Statements
from hypermend.catalog.readers.bands import Band, by_count, by_name, by_wavelength, select_bands
from hypermend.catalog.readers.decode import decoded
from hypermend.catalog.readers.hierarchical.layout import Arrays, CubeArray, MaskArray
from hypermend.catalog.readers.hierarchical.roles import Opened, open_files
from hypermend.catalog.readers.hierarchical.source import HierarchicalSource, Part, Parts
from hypermend.catalog.readers.hierarchical.zarr_file import is_zarr, split_href, zarr_identity
from hypermend.catalog.readers.masks import MASKS_ATTR
from hypermend.catalog.readers.pixel_format import make_spec, pixel_format
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.sensors import SHIPPED, SensorTables
from hypermend.catalog.storage.fetch import AssetFetcher


def open_hdf(
    scene: Scene,
    assets: Sequence[Asset],
    fetcher: AssetFetcher,
    *,
    tables: SensorTables = SHIPPED,
    bands: Sequence[str] | None = None,
    gsd_m: float | None = None,
) -> Any:
    """The cube of HDF5, NetCDF-4 or Zarr; see `scene_reader.open_scene`."""
    label = f"scene {scene.id}"
    user = user_statements(scene)
    opened = open_files(assets, fetcher, label, band_counts=_band_counts(scene, user, tables), gsd_m=gsd_m)
    arrays = opened.arrays
    said = Statements([*user, *item_statements(scene), *stac_statements(scene, _stated(assets, opened))])
    said.extend(arrays.statements)
    said.add(Field.TRANSFORM, arrays.transform, Source.FILE, opened.layout.product)
    meaning = resolve(said, label=label)
    name, file_bands = _bands(meaning, arrays, tables, label)
    picked = select_bands(file_bands, bands, label)
    masks = list(dict.fromkeys(mask.rule.name for mask in arrays.masks))
    attrs = {"hypermend:layout": opened.layout.product, **({MASKS_ATTR: masks} if masks else {}), **arrays.attrs}
    pixels, file_bands = pixel_format(meaning, file_bands, dtype=opened.dtype, transform=arrays.transform, attrs=attrs)
    spec, order = make_spec([file_bands[i] for i in picked], opened.size, pixels, sensor=name)
    order = [picked[i] for i in order]
    # With a scale from elsewhere, the file's own words about its standard deviations do not fit its numbers.
    own_scale = not any(s.source is Source.USER and s.field in (Field.SCALE, Field.UNITS) for s in user)
    beside = arrays.uncertainty if own_scale else None
    spec = replace(spec, uncertainty=beside is not None)
    parts = Parts(
        cube=_parts(arrays.cubes, order),
        masks=tuple(m for m in arrays.masks if not m.rule.defect),
        defects=tuple((m, part) for m in arrays.masks if m.rule.defect for part in _parts_of_mask(m, order)),
        uncertainty=() if beside is None else _parts((beside.array,), order),
        uncertainty_scale=1.0 if beside is None else beside.scale,
        uncertainty_fill=None if beside is None else beside.fill,
        empty=arrays.empty,
    )
    identity = _identity(opened.assets, fetcher)
    source = HierarchicalSource(spec, identity, opened.assets, fetcher, parts, meaning=meaning, lonlat=arrays.lonlat)
    return decoded(source, [file_bands[i] for i in order])


def _stated(assets: Sequence[Asset], opened: Opened) -> list[Asset]:
    """The assets whose scale and nodata speak about the cube: its file; in a store the groups and arrays of its bands.

    An asset of a store that is one of several lists bands of its own, so its wavelengths are not those of the cube.
    """
    if not is_zarr(opened.assets[0]):
        return [opened.assets[0]]
    paths = {cube.path for cube in opened.arrays.cubes}
    paths |= {path.rpartition("/")[0] for path in paths} | {""}
    stated = [a for a in assets if is_zarr(a) and split_href(a.href)[1] in paths]
    return stated if len(stated) == 1 else [replace(a, wavelength_nm=(), fwhm_nm=()) for a in stated]


def _identity(assets: Sequence[Asset], fetcher: AssetFetcher) -> str:
    """Changes with any file or store."""
    files = [asset for asset in assets if not is_zarr(asset)]
    if len(files) == len(assets):
        return fetcher.identity(files)
    stores = sorted({split_href(asset.href)[0] for asset in assets if is_zarr(asset)})
    of_stores = [fetcher.store_identity(partial(zarr_identity, root, fetcher)) for root in stores]
    parts = [*of_stores, fetcher.identity(files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _band_counts(scene: Scene, user: Sequence[Statement], tables: SensorTables) -> tuple[int, ...]:
    """Numbers of bands that the user's wavelengths or sensor allow."""
    counts = [len(s.value) for s in user if s.field is Field.WAVELENGTH]
    if not counts and (table := tables.get(scene.sensor)) is not None:
        counts = [table.bands, sum(table.usable)]
    return tuple(counts)


def _bands(meaning: Meaning, arrays: Arrays, tables: SensorTables, label: str) -> tuple[str, list[Band]]:
    """Name of the sensor, and the bands of the file."""
    name, table = instrument(meaning, tables)
    wavelength_nm = meaning.get(Field.WAVELENGTH)
    count = sum(len(c.bands) for c in arrays.cubes)
    if wavelength_nm is None and table is not None:
        named = arrays.names is not None and len(arrays.names) == count
        return name, by_name(table, arrays.names or (), label) if named else by_count(table, count, label)
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
        parts += [
            replace(part, up=cube.up, down=cube.down)
            for part in _part(cube.path, cube.axes, cube.bands, first, order, cube.file)
        ]
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
