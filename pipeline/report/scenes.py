"""Scenes of a report: how each ended and, as long as there is room, pictures, spectra, figures and provenance."""

from __future__ import annotations

import base64
import contextlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

import hypermend
from hypermend.catalog.archive import Archive, Item
from hypermend.catalog.cube.cube import Cube
from hypermend.catalog.cube.quicklook import LARGEST_CHANGE, OVERVIEW_PX
from hypermend.catalog.documents import MALFORMED
from hypermend.catalog.errors import ArchiveError
from hypermend.catalog.keys import cube_key, quicklook_keys, scene_collection
from hypermend.catalog.storage.archive_store import ArchiveStore
from hypermend.pipeline.report.chart import noise_chart, tile_map
from hypermend.pipeline.report.runs import RunRecord, number
from hypermend.pipeline.report.spectra import lattice_spectra
from hypermend.pipeline.restore.dry_run import usual_seconds_per_sample
from hypermend.pipeline.restore.plan import Plan, plan_key, read_plan

MOST_SCENES = 12
"""Scenes that are shown with pictures and spectra."""
ROOM = 4_200_000
"""Bytes of a page for these."""
MOST_WARNINGS = 20
CHANGES = ("change", "angle_deg", "bands_losing_signal")
"""Figures in brief of a scene that the page shows."""
LISTS = ("noise_before", "noise_after", "bands_with_spikes")
SPECTRA_ROOM = 800_000
"""Most of them for the spectra of one scene."""


@dataclass(kw_only=True)
class SceneView:
    """One scene of a run."""

    collection: str
    scene: str
    status: str
    reason: str = ""
    warnings: Sequence[str] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Figures in brief."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Figures of its item."""
    pictures: dict[str, str] = field(default_factory=dict)
    """Data URLs of its pictures: before, after, before_infrared, after_infrared, removed."""
    largest_change: float = 0.0
    """Change that is black or white in the last, physical units."""
    chart: str = ""
    """SVG of the noise of its bands."""
    maps: dict[str, str] = field(default_factory=dict)
    """SVGs of its tiles by what they show."""
    spectra: Mapping[str, Any] | None = None
    facts: dict[str, str] = field(default_factory=dict)
    """Where it comes from: cubes, plan, software."""
    models: Sequence[Mapping[str, str]] = ()
    usual_s_per_sample: float = 0.0
    """Worker seconds for one band of one pixel, as benchmarked for its plan."""

    @property
    def shown(self) -> bool:
        return bool(self.facts)

    @property
    def bytes(self) -> int:
        """Size on the page of what is large."""
        spectra = sum(len(side) for side in self.spectra["values"]) if self.spectra else 0
        return sum(map(len, self.pictures.values())) + len(self.chart) + sum(map(len, self.maps.values())) + spectra


