"""Scenes of a folder without STAC: grouping of its files, time and footprint of each scene.

The tiles of one acquisition (same time tag, reference system, pixel and bands, on one grid) are one scene; so are the
numbered PNGs of a folder, and the GeoTIFFs of a one-file-per-band delivery with its MTL file. Every other file that
a reader knows is a scene of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from affine import Affine
from odc.geo.geobox import GeoBox

from hypermend.catalog.arrays import F64
from hypermend.catalog.dateline import box_outline, swath_box
from hypermend.catalog.errors import ArchiveError, BadAsset, Refused
from hypermend.catalog.grids import footprint, transform_point
from hypermend.catalog.readers.enmap_metadata import read_metadata
from hypermend.catalog.readers.hdf import start_time
from hypermend.catalog.readers.header import Header, read_header
from hypermend.catalog.readers.landsat_mtl import parse_mtl
from hypermend.catalog.readers.mat import layout_of, shares_file
from hypermend.catalog.readers.scene_reader import open_scene
from hypermend.catalog.scene import Asset, Scene
from hypermend.catalog.sensors import sensor as sensor_table
from hypermend.catalog.storage.fetch import AssetFetcher

MTIME = {"hypermend:datetime_from": "mtime"}
_PER_BAND = re.compile(r"^(?P<stem>.+)_B(?P<band>\d{1,3}[A-Z]?)(?P<level>_L1[A-Z]+)?\.tiff?$", re.I)
_MTL = re.compile(r"^(?P<stem>.+)_MTL(?P<level>_L1[A-Z]+)?\.txt$", re.I)
_PNG = re.compile(r"^.*?(\d+)\.png$", re.I)
_MEDIA_TYPES = {
    ".mat": "application/x-matlab-data",
    ".h5": "application/x-hdf5",
    ".he5": "application/x-hdf5",
    ".nc": "application/x-netcdf",
}
_TIFF_MEDIA = "image/tiff; application=geotiff"


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """An item or file that did not become a scene, and the reason; the others continue."""

    id: str
    reason: str


def from_folder(path: str | Path, *, sensor: str, collection: str) -> Iterator[Scene | Skipped]:
    """Scenes of all files under `path`, in the order of their names.

    Raises:
        BadAsset: no such folder.
        BadSensor: no such sensor.
    """
    table = sensor_table(sensor)
    root = Path(path).resolve()
    if not root.is_dir():
        raise BadAsset(f"{path}: no such folder")
    builder = _SceneBuilder(sensor=table.name, collection=collection)
    for folder, names in _folders(root):
        yield from builder.scenes(folder, names)


def _folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder with its files, sorted; hidden ones left out; links to folders not followed."""
    for folder, inside, names in os.walk(root):
        inside[:] = sorted(d for d in inside if not d.startswith("."))
        yield Path(folder), sorted(n for n in names if not n.startswith("."))


