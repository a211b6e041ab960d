"""AVIRIS-3, AVIRIS-5 and AVIRIS-NG in NetCDF: a group named after its array, read by the general rules.

The file's name holds the instrument and the start of the flight line; no attribute does.
Source: JPL, AVIRIS-3 L1B and L2A data (ORNL DAAC), as read by FujiangJi/hyperproc and opengeos/HyperCoast.
"""

from __future__ import annotations

import re
from dataclasses import replace

from hypermend.catalog.meaning.statement import Field, Source, Statements
from hypermend.catalog.meaning.times import utc_time
from hypermend.catalog.readers.hierarchical.cf import cf_arrays
from hypermend.catalog.readers.hierarchical.file import Node
from hypermend.catalog.readers.hierarchical.layout import Arrays, Layout
from hypermend.catalog.readers.profile import FormatRow

_CUBES = ("reflectance/reflectance", "radiance/radiance")
_NAME = re.compile(r"^(AV3|AV5|ang)(\d{4})(\d\d)(\d\d)t(\d\d)(\d\d)(\d\d)", re.A | re.I)
_INSTRUMENTS = {"av3": "aviris-3", "av5": "aviris-5", "ang": "aviris-ng"}


def _matches(node: Node) -> bool:
    return _NAME.match(node.name) is not None and any(cube in node for cube in _CUBES)


def _arrays(node: Node) -> Arrays:
    arrays = cf_arrays(node)
    match = _NAME.match(node.name)
    assert match is not None
    said = Statements(s for s in arrays.statements if s.field is not Field.SENSOR)
    said.add(Field.SENSOR, _INSTRUMENTS[match[1].lower()], Source.FILE, "its name")
    if all(s.field is not Field.DATETIME for s in said):
        when = utc_time("{}-{}-{}T{}:{}:{}".format(*match.groups()[1:]))
        said.add(Field.DATETIME, when, Source.FILE, "its name")
    return replace(arrays, statements=tuple(said))


LAYOUTS = (Layout(product="AVIRIS NetCDF", matches=_matches, arrays=_arrays),)

ROWS = (
    FormatRow(
        product="AVIRIS-NG, -3, -5",
        levels="L1B, L2A",
        read="NetCDF; time and instrument from the name of the file",
        masks="fill values",
        grid="its own, or longitude and latitude",
    ),
)
