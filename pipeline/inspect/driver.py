"""Inspect files or items: find their scenes, open them, look at their pixels. Nothing is written but the picture."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import hypermend
from hypermend.catalog.cube.quicklook import colour_bands
from hypermend.catalog.documents import MALFORMED
from hypermend.catalog.errors import ArchiveError, NotFound, Refused
from hypermend.catalog.meaning.instrument import check_sensor
from hypermend.catalog.readers.border import constant_border
from hypermend.catalog.readers.scene_reader import Source, file_format, open_scene
from hypermend.catalog.scene import AUTO, SENSOR_FROM, TIME_FROM, UNKNOWN, USER, Asset, Scene
from hypermend.catalog.sensor_tables import tables_of
from hypermend.catalog.sensors import SensorTables
from hypermend.catalog.stac.discover import Skipped, discover, from_folder
from hypermend.catalog.storage.archive_store import ArchiveStore, safe_name
from hypermend.catalog.storage.hrefs import is_remote
from hypermend.catalog.storage.signing import signer
from hypermend.pipeline.config import InspectSettings
from hypermend.pipeline.inspect.facts import SceneFacts, facts_of
from hypermend.pipeline.inspect.picture import draw
from hypermend.pipeline.inspect.sample import (
    MOST_BYTES,
    MOST_REMOTE_BYTES,
    Spectrum,
    View,
    look,
    sampled_masks,
    spectrum,
)

FILE_ERRORS = (ArchiveError, OSError, *MALFORMED)
"""Errors of files: refused by a reader, or with a text where a number belongs."""
MOST_SCENES = 12
"""Scenes of a folder or catalog that are shown."""
_STAC_FOLDERS = ("catalog.json", "collection.json")


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """One scene, looked at. A refused one may have no pixels."""

    facts: SceneFacts
    view: View | None = None
    spectrum: Spectrum | None = None


def inspect(
    target: str, settings: InspectSettings, *, picture: Path | None = None, pictures: bool = True
) -> Iterator[tuple[Inspected, Path | None]]:
    """Each scene of a file, a folder or an item, with the path of its picture.

    Args:
        target: a path, a URL, or the id of a raw item of the settings' archive.
        picture: path of the picture; None for `<id>-inspect.png` in the current folder.
        pictures: whether to draw any.

    Raises:
        NotFound: there is nothing at the target.
        BadSensor: an unknown sensor, or a table that cannot be read.
        Refused: one picture for several scenes.
    """
    root = None if settings.archive is None else hypermend.open(settings.archive).root
    tables = tables_of(root, settings.sensors)
    check_sensor(settings.sensor, tables)
    for n, found in enumerate(_limited(scenes_at(target, settings, root, tables))):
        if n and picture is not None:
            raise Refused(
                f"--picture {picture}: {target} has several scenes; leave it out, and each has a picture by its name"
            )
        if isinstance(found, Skipped):
            yield Inspected(facts=SceneFacts(id=found.id, refusal=_without_name(found.id, found.reason))), None
            continue
        path = picture or Path(f"{safe_name(found.id)}-inspect.png")
        yield _inspected(settings.overrides.apply(found), settings, tables, path if pictures else None)


def scenes_at(
    target: str, settings: InspectSettings, root: ArchiveStore | None, tables: SensorTables
) -> Iterator[Scene | Skipped]:
    """The scenes of a path, a URL, or an id of the archive; as many as there are."""
    path = Path(target).expanduser()
    if is_remote(target):
        asset = Asset(key="data", href=target, roles=("data",))
        if file_format(asset) is None:
            yield from discover(target, sensor=settings.sensor)
        else:
            yield _lone_file(asset, settings.sensor)
    elif path.is_dir() and not any((path / name).is_file() for name in _STAC_FOLDERS):
        yield from _files(path, settings, tables)
    elif path.exists() and (path.is_dir() or path.suffix.lower() in (".json", ".geojson")):
        yield from discover(path, sensor=settings.sensor)
    elif path.exists():
        yield from _files(path, settings, tables)
    elif root is not None:
        items = hypermend.open(root.url).search(stage="raw", ids=[target])
        if not items:
            raise NotFound(f"{target}: no such file, and no raw item of this id in {root.url}")
        yield from (item.scene for item in items)
    else:
        raise NotFound(f"{target}: no such file or folder; for the id of an item give --archive")


def _files(path: Path, settings: InspectSettings, tables: SensorTables) -> Iterator[Scene | Skipped]:
    yield from from_folder(path, sensor=settings.sensor, collection=None, overrides=settings.overrides, tables=tables)


def _lone_file(asset: Asset, sensor: str) -> Scene:
    """A file at a URL, without any item."""
    return Scene(
        id=Path(urlsplit(asset.href).path).stem,
        collection="inspect",
        datetime=None,
        sensor=sensor,
        assets={asset.key: asset},
        properties={TIME_FROM: UNKNOWN} | ({} if sensor == AUTO else {SENSOR_FROM: USER}),
    )


def _limited(found: Iterator[Scene | Skipped]) -> Iterator[Scene | Skipped]:
    yield from islice(found, MOST_SCENES)
    if (rest := next(found, None)) is not None:
        reason = f"this scene and those after it are not shown: more than {MOST_SCENES}; name one of them"
        yield Skipped(id=rest.id, reason=reason)


def _inspected(
    scene: Scene, settings: InspectSettings, tables: SensorTables, picture: Path | None
) -> tuple[Inspected, Path | None]:
    facts = SceneFacts(id=scene.id, files=tuple(asset.href for asset in scene.assets.values()))
    try:
        source = open_scene(scene, sign=signer(settings.sign), tables=tables)
        try:
            facts = facts_of(scene, source)
            if (border := constant_border(source)) is not None:
                facts = replace(facts, notes=(*facts.notes, str(border)))
            seen = look_at(scene, source, settings, tables)
        finally:
            source.close()
    except FILE_ERRORS as e:
        return Inspected(facts=replace(facts, refusal=_reason(scene.id, e))), None
    seen = replace(seen, facts=_judged(facts, seen.view))
    if picture is not None and seen.view is not None and seen.spectrum is not None:
        title = " · ".join(filter(None, (facts.id, facts.product, facts.sensor)))
        draw(picture, title=title, spec=source.spec, view=seen.view, spectrum=seen.spectrum)
        return seen, picture
    return seen, None


def look_at(scene: Scene, source: Source, settings: InspectSettings, tables: SensorTables) -> Inspected:
    """Look at the pixels of an open scene; its colours are read from a source of these bands alone."""
    spec = source.spec
    positions = colour_bands(spec)
    names = [spec.band_name[i] for i in positions]
    remote = any(is_remote(asset.href) for asset in scene.assets.values())
    most = MOST_REMOTE_BYTES if remote else MOST_BYTES
    if source.windowed:
        few = open_scene(scene, bands=names, sign=signer(settings.sign), tables=tables)
        try:
            view = look(few, [few.spec.band_name.index(name) for name in names], most_bytes=most)
        finally:
            few.close()
    else:
        view = look(source, positions, most_bytes=most)
    return Inspected(facts=SceneFacts(id=scene.id), view=view, spectrum=spectrum(source))


def scene_facts(
    scene: Scene,
    tables: SensorTables,
    *,
    bands: tuple[str, ...] = (),
    gsd_m: float | None = None,
    sign: str = "none",
) -> SceneFacts:
    """What one scene is taken for. Its files are opened; of those on this machine some windows are read."""
    facts = SceneFacts(id=scene.id)
    try:
        source = open_scene(scene, bands=bands or None, gsd_m=gsd_m, sign=signer(sign), tables=tables)
        try:
            facts = facts_of(scene, source)
            local = not any(is_remote(asset.href) for asset in scene.assets.values())
            return replace(facts, sampled=sampled_masks(source)) if local and source.windowed else facts
        finally:
            source.close()
    except FILE_ERRORS as e:
        return replace(facts, refusal=_reason(scene.id, e))


def _judged(facts: SceneFacts, view: View | None) -> SceneFacts:
    """The facts, refused where no pixel holds data."""
    if view is not None and not view.part and view.shares.get("nodata", 0.0) >= 1.0:
        return replace(facts, refusal="every pixel is nodata; there is nothing to publish")
    return facts


def _reason(id: str, error: Exception) -> str:
    if isinstance(error, ArchiveError):
        return _without_name(id, str(error))
    return f"its header cannot be read: {type(error).__name__}: {error}"


def _without_name(id: str, reason: str) -> str:
    """A reason without the scene's name, which is shown beside it."""
    return re.sub(rf"^scene {re.escape(id)}[,:] ", "", reason)