def scene_views(archive: str, record: RunRecord) -> list[SceneView]:
    """Make the scenes of a run: what failed first, then what changed most. Damaged cubes and items lack their details.

    Raises:
        NotFound: no such archive.
    """
    views = sorted((_view(scene) for scene in record.scenes), key=_order)
    candidates = [view for view in views if view.status in ("published", "current")][:MOST_SCENES]
    opened = hypermend.open(archive)
    items = _items(opened, record, [view.scene for view in candidates])
    room = ROOM
    for view in candidates:
        item = items.get((view.collection, view.scene))
        if item is None or room <= 0:
            continue
        with contextlib.suppress(ArchiveError, *MALFORMED):
            _add_details(opened.root, view, item, room=min(SPECTRA_ROOM, ROOM // len(candidates) * 2 // 3))
        room -= view.bytes
        if room < 0:
            view.pictures, view.spectra, view.chart, view.maps = {}, None, "", {}
    return views


def _view(scene: Mapping[str, Any]) -> SceneView:
    figures = scene.get("figures")
    changes = figures.get("changes") if isinstance(figures, Mapping) else None
    warnings = scene.get("warnings")
    return SceneView(
        collection=str(scene.get("collection") or ""),
        scene=str(scene.get("scene", "")),
        status=str(scene.get("status", "")),
        reason=str(scene.get("reason") or ""),
        warnings=[str(w) for w in warnings[:MOST_WARNINGS]] if isinstance(warnings, list) else (),
        changes=_changes(changes),
    )


def _changes(changes: Any) -> dict[str, Any]:
    """The figures in brief, all of them or none: the page shows them together."""
    if not isinstance(changes, Mapping) or any(number(changes.get(name)) is None for name in CHANGES):
        return {}
    known = {k: v for k, v in changes.items() if number(v) is not None}
    both = {"noise_share_before", "noise_share_after"} <= known.keys()
    return {k: v for k, v in known.items() if both or not k.startswith("noise_share")}


def _order(view: SceneView) -> tuple[bool, float, str]:
    return view.status in ("published", "current"), -view.changes.get("change", 0.0), view.scene


def _items(archive: Archive, record: RunRecord, ids: Sequence[str]) -> dict[tuple[str, str], Item]:
    """Items by collection and id of the scenes: the restored ones of the run's task, else those of the source."""
    task = str(record.job.get("task") or record.notes.get("task") or "denoise").replace(",", "-")
    source, restored = {}, {}
    for item in archive.search(ids=list(dict.fromkeys(ids))) if ids else ():
        name, scene = item.scene.collection, item.scene.id
        if item.scene.stage == "source":
            source[scene_collection(name), scene] = item
        elif item.scene.stage == "restored" and record.verb != "ingest" and name.endswith(f"-{task}"):
            restored[name.removesuffix(f"-{task}"), scene] = item
    return source | restored


def _add_details(root: ArchiveStore, view: SceneView, item: Item, *, room: int) -> None:
    """Add what the archive tells about a scene, each part by itself: a damaged one costs itself alone."""
    properties = item.scene.properties
    cube = Cube(root, cube_key(item.scene))
    plan = _plan(root, cube.path) if item.scene.stage == "restored" else None
    before = None if plan is None else Cube(root, plan.source)
    view.facts = dict(_facts(item, cube, plan))
    view.figures = _checked(properties.get("hypermend:figures"), cube.spec.bands)
    if plan is not None:
        view.usual_s_per_sample = usual_seconds_per_sample(plan)
        view.models = [
            {"task": step.task, "model": step.model, "weights": step.weights_sha256, "why": step.why}
            for step in plan.steps
        ]
    for side, shown in (("before", before), ("after", cube)):
        if shown is not None:
            _add_pictures(root, view, shown.path, side)
    noise = [view.figures.get(f"noise_{side}", ()) for side in ("before", "after")]
    if all(len(values) == cube.spec.bands for values in noise):
        view.chart = noise_chart(cube.spec.wavelength_nm, cube.spec.detector, *noise)
    with contextlib.suppress(ArchiveError, *MALFORMED):
        view.maps = _maps(cube)
    with contextlib.suppress(ArchiveError):
        view.spectra = lattice_spectra(cube, before, room=room)


def _maps(cube: Cube) -> dict[str, str]:
    """Maps of what the marks of a cube's tiles tell, of which no pixel is read."""
    values: dict[str, dict[tuple[int, int], float]] = {"pixels not usable": {}, "numbers repaired": {}, "removed": {}}
    for index, mark in cube.marks.done().items():
        figures = mark.extra.get("figures", {})
        pixels, valid = figures.get("pixels", 0), mark.extra.get("valid_px")
        if isinstance(valid, int):
            values["pixels not usable"][index] = max(0.0, _tile_pixels(cube, index) - valid)
        if isinstance(repaired := mark.extra.get("repaired"), int):
            values["numbers repaired"][index] = float(repaired)
        if pixels and figures["signal"]:
            values["removed"][index] = number(math.sqrt(max(0.0, figures["change"] / figures["signal"]))) or 0.0
    return {name: drawn for name, of in values.items() if any(of.values()) and (drawn := tile_map(of, cube.spec.tiles))}


def _tile_pixels(cube: Cube, index: tuple[int, int]) -> int:
    edge = cube.spec.shard[1]
    height, width = (
        min(edge, size - i * edge) for i, size in zip(index, (cube.spec.height, cube.spec.width), strict=True)
    )
    return height * width


def _checked(figures: Any, bands: int) -> dict[str, Any]:
    """The figures of an item that are numbers, or lists of these, one for each band at most."""
    if not isinstance(figures, Mapping):
        return {}
    numbers = {k: v for k, v in figures.items() if k not in LISTS and number(v) is not None}
    lists = {k: v for k, v in figures.items() if k in LISTS and isinstance(v, list) and len(v) <= bands}
    return numbers | {k: v for k, v in lists.items() if all(n is None or number(n) is not None for n in v)}


def _plan(root: ArchiveStore, cube: str) -> Plan | None:
    try:
        return read_plan(root, plan_key(cube))
    except ArchiveError:
        return None


def _facts(item: Item, cube: Cube, plan: Plan | None) -> Iterator[tuple[str, str]]:
    spec, scene = cube.spec, item.scene
    yield "cube", cube.path
    yield "pixels", f"{spec.width} x {spec.height}, {spec.bands} bands ({sum(spec.good)} good), {spec.dtype}"
    yield "sensor", spec.sensor
    yield "time", "unknown" if scene.datetime is None else scene.datetime.isoformat()
    yield "quantity", spec.quantity
    valid = scene.properties.get("hypermend:valid_fraction")
    if isinstance(valid, int | float):
        yield "usable pixels", f"{100 * valid:.1f} %"
    if plan is not None:
        yield "source", plan.source
        yield "plan", plan.id
        yield "tile", f"{plan.tile_px} px, halo {plan.halo} px, scale {plan.scale}"
        for guide in plan.guides:
            yield "guide", f"{guide.collection}/{guide.scene_id}: {guide.source}"
    software = scene.properties.get("processing:software")
    if isinstance(software, Mapping):
        yield "software", ", ".join(f"{name} {version}" for name, version in software.items())


def _add_pictures(root: ArchiveStore, view: SceneView, cube: str, side: str) -> None:
    """Add the pictures of a cube as data URLs, in a format that takes a fifth of a PNG."""
    for name, shown in (("overview", side), ("false_colour", f"{side}_infrared"), ("removed", "removed")):
        if (picture := _picture(root, cube, name)) is None:
            continue
        with contextlib.suppress(*MALFORMED):
            if name == "removed":
                view.largest_change = float(picture.info[LARGEST_CHANGE])
            file = io.BytesIO()
            picture.save(file, format="WEBP", quality=82)
            view.pictures[shown] = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _picture(root: ArchiveStore, cube: str, name: str = "overview") -> Image.Image | None:
    """A picture of a cube; None where there is none, or one that is damaged or too large to be one."""
    with contextlib.suppress(ArchiveError, OSError, SyntaxError, Image.DecompressionBombError, *MALFORMED):
        picture = Image.open(io.BytesIO(root.get(quicklook_keys(cube)[name])), formats=("PNG",))
        if max(picture.size) <= OVERVIEW_PX:  # known before it is unpacked
            return picture.convert("RGBA" if "A" in picture.getbands() else "RGB")
    return None
