"""The user's word about scenes, for what their files and items do not say: it becomes properties of the raw item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypermend.catalog.meaning.of_scene import USER_PROPERTIES
from hypermend.catalog.meaning.statement import Field
from hypermend.catalog.scene import MTIME, TIME_FROM, USER, Scene, is_data


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """The user's word, the same for every scene of a command."""

    values: Mapping[Field, Any] = field(default_factory=dict)
    """fields of `USER_PROPERTIES`; numbers, lists or text as JSON has them"""
    datetime: datetime | None = None
    """aware, UTC"""
    allow_mtime: bool = False
    """Date a scene of files on this machine by their last change where nothing else dates it."""

    def apply(self, scene: Scene) -> Scene:
        """The scene with the user's word, before its files are opened."""
        properties = {**scene.properties, **{USER_PROPERTIES[name]: value for name, value in self.values.items()}}
        when = scene.datetime
        if self.datetime is not None:
            when, properties[TIME_FROM] = self.datetime, USER
        elif when is None and self.allow_mtime and (changed := _last_change(scene)) is not None:
            when, properties[TIME_FROM] = changed, MTIME
        return replace(scene, datetime=when, properties=properties)


def _last_change(scene: Scene) -> datetime | None:
    """Time of the last change of the scene's files, if they are on this machine."""
    data = [a for a in scene.assets.values() if is_data(a.roles, a.media_type, a.key)]
    files = [Path(a.href) for a in data if "://" not in a.href]
    times = [path.stat().st_mtime for path in files if path.exists()]
    return datetime.fromtimestamp(int(max(times)), UTC) if times else None


NO_OVERRIDES = Overrides()
