"""Sentinel-2 L1C and L2A: items, SAFE folders, loose bands; the offset of their numbers, applied exactly once.

From processing baseline 04.00 (25 January 2022) on, ESA adds 1000 to the digital numbers (RADIO_ADD_OFFSET -1000,
BOA_ADD_OFFSET -1000), so that reflectance = DN * 1e-4 - 0.1. Some providers subtract the 1000 before they publish, some
only claim so, some give two contradicting fields. DN 0 is nodata in every product.
Source: ESA, Sentinel-2 Products Specification Document S2-PDGS-TAS-DI-PSD v14.9, section on BOA_ADD_OFFSET.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypermend.catalog.cube.spec import CLOUD, NODATA, SATURATED, SHADOW, SNOW
from hypermend.catalog.meaning.statement import Field, Source, Statement, Statements
from hypermend.catalog.meaning.times import utc_time
from hypermend.catalog.readers.masks import MaskRule
from hypermend.catalog.readers.profile import Delivery, Description, FormatRow, MaskLayer, file_name
from hypermend.catalog.readers.raster.choose import pixel_m
from hypermend.catalog.readers.raster.numbers import metadata_number
from hypermend.catalog.readers.raster.safe import loose_deliveries, metadata_statements, safe_delivery
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.storage.fetch import AssetFetcher

SCALE = 1e-4
OFFSET = -0.1
FIRST_BASELINE_WITH_OFFSET = 4.0
_BASELINE_KEYS = ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version")
_APPLIED_KEYS = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied", "s2:boa_offset_applied")
_USER_OFFSET = "hypermend:s2_offset"
_URI_KEYS = ("s2:product_uri", "sentinel:product_id")
_NOT_BANDS = re.compile(r"^(aot|wvp|visual|tci|preview|.*-jp2)", re.I)
_CLASSES = re.compile(r"scl([_-]?\d+m)?", re.I)
_PRODUCT = re.compile(r"S2(?P<craft>[A-D])_MSIL(?P<level>1C|2A)_(?P<time>\d{8}T\d{6})_N(?P<baseline>\d{4})", re.I)
# Scene classification map: class -> reasons. Dark area, vegetation, soil, water and unclassified stay valid
SCL = MaskRule(name="SCL", values={0: NODATA, 1: SATURATED, 3: SHADOW, 8: CLOUD, 9: CLOUD, 10: CLOUD, 11: SNOW})
_CLASSIFICATION = tuple(MaskRule(name="MSK_CLASSI", values={1: flag}) for flag in (CLOUD, CLOUD, SNOW))
"""bands of MSK_CLASSI_B00: opaque clouds, cirrus, snow"""
_QUALITY = {3: NODATA, 6: NODATA, 8: SATURATED}
"""bands of MSK_QUALIT: lost packets, no data, saturated; 5 is defective pixels"""
_DEFECTIVE = MaskRule(name="MSK_QUALIT", defect=True)


def deliveries(folder: Path, files: Sequence[str]) -> list[Delivery]:
    """See `Profile`."""
    return safe_delivery(folder, files) or loose_deliveries(folder, files)


def describe(scene: Scene, fetcher: AssetFetcher) -> Description | None:
    """See `Profile`."""
    name = _product_name(scene)
    if not scene.sensor.startswith("sentinel2") and name is None and not _loose(scene):
        return None
    usable = [a for a in scene.assets.values() if _is_image(a)]
    layers = [a for a in usable if _is_classes(a)]
    images = _first_of_each([a for a in usable if a not in layers])
    applied = next((k for k in _APPLIED_KEYS if k in scene.properties), None)
    if applied is not None and scene.properties[applied] is True:
        # Earth Search lists offset -0.1 in raster:bands even where its pixels have it applied; the flag is right
        images = [replace(a, offset=None) for a in images]
    statements, required = _scale(scene, name, images, applied)
    metadata = [a for a in scene.assets.values() if re.fullmatch(r"MTD_MSIL(1C|2A)\.xml", file_name(a), re.I)]
    level = name["level"].upper() if name is not None else None
    said = Statements(statements)
    if name is not None:
        said.add(Field.SENSOR, f"sentinel2{name['craft'].lower()}", Source.FILE, f"name {name[0]}")
        said.add(Field.DATETIME, utc_time(name["time"]), Source.PRODUCT, f"name {name[0]}")
    for asset in metadata:
        said.extend(metadata_statements(asset, fetcher))
    if required:  # of ESA; a derived file may hold anything
        said.add(Field.QUANTITY, "reflectance", Source.PRODUCT, "Sentinel-2")
    said.add(Field.NODATA, 0, Source.PRODUCT, "Sentinel-2")
    return Description(
        product=f"Sentinel-2 {f'L{level}' if level else 'bands'}",
        images=tuple(images),
        masks=_masks(scene, layers),
        statements=tuple(said),
        sidecars=tuple(metadata),
        class_bands={"SCL": SCL},
        required=required if not metadata or Field.OFFSET not in {s.field for s in said} else {},
    )


def _product_name(scene: Scene) -> re.Match[str] | None:
    """ESA's name of the product, from the item or the paths of its files."""
    names = [scene.id, *(str(scene.properties.get(k, "")) for k in _URI_KEYS), *(a.href for a in scene.assets.values())]
    return next((m for n in names if (m := _PRODUCT.search(n))), None)


def _loose(scene: Scene) -> bool:
    return any(re.match(r"T\d{2}[A-Z]{3}_\d{8}T\d{6}_B\w\w", file_name(a)) for a in scene.assets.values())