@dataclass(frozen=True, kw_only=True)
class _SceneBuilder:
    """Makes the scenes of one sensor and collection from files, folder by folder."""

    sensor: str
    collection: str
    first_file: dict[str, str] = field(default_factory=dict)
    """First file of each scene, by scene id."""

    def scenes(self, folder: Path, names: Sequence[str]) -> Iterator[Scene | Skipped]:
        """The scenes of the files of one folder."""
        rest = list(names)
        pngs = [n for n in rest if _PNG.match(n)]
        if len(pngs) > 1:
            rest = [n for n in rest if n not in pngs]
            yield from self._or_skipped(folder.name, lambda: [self._png_scene(folder, pngs)])
        for stem, files in _per_band_deliveries(rest).items():
            rest = [n for n in rest if n not in files]
            yield from self._or_skipped(stem, lambda s=stem, f=files: [self._per_band_scene(folder, s, f)])
        tiffs = [n for n in rest if re.search(r"\.(tiff?|jp2)$", n, re.I)]
        if spectral := [n for n in tiffs if "SPECTRAL_IMAGE" in n]:  # EnMAP delivery: its quality layers are no scenes
            tiffs = spectral
        yield from self._tiff_scenes(folder, tiffs)
        for name in rest:
            suffix = Path(name).suffix.lower()
            if suffix in _MEDIA_TYPES:
                yield from self._or_skipped(
                    name, lambda n=name, s=suffix: [self._single_file_scene(folder / n, _MEDIA_TYPES[s])]
                )
            elif suffix == ".hdr":
                yield from self._or_skipped(name, lambda n=name: [self._envi_scene(folder, n, names)])

    def _or_skipped(self, id: str, make: Any) -> Iterator[Scene | Skipped]:
        """The scenes that `make` returns, or one Skipped with the error."""
        try:
            for scene in [_completed(scene) for scene in make()]:
                yield self._unless_duplicate(scene)
        except ArchiveError as e:
            yield Skipped(id=id, reason=str(e))
        except (ValueError, TypeError, KeyError) as e:  # a header with text where a number belongs
            yield Skipped(id=id, reason=f"its header cannot be read: {type(e).__name__}: {e}")

    def _unless_duplicate(self, scene: Scene) -> Scene | Skipped:
        """The scene, unless an earlier one has the same id: one would replace the other."""
        where = next(iter(scene.assets.values())).href
        first = self.first_file.setdefault(scene.id, where)
        if first == where:
            return scene
        return Skipped(id=scene.id, reason=f"{where} and {first} have the same name; catalogue them as two collections")

    def _tiff_scenes(self, folder: Path, names: Sequence[str]) -> Iterator[Scene | Skipped]:
        groups: dict[Any, list[tuple[str, Header]]] = {}
        for name in names:
            asset = Asset(key=Path(name).stem, href=str(folder / name), roles=("data",), media_type=_TIFF_MEDIA)
            try:
                header = read_header(asset, AssetFetcher())
            except (ArchiveError, ValueError, TypeError, KeyError) as e:
                yield Skipped(id=Path(name).stem, reason=f"its header cannot be read: {e}")
                continue
            groups.setdefault(_acquisition_key(header) or name, []).append((name, header))
        for group in groups.values():
            yield from self._or_skipped(group[0][0], lambda g=group: [self._mosaic_scene(folder, g)])

    def _mosaic_scene(self, folder: Path, group: Sequence[tuple[str, Header]]) -> Scene:
        headers = [h for _, h in group]
        stems = [Path(n).stem for n, _ in group]
        when, dated = _acquisition_time(headers[0], folder / group[0][0])
        id = stems[0]
        if len(stems) > 1:
            prefix = re.sub(r"[_-]*(tile|part)?[_-]*$", "", _common_prefix(stems), flags=re.I) or folder.name
            id = f"{prefix}-{when:%Y%m%dT%H%M%S}"
        assets = {s: _asset_with_grid(h) for s, h in zip(stems, headers, strict=True)}
        for xml in folder.glob("*METADATA.XML"):
            if len(stems) == 1 and stems[0].split("SPECTRAL_IMAGE")[0].rstrip("-_") in xml.stem:
                asset = Asset(key="metadata", href=str(xml), roles=("metadata",), media_type="application/xml")
                assets["metadata"] = asset
                if not dated and (start := _parse_time(read_metadata(asset, AssetFetcher()).start or "")) is not None:
                    when, dated = start, True
        return self._scene(id, when, assets, grid=_union_grid(headers), properties={} if dated else MTIME)

    def _per_band_scene(self, folder: Path, stem: str, files: Sequence[str]) -> Scene:
        assets: dict[str, Asset] = {}
        fields: dict[str, str] = {}
        for name in files:
            href = str(folder / name)
            if match := _PER_BAND.match(name):
                key = f"B{match['band']}"
                asset = Asset(key=key, href=href, roles=("data",), media_type=_TIFF_MEDIA, bands=(key,))
                assets[key] = asset
            else:
                assets["mtl"] = Asset(key="mtl", href=href, roles=("metadata",), media_type="text/plain")
                fields = parse_mtl(Path(href).read_text(encoding="latin-1"))
        first = next((a for k, a in assets.items() if k != "mtl"), None)
        if first is None:
            raise BadAsset(f"{folder / stem}_MTL.txt: none of its band files is here")
        day = fields.get("DATE_ACQUIRED") or fields.get("ACQUISITION_DATE")
        clock = fields.get("SCENE_CENTER_TIME", "00:00:00").rstrip("Z")[:15]
        when = _parse_time(f"{day}T{clock}") if day else None
        grid = _union_grid([read_header(first, AssetFetcher())])
        return self._scene(
            stem,
            when or _mtime(Path(first.href)),
            assets,
            grid=grid,
            properties={} if when else MTIME,
        )

    def _png_scene(self, folder: Path, names: Sequence[str]) -> Scene:
        assets = {
            Path(n).stem: Asset(key=Path(n).stem, href=str(folder / n), roles=("data",), media_type="image/png")
            for n in names
        }
        return self._scene(folder.name, _mtime(folder / names[0]), assets, properties=MTIME)

    def _single_file_scene(self, path: Path, media_type: str) -> Scene:
        asset = Asset(key="data", href=str(path), roles=("data",), media_type=media_type)
        if path.suffix.lower() == ".mat":
            layout = layout_of(asset, sensor_table(self.sensor), AssetFetcher())
            # one file can hold the cubes of two instruments: each scene has an id of its own
            id = f"{path.stem}-{self.sensor}" if shares_file(layout) else path.stem
            facts = {"hypermend:mat_key": layout.cube}
            return self._scene(id, _mtime(path), {"data": asset}, properties={**MTIME, **facts})
        when = _parse_time(start_time(asset, AssetFetcher()) or "")
        return self._scene(path.stem, when or _mtime(path), {"data": asset}, properties={} if when else MTIME)

    def _envi_scene(self, folder: Path, name: str, names: Sequence[str]) -> Scene:
        stem = Path(name).stem
        bodies = [n for n in names if n != name and (n == stem or Path(n).stem == stem) and not n.endswith(".xml")]
        if not bodies:
            raise BadAsset(f"{folder / name}: its data file is not beside it")
        assets = {
            "data": Asset(key="data", href=str(folder / bodies[0]), roles=("data",), media_type="application/x-envi"),
            "header": Asset(key="header", href=str(folder / name), roles=("metadata",), media_type="text/plain"),
        }
        return self._scene(Path(stem).stem, _mtime(folder / name), assets, properties=MTIME)

    def _scene(
        self,
        id: str,
        when: datetime,
        assets: dict[str, Asset],
        *,
        grid: GeoBox | None = None,
        properties: dict[str, Any],
    ) -> Scene:
        return Scene(
            id=re.sub(r"[^A-Za-z0-9._-]+", "_", id),
            collection=self.collection,
            datetime=when,
            sensor=self.sensor,
            grid=grid,
            assets=assets,
            properties=dict(properties),
            **_footprint_fields(grid),
        )


