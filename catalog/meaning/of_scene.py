"""Statements of the user and of STAC: the properties and assets of a Scene.

The options of `catalog` and `ingest` become properties of the raw item (`USER_PROPERTIES`), so that the item alone
says how its files are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypermend.catalog.meaning.resolve import OPTIONS, Meaning
from hypermend.catalog.meaning.statement import Field, Source, Statement, Statements
from hypermend.catalog.scene import AUTO, FILES, GUESS, MTIME, SENSOR_FROM, TIME_FROM, UNKNOWN, USER, Asset, Scene

USER_PROPERTIES = {
    Field.QUANTITY: "hypermend:quantity",
    Field.UNITS: "hypermend:units",
    Field.SCALE: "hypermend:scale_factor",
    Field.OFFSET: "hypermend:add_offset",
    Field.NODATA: "hypermend:nodata",
    Field.WAVELENGTH: "hypermend:wavelengths",
    Field.FWHM: "hypermend:fwhm",
    Field.CRS: "hypermend:crs",
}
"""Properties of a raw item that hold the user's word. Numbers or lists of numbers; wavelengths and widths in nm."""


def user_statements(scene: Scene) -> list[Statement]:
    """What the user says."""
    said = Statements()
    for field, name in USER_PROPERTIES.items():
        value = scene.properties.get(name)
        said.add(field, tuple(value) if isinstance(value, list) else value, Source.USER, OPTIONS.get(field, name))
    return list(said)


def stac_statements(scene: Scene, assets: Sequence[Asset]) -> list[Statement]:
    """What the item says about the numbers of these assets: those with the same bands, so with the same values."""
    said = Statements()
    for asset in assets:
        where = f"asset {asset.key}"
        said.add(Field.SCALE, asset.scale, Source.STAC_ASSET, where)
        said.add(Field.OFFSET, asset.offset, Source.STAC_ASSET, where)
        said.add(Field.NODATA, asset.nodata, Source.STAC_ASSET, where)
        said.add(Field.WAVELENGTH, asset.wavelength_nm or None, Source.STAC_ASSET, where)
        said.add(Field.FWHM, asset.fwhm_nm or None, Source.STAC_ASSET, where)
    return list(said)


def item_statements(scene: Scene) -> list[Statement]:
    """The sensor and the time of the item, whoever put them there; those that came from the files are asked again."""
    said = Statements()
    sensor_from, time_from = (str(scene.properties.get(name, "")) for name in (SENSOR_FROM, TIME_FROM))
    if scene.sensor != AUTO and sensor_from != FILES:
        source, where = (Source.USER, "--sensor") if sensor_from == USER else (Source.STAC_ITEM, "its platform")
        said.add(Field.SENSOR, scene.sensor, source, where)
    if time_from not in (FILES, GUESS):
        source, where = _TIME_SOURCES.get(time_from, (Source.STAC_ITEM, "datetime"))
        said.add(Field.DATETIME, scene.datetime, source, where)
    return list(said)


_TIME_SOURCES = {USER: (Source.USER, "--datetime"), MTIME: (Source.GUESS, "last change of the file")}


def completed(scene: Scene, sensor: str, meaning: Meaning) -> Scene:
    """The scene with the sensor and the time of its opened files, and where both came from.

    Args:
        sensor: that of the files' cube.
        meaning: of the opened files.
    """
    properties = {k: v for k, v in scene.properties.items() if k not in (SENSOR_FROM, TIME_FROM)}
    origins: dict[str, Any] = {SENSOR_FROM: meaning.resolved.get(Field.SENSOR)}
    origins[TIME_FROM] = meaning.resolved.get(Field.DATETIME)
    for name, found in origins.items():
        if found is None:
            properties[name] = UNKNOWN if name == TIME_FROM else FILES
        elif found.source is not Source.STAC_ITEM:
            properties[name] = _ORIGINS.get(found.source, FILES)
    if properties.get(TIME_FROM) == GUESS and scene.properties.get(TIME_FROM) == MTIME:
        properties[TIME_FROM] = MTIME
    return replace(scene, sensor=sensor, datetime=meaning.get(Field.DATETIME), properties=properties)


_ORIGINS = {Source.USER: USER, Source.GUESS: GUESS}


def without_user_values(scene: Scene) -> Scene:
    """The scene without the user's word about its files, which does not hold for the numbers of its cube."""
    names = set(USER_PROPERTIES.values())
    return replace(scene, properties={k: v for k, v in scene.properties.items() if k not in names})
