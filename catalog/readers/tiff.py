"""GeoTIFF, COG and JPEG 2000: one file, one file per band, or the tiles of one acquisition as a mosaic.

Every band of the cube is a list of files on one target grid. A file is placed by a whole number of target pixels;
coarser files are repeated (nearest), finer ones averaged, both by a whole ratio that `attrs` records. A window opens
only the files that it touches.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from affine import Affine

from hypermend.catalog.cube.spec import CubeSpec
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.meaning.instrument import instrument
from hypermend.catalog.meaning.of_scene import item_statements
from hypermend.catalog.meaning.resolve import Meaning, resolve
from hypermend.catalog.meaning.statement import Field
from hypermend.catalog.readers.bands import Band, select_bands
from hypermend.catalog.readers.decode import decoded
from hypermend.catalog.readers.masks import MASKS_ATTR, MaskRule
from hypermend.catalog.readers.pixel_format import make_spec, mosaic_fill, pixel_format
from hypermend.catalog.readers.profile import Description, FormatRow
from hypermend.catalog.readers.raster.choose import choose_files
from hypermend.catalog.readers.raster.groups import Group, bands_of, joined_meaning, resolve_groups
from hypermend.catalog.readers.raster.header import Header, check_against_item, mask_sidecar, read_header
from hypermend.catalog.readers.raster.masks import OWN, DefectFiles, MaskFiles
from hypermend.catalog.readers.raster.mosaic import BandFiles, has_holes, layers_of, place, resampling, target_grid
from hypermend.catalog.readers.raster.sidecar import header_beside, sidecar_statements
from hypermend.catalog.readers.raster.source import PlacedScene, TiffSource
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.sensors import SHIPPED, Sensor, SensorTables
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.hrefs import is_remote, shown

THERMAL = "TIR"
LEFT_OUT = "hypermend:left_out"
_Found = tuple[Band, Group, int]
"""a band of the cube, its files, and its position (from 0) among their bands"""
_Classes = tuple[MaskRule, Group, int]


@dataclass(frozen=True, kw_only=True)
class _Files:
    """The files of a scene with what their headers say."""

    headers: list[Header]
    identity: str
    product: Description | None
    beside: dict[str, Asset]
    """ENVI header of an image, by the image's key"""
    masks: dict[str, Asset]
    """`.msk` of an image, by the image's key"""


def open_tiff(
    scene: Scene,
    assets: Sequence[Asset],
    fetcher: AssetFetcher,
    *,
    tables: SensorTables = SHIPPED,
    product: Description | None = None,
    bands: Sequence[str] | None = None,
    gsd_m: float | None = None,
) -> Any:
    """A scene of raster files; see `scene_reader.open_scene`."""
    label = f"scene {scene.id}"
    said = [*item_statements(scene), *(product.statements if product is not None else ())]
    _, table = instrument(resolve((s for s in said if s.field is Field.SENSOR), label=label), tables)
    assets = choose_files(assets, bands, gsd_m, table, label)
    files = _read_headers(scene, assets, product, fetcher)
    groups = resolve_groups(
        scene, files.headers, product, lambda h: sidecar_statements(h, files.beside.get(h.asset.key), fetcher)
    )
    sensor, table = instrument(groups[0].meaning, tables)
    found, classes, left_out = _classify_bands(groups, table, product, label, tables)
    if not found:
        raise BadAsset(f"{label}: no band of sensor {sensor} in {', '.join(shown(a.href) for a in assets[:4])}")
    found = [found[i] for i in select_bands([band for band, _, _ in found], bands, label)]
    meaning = joined_meaning([(group.meaning, position) for _, group, position in found], label)
    target, size, crs = target_grid(_band_files(found), gsd_m, label)
    pixels, cube_bands = pixel_format(
        meaning,
        [band for band, _, _ in found],
        dtype=_dtype(found, label),
        crs=crs,
        transform=_transform(target, crs, meaning),
        attrs=_facts(files, classes, left_out),
    )
    spec, order = make_spec(cube_bands, size, pixels, sensor=sensor)
    chosen = [found[i] for i in order]
    layers = layers_of(_band_files(chosen), target, size, label)
    outside = product.outside if product is not None and Field.NODATA not in meaning.resolved else None
    spec = _with_notes(spec, resampling(_band_files(chosen), target))
    if spec.fill is None and (has_holes(layers, size) or outside is not None):
        spec = replace(spec, fill=mosaic_fill(spec.dtype))
    # room for two windows of a shard: interleaved bands must not be unpacked once for each band
    window_bytes = math.prod(spec.shard) * np.dtype(spec.dtype).itemsize
    fetcher.gdal_cache_bytes = max(fetcher.gdal_cache_bytes, 2 * window_bytes)
    placed = PlacedScene(
        spec=spec,
        identity=files.identity,
        meaning=meaning,
        layers=tuple(layers),
        masks=_masks(files, chosen, classes, fetcher, target, size, label),
        defects=_defects(files, chosen, fetcher, target, size, label),
        outside=outside,
    )
    return decoded(TiffSource(placed, fetcher), [cube_bands[i] for i in order])


