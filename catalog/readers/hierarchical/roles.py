"""Which file of a scene holds the cube, and which add to it: content decides, as keys and roles of an item may not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypermend.catalog.errors import ArchiveError, BadAsset
from hypermend.catalog.readers.hierarchical import cf
from hypermend.catalog.readers.hierarchical.file import Node, contents, open_file
from hypermend.catalog.readers.hierarchical.layout import Arrays, Companion, CubeArray, Layout
from hypermend.catalog.readers.hierarchical.zarr_file import is_zarr, split_href
from hypermend.catalog.readers.products import aviris, emit, eopf, neon, pace, prisma, tanager
from hypermend.catalog.scene import Asset
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.hrefs import shown

LAYOUTS: tuple[Layout, ...] = (
    *prisma.LAYOUTS,
    *emit.LAYOUTS,
    *tanager.LAYOUTS,
    *neon.LAYOUTS,
    *pace.LAYOUTS,
    *aviris.LAYOUTS,
    *eopf.LAYOUTS,
    cf.LAYOUT,
)
"""In order of preference within one product: a grid before sensor geometry, reflectance before radiance. The general
rules come last."""
COMPANIONS: tuple[Companion, ...] = emit.COMPANIONS
_MASK_NAME = re.compile(r"mask|quality|_qa", re.I)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What the files of a scene hold, seen once."""

    layout: Layout
    assets: tuple[Asset, ...]
    """the file of the cube, then its companions"""
    arrays: Arrays
    size: tuple[int, int]
    """(y, x)"""
    dtype: str


def open_files(
    assets: Sequence[Asset],
    fetcher: AssetFetcher,
    label: str,
    *,
    band_counts: Sequence[int] = (),
    gsd_m: float | None = None,
) -> Opened:
    """The cube and its companions among the files of a scene.

    Args:
        band_counts, gsd_m: see `Node`.

    Raises:
        BadAsset: no file holds a cube, or several do; a mask that cannot be read.
    """
    cubes: list[tuple[Asset, Layout]] = []
    companions: list[tuple[Asset, Companion]] = []
    problems: list[tuple[Asset, ArchiveError]] = []
    wanted_gsd_m = gsd_m if gsd_m is not None else eopf.gsd_of(assets)
    assets = whole_stores(assets)
    for asset in assets:
        try:
            with open_file(asset, fetcher) as file:
                found = _role(Node(file, shown(asset.href), max_bytes=fetcher.max_bytes))
        except ArchiveError as e:
            problems.append((asset, e))
            continue
        if isinstance(found, Layout):
            cubes.append((asset, found))
        elif isinstance(found, Companion):
            companions.append((asset, found))
    for asset, error in problems:  # an asset that is not needed never fails a scene
        if not cubes or _MASK_NAME.search(f"{asset.key} {asset.href.rsplit('/', 1)[-1]}"):
            raise error
    if not cubes:
        raise BadAsset(f"{label}: {_nothing(assets, fetcher)}")
    asset, layout = _preferred(cubes, label)
    if gsd_m is not None and layout not in eopf.LAYOUTS:
        raise BadAsset(f"{label}: gsd {gsd_m:g} m is requested, but {layout.product} has one grid")
    options = {"band_counts": band_counts, "gsd_m": wanted_gsd_m}
    return _described(asset, layout, companions, fetcher, options)


def whole_stores(assets: Sequence[Asset]) -> list[Asset]:
    """One asset for all that name groups and arrays of one Sentinel-2 store: masks and time lie beside its bands."""
    out: dict[str, Asset] = {}
    for asset in assets:
        root, path = split_href(asset.href) if is_zarr(asset) else (asset.href, "")
        several = sum(is_zarr(a) and split_href(a.href)[0] == root for a in assets) > 1
        whole = path and (several or path.startswith("measurements/reflectance"))
        out.setdefault(root if whole else asset.href, replace(asset, href=root) if whole else asset)
    return list(out.values())


def _role(node: Node) -> Layout | Companion | None:
    candidates: tuple[Layout | Companion, ...] = (*LAYOUTS[:-1], *COMPANIONS, LAYOUTS[-1])
    return next((c for c in candidates if c.matches(node)), None)


def _preferred(cubes: Sequence[tuple[Asset, Layout]], label: str) -> tuple[Asset, Layout]:
    """The one cube, or the first in `LAYOUTS` of the levels of one product."""
    ranked = sorted(cubes, key=lambda c: LAYOUTS.index(c[1]))
    if len(ranked) > 1 and any(layout is not cf.LAYOUT for _, layout in ranked):
        ranked = [c for c in ranked if c[1] is not cf.LAYOUT]  # OBS and other arrays beside a known product
    layouts = [layout.product for _, layout in ranked]
    if len(set(layouts)) < len(layouts) or len({p.split()[0] for p in layouts}) > 1:
        listed = ", ".join(f"{a.key} ({shown(a.href).rsplit('/', 1)[-1]}: {k.product})" for a, k in ranked)
        raise BadAsset(f"{label}: several of its files hold a cube: {listed}; catalogue them as scenes of their own")
    return ranked[0]


