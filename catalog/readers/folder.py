"""Scenes of a folder without STAC: grouping of its files, then time, sensor and footprint from the files themselves.

Product profiles take the files of their products out of a folder first. Of the rest, the tiles of one acquisition (same
time tag, reference system, pixel and bands, on one grid) are one scene; so are the numbered PNGs of a folder, and files
of one band each whose names differ in the band. Every other file that a reader knows is a scene of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from affine import Affine
from odc.geo.geobox import GeoBox

from hypermend.catalog.arrays import F64
from hypermend.catalog.dateline import box_outline, swath_box
from hypermend.catalog.errors import ArchiveError, BadAsset
from hypermend.catalog.grids import footprint, transform_point
from hypermend.catalog.meaning.instrument import UNNAMED
from hypermend.catalog.meaning.of_scene import completed
from hypermend.catalog.meaning.overrides import Overrides
from hypermend.catalog.meaning.statement import Field
from hypermend.catalog.readers.likely import likely_sensors
from hypermend.catalog.readers.matlab.file import MatFile
from hypermend.catalog.readers.matlab.layouts import pick_layout, shares_file
from hypermend.catalog.readers.products.registry import deliveries
from hypermend.catalog.readers.profile import TIFF_MEDIA, image_asset, metadata_asset
from hypermend.catalog.readers.raster.companions import data_file, is_header_of_tiff
from hypermend.catalog.readers.raster.header import Header, read_header
from hypermend.catalog.readers.raster.safe import is_safe
from hypermend.catalog.readers.scene_reader import Source, open_scene
from hypermend.catalog.scene import AUTO, SENSOR_FROM, USER, Asset, Scene
from hypermend.catalog.sensors import SHIPPED, SensorTables
from hypermend.catalog.storage.fetch import AssetFetcher

_PER_BAND = re.compile(r"^(?P<stem>.+)_B(?P<band>\d{1,3}[A-Z]?)(?P<level>_L1[A-Z]+)?\.tiff?$", re.I)
_PNG = re.compile(r"^.*?(\d+)\.png$", re.I)
_TIFF = re.compile(r"\.(tiff?|jp2)$", re.I)
_MEDIA_TYPES = {
    ".mat": "application/x-matlab-data",
    ".h5": "application/x-hdf5",
    ".he5": "application/x-hdf5",
    ".hdf5": "application/x-hdf5",
    ".nc": "application/x-netcdf",
    ".nc4": "application/x-netcdf",
    ".zarr": "application/vnd.zarr",
}


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """An item or file that did not become a scene, and the reason; the others continue."""

    id: str
    reason: str


def from_folder(
    path: str | Path,
    *,
    sensor: str = AUTO,
    collection: str | None = None,
    overrides: Overrides | None = None,
    tables: SensorTables = SHIPPED,
) -> Iterator[Scene | Skipped]:
    """Scenes of all files under `path`, in the order of their names; or the scene of one file.

    Args:
        sensor: name of the instrument; `AUTO` to find it in the files.
        collection: None for the name of each scene's sensor.
        overrides: the user's word about all scenes.
        tables: of the sensors.

    Raises:
        BadAsset: no such folder or file.
        BadSensor: no such sensor.
    """
    if sensor not in (AUTO, UNNAMED):
        sensor = tables.sensor(sensor).name
    root = Path(path).resolve()
    builder = _SceneBuilder(sensor=sensor, collection=collection, overrides=overrides or Overrides(), tables=tables)
    if root.is_dir():
        for folder, names in _folders(root):
            yield from builder.scenes(folder, names)
    elif root.is_file():
        yield from builder.scenes_of_file(root)
    else:
        raise BadAsset(f"{path}: no such folder or file")


def _folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder with its files, sorted; hidden ones left out; links to folders not followed.

    The files below a SAFE folder are its own; a Zarr store counts as a file.
    """
    if is_store(root):
        yield root.parent, [root.name]
        return
    for folder, inside, names in os.walk(root):
        here = Path(folder)
        visible = sorted(n for n in names if not n.startswith("."))
        inside[:] = sorted(d for d in inside if not d.startswith("."))
        if is_safe(here, visible):
            below = (p.relative_to(here) for p in here.rglob("*") if p.is_file())
            visible = sorted(p.as_posix() for p in below if not any(part.startswith(".") for part in p.parts))
            inside[:] = []
        stores = [d for d in inside if is_store(here / d)]
        inside[:] = [d for d in inside if d not in stores]
        yield here, sorted([*visible, *stores])


def is_store(folder: Path) -> bool:
    """Whether a folder is a Zarr store."""
    return folder.suffix.lower() == ".zarr" or any((folder / n).is_file() for n in ("zarr.json", ".zgroup"))