def _band_files(found: Sequence[_Found]) -> list[BandFiles]:
    return [(band, group.headers, group.headers[0].positions[i]) for band, group, i in found]


def _dtype(found: Sequence[_Found], label: str) -> str:
    dtypes = {group.headers[0].dtypes[i] for _, group, i in found}
    if len(dtypes) > 1:
        raise BadAsset(f"{label}: bands of types {', '.join(sorted(dtypes))}; one cube has one")
    return dtypes.pop()


def _transform(
    target: Affine, crs: str | None, meaning: Meaning
) -> tuple[float, float, float, float, float, float] | None:
    """The grid's, where the files or the user give a reference system."""
    if crs is None and (meaning.get(Field.CRS) is None or target.is_identity):
        return None
    a, b, c, d, e, f = target[:6]
    return a, b, c, d, e, f


def _with_notes(spec: CubeSpec, notes: Sequence[str]) -> CubeSpec:
    """The spec with the resampling of each band that was resampled."""
    resampled = {name: note for name, note in zip(spec.band_name, notes, strict=True) if note}
    return replace(spec, attrs={**spec.attrs, "hypermend:resampling": resampled}) if resampled else spec


def _read_headers(scene: Scene, assets: Sequence[Asset], product: Description | None, fetcher: AssetFetcher) -> _Files:
    beside = {a.key: found for a in assets if (found := header_beside(a, scene.assets)) is not None}
    masks = {a.key: found for a in assets if (found := mask_sidecar(a, scene.assets)) is not None}
    used = [*assets, *beside.values(), *masks.values()]
    if product is not None:
        used += [*(m.asset for m in product.masks), *product.sidecars]
    # first of all: it follows redirects before GDAL does
    identity = fetcher.identity({a.href: a for a in used}.values())
    headers = read_headers(assets, fetcher)
    for header in headers:
        check_against_item(header, scene)
    if product is not None and not product.placed:
        headers = [replace(h, crs=None, transform=Affine.identity()) for h in headers]
    return _Files(headers=headers, identity=identity, product=product, beside=beside, masks=masks)


def read_headers(assets: Sequence[Asset], fetcher: AssetFetcher) -> list[Header]:
    """Headers of all files; remote ones in parallel, as each takes a round trip or two."""
    if not any(is_remote(a.href) for a in assets):
        return [read_header(a, fetcher) for a in assets]
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(lambda a: read_header(a, fetcher), assets))


def _classify_bands(
    groups: Sequence[Group], table: Sensor | None, product: Description | None, label: str, tables: SensorTables
) -> tuple[list[_Found], list[_Classes], list[str]]:
    """Bands of the cube, bands of classes, and names of the bands left out."""
    found: list[_Found] = []
    classes: list[_Classes] = []
    left_out: list[str] = []
    for group in groups:
        detector = None if product is None else product.detectors.get(group.headers[0].asset.key)
        for position, band in enumerate(bands_of(group, table, detector, label, tables=tables)):
            if isinstance(band, Band) and band.detector != THERMAL:
                found.append((band, group, position))
            elif isinstance(band, str) and (rule := _rule(band, product)) is not None:
                classes.append((rule, group, position))
            else:
                left_out.append(band.name if isinstance(band, Band) else band)
    return found, classes, left_out


def _rule(band: str, product: Description | None) -> MaskRule | None:
    """The rule of a band of classes."""
    return None if product is None else product.class_bands.get(re.sub(r"_\d+m$", "", band.strip(), flags=re.I).upper())