def _described(
    asset: Asset,
    layout: Layout,
    companions: Sequence[tuple[Asset, Companion]],
    fetcher: AssetFetcher,
    options: Mapping[str, Any],
) -> Opened:
    """The arrays of the cube with what its companions add."""
    with open_file(asset, fetcher) as file:
        node = Node(file, shown(asset.href), max_bytes=fetcher.max_bytes, **options)
        arrays = layout.arrays(node)
        size, dtype = _size_and_type(node, arrays.cubes)
        _check_pixels(node, arrays, size, 0)
    files = [asset]
    for companion_asset, companion in companions:
        with open_file(companion_asset, fetcher) as file:
            node = Node(file, shown(companion_asset.href), max_bytes=fetcher.max_bytes)
            arrays = companion.add(node, len(files), arrays)
            _check_pixels(node, arrays, size, len(files))
        files.append(companion_asset)
    return Opened(layout=layout, assets=tuple(files), arrays=arrays, size=size, dtype=dtype)


def _nothing(assets: Sequence[Asset], fetcher: AssetFetcher) -> str:
    """Why no file is a cube, for the error."""
    listed = []
    for asset in list(assets)[:4]:
        with open_file(asset, fetcher) as file:
            found = _role(Node(file, shown(asset.href), max_bytes=fetcher.max_bytes))
            is_it = f"{found.product}, which belongs beside its cube" if found is not None else "no cube"
            listed.append(f"{shown(asset.href)} is {is_it}: it holds {', '.join(contents(file)) or 'nothing'}")
    return f"none of its files holds a cube with bands (HDF5, NetCDF-4, Zarr): {'; '.join(listed)}"


def _size_and_type(node: Node, cubes: Sequence[CubeArray]) -> tuple[tuple[int, int], str]:
    """(y, x) and type of the arrays of a cube, which must agree."""
    found = {}
    for cube in cubes:
        array = node.array(cube.path)
        shape = array.shape
        if len(shape) != len(cube.axes):
            raise BadAsset(f"{node.where}: {cube.path} has shape {shape}; {len(cube.axes)} axes are expected")
        if array.dtype.kind not in "iuf":
            raise BadAsset(f"{node.where}: {cube.path} holds {array.dtype}, a cube holds integers or floats")
        count = shape[cube.axes.index("b")] if "b" in cube.axes else 1
        if cube.bands and max(cube.bands) >= count:
            raise BadAsset(f"{node.where}: {cube.path} has {count} bands, {max(cube.bands) + 1} wavelengths")
        size = _pixels(shape, cube.axes, cube.up, cube.down)
        found[cube.path] = (size, array.dtype.newbyteorder("=").name)
    if len(set(found.values())) > 1:
        listed = "; ".join(f"{path} {size[0]} x {size[1]} {dtype}" for path, (size, dtype) in found.items())
        raise BadAsset(f"{node.where}: the arrays of one cube differ in size or type: {listed}")
    (size, dtype), *_ = found.values()
    return size, dtype


def _check_pixels(node: Node, arrays: Arrays, size: tuple[int, int], file: int) -> None:
    """Every mask, place and uncertainty of one file has the pixels of the cube."""
    checked = [(m.path, m.axes, m.up) for m in arrays.masks if m.file == file]
    if arrays.uncertainty is not None and arrays.uncertainty.array.file == file:
        checked.append((arrays.uncertainty.array.path, arrays.uncertainty.array.axes, 1))
    for path, axes, up in checked:
        shape = node.array(path).shape
        if len(shape) != len(axes) or _pixels(shape, axes, up, 1) != size:
            raise BadAsset(f"{node.where}: {path} is {shape}, the cube has {size[0]} x {size[1]} pixels (y, x)")
    if file == 0 and arrays.lonlat is not None and any(a.shape != size for a in arrays.lonlat):
        raise BadAsset(f"{node.where}: longitude is {arrays.lonlat[0].shape}, the cube {size[0]} x {size[1]} pixels")


def _pixels(shape: tuple[int, ...], axes: str, up: int, down: int) -> tuple[int, int]:
    """Rows and columns of the cube that an array covers."""
    return shape[axes.index("y")] * up // down, shape[axes.index("x")] * up // down
