"""Sentinel-2: selection of files, the reflectance offset applied exactly once, the scene classification as flags.

From processing baseline 04.00 (25 January 2022) on, ESA adds 1000 to the digital numbers (RADIO_ADD_OFFSET -1000,
BOA_ADD_OFFSET -1000), so that reflectance = DN * 1e-4 - 0.1. Some providers subtract the 1000 before they
publish, some only claim so, some give two contradicting fields.
Source: ESA, Sentinel-2 Products Specification Document S2-PDGS-TAS-DI-PSD v14.9, section on BOA_ADD_OFFSET.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypermend.catalog.arrays import Flags
from hypermend.catalog.band_names import match_band
from hypermend.catalog.cube.spec import CLOUD, NODATA, SATURATED, SHADOW, SNOW, VALID
from hypermend.catalog.errors import BadAsset, Refused
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.sensors import sensor

SCALE = 1e-4
OFFSET = -0.1
FIRST_BASELINE_WITH_OFFSET = 4.0
_BASELINE_KEYS = ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version")
_APPLIED_KEYS = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied", "s2:boa_offset_applied")
_CLASSES = "scl"
_NOT_BANDS = re.compile(r"^(aot|wvp|visual|tci|preview|.*-jp2)", re.I)
# Scene classification map: class -> reasons. Dark area, vegetation, soil, water and unclassified stay valid
SCL_FLAGS = {0: NODATA, 1: SATURATED, 3: SHADOW, 8: CLOUD, 9: CLOUD, 10: CLOUD, 11: SNOW}
_LOOKUP = np.zeros(256, dtype=np.uint8)
for _class, _flag in SCL_FLAGS.items():
    _LOOKUP[_class] = _flag


def is_class_band(band: str) -> bool:
    """Whether a band holds classes (SCL) instead of measurements."""
    return re.match(rf"{_CLASSES}(_\d+m)?$", band.strip(), re.I) is not None


def add_class_flags(flags: Flags, classes: NDArray[np.uint8]) -> Flags:
    """Flags with the reasons of the scene classification; a reason clears VALID."""
    reasons = _LOOKUP[classes]
    out = flags | reasons
    return np.where(reasons > 0, out & ~np.uint8(VALID), out).astype(np.uint8)


def select_assets(assets: Sequence[Asset], bands: Sequence[str] | None, gsd_m: float | None, label: str) -> list[Asset]:
    """One file per band: of several resolutions the one of `gsd_m`, else the finest that is not below it.

    A provider may offer a band as COG and JPEG 2000: the first one listed is taken.
    """
    usable = [a for a in assets if not _NOT_BANDS.match(a.key)]
    if not any(a.bands for a in usable) or any(len(a.bands) > 1 for a in usable):
        return list(usable)  # multi-band files: their own headers identify the bands
    table = sensor("sentinel2a")  # A, B and C name their bands alike
    wanted = None if bands is None else {match_band(b, table) or b for b in bands}
    offered: dict[str, list[Asset]] = {}
    for asset in usable:
        name = asset.bands[0] if asset.bands else asset.key
        if is_class_band(name):
            offered.setdefault("SCL", []).append(asset)
        elif asset.bands and (wanted is None or name in wanted):
            offered.setdefault(name, []).append(asset)
    if not offered or (wanted is not None and (missing := sorted(wanted - offered.keys()))):
        names = sorted({b for a in usable for b in a.bands})
        raise BadAsset(
            f"{label}: bands {missing if wanted else ''} are not among its assets; it has {', '.join(names)}"
        )
    finest = gsd_m if gsd_m is not None else min(_pixel_m(a, name) for name, g in offered.items() for a in g)
    return [_nearest(name, group, finest) for name, group in offered.items()]


def _nearest(name: str, group: Sequence[Asset], gsd_m: float) -> Asset:
    """Same pixel size, else the coarsest finer one (averaged), else the finest coarser one (repeated)."""
    sizes = [_pixel_m(a, name) for a in group]
    return min(
        zip(group, sizes, range(len(group)), strict=True),
        key=lambda p: (abs(p[1] - gsd_m) > 1e-6, p[1] > gsd_m, abs(p[1] - gsd_m), p[2]),
    )[0]


def _pixel_m(asset: Asset, name: str) -> float:
    if asset.grid is not None:
        return abs(float(asset.grid.affine.a))
    if asset.gsd_m is not None:
        return asset.gsd_m
    table = sensor("sentinel2a")
    return table.gsd_m[table.band_name.index(name)] if name in table.band_name else 20.0


def scaling(scene: Scene, dtype: str, declared: tuple[float, float] | None, asset: Asset) -> tuple[float, float, str]:
    """(scale, offset, why) of Sentinel-2 numbers. The offset is applied exactly once, or the scene is refused.

    Args:
        declared: (scale, offset) of the file or the item (raster:bands), None if neither gives them.

    Raises:
        Refused: a product of unknown baseline, without a statement whether the offset is applied.
    """
    if np.dtype(dtype).kind == "f":
        scale, offset = declared or (1.0, 0.0)
        return scale, offset, "floating-point reflectance: already scaled"
    scale = declared[0] if declared is not None and declared[0] != 1.0 else SCALE
    properties = scene.properties
    if (override := properties.get("hypermend:s2_offset")) is not None:
        return scale, float(override), f"given by the user: {float(override):g}"
    applied = next((properties[k] for k in _APPLIED_KEYS if k in properties), None)
    if applied is True:
        # Earth Search lists offset -0.1 in raster:bands even where its pixels have it applied; the flag is right
        return scale, 0.0, "already applied by the provider (boa_offset_applied)"
    if declared is not None and (asset.offset is not None or declared[1] != 0):
        return scale, declared[1], f"offset of the item or the file: {declared[1]:g}"
    baseline = _baseline(properties, scene.id)
    if baseline is not None:
        if baseline >= FIRST_BASELINE_WITH_OFFSET:
            return scale, OFFSET, f"processing baseline {baseline:05.2f}: {OFFSET:g}"
        return scale, 0.0, f"processing baseline {baseline:05.2f}: none before 04.00"
    if applied is False or _is_esa_product(scene, properties):
        raise Refused(
            f"scene {scene.id}: a Sentinel-2 product without processing baseline; say whether the -0.1 offset of "
            "baseline 04.00 applies by the item's property hypermend:s2_offset (-0.1 or 0)"
        )
    return scale, 0.0, "no processing baseline: a derived file, taken as reflectance x 1e4"


def _is_esa_product(scene: Scene, properties: dict[str, Any] | Any) -> bool:
    """Whether this is a whole ESA product (by its name or STAC fields) and not a derived file."""
    names = (scene.id, str(properties.get("s2:product_uri", "")), str(properties.get("sentinel:product_id", "")))
    return any(re.match(r"(S2[A-D]_|L2A_T|L1C_T)", n) for n in names) or "s2:datatake_id" in properties


def _baseline(properties: Any, id: str) -> float | None:
    for key in _BASELINE_KEYS:
        if (text := properties.get(key)) and (match := re.fullmatch(r"0?(\d{1,2}\.\d{2})", str(text))):
            return float(match[1])
    for name in (id, str(properties.get("s2:product_uri", "")), str(properties.get("sentinel:product_id", ""))):
        if match := re.search(r"_N(\d{2})(\d{2})_", name):
            return float(f"{match[1]}.{match[2]}")
    return None