def _facts(files: _Files, classes: Sequence[_Classes], left_out: Sequence[str]) -> dict[str, Any]:
    """Attributes of the cube."""
    facts: dict[str, Any] = {}
    if places := {h.asset.key: dict(h.places) for h in files.headers if h.places}:
        facts["hypermend:places"] = places
    names = [rule.name for rule, _, _ in classes]
    names += [OWN.name for h in files.headers if h.masked or h.alpha or h.asset.key in files.masks]
    if files.product is not None:
        names += [m.rule.name for m in files.product.masks]
        left_out = [*left_out, *files.product.left_out]
        facts |= {"hypermend:product": files.product.product, **files.product.attrs}
    if left_out:
        facts[LEFT_OUT] = list(left_out)
    if names:
        facts[MASKS_ATTR] = list(dict.fromkeys(names))
    return facts


def _masks(
    files: _Files,
    chosen: Sequence[_Found],
    classes: Sequence[_Classes],
    fetcher: AssetFetcher,
    target: Affine,
    size: tuple[int, int],
    label: str,
) -> tuple[MaskFiles, ...]:
    """Mask layers of the files of the chosen bands, their bands of classes, and the layers of the product."""
    out = [
        MaskFiles(files=tuple(place(h, target, size, label) for h in g.headers), rule=r, band=g.headers[0].positions[i])
        for r, g, i in classes
    ]
    headers = {h.asset.key: h for _, group, _ in chosen for h in group.headers}.values()
    for header in headers:
        own = (place(header, target, size, label),)
        bands = [0] * header.masked + [header.alpha] * (header.alpha is not None)
        out += [MaskFiles(files=own, rule=OWN, band=band) for band in bands if band is not None]
        if (sidecar := files.masks.get(header.asset.key)) is not None:
            mask = replace(read_header(sidecar, fetcher), crs=header.crs, transform=header.transform)
            if mask.size != header.size:
                raise BadAsset(f"{shown(sidecar.href)}: is {mask.size} (y, x), its image {header.size}")
            placed = (place(mask, target, size, label),)
            out += [MaskFiles(files=placed, rule=OWN, band=band) for band in mask.positions]
    for layer in files.product.masks if files.product is not None else ():
        if not layer.rule.defect:
            header = _as_placed(read_header(layer.asset, fetcher), files)
            out.append(MaskFiles(files=(place(header, target, size, label),), rule=layer.rule, band=layer.band))
    return tuple(out)


def _defects(
    files: _Files,
    chosen: Sequence[_Found],
    fetcher: AssetFetcher,
    target: Affine,
    size: tuple[int, int],
    label: str,
) -> tuple[DefectFiles, ...]:
    """Layers of defects: each has the bands of one image, in its order."""
    out: list[DefectFiles] = []
    for layer in files.product.masks if files.product is not None else ():
        if not layer.rule.defect:
            continue
        judged = [
            (position + layer.band, i)
            for i, (_, group, position) in enumerate(chosen)
            if layer.image in (None, *(h.asset.key for h in group.headers), *group.headers[0].asset.bands)
        ]
        header = _as_placed(read_header(layer.asset, fetcher), files)
        if judged and max(judged)[0] > header.count:
            raise BadAsset(f"{shown(layer.asset.href)}: has {header.count} bands, its image at least {max(judged)[0]}")
        if judged:
            file_bands, cube_bands = zip(*judged, strict=True)
            placed = (place(header, target, size, label),)
            out.append(DefectFiles(files=placed, rule=layer.rule, file_bands=file_bands, cube_bands=cube_bands))
    return tuple(out)


def _as_placed(mask: Header, files: _Files) -> Header:
    """The header of a mask layer, without a place where the product has none."""
    if files.product is not None and not files.product.placed:
        return replace(mask, crs=None, transform=Affine.identity())
    return mask


ROWS = (
    FormatRow(
        product="GeoTIFF, COG, JPEG 2000",
        levels="any",
        read="bands by `wavelength` tags, ENVI and IMAGERY domains, a `.hdr` beside it, or names; tiles of one "
        "acquisition are one scene",
        masks="nodata value, internal masks, `.msk`, alpha",
        grid="its own; GCP and RPC kept",
        refused="bands that nothing identifies: `--sensor` or `--wavelengths`",
    ),
)