def _common_prefix(names: Sequence[str]) -> str:
    """The longest common prefix of the names."""
    first, last = min(names), max(names)
    same = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return first[: next(same, min(len(first), len(last)))]


def _completed(scene: Scene) -> Scene:
    """The scene with the footprint that only the reader knows. Opening it proves that its headers can be read.

    A refused scene (unknown Sentinel-2 offset) is returned as it is: the user settles that in the item.
    """
    try:
        source = open_scene(scene)
    except Refused:
        return scene
    try:
        if scene.grid is None and source.spec.grid is not None:
            return replace(scene, grid=source.spec.grid, **_footprint_fields(source.spec.grid))
        if source.lonlat is not None:
            return replace(scene, **_swath_footprint(*source.lonlat))
        return scene
    finally:
        source.close()


def _footprint_fields(grid: GeoBox | None) -> dict[str, Any]:
    """Outline and box in degrees, None for a lab image."""
    geometry, bbox = (None, None) if grid is None else footprint(grid)
    return {"geometry": geometry, "bbox": bbox}


def _swath_footprint(lon: F64, lat: F64) -> dict[str, Any]:
    """The box around a swath's pixels; west > east where it crosses the date line."""
    box = swath_box(lon, lat)
    return {} if box is None else {"geometry": box_outline(box), "bbox": box}


def _per_band_deliveries(names: Sequence[str]) -> dict[str, list[str]]:
    """Files of each one-GeoTIFF-per-band delivery, by stem: at least two bands, or one with an MTL file."""
    deliveries: dict[str, list[str]] = {}
    for name in names:
        if match := _PER_BAND.match(name) or _MTL.match(name):
            deliveries.setdefault(match["stem"], []).append(name)
    return {stem: files for stem, files in deliveries.items() if len(files) > 1 or _MTL.match(files[0])}


def _acquisition_key(header: Header) -> tuple[Any, ...] | None:
    """Key shared by the tiles of one acquisition; None if the file has no acquisition time."""
    when = header.tags.get("start_time")
    if when is None or header.crs is None:
        return None
    t = header.transform
    phase = (round(t.c / t.a % 1, 3) % 1, round(t.f / t.e % 1, 3) % 1)
    return when, header.crs, t.a, t.b, t.d, t.e, phase, header.wavelength_nm, header.dtypes


def _union_grid(headers: Sequence[Header]) -> GeoBox | None:
    """Grid that contains all files; None without a CRS."""
    first = headers[0]
    if first.crs is None:
        return None
    a, e = first.transform.a, first.transform.e
    if len(headers) == 1:
        return GeoBox(first.size, first.transform, first.crs)
    edges = [transform_point(h.transform, *corner) for h in headers for corner in ((0, 0), (h.size[1], h.size[0]))]
    xs, ys = [p[0] for p in edges], [p[1] for p in edges]
    left, top = (min(xs) if a > 0 else max(xs)), (min(ys) if e > 0 else max(ys))
    shape = round((max(ys) - min(ys)) / abs(e)), round((max(xs) - min(xs)) / abs(a))
    return GeoBox(shape, Affine(a, 0.0, left, 0.0, e, top), first.crs)


def _asset_with_grid(header: Header) -> Asset:
    asset = header.asset
    grid = GeoBox(header.size, header.transform, header.crs) if header.crs is not None else None
    return Asset(
        key=asset.key, href=asset.href, roles=asset.roles, media_type=asset.media_type, nodata=header.nodata, grid=grid
    )


def _acquisition_time(header: Header, path: Path) -> tuple[datetime, bool]:
    """Acquisition time, and whether it comes from the file itself."""
    for tag in ("start_time", "DATETIME", "ACQUISITION_DATETIME"):
        if (text := header.tags.get(tag)) and (when := _parse_time(text)) is not None:
            return when, True
    return _mtime(path), False


def _parse_time(text: str) -> datetime | None:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


def _mtime(path: Path) -> datetime:
    return datetime.fromtimestamp(int(path.stat().st_mtime), UTC)
