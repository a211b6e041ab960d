"""Landsat 4 to 9: Level-1 (Collections 1 and 2, and before) and Level-2 surface reflectance (Collection 2).

Level-1: radiance = RADIANCE_MULT_BAND_n * DN + RADIANCE_ADD_BAND_n. Level-2: reflectance = 2.75e-5 * DN - 0.2; its MTL
file repeats the Level-1 factors in another group. DN 0 is nodata. Thermal bands never join the cube, the panchromatic
band has pixels of its own.
Source: USGS, Landsat 4-7 / 8-9 Collection 2 Level-1 and Level-2 Science Product Guides; Data Format Control Books.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from hypermend.catalog.cube.spec import CLOUD, NODATA, SATURATED, SHADOW, SNOW
from hypermend.catalog.meaning.statement import Field, Source, Statement, Statements
from hypermend.catalog.meaning.times import utc_time
from hypermend.catalog.readers.masks import MaskRule
from hypermend.catalog.readers.profile import (
    Delivery,
    Description,
    FormatRow,
    MaskLayer,
    file_name,
    image_asset,
    layer_asset,
    metadata_asset,
)
from hypermend.catalog.readers.raster.mtl import Mtl, read_mtl
from hypermend.catalog.readers.raster.numbers import metadata_number
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.storage.fetch import AssetFetcher

_STEM = r"(?P<stem>L[CEMOT]0?[4-9]\w*?)"
_BAND = re.compile(rf"{_STEM}_(?P<sr>SR_)?B(?P<band>\d+)(_VCID_[12])?\.tiff?", re.I)
_MTL = re.compile(rf"{_STEM}_MTL\.txt", re.I)
_LAYER = re.compile(rf"{_STEM}_(?P<layer>QA_PIXEL|QA_RADSAT|SR_CLOUD_QA)\.tiff?", re.I)
_DAY = re.compile(r"_L2S[PR]_\d{6}_(\d{8})_|_L1[A-Z]{2}_\d{6}_(\d{8})_")
_SENSORS = {
    "T4": "landsat4-tm",
    "T5": "landsat5-tm",
    "E7": "landsat7-etm",
    **dict.fromkeys(("C8", "O8"), "landsat8-oli"),
    **dict.fromkeys(("C9", "O9"), "landsat9-oli"),
}
"""sensor by the letter of the instrument and the number of the satellite in a product's name"""
_PANCHROMATIC = "8"
_SCALE, _OFFSET = 2.75e-5, -0.2
_L2 = "LEVEL2_SURFACE_REFLECTANCE_PARAMETERS"
_L1 = ("LEVEL1_RADIOMETRIC_RESCALING", "RADIOMETRIC_RESCALING")
_RADIANCE_UNITS = "W m-2 sr-1 um-1"
_QA_PIXEL = MaskRule(name="QA_PIXEL", bits={0: NODATA, 2: CLOUD, 3: CLOUD, 4: SHADOW, 5: SNOW})  # 2 is cirrus
_CLOUD_QA = MaskRule(name="SR_CLOUD_QA", bits={1: CLOUD, 2: SHADOW, 4: SNOW})
_TM_RADSAT = MaskRule(name="QA_RADSAT", bits={**dict.fromkeys((0, 1, 2, 3, 4, 6), SATURATED), 9: NODATA})
_OLI_RADSAT = MaskRule(name="QA_RADSAT", bits=dict.fromkeys(range(7), SATURATED))
_RADSAT = {
    **dict.fromkeys(("landsat4-tm", "landsat5-tm", "landsat7-etm"), _TM_RADSAT),
    **dict.fromkeys(("landsat8-oli", "landsat9-oli"), _OLI_RADSAT),
}
"""bits of the reflective bands; 9 is a dropped pixel of TM and ETM+"""


def deliveries(folder: Path, files: Sequence[str]) -> list[Delivery]:
    """See `Profile`."""
    groups: dict[str, list[str]] = {}
    for file in files:
        name = Path(file).name
        if match := _BAND.fullmatch(name) or _MTL.fullmatch(name) or _LAYER.fullmatch(name):
            groups.setdefault(match["stem"], []).append(file)
    found = []
    for stem, own in groups.items():
        assets: dict[str, Asset] = {}
        for file in own:
            name = Path(file).name
            if match := _BAND.fullmatch(name):
                key = f"B{int(match['band'])}"
                assets[key] = image_asset(folder, file, key, bands=(key,))
            elif match := _LAYER.fullmatch(name):
                assets[match["layer"].lower()] = layer_asset(folder, file, match["layer"].lower())
            else:
                assets["mtl"] = metadata_asset(folder, file, "mtl")
        taken = tuple(f for f in files if Path(f).name.startswith(f"{stem}_"))
        if not any(key.startswith("B") for key in assets):
            refusal = f"{folder / stem}_MTL.txt: none of its band files is here"
            found.append(Delivery(id=stem, files=taken, assets={}, refusal=refusal))
        elif len(own) > 1:
            found.append(Delivery(id=stem, files=taken, assets=assets))
    return found


