"""Where an archive keeps its items and cubes: names of collections, keys of items and of cubes."""

from __future__ import annotations

from datetime import UTC

from hypermend.catalog.errors import Refused
from hypermend.catalog.scene import Scene
from hypermend.catalog.storage.archive_store import safe_name

_SOURCE = "-source"


def source_collection(name: str) -> str:
    """The collection that the source cubes of a collection's scenes are in; either of the two names will do."""
    return scene_collection(name) + _SOURCE


def scene_collection(name: str) -> str:
    """The collection that source cubes were made from; either of the two names will do."""
    return name.removesuffix(_SOURCE)


def cube_key(scene: Scene) -> str:
    """Where the cube of a source or restored scene lies in its archive.

    Raises:
        Refused: a raw scene has none.
    """
    key = scene.properties.get("hypermend:cube")
    if not isinstance(key, str):
        raise Refused(f"scene {scene.id} of {scene.collection} is {scene.stage} and has no cube; ingest it first")
    return key


def item_key(scene: Scene) -> str:
    """Where the item of a scene lies in an archive."""
    return f"{item_folder(scene)}/{safe_name(scene.id)}.json"


def item_folder(scene: Scene) -> str:
    return f"items/{safe_name(scene.collection)}/{scene.datetime.astimezone(UTC):%Y-%m-%d}"