@dataclass(frozen=True, kw_only=True)
class _SceneBuilder:
    """Makes the scenes of one collection from files, folder by folder."""

    sensor: str
    collection: str | None
    overrides: Overrides
    tables: SensorTables
    first_file: dict[str, str] = field(default_factory=dict)
    """First file of each scene, by scene id."""

    def scenes_of_file(self, path: Path) -> Iterator[Scene | Skipped]:
        """The scene that a file belongs to."""
        folder = next((p for p in path.parents if p.suffix.upper() == ".SAFE"), path.parent)
        names = next(names for here, names in _folders(folder) if here == folder)
        file = path.relative_to(folder).as_posix()
        for delivery in deliveries(folder, names):
            if file in delivery.files:
                yield from self.scenes(folder, delivery.files)
                return
        if _PNG.match(file):
            yield from self.scenes(folder, [n for n in names if _PNG.match(n)])
            return
        stem = file.removesuffix(path.suffix) if path.suffix.lower() == ".hdr" else Path(file).stem
        beside = [n for n in names if n == file or (Path(n).stem in (stem, file) or n == stem)]
        if path.suffix.lower() != ".hdr":  # its header and its mask, but no other image of its name
            beside = [n for n in beside if n == file or Path(n).suffix.lower() in (".hdr", ".msk")]
        yield from self.scenes(folder, beside)

    def scenes(self, folder: Path, names: Sequence[str]) -> Iterator[Scene | Skipped]:
        """The scenes of the files of one folder."""
        rest = list(names)
        for delivery in deliveries(folder, rest):
            rest = [n for n in rest if n not in delivery.files]
            if delivery.refusal is not None:
                yield Skipped(id=delivery.id, reason=delivery.refusal)
            else:
                yield from self._or_skipped(delivery.id, partial(self._scene, delivery.id, delivery.assets))
        pngs = [n for n in rest if _PNG.match(n)]
        if len(pngs) > 1:
            rest = [n for n in rest if n not in pngs]
            yield from self._or_skipped(folder.name, partial(self._png_scene, folder, pngs))
        for stem, files in _per_band_files(rest).items():
            rest = [n for n in rest if n not in files]
            yield from self._or_skipped(stem, partial(self._per_band_scene, folder, stem, files))
        yield from self._tiff_scenes(folder, [n for n in rest if _TIFF.search(n)], names)
        for name in rest:
            suffix = Path(name).suffix.lower()
            if suffix in _MEDIA_TYPES or is_store(folder / name):
                media = _MEDIA_TYPES.get(suffix, _MEDIA_TYPES[".zarr"])
                yield from self._or_skipped(name, partial(self._single_file_scene, folder / name, media))
            elif suffix == ".hdr" and not is_header_of_tiff(name, names):
                yield from self._or_skipped(name, partial(self._envi_scene, folder, name, names))

    def _or_skipped(self, id: str, make: Callable[[], Scene]) -> Iterator[Scene | Skipped]:
        """The scene that `make` returns, or one Skipped with the error."""
        try:
            yield self._unless_duplicate(self._completed(make()))
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

    def _tiff_scenes(self, folder: Path, names: Sequence[str], beside: Sequence[str]) -> Iterator[Scene | Skipped]:
        groups: dict[Any, list[Header]] = {}
        for name in names:
            try:
                header = read_header(image_asset(folder, name, Path(name).stem), AssetFetcher())
            except (ArchiveError, ValueError, TypeError, KeyError) as e:
                yield Skipped(id=Path(name).stem, reason=f"its header cannot be read: {e}")
                continue
            groups.setdefault(_acquisition_key(header) or name, []).append(header)
        for group in groups.values():
            yield from self._or_skipped(group[0].asset.key, partial(self._mosaic_scene, folder, group, beside))

    def _mosaic_scene(self, folder: Path, headers: Sequence[Header], beside: Sequence[str]) -> Scene:
        stems = [h.asset.key for h in headers]
        id = stems[0]
        if len(stems) > 1:
            prefix = _common_prefix(stems).rstrip("_-")
            prefix = re.sub(r"(tile|part)$", "", prefix, flags=re.I).rstrip("_-") or folder.name
            start = next(s.value for s in headers[0].statements if s.field is Field.DATETIME)
            id = f"{prefix}-{start:%Y%m%dT%H%M%S}"
        assets = {s: _asset_with_grid(h) for s, h in zip(stems, headers, strict=True)}
        for name in beside:
            stem = name[: -len(".hdr")]
            if name.lower().endswith(".hdr") and (stem in stems or Path(stem).stem in stems):
                assets[name] = metadata_asset(folder, name, name)
        return self._scene(id, assets, grid=_union_grid(headers))

    def _per_band_scene(self, folder: Path, stem: str, files: Sequence[str]) -> Scene:
        assets: dict[str, Asset] = {}
        for name in files:
            if match := _PER_BAND.match(name):
                key = f"B{match['band']}"
                assets[key] = image_asset(folder, name, key, bands=(key,))
        return self._scene(stem, assets)

    def _png_scene(self, folder: Path, names: Sequence[str]) -> Scene:
        assets = {
            Path(n).stem: Asset(key=Path(n).stem, href=str(folder / n), roles=("data",), media_type="image/png")
            for n in names
        }
        return self._scene(folder.name, assets)

    def _single_file_scene(self, path: Path, media_type: str) -> Scene:
        asset = Asset(key="data", href=str(path), roles=("data",), media_type=media_type)
        if path.suffix.lower() == ".mat":
            layout = pick_layout(MatFile(asset, AssetFetcher()), self.tables.get(self.sensor), self.sensor, None)
            # one file can hold the cubes of two instruments: each scene has an id of its own
            id = f"{path.stem}-{self.sensor}" if shares_file(layout) else path.stem
            return self._scene(id, {"data": asset}, {"hypermend:mat_key": layout.cube})
        return self._scene(path.stem, {"data": asset})

    def _envi_scene(self, folder: Path, name: str, names: Sequence[str]) -> Scene:
        body = data_file(folder / name, names)
        assets = {
            "data": Asset(key="data", href=str(folder / body), roles=("data",), media_type="application/x-envi"),
            "header": metadata_asset(folder, name, "header"),
        }
        return self._scene(Path(Path(name).stem).stem, assets)

    def _scene(
        self,
        id: str,
        assets: Mapping[str, Asset],
        properties: Mapping[str, Any] | None = None,
        *,
        grid: GeoBox | None = None,
    ) -> Scene:
        named = self.sensor != AUTO
        return Scene(
            id=re.sub(r"[^A-Za-z0-9._-]+", "_", id),
            collection=self.collection or self.sensor,
            datetime=None,
            sensor=self.sensor,
            grid=grid,
            assets=dict(assets),
            properties={**({SENSOR_FROM: USER} if named else {}), **(properties or {})},
            **_footprint_fields(grid),
        )

    def _completed(self, scene: Scene) -> Scene:
        """The scene with what only its files know. Opening it proves that its headers can be read.

        Raises:
            BadAsset: the files name no instrument, but describe the bands of a known one.
        """
        scene = self.overrides.apply(scene)
        source = open_scene(scene, tables=self.tables)
        try:
            scene = completed(scene, _sensor(source, self.tables), source.meaning)
            scene = replace(scene, collection=self.collection or scene.sensor)
            if scene.grid is None and source.spec.grid is not None:
                return replace(scene, grid=source.spec.grid, **_footprint_fields(source.spec.grid))
            if source.lonlat is not None:
                return replace(scene, **_swath_footprint(*source.lonlat))
            return scene
        finally:
            source.close()


