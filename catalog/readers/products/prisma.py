"""PRISMA L2D: (y, band, x) cubes of 16-bit numbers, one for each detector, wavelengths in descending order.

A wavelength of 0 marks a band that the product leaves empty; the scene has no such band.
Source: ASI, PRISMA Products Specification Document 2.3 (HDFEOS layout, scale: section 9).
"""

from __future__ import annotations

from hypermend.catalog.errors import BadAsset
from hypermend.catalog.meaning.statement import Field, Source, Statements
from hypermend.catalog.meaning.times import utc_time
from hypermend.catalog.readers.hierarchical.file import Node, as_text
from hypermend.catalog.readers.hierarchical.layout import Arrays, CubeArray, Layout

_SWATH = "HDFEOS/SWATHS/PRS_L2D_HCO"
_DETECTORS = ("VNIR", "SWIR")


def _arrays(node: Node) -> Arrays:
    said = Statements()
    cubes: list[CubeArray] = []
    numbers: list[int] = []
    centres: list[float] = []
    widths: list[float] = []
    scale: list[float] = []
    offset: list[float] = []
    detector: list[str] = []
    before = 0
    for part in _DETECTORS:
        path = f"{_SWATH}/Data Fields/{part}_Cube"
        shape = node.array(path).shape
        centre = [float(w) for w in node.attribute(f"List_Cw_{part.title()}")]
        width = [float(w) for w in node.attribute(f"List_Fwhm_{part.title()}")]
        if len(shape) != 3 or not len(centre) == len(width) == shape[1]:
            raise BadAsset(f"{node.where}: {part}_Cube is {shape} (y, band, x), with {len(centre)} wavelengths")
        kept = [i for i, w in enumerate(centre) if w > 0]
        low, high = node.number(f"L2Scale{part.title()}Min"), node.number(f"L2Scale{part.title()}Max")
        cubes.append(CubeArray(path=path, axes="ybx", bands=tuple(kept)))
        numbers += [before + i + 1 for i in kept]
        centres += [centre[i] for i in kept]
        widths += [width[i] for i in kept]
        scale += [(high - low) / 65535] * len(kept)
        offset += [low] * len(kept)
        detector += [part] * len(kept)
        before += shape[1]
    said.add(Field.SENSOR, "prisma", Source.FILE, _SWATH)
    said.add(Field.WAVELENGTH, tuple(centres), Source.FILE, "List_Cw_Vnir, List_Cw_Swir")
    said.add(Field.FWHM, tuple(widths), Source.FILE, "List_Fwhm_Vnir, List_Fwhm_Swir")
    said.add(Field.SCALE, tuple(scale), Source.FILE, "L2Scale*Min, L2Scale*Max")
    said.add(Field.OFFSET, tuple(offset), Source.FILE, "L2Scale*Min")
    said.add(Field.QUANTITY, "reflectance", Source.PRODUCT, "PRISMA L2D")
    said.add(Field.NODATA, 0, Source.PRODUCT, "PRISMA L2D")
    if "Product_StartTime" in node.attrs:
        said.add(Field.DATETIME, utc_time(as_text(node.attrs["Product_StartTime"])), Source.FILE, "Product_StartTime")
    home = f"{_SWATH}/Geolocation Fields"
    return Arrays(
        cubes=tuple(cubes),
        statements=tuple(said),
        names=tuple(map(str, numbers)),
        numbers=tuple(numbers),
        detector=tuple(detector),
        lonlat=(node.plane(f"{home}/Longitude"), node.plane(f"{home}/Latitude")),
    )


LAYOUTS = (Layout(product="PRISMA L2D", matches=lambda node: _SWATH in node, arrays=_arrays),)
