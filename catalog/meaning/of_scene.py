"""Statements of the user and of STAC: the properties and assets of a Scene.

The options of `catalog` and `ingest` become properties of the raw item (`USER_PROPERTIES`), so that the item alone
says how its files are read.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypermend.catalog.meaning.statement import Field, Source, Statement, Statements
from hypermend.catalog.scene import AUTO, MTIME, TIME_FROM, USER, Asset, Scene

USER_PROPERTIES = {
    Field.QUANTITY: "hypermend:quantity",
    Field.SCALE: "hypermend:scale_factor",
    Field.OFFSET: "hypermend:add_offset",
    Field.NODATA: "hypermend:nodata",
    Field.WAVELENGTH: "hypermend:wavelengths",
    Field.CRS: "hypermend:crs",
}
"""Properties of a raw item that hold the user's word. Numbers or lists of numbers; wavelengths in nm."""


def user_statements(scene: Scene) -> list[Statement]:
    """What the user says."""
    said = Statements()
    for field, name in USER_PROPERTIES.items():
        value = scene.properties.get(name)
        said.add(field, tuple(value) if isinstance(value, list) else value, Source.USER, f"property {name}")
    return list(said)


def stac_statements(scene: Scene, assets: Sequence[Asset]) -> list[Statement]:
    """What the item says about the numbers of these assets: those with the same bands, so with the same values."""
    said = Statements()
    for asset in assets:
        where = f"asset {asset.key}"
        said.add(Field.SCALE, asset.scale, Source.STAC_ASSET, where)
        said.add(Field.OFFSET, asset.offset, Source.STAC_ASSET, where)
        said.add(Field.NODATA, asset.nodata, Source.STAC_ASSET, where)
    return list(said)


def item_statements(scene: Scene) -> list[Statement]:
    """The sensor and the time of the item, whoever put them there."""
    said = Statements()
    if scene.sensor != AUTO:
        said.add(Field.SENSOR, scene.sensor, Source.STAC_ITEM, "--sensor, or its platform")
    source = {USER: Source.USER, MTIME: Source.GUESS}.get(scene.properties.get(TIME_FROM, ""), Source.STAC_ITEM)
    said.add(Field.DATETIME, scene.datetime, source, str(scene.properties.get(TIME_FROM, "datetime")))
    return list(said)