def _sensor(source: Source, tables: SensorTables) -> str:
    """Name of the instrument of an opened scene.

    Raises:
        BadAsset: no source names it, but the bands are those of a known instrument.
    """
    spec = source.spec
    if Field.SENSOR in source.meaning.resolved:
        return spec.sensor
    if likely := likely_sensors(spec.bands, tables, wavelength_nm=spec.wavelength_nm):
        raise BadAsset(
            f"no source names the instrument, and its {spec.bands} bands are those of {' and '.join(likely)}; "
            f"give --sensor {likely[0]}, or --sensor {UNNAMED} to take only what the files say"
        )
    return UNNAMED


def _common_prefix(names: Sequence[str]) -> str:
    """The longest common prefix of the names."""
    first, last = min(names), max(names)
    same = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return first[: next(same, min(len(first), len(last)))]


def _footprint_fields(grid: GeoBox | None) -> dict[str, Any]:
    """Outline and box in degrees, None for a lab image."""
    geometry, bbox = (None, None) if grid is None else footprint(grid)
    return {"geometry": geometry, "bbox": bbox}


def _swath_footprint(lon: F64, lat: F64) -> dict[str, Any]:
    """The box around a swath's pixels; west > east where it crosses the date line."""
    box = swath_box(lon, lat)
    return {} if box is None else {"geometry": box_outline(box), "bbox": box}


def _per_band_files(names: Iterable[str]) -> dict[str, list[str]]:
    """Files of one band each, by the rest of their names: at least two."""
    groups: dict[str, list[str]] = {}
    for name in names:
        if match := _PER_BAND.match(name):
            groups.setdefault(match["stem"], []).append(name)
    return {stem: files for stem, files in groups.items() if len(files) > 1}


def _acquisition_key(header: Header) -> tuple[Any, ...] | None:
    """Key shared by the tiles of one acquisition; None if the file has no acquisition time."""
    when = header.start_time
    if when is None or header.crs is None or all(s.field is not Field.DATETIME for s in header.statements):
        return None
    t = header.transform
    phase = (round(t.c / t.a % 1, 3) % 1, round(t.f / t.e % 1, 3) % 1)
    centres = next((s.value for s in header.statements if s.field is Field.WAVELENGTH), None)
    return when, header.crs, t.a, t.b, t.d, t.e, phase, centres, header.dtypes


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
    grid = GeoBox(header.size, header.transform, header.crs) if header.crs is not None else None
    return replace(header.asset, media_type=header.asset.media_type or TIFF_MEDIA, grid=grid)
