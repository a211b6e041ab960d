"""Which files of a one-file-per-band product are read: those of the wanted bands, at the resolution of the cube."""

from __future__ import annotations

from collections.abc import Sequence

from hypermend.catalog.band_names import match_band
from hypermend.catalog.errors import BadAsset
from hypermend.catalog.scene import Asset
from hypermend.catalog.sensors import Sensor


def choose_files(
    assets: Sequence[Asset], bands: Sequence[str] | None, gsd_m: float | None, table: Sensor | None, label: str
) -> list[Asset]:
    """Of a band with files of several resolutions those of `gsd_m`, else the finest that are not below it.

    Files of several bands are all taken: their headers identify the bands.

    Raises:
        BadAsset: a wanted band has no file.
    """
    if not all(len(a.bands) == 1 for a in assets):
        return list(assets)
    offered: dict[str, list[Asset]] = {}
    for asset in assets:
        offered.setdefault(asset.bands[0], []).append(asset)
    if bands is not None:
        wanted = {(None if table is None else match_band(b, table)) or b for b in bands}
        if missing := sorted(wanted - offered.keys()):
            listed = ", ".join(sorted(offered))
            raise BadAsset(f"{label}: bands {missing} are not among its assets; it has {listed}")
        offered = {name: group for name, group in offered.items() if name in wanted}
    sizes = {id(a): pixel_m(a, table) for group in offered.values() for a in group}
    known = [s for s in sizes.values() if s is not None]
    if not known:
        return [a for group in offered.values() for a in group]
    finest = gsd_m if gsd_m is not None else min(known)
    chosen: list[Asset] = []
    for group in offered.values():
        size = nearest_size([s for a in group if (s := sizes[id(a)]) is not None], finest)
        chosen += [a for a in group if sizes[id(a)] == size]
    return chosen


def nearest_size(sizes: Sequence[float], gsd_m: float) -> float | None:
    """Same pixel size, else the coarsest finer one (averaged), else the finest coarser one (repeated)."""
    return min(sizes, key=lambda s: (abs(s - gsd_m) > 1e-6, s > gsd_m, abs(s - gsd_m)), default=None)


def pixel_m(asset: Asset, table: Sensor | None) -> float | None:
    """Pixel size of a file, as far as it is known without opening it."""
    if asset.grid is not None:
        return abs(float(asset.grid.affine.a))
    if asset.gsd_m is not None:
        return asset.gsd_m
    if table is not None and asset.bands and asset.bands[0] in table.band_name:
        return table.gsd_m[table.band_name.index(asset.bands[0])]
    return None
