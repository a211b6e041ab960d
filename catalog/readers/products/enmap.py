"""EnMAP L1B, L1C and L2A deliveries: spectral images, METADATA.XML, quality layers.

L1B has an image of each detector in sensor geometry; the two are registered to each other only in L1C. The place that
an L1B image states is a fit of the scene's corners: its rational polynomial coefficients are kept instead.
Source: DLR, EnMAP Product Specification, EN-PCV-ICD-2009 (bandCharacterisation, temporalCoverage, quality layers).
The layers' values are those that two open readers use: GFZ's EnPT (classes 1 land, 2 water), hyperproc (3 background).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hypermend.catalog.cube.spec import CLOUD, NODATA, SHADOW, SNOW
from hypermend.catalog.errors import BadAsset
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
from hypermend.catalog.readers.raster.xml import columns, read_xml
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.storage.fetch import AssetFetcher
from hypermend.catalog.storage.hrefs import shown

_STEM = r"(?P<stem>ENMAP01.*?)-"
_IMAGE = re.compile(rf"{_STEM}SPECTRAL_IMAGE(_(?P<detector>VNIR|SWIR))?(_COG)?\.(tiff?|geotiff)", re.I)
_LAYER = re.compile(rf"{_STEM}QL_(?P<layer>QUALITY_\w+?|PIXELMASK(_(VNIR|SWIR))?)(_COG)?\.(tiff?|geotiff)", re.I)
_METADATA = re.compile(rf"{_STEM}METADATA\.XML", re.I)
_TIME = re.compile(r"_(\d{8}T\d{6})Z_")
_LEVEL = re.compile(r"ENMAP01-_*(L1B|L1C|L2A)", re.I)
_NODATA = {"L1B": 0, "L1C": 0, "L2A": -32768}
_RADIANCE_UNITS = "W m-2 sr-1 nm-1"
_TAGS = ("wavelengthCenterOfBand", "FWHMOfBand", "GainOfBand", "OffsetOfBand")


def _marks(name: str, flag: int) -> MaskRule:
    """A layer that holds 0 where its class is absent, and 255 outside of the scene."""
    return MaskRule(name=name, values=dict.fromkeys(range(1, 255), flag))


_RULES = {
    "QUALITY_CLASSES": MaskRule(name="QL_QUALITY_CLASSES", values={3: NODATA}),  # 1 land, 2 water, 3 background
    "QUALITY_CLOUD": _marks("QL_QUALITY_CLOUD", CLOUD),
    "QUALITY_CIRRUS": _marks("QL_QUALITY_CIRRUS", CLOUD),  # 1 thin, 2 medium, 3 thick
    "QUALITY_HAZE": _marks("QL_QUALITY_HAZE", CLOUD),
    "QUALITY_CLOUDSHADOW": _marks("QL_QUALITY_CLOUDSHADOW", SHADOW),
    "QUALITY_SNOW": _marks("QL_QUALITY_SNOW", SNOW),
}
_DEFECTS = MaskRule(name="QL_PIXELMASK", defect=True, sound=(0, 255))


def deliveries(folder: Path, files: Sequence[str]) -> list[Delivery]:
    """See `Profile`. A spectral image without its metadata is no delivery: a GeoTIFF like others."""
    found: list[Delivery] = []
    stems = {m["stem"]: None for f in files if (m := _METADATA.fullmatch(Path(f).name))}
    for stem in stems:
        own = [f for f in files if Path(f).name.startswith(f"{stem}-")]
        assets: dict[str, Asset] = {}
        for file in own:
            name = Path(file).name
            if match := _IMAGE.fullmatch(name):
                key = f"image_{match['detector'].lower()}" if match["detector"] else "image"
                assets.setdefault(key, image_asset(folder, file, key))
            elif match := _LAYER.fullmatch(name):
                key = match["layer"].lower()
                assets.setdefault(key, layer_asset(folder, file, key))
            elif _METADATA.fullmatch(name):
                assets["metadata"] = metadata_asset(folder, file)
        if any(key.startswith("image") for key in assets):
            found.append(Delivery(id=stem, files=tuple(own), assets=assets))
    return found


def describe(scene: Scene, fetcher: AssetFetcher) -> Description | None:
    """See `Profile`."""
    found = ((a, m["detector"]) for a in scene.assets.values() if (m := _IMAGE.fullmatch(file_name(a))))
    images = dict(sorted(found, key=lambda pair: pair[1] == "SWIR"))  # the product numbers the bands of the VNIR first
    metadata = next((a for a in scene.assets.values() if _METADATA.fullmatch(file_name(a))), None)
    if not images:
        return None
    name = file_name(next(iter(images)))
    level = match[1].upper() if (match := _LEVEL.match(name)) else "L2A"
    said = Statements()
    said.add(Field.SENSOR, "enmap", Source.FILE, f"name {name}")
    if match := _TIME.search(name):
        said.add(Field.DATETIME, utc_time(match[1]), Source.PRODUCT, f"name {name}")
    said.add(Field.NODATA, _NODATA[level], Source.PRODUCT, f"EnMAP {level}")
    by_asset: dict[str, tuple[Statement, ...]] = {}
    if metadata is not None:
        level = _add_metadata(said, by_asset, metadata, images, level, fetcher)
    else:
        _add_quantity(said, level, Source.PRODUCT, f"EnMAP {level}")
    keys = {a.key: d.upper() for a, d in images.items() if d}
    return Description(
        product=f"EnMAP {level}",
        images=tuple(images),
        masks=_masks(scene, {d: key for key, d in keys.items()}),
        statements=tuple(said),
        by_asset=by_asset,
        detectors=keys,
        sidecars=() if metadata is None else (metadata,),
        placed=level != "L1B",
        attrs={"hypermend:registration": "VNIR and SWIR are not registered to each other"} if len(keys) > 1 else {},
    )


def _masks(scene: Scene, images: dict[str, str]) -> tuple[MaskLayer, ...]:
    """Mask layers among the assets.

    Args:
        images: key of the image of each detector (L1B).
    """
    masks: list[MaskLayer] = []
    for asset in scene.assets.values():
        if (match := _LAYER.fullmatch(file_name(asset))) is None:
            continue
        layer = match["layer"].upper()
        if layer in _RULES:
            masks.append(MaskLayer(asset=asset, rule=_RULES[layer]))
        elif layer.startswith("PIXELMASK"):
            masks.append(MaskLayer(asset=asset, rule=_DEFECTS, image=images.get(layer.rpartition("_")[2])))
    return tuple(masks)


def _add_quantity(said: Statements, level: str, source: Source, where: str) -> None:
    radiance = level in ("L1B", "L1C")
    said.add(Field.QUANTITY, "radiance" if radiance else "reflectance", source, where)
    said.add(Field.UNITS, _RADIANCE_UNITS if radiance else None, source, where)


def _add_metadata(
    said: Statements,
    by_asset: dict[str, tuple[Statement, ...]],
    metadata: Asset,
    images: dict[Asset, str | None],
    level: str,
    fetcher: AssetFetcher,
) -> str:
    """Add the statements of the metadata file. Returns the level that it names.

    Raises:
        BadAsset: it describes no bands.
    """
    where = shown(metadata.href).rsplit("/", 1)[-1]
    root = read_xml(metadata, fetcher)
    bands = root.findall(".//bandCharacterisation/bandID")
    if not bands:
        raise BadAsset(f"{where}: describes no bands (bandCharacterisation); it is no EnMAP metadata")
    if all((b.get("number") or "").isdecimal() for b in bands):
        bands.sort(key=lambda b: int(b.get("number", "0")))
    told = (root.findtext(".//processingLevel") or root.findtext(".//base/level") or level).strip().upper()
    level = told if told in _NODATA else level
    _add_quantity(said, level, Source.SIDECAR, f"{where}: level {level}")
    start = root.findtext(".//temporalCoverage/startTime")
    said.add(Field.DATETIME, utc_time(start or ""), Source.SIDECAR, f"{where}: startTime")
    centres, *others = columns(bands, _TAGS, where)
    values = dict(zip((Field.WAVELENGTH, Field.FWHM, Field.SCALE, Field.OFFSET), (centres, *others), strict=True))
    first_swir = next((i for i in range(1, len(centres)) if centres[i] < centres[i - 1]), len(centres))
    told_count = (root.findtext(".//numberOfVNIRBands") or "").strip()
    count = int(told_count) if told_count.isdecimal() else first_swir
    part = {"VNIR": slice(0, count), "SWIR": slice(count, None)}
    for image, detector in images.items():
        own = Statements()
        for field, numbers in values.items():
            kept = numbers[part[detector.upper()]] if detector else numbers
            same = field in (Field.SCALE, Field.OFFSET) and len(set(kept)) == 1
            own.add(field, kept[0] if same else kept, Source.SIDECAR, where)
        by_asset[image.key] = tuple(own)
    return level


ROWS = (
    FormatRow(
        product="EnMAP",
        levels="L1B, L1C, L2A",
        read="folder or item: `SPECTRAL_IMAGE*.TIF`, `METADATA.XML`; gain and offset per band, L1 decoded to "
        "radiance; bands in the order of the XML",
        masks="`QL_QUALITY_*` (background, cloud, cirrus, haze, shadow, snow); `QL_PIXELMASK` as defects per band",
        grid="L1C, L2A: their own; L1B: sensor geometry, RPC kept; the two detectors are one scene, not registered to "
        "each other",
        refused="a delivery whose XML describes no bands, or other bands than the image",
    ),
)
