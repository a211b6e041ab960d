"""Sentinel-2 as Zarr of ESA's EOPF: as served (groups r10m, r20m, r60m with one array a band) and converted to GeoZarr.

An item lists the store many times: its groups, its bands, the whole product. They are one scene. Each band is taken
from the group of the requested pixel size, else from the nearest one and repeated or averaged by a whole ratio. The
scale in the arrays (`_eopf_attrs`, or CF) and `raster:scale` of the item are the same scale. The number 0 is no data.
Source: ESA EOPF product structure; EOPF-Explorer eopf-geozarr; acolite (uint16 only is scaled).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hypermend.catalog.errors import BadAsset
from hypermend.catalog.meaning.statement import Field, Source, Statements
from hypermend.catalog.meaning.times import utc_time
from hypermend.catalog.readers.hierarchical import place
from hypermend.catalog.readers.hierarchical.facts import number_statements
from hypermend.catalog.readers.hierarchical.file import Node, as_text
from hypermend.catalog.readers.hierarchical.layout import Arrays, CubeArray, Layout, MaskArray, Transform
from hypermend.catalog.readers.hierarchical.zarr_file import is_zarr, split_href
from hypermend.catalog.readers.products.sentinel2 import SCL
from hypermend.catalog.readers.profile import FormatRow
from hypermend.catalog.scene import Asset

_HOMES = ("measurements/reflectance/", "reflectance/", "")
_GROUPS = (10, 20, 60)
_GROUP = re.compile(r"reflectance/r(\d+)m(/|$)")
_ORDER = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
_SCL = "conditions/mask/l2a_classification/r{gsd}m/scl"
_NAME = re.compile(r"(S2[ABC])_MSIL[12][AC]_(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)_", re.A)


def gsd_of(assets: Sequence[Asset]) -> float | None:
    """Pixel size of the one group in which all the assets lie; None for several groups, or a whole store."""
    sizes = {match[1] if (match := _GROUP.search(split_href(a.href)[1])) else None for a in assets if is_zarr(a)}
    only = sizes.pop() if len(sizes) == 1 else None
    return None if only is None else float(only)


def _bands(node: Node) -> dict[str, dict[int, str]]:
    """{band: {pixel size in m: path of its array}}."""
    found: dict[str, dict[int, str]] = {}
    for path, array in node.arrays.items():
        for home in _HOMES:
            match = re.fullmatch(rf"{home}(?:r(\d+)m/)?(b\d[\da])", path, re.I)
            if match is None or len(array.shape) != 2:
                continue
            gsd = int(match[1]) if match[1] else _step(node, home)
            if gsd is not None and gsd in _GROUPS:
                found.setdefault(str(match[2]).upper(), {})[gsd] = path
            break
    return {name: found[name] for name in _ORDER if name in found}


def _step(node: Node, home: str) -> int | None:
    """Pixel size of a group that was given alone."""
    x = node.numbers(f"{home}x") if f"{home}x" in node else []
    return round(abs(x[1] - x[0])) if len(x) > 1 else None


def _arrays(node: Node) -> Arrays:
    bands = _bands(node)
    sizes = {gsd for of_band in bands.values() for gsd in of_band}
    gsd = min(sizes) if node.gsd_m is None else int(node.gsd_m)
    if gsd not in sizes:
        raise BadAsset(f"{node.where}: no group of {gsd} m; it has {', '.join(f'{s} m' for s in sorted(sizes))}")
    said = Statements(_product_statements(node))
    cubes, notes = [], {}
    for name, of_band in bands.items():
        own = min(of_band, key=lambda size: (size != gsd, size > gsd, abs(size - gsd)))
        path = of_band[own]
        if own % gsd and gsd % own:
            raise BadAsset(f"{node.where}: {name} has pixels of {own} m, {gsd} m are requested; no whole ratio")
        up, down = max(own // gsd, 1), max(gsd // own, 1)
        if up != down:
            notes[name] = f"repeated {up} x" if up > 1 else f"averaged {down} x"
        cubes.append(CubeArray(path=path, axes="yx", bands=(0,), up=up, down=down))
        said.extend(_number_statements(node, path))
    said.add(Field.QUANTITY, "reflectance", Source.FILE, "measurements/reflectance")
    said.add(Field.NODATA, 0, Source.PRODUCT, "Sentinel-2")
    reference = next(of_band[gsd] for of_band in bands.values() if gsd in of_band)
    crs, transform = _grid(node, reference)
    said.add(Field.CRS, crs, Source.FILE, "its grid")
    return Arrays(
        cubes=tuple(cubes),
        statements=tuple(said),
        names=tuple(bands),
        masks=_classes(node, gsd),
        transform=transform,
        attrs={"hypermend:resampling": notes} if notes else {},
    )


def _number_statements(node: Node, path: str) -> Statements:
    """Scale and offset of one band: of its attributes, or those that EOPF keeps for itself. Floats are decoded."""
    array = node.array(path)
    said = Statements()
    if array.dtype.kind == "f":
        return said
    said.extend(s for s in number_statements(path, array) if s.field is not Field.NODATA)
    own = array.attrs.get("_eopf_attrs", {})
    own = json.loads(own) if isinstance(own, str) else own
    if isinstance(own, Mapping):
        for fact, key in ((Field.SCALE, "scale_factor"), (Field.OFFSET, "add_offset")):
            if isinstance(own.get(key), int | float):
                said.add(fact, float(own[key]), Source.FILE, f"{path}, _eopf_attrs")
    return said


def _product_statements(node: Node) -> Statements:
    """Instrument and time: the STAC properties in the store, else its name."""
    said = Statements()
    properties = _discovery(node)
    match = _NAME.search(node.where)
    platform = str(properties.get("platform", "")).lower().replace("-", "")
    if re.fullmatch(r"sentinel2[abc]", platform):
        said.add(Field.SENSOR, platform, Source.FILE, "stac_discovery, platform")
    elif match is not None:
        said.add(Field.SENSOR, f"sentinel{match[1][1:].lower()}", Source.FILE, "its name")
    when = utc_time(str(properties.get("start_datetime") or properties.get("datetime") or ""))
    if when is None and match is not None:
        when = utc_time("{}-{}-{}T{}:{}:{}".format(*match.groups()[1:]))
    said.add(Field.DATETIME, when, Source.FILE, "stac_discovery" if properties else "its name")
    return said


def _discovery(node: Node) -> Mapping[str, Any]:
    found = node.attrs.get("stac_discovery", {})
    properties = found.get("properties", {}) if isinstance(found, Mapping) else {}
    return properties if isinstance(properties, Mapping) else {}


def _grid(node: Node, path: str) -> tuple[str | None, Transform | None]:
    """Reference system and transform of the group of an array."""
    home = path.rpartition("/")[0]
    prefix = f"{home}/" if home else ""
    crs = None
    if f"{prefix}spatial_ref" in node:
        crs = place.crs_of(node.array(f"{prefix}spatial_ref").attrs, node.where)
    group = node.group[home] if home else node.group
    for attrs in (group.attrs, node.array(path).attrs, _discovery(node)):
        for key in ("proj:code", "proj:epsg"):
            if crs is None and attrs.get(key):
                text = as_text(attrs[key])
                crs = place.checked_crs(f"EPSG:{text}" if text.isdigit() else text, node.where)
    if f"{prefix}x" not in node or f"{prefix}y" not in node:
        return crs, None
    x, y = (node.values(f"{prefix}{axis}").astype("float64") for axis in "xy")
    return crs, place.transform_of(x, y, node.where)


def _classes(node: Node, gsd: int) -> tuple[MaskArray, ...]:
    """The scene classification, repeated or averaged by taking one pixel: classes have no mean."""
    for own in (gsd, 20, 60):
        path = _SCL.format(gsd=own)
        if path in node and own % gsd == 0:
            return (MaskArray(path=path, rule=SCL, up=own // gsd),)
    return ()


def _matches(node: Node) -> bool:
    return len(_bands(node)) >= 2


LAYOUTS = (Layout(product="Sentinel-2 EOPF Zarr", matches=_matches, arrays=_arrays),)

ROWS = (
    FormatRow(
        product="Sentinel-2 EOPF",
        levels="L1C, L2A as Zarr",
        read="the store as served and converted to GeoZarr, listed by an item as often as it likes; one pixel "
        "size (`--gsd`); the scale is applied once",
        masks="SCL; 0 is no data",
        grid="its own",
        refused="a pixel size that the store has not",
    ),
)
