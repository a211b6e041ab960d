"""Users' sensor tables: read from a folder or from the `sensors/` of an archive, and kept in the archive.

An archive holds every table that its scenes need, so that workers and later commands find it by the archive alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from hypermend.catalog import sensors
from hypermend.catalog.errors import ArchiveError, BadSensor, NotFound, Unreachable
from hypermend.catalog.sensor_csv import SRF, parse_sensor
from hypermend.catalog.sensors import SensorTables, UserTable
from hypermend.catalog.storage.archive_store import ArchiveStore, safe_name

log = logging.getLogger(__name__)
TABLE_BYTES = 16 << 20
FOLDER = "sensors"
"""Folder of an archive with the tables that are not shipped."""


def folder_tables(folder: str | Path) -> SensorTables:
    """The tables in a folder: every `<name>.csv`.

    Raises:
        NotFound: no such folder, or no table in it.
        BadSensor: a table that cannot be read; names file, line and column.
    """
    path = Path(folder)
    if not path.is_dir():
        raise NotFound(f"--sensors {folder}: no such folder")
    files = {f.name: _text(f.read_bytes(), str(f)) for f in sorted(path.glob("*.csv")) if f.is_file()}
    if not files:
        raise NotFound(f"--sensors {folder}: no table in it; a table is a file <name>.csv")
    return _tables(files, str(path))


def archive_tables(root: ArchiveStore) -> SensorTables:
    """The tables that an archive keeps in its `sensors/`.

    One that cannot be read is named in the log, and missed only by the scenes of its sensor. A file that can be no
    table of the archive, such as one with the name of a table that is shipped, is left out.
    """
    own: dict[str, UserTable] = {}
    unreadable: dict[str, str] = {}
    for key in sorted(entry.key for entry in root.list(FOLDER) if entry.key.endswith(".csv")):
        file = key.removeprefix(f"{FOLDER}/")
        try:
            text = _text(root.get(key, most=TABLE_BYTES), root.href(key))
            own |= _tables({file: text}, root.href(FOLDER)).own
        except Unreachable:
            raise
        except ArchiveError as error:
            log.warning("a sensor table is left out: %s", error)
            name = file.removesuffix(".csv")
            if name not in sensors.names():
                unreadable[name] = str(error)
    return SensorTables(own=own, unreadable=unreadable)


def keep_table(root: ArchiveStore, tables: SensorTables, name: str) -> int:
    """Write the user's table of a sensor to the archive, unless it is there. Returns the bytes written; 0 if shipped.

    Raises:
        BadSensor: the archive has another table of this name.
    """
    if name not in tables.own:
        return 0
    key, data = f"{FOLDER}/{name}.csv", tables.own[name].text.encode()
    if root.put_if_absent(key, data):
        return len(data)
    if root.get(key) != data:
        raise BadSensor(
            f"sensor {name}: {root.href(key)} differs from the table in {tables.own[name].where}, and its scenes were "
            "read with it; give the new table another name"
        )
    return 0


def _tables(files: Mapping[str, str], where: str) -> SensorTables:
    own = {}
    for file in files:
        name = file.removesuffix(".csv")
        if name.endswith(SRF):
            raise BadSensor(
                f"{where}/{file}: measured responses are not read here, those of a table of yours are Gaussians of its "
                "fwhm_nm; take the file away"
            )
        if name in sensors.names() or name != safe_name(name):
            reason = "Hypermend ships a table of this name" if name in sensors.names() else "no name of a sensor"
            raise BadSensor(f"{where}/{file}: {reason}; give the file another name")
        table = parse_sensor(name, files[file], where=f"{where}/{name}")
        own[name] = UserTable(sensor=table, text=files[file], where=where)
    return SensorTables(own=own)


def _text(data: bytes, path: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise BadSensor(f"{path}: no UTF-8 text ({e.reason} at byte {e.start})") from None


def tables_of(root: ArchiveStore | None, folder: str | Path | None = None) -> SensorTables:
    """The tables that are shipped, those of an archive, and those of a folder (`--sensors`).

    Raises:
        NotFound: no such folder.
        BadSensor: two tables of one name differ, or a table cannot be read.
    """
    tables = SensorTables() if root is None else archive_tables(root)
    return tables if folder is None else tables.joined(folder_tables(folder))