def _is_image(asset: Asset) -> bool:
    """Whether an asset holds bands or the scene classification."""
    name = file_name(asset)
    pictures = re.search(r"_(TCI|AOT|WVP|PVI)(_\d+m)?\.", name, re.I) or _NOT_BANDS.match(asset.key)
    if pictures or re.search(r"MSK_|\.(xml|json|html|txt|hdr|msk)$", name, re.I):
        return False
    words = {"thumbnail", "overview", "metadata", "visual", "preview"}
    return not words & {asset.key.lower(), *asset.roles}


def _is_classes(asset: Asset) -> bool:
    return _CLASSES.fullmatch(asset.key) is not None or "_SCL" in file_name(asset).upper()


def _first_of_each(assets: Sequence[Asset]) -> list[Asset]:
    """Of a band that a provider offers as COG and as JPEG 2000, the file listed first."""
    if not any(a.bands for a in assets) or any(len(a.bands) > 1 for a in assets):
        return list(assets)  # multi-band files: their own headers identify the bands
    kept: dict[Any, Asset] = {}
    for asset in assets:
        if asset.bands:
            kept.setdefault((asset.bands, pixel_m(asset, None)), asset)
    return list(kept.values())


def _scale(
    scene: Scene, name: re.Match[str] | None, images: Sequence[Asset], applied: str | None
) -> tuple[list[Statement], Mapping[Field, str]]:
    """Scale and offset, and the error for a product of unknown baseline.

    Without a baseline and without ESA's name a file is derived by somebody: nobody says how its integers are scaled.
    """
    said = Statements()
    properties = scene.properties
    given = properties.get(_USER_OFFSET)
    said.add(
        Field.OFFSET,
        None if given is None else metadata_number(str(given), _USER_OFFSET),
        Source.USER,
        f"property {_USER_OFFSET}",
    )
    baseline, where = _baseline(properties, name)
    if applied is not None and properties[applied] is True:
        said.add(Field.OFFSET, 0.0, Source.STAC_ITEM, applied)
    elif baseline is not None:
        offset = OFFSET if baseline >= FIRST_BASELINE_WITH_OFFSET else 0.0
        said.add(Field.OFFSET, offset, Source.PRODUCT, f"processing baseline {baseline:05.2f}, {where}")
    known = baseline is not None or applied is not None or _is_esa_product(scene, name)
    if known or given is not None or any(a.offset is not None for a in images):
        said.add(Field.SCALE, SCALE, Source.PRODUCT, "Sentinel-2")
    message = (
        "a Sentinel-2 product without processing baseline; say whether the -0.1 offset of baseline 04.00 applies by "
        f"--add-offset, or by the item's property {_USER_OFFSET} (-0.1 or 0)"
    )
    return list(said), {Field.OFFSET: message} if known else {}


def _is_esa_product(scene: Scene, name: re.Match[str] | None) -> bool:
    """Whether this is a whole ESA product (by its name or STAC fields) and not a derived file."""
    names = (scene.id, *(str(scene.properties.get(k, "")) for k in _URI_KEYS))
    told = any(re.match(r"(S2[A-D]_|L2A_T|L1C_T)", n) for n in names) or "s2:datatake_id" in scene.properties
    return told or name is not None or _loose(scene)


def _baseline(properties: Mapping[str, Any], name: re.Match[str] | None) -> tuple[float | None, str]:
    """Processing baseline, and where it stands."""
    for key in _BASELINE_KEYS:
        if (text := properties.get(key)) and (match := re.fullmatch(r"0?(\d{1,2}\.\d{2})", str(text))):
            return float(match[1]), key
    if name is not None:
        return float(f"{name['baseline'][:2]}.{name['baseline'][2:]}"), f"name {name[0]}"
    return None, ""


def _masks(scene: Scene, layers: Sequence[Asset]) -> tuple[MaskLayer, ...]:
    """The finest scene classification; where there is none, ESA's own masks of an L1C product."""
    if layers:
        finest = min(layers, key=lambda a: pixel_m(a, None) or 20.0)
        masks = [MaskLayer(asset=finest, rule=SCL)]
    else:
        classified = (a for a in scene.assets.values() if file_name(a).upper() == "MSK_CLASSI_B00.JP2")
        masks = [
            MaskLayer(asset=a, rule=rule, band=i) for a in classified for i, rule in enumerate(_CLASSIFICATION, start=1)
        ]
    for asset in scene.assets.values():
        if (match := re.fullmatch(r"MSK_QUALIT_(B\w\w)\.jp2", file_name(asset), re.I)) is None:
            continue
        masks += [
            MaskLayer(asset=asset, rule=MaskRule(name="MSK_QUALIT", values={1: flag}), band=band)
            for band, flag in _QUALITY.items()
        ]
        masks.append(MaskLayer(asset=asset, rule=_DEFECTIVE, band=5, image=match[1].upper()))
    return tuple(masks)


ROWS = (
    FormatRow(
        product="Sentinel-2 A, B, C",
        levels="L1C, L2A",
        read="SAFE folder, loose bands, or item; reflectance with the offset of its baseline, applied once; "
        "coarser bands repeated, finer ones averaged (`--gsd`)",
        masks="SCL, `MSK_CLASSI`, `MSK_QUALIT` (saturated, lost; defects per band); 0 is no data",
        grid="its own",
        refused="bands with different offsets; band names alone: A, B or C is asked for",
    ),
)
