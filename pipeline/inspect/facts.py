"""The facts of a scene, as its opened files give them: every resolved field with its source, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hypermend.catalog.cube.spec import SOURCES_ATTR, CubeSpec
from hypermend.catalog.meaning.instrument import UNNAMED
from hypermend.catalog.meaning.of_scene import completed
from hypermend.catalog.meaning.resolve import Resolved, shown_value
from hypermend.catalog.meaning.statement import Field, Source
from hypermend.catalog.readers.masks import MASKS_ATTR
from hypermend.catalog.readers.scene_reader import Source as SceneSource
from hypermend.catalog.scene import Scene
from hypermend.catalog.stac.fields import rfc3339

PRODUCT_ATTRS = ("hypermend:product", "hypermend:layout")


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One resolved field."""

    name: str
    value: str
    source: str
    guessed: bool = False
    """no source states it"""


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A fact that no source states."""

    name: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class SceneFacts:
    """What a scene is taken for. `refusal` is the only field of files that cannot be opened."""

    id: str
    refusal: str | None = None
    """why it would not be ingested; None where it would be"""
    product: str | None = None
    sensor: str | None = None
    time: str | None = None
    quantity: str | None = None
    size: tuple[int, int, int] | None = None
    """bands, y, x"""
    place: str = ""
    files: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    missing: tuple[Missing, ...] = ()
    notes: tuple[str, ...] = ()
    sampled: Mapping[str, float] = field(default_factory=dict)
    """{flag: share} of the pixels of some windows; empty where none were read"""

    def fact(self, name: str) -> Fact | None:
        """The resolved field of this name."""
        return next((fact for fact in self.facts if fact.name == name), None)


def facts_of(scene: Scene, source: SceneSource) -> SceneFacts:
    """The facts of a scene whose files are open."""
    spec = source.spec
    scene = completed(scene, spec.sensor, source.meaning)
    return SceneFacts(
        id=scene.id,
        product=next((str(spec.attrs[name]) for name in PRODUCT_ATTRS if name in spec.attrs), None),
        sensor=spec.sensor,
        time=None if scene.datetime is None else rfc3339(scene.datetime),
        quantity=spec.quantity,
        size=spec.shape,
        place=place_of(source),
        files=tuple(asset.href for asset in scene.assets.values()),
        facts=tuple(_facts(spec, source.meaning.resolved)),
        missing=tuple(_missing(scene, source)),
    )


def place_of(source: SceneSource) -> str:
    """Grid of the cube in a few words."""
    spec = source.spec
    if spec.grid is not None and spec.transform is not None:
        a, b, _, d, e, _ = spec.transform
        size = sorted({f"{math.hypot(a, d):.6g}", f"{math.hypot(b, e):.6g}"})
        crs = str(spec.crs)
        epsg = spec.grid.crs.to_epsg() if spec.grid.crs is not None else None
        name = f"EPSG:{epsg}" if epsg else crs if len(crs) < 20 else "a system without EPSG code"
        degrees = spec.grid.crs is not None and spec.grid.crs.geographic
        return f"{name}, pixels of {' x '.join(size)} {'degrees' if degrees else 'm'}"
    return "no grid; longitude and latitude of every pixel" if source.lonlat is not None else "no place on the ground"


_ORDER = (
    Field.SENSOR, Field.DATETIME, Field.QUANTITY, Field.UNITS, Field.SCALE, Field.OFFSET, Field.NODATA,
    Field.WAVELENGTH, Field.FWHM, Field.GOOD, Field.CRS, Field.TRANSFORM,
)  # fmt: skip


def _facts(spec: CubeSpec, resolved: dict[Field, Resolved]) -> Iterator[Fact]:
    """Every resolved field; where the cube differs from the statement, as a guessed quantity, what the cube has."""
    sources: dict[str, str] = dict(spec.attrs.get(SOURCES_ATTR, {}))
    values = {f: _shown(f, r.value) for f, r in resolved.items()} | _of_cube(spec)
    for name in _ORDER:
        if name in values:
            source = sources.get(str(name), str(resolved[name]) if name in resolved else "")
            guessed = source.startswith(str(Source.GUESS))
            if source:
                yield Fact(name=str(name), value=values[name], source=source, guessed=guessed)


def _of_cube(spec: CubeSpec) -> dict[Field, str]:
    """The fields that the cube holds in its own order."""
    nm, fwhm = np.array(spec.wavelength_nm), np.array(spec.fwhm_nm)
    good = sum(spec.good)
    values = {
        Field.SENSOR: spec.sensor,
        Field.QUANTITY: spec.quantity,
        Field.UNITS: spec.units,
        Field.WAVELENGTH: f"{nm[0]:.6g} to {nm[-1]:.6g} nm, {nm.size} bands",
        Field.GOOD: f"{good} of {spec.bands} bands",
    }
    if np.isfinite(fwhm).any():
        values[Field.FWHM] = f"{np.nanmin(fwhm):.4g} to {np.nanmax(fwhm):.4g} nm"
    return values


def _shown(name: Field, value: Any) -> str:
    if isinstance(value, list | tuple | np.ndarray) and len({*map(float, value)} if _numeric(value) else {0, 1}) == 1:
        return shown_value(float(value[0]))
    text = shown_value(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _numeric(value: Any) -> bool:
    return all(isinstance(v, int | float | np.number) for v in value)


def _missing(scene: Scene, source: SceneSource) -> Iterator[Missing]:
    spec, told = source.spec, source.meaning
    if scene.datetime is None:
        yield Missing(name="time", remedy="--datetime TIME, or --allow-mtime")
    if spec.sensor == UNNAMED:
        yield Missing(name="sensor", remedy="--sensor NAME, where one of `hypermend sensors` made it")
    if told.get(Field.QUANTITY) is None:
        yield Missing(name="quantity", remedy="--quantity reflectance or radiance")
    if told.get(Field.SCALE) is None and np.dtype(spec.dtype).kind in "iu":
        yield Missing(name="scale", remedy="--scale-factor NUMBER; until then its integers are counts")
    if not np.isfinite(spec.fwhm_nm).any():
        yield Missing(name="fwhm", remedy="--wavelengths FILE with columns wavelength,fwhm")
    if spec.crs is None and spec.transform is not None:
        yield Missing(name="crs", remedy="--crs EPSG:n")
    if MASKS_ATTR not in spec.attrs and (spec.grid is not None or source.lonlat is not None):
        yield Missing(name="mask", remedy="the mask file of the product beside it; until then clouds count as pixels")
