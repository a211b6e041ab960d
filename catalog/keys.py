"""Keys of an archive: where its items and cubes lie, and the names of its collections.

    items/<collection>/<yyyy-mm-dd>/<id>.json   the item of a scene; `undated` in place of the day if it is unknown
    source/<id>/<ingest id>.zarr                its source cube; the item is in collection <collection>-source
    restored/<id>/<plan id>.zarr                its restored cube; the item is in collection <collection>-<task>

Marks lie beside their cube (`cube.marks`), index parts and leases in folders of their own (`stac.index`,
`storage.leases`). docs/archive-layout.md lists everything.
"""

from __future__ import annotations

from datetime import UTC

from hypermend.catalog.errors import Refused
from hypermend.catalog.scene import Scene
from hypermend.catalog.storage.archive_store import safe_name

_SOURCE = "-source"


def item_folder(scene: Scene) -> str:
    """Folder of the items of the scene's collection and day (UTC), or of those whose time is unknown."""
    day = "undated" if scene.datetime is None else f"{scene.datetime.astimezone(UTC):%Y-%m-%d}"
    return f"items/{safe_name(scene.collection)}/{day}"


def item_key(scene: Scene) -> str:
    """Key of the scene's item."""
    return f"{item_folder(scene)}/{safe_name(scene.id)}.json"


def cube_key(scene: Scene) -> str:
    """Key of the cube of a source or restored scene.

    Raises:
        Refused: a raw scene has no cube.
    """
    key = scene.properties.get("hypermend:cube")
    if not isinstance(key, str):
        raise Refused(f"scene {scene.id} of {scene.collection} is {scene.stage} and has no cube; ingest it first")
    return key


def source_cube_key(scene_id: str, ingest_id: str) -> str:
    """Key of a new source cube."""
    return f"source/{safe_name(scene_id)}/{ingest_id}.zarr"


def restored_cube_key(scene_id: str, plan_id: str) -> str:
    """Key of a new restored cube."""
    return f"restored/{safe_name(scene_id)}/{plan_id}.zarr"


def quicklook_keys(cube: str) -> dict[str, str]:
    """{asset key: object key} of the pictures that a cube may have."""
    stem = cube.removesuffix(".zarr")
    return {name: f"{stem}.{name}.png" for name in ("overview", "thumbnail", "false_colour", "removed")}


def check_raw_collection(name: str) -> None:
    """Refuse a collection of raw scenes whose name is that of source cubes: one of two scenes would hide the other.

    Raises:
        Refused: it ends in `-source`.
    """
    if name.endswith(_SOURCE):
        raise Refused(
            f"collection {name!r} has the name of the source cubes of collection {scene_collection(name)!r}; give the "
            f"collection of the scenes another name, one that does not end in {_SOURCE}"
        )


def scene_collection(name: str) -> str:
    """The collection of the raw scenes, given its name or that of their source cubes."""
    return name.removesuffix(_SOURCE)


def source_collection(name: str) -> str:
    """The collection of the source cubes, given its name or that of their raw scenes."""
    return scene_collection(name) + _SOURCE
