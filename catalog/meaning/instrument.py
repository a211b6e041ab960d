"""The instrument of a scene: its sensor table where there is one."""

from __future__ import annotations

from hypermend.catalog.meaning.resolve import Meaning
from hypermend.catalog.meaning.statement import Field
from hypermend.catalog.scene import AUTO
from hypermend.catalog.sensors import SHIPPED, Sensor, SensorTables

UNNAMED = "unknown"
"""Sensor of a cube whose files describe their bands but not their instrument."""


def instrument(meaning: Meaning, tables: SensorTables = SHIPPED) -> tuple[str, Sensor | None]:
    """Name and table of the resolved sensor; no table for one that only the file describes."""
    name = str(meaning.get(Field.SENSOR, UNNAMED))
    return name, tables.get(name)


def check_sensor(name: str, tables: SensorTables) -> None:
    """Refuse a name that the user may not give: one that has no table, and is neither `AUTO` nor `UNNAMED`.

    Raises:
        BadSensor: with the nearest name and all names.
    """
    if name not in (AUTO, UNNAMED):
        tables.sensor(name)