def describe(scene: Scene, fetcher: AssetFetcher) -> Description | None:
    """See `Profile`."""
    bands = {a: m for a in scene.assets.values() if (m := _BAND.fullmatch(file_name(a)))}
    if not bands:
        return None
    surface = any(m["sr"] for m in bands.values())
    bands = {a: m for a, m in bands.items() if bool(m["sr"]) == surface}
    mtl_asset = next((a for a in scene.assets.values() if _MTL.fullmatch(file_name(a))), None)
    mtl = None if mtl_asset is None else read_mtl(mtl_asset, fetcher)
    stem = next(iter(bands.values()))["stem"]
    sensor = _sensor(stem, mtl)
    said = Statements()
    where = "its name" if mtl_asset is None else file_name(mtl_asset)
    said.add(Field.SENSOR, sensor, Source.SIDECAR if mtl is not None else Source.FILE, where)
    said.add(Field.NODATA, 0, Source.PRODUCT, "Landsat")
    product = f"Landsat Level-{2 if surface else 1}"
    said.add(Field.QUANTITY, "reflectance" if surface else "radiance", Source.PRODUCT, product)
    said.add(Field.UNITS, None if surface else _RADIANCE_UNITS, Source.PRODUCT, product)
    said.add(Field.DATETIME, None if mtl is None else _start(mtl), Source.SIDECAR, where)
    if match := _DAY.search(f"{stem}_"):
        day = utc_time(match[1] or match[2])
        said.add(Field.DATETIME, day, Source.GUESS, "the day in its name")
    images, by_asset, left_out = [], {}, []
    for asset, match in bands.items():
        number = str(int(match["band"]))
        if number == _PANCHROMATIC and not surface:
            left_out.append(f"B{number}")
            continue
        image = Asset(**{**vars(asset), "bands": (f"B{number}",)})
        images.append(image)
        by_asset[asset.key] = tuple(_factors(number, surface, mtl, where))
    return Description(
        product=product,
        images=tuple(images),
        masks=_masks(scene, sensor),
        statements=tuple(said),
        by_asset=by_asset,
        sidecars=() if mtl_asset is None else (mtl_asset,),
        left_out=tuple(left_out),
    )


def _masks(scene: Scene, sensor: str | None) -> tuple[MaskLayer, ...]:
    rules = {"QA_PIXEL": _QA_PIXEL, "SR_CLOUD_QA": _CLOUD_QA, "QA_RADSAT": _RADSAT.get(sensor or "")}
    found = ((a, m["layer"].upper()) for a in scene.assets.values() if (m := _LAYER.fullmatch(file_name(a))))
    return tuple(MaskLayer(asset=a, rule=rule) for a, layer in found if (rule := rules[layer]) is not None)


def _sensor(stem: str, mtl: Mtl | None) -> str | None:
    name = stem[1].upper() + stem[2:].lstrip("0")[:1]
    if mtl is not None and (craft := mtl.get("SPACECRAFT_ID")) and (instrument := mtl.get("SENSOR_ID")):
        letter = {"TM": "T", "ETM": "E", "ETM+": "E", "OLI": "O", "OLI_TIRS": "C"}.get(instrument.upper(), "?")
        name = letter + re.sub(r"\D", "", craft)
    return _SENSORS.get(name)


def _start(mtl: Mtl) -> datetime | None:
    day, clock = mtl.get("DATE_ACQUIRED"), mtl.get("SCENE_CENTER_TIME")
    return utc_time(f"{day}T{clock}") if day and clock else None


def _factors(number: str, surface: bool, mtl: Mtl | None, where: str) -> list[Statement]:
    """Scale and offset of one band."""
    said = Statements()
    groups: tuple[str, ...] = (_L2,) if surface else _L1
    name = "REFLECTANCE" if surface else "RADIANCE"
    if surface:
        said.add(Field.SCALE, _SCALE, Source.PRODUCT, "Landsat Level-2")
        said.add(Field.OFFSET, _OFFSET, Source.PRODUCT, "Landsat Level-2")
    for field, kind in ((Field.SCALE, "MULT"), (Field.OFFSET, "ADD")):
        key = f"{name}_{kind}_BAND_{number}"
        value = None if mtl is None else mtl.get(key, *groups)
        said.add(
            field,
            None if value is None else metadata_number(value, f"{where}: {key}"),
            Source.SIDECAR,
            f"{where}: {key}",
        )
    return list(said)


ROWS = (
    FormatRow(
        product="Landsat 4-9",
        levels="C2 L2; L1 of C1 and C2",
        read="one GeoTIFF per band with its MTL; Level-2 reflectance, Level-1 radiance with a factor per band; "
        "thermal and panchromatic bands left out",
        masks="`QA_PIXEL`, `SR_CLOUD_QA`, `QA_RADSAT`; 0 is no data",
        grid="its own",
        refused="an MTL file without its bands",
    ),
)
