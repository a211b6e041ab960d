"""CubeSpec: description of a cube before its first pixel, and the layout of its chunks.

Pure values: no Zarr, no files. `layout.py` writes a spec to a Zarr store and reads it back; the round trip is exact.

Flags of `valid(y, x)`, uint8. A pixel is usable exactly when VALID is set. Cloud, shadow, snow, saturated and
nodata clear VALID; near_fill (the receptive field of the restored pixel held filled pixels) keeps it. 0 is no
flag at all: the tile was never written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from hypermend.catalog.errors import BadCube

VALID, NODATA, CLOUD, SHADOW, SNOW, SATURATED, NEAR_FILL = 1, 2, 4, 8, 16, 32, 64
FLAGS: dict[str, int] = {
    "valid": VALID,
    "nodata": NODATA,
    "cloud": CLOUD,
    "shadow": SHADOW,
    "snow": SNOW,
    "saturated": SATURATED,
    "near_fill": NEAR_FILL,
}
STAGES = ("source", "restored")
SOURCES_ATTR = "sources"
"""Attribute of a cube: {field: source} of everything that was resolved."""
QUANTITIES = ("reflectance", "radiance", "counts")
SOURCE_TILE_PX = 256
TILE_STEP_PX = 16
CHUNK_PX = 64
LEVEL_STEP = 4
"""Ratio of an overview to the level before: with 2, half of all objects of a cube would be overviews."""
CHUNK_BANDS = 32
_PER_BAND = ("band", "band_name", "wavelength_nm", "fwhm_nm", "detector", "good", "gsd_m")


@dataclass(frozen=True, kw_only=True, eq=False)
class CubeSpec:
    """Description of a cube. Equal specs have equal JSON (NaN equals NaN).

    Raises:
        BadCube: lengths disagree, wavelengths decrease, a (wavelength, detector) pair occurs twice, the fill does
            not fit the dtype, or the shard is no multiple of the chunk.
    """

    shape: tuple[int, int, int]
    """(band, y, x)"""
    dtype: str
    """NumPy name of the stored numbers: uint16, int16, float32 ..."""
    scale_factor: float = 1.0
    """physical = stored * scale_factor + add_offset (CF)"""
    add_offset: float = 0.0
    fill: float | int | None = None
    """stored number that means "no data"; None when every stored number is a measurement"""
    band: tuple[int, ...]
    """1-based number of each band in the original product"""
    band_name: tuple[str, ...]
    wavelength_nm: tuple[float, ...]
    """centre wavelengths, non-decreasing"""
    fwhm_nm: tuple[float, ...]
    """full width at half maximum; NaN where unknown"""
    detector: tuple[str, ...]
    good: tuple[bool, ...]
    gsd_m: tuple[float, ...]
    """ground sampling distance of the instrument in this band; NaN for a lab image"""
    crs: str | None = None
    """WKT or "EPSG:n"; None for a lab image or sensor geometry"""
    transform: tuple[float, float, float, float, float, float] | None = None
    """affine a, b, c, d, e, f: x = a*col + b*row + c, y = d*col + e*row + f"""
    quantity: str
    """reflectance, radiance or counts"""
    units: str
    """of the physical value; "1" for reflectance"""
    sensor: str
    stage: str
    """source or restored"""
    chunk: tuple[int, int, int]
    shard: tuple[int, int, int]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """provenance, JSON values, kept as attributes of the dataset"""
    defects: bool = False
    """whether the cube has an array `defect`: which bands of a pixel the product calls defective; of a restored cube,
    which were predicted from the others"""
    uncertainty: bool = False
    """whether the cube has an array `reflectance_std`: standard deviations that the product, or of a restored
    cube the restoration, states"""
    overviews: bool = False
    """whether the cube has coarser copies of itself, see `levels`"""
    time: str | None = None
    """moment of acquisition, RFC 3339 in UTC; None where no source states it"""

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)  # frozen: no other way

        put("dtype", np.dtype(self.dtype).name)
        for name in ("shape", "chunk", "shard", "band"):
            put(name, tuple(int(v) for v in getattr(self, name)))
        for name in ("wavelength_nm", "fwhm_nm", "gsd_m"):
            put(name, tuple(float(v) for v in getattr(self, name)))
        for name in ("band_name", "detector"):
            put(name, tuple(str(v) for v in getattr(self, name)))
        put("good", tuple(bool(v) for v in self.good))
        put("scale_factor", float(self.scale_factor))
        put("add_offset", float(self.add_offset))
        if self.fill is not None:
            put("fill", _fill(self.fill, self.dtype))
        if self.transform is not None:
            put("transform", tuple(float(v) for v in self.transform))
        put("attrs", _json_only(self.attrs))
        if self.time is not None:
            put("time", _utc(self.time))
        self._check()

    def _check(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise BadCube(f"shape {self.shape}: need (band, y, x), each at least 1")
        for name in _PER_BAND:
            if len(getattr(self, name)) != self.bands:
                raise BadCube(
                    f"{name} has {len(getattr(self, name))} values, shape {self.shape} has {self.bands} bands"
                )
        if self.stage not in STAGES or self.quantity not in QUANTITIES:
            raise BadCube(
                f"stage {self.stage!r}, quantity {self.quantity!r}: a cube's stage is one of {STAGES}, its "
                f"quantity one of {QUANTITIES}"
            )
        if not math.isfinite(self.scale_factor) or self.scale_factor == 0 or not math.isfinite(self.add_offset):
            raise BadCube(f"scale_factor {self.scale_factor}, add_offset {self.add_offset}: both finite, scale not 0")
        if self.transform is not None and len(self.transform) != 6:
            raise BadCube(f"transform has {len(self.transform)} numbers, an affine has 6 (a, b, c, d, e, f)")
        self._check_wavelengths()
        self._check_layout()

    def _check_wavelengths(self) -> None:
        positions: dict[tuple[float, str], int] = {}
        for i, (nm, detector) in enumerate(zip(self.wavelength_nm, self.detector, strict=True)):
            if not math.isfinite(nm) or nm <= 0:
                raise BadCube(f"band {self.band[i]}: wavelength {nm} nm; every band needs a positive one")
            if i and nm < self.wavelength_nm[i - 1]:
                raise BadCube(
                    f"wavelengths decrease at position {i}: {self.wavelength_nm[i - 1]} nm, then {nm} nm; "
                    "sort the bands by wavelength and keep their original number in `band`"
                )
            if (nm, detector) in positions:
                raise BadCube(
                    f"bands {self.band[positions[nm, detector]]} and {self.band[i]} both lie at {nm} nm on detector "
                    f"{detector!r}; name their detectors or leave one out"
                )
            positions[nm, detector] = i

    def _check_layout(self) -> None:
        if len(self.chunk) != 3 or len(self.shard) != 3 or min(self.chunk + self.shard) < 1:
            raise BadCube(f"chunk {self.chunk}, shard {self.shard}: need three positive numbers each")
        if any(s % c for s, c in zip(self.shard, self.chunk, strict=True)):
            raise BadCube(f"shard {self.shard} is no multiple of chunk {self.chunk}; use CubeSpec.layout")
        if self.shard[0] < self.bands:
            raise BadCube(
                f"shard {self.shard} holds {self.shard[0]} of {self.bands} bands; one shard holds all bands of its tile"
            )

    def __eq__(self, other: object) -> bool:
        return self.to_dict() == other.to_dict() if isinstance(other, CubeSpec) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.to_json())

    @property
    def bands(self) -> int:
        return self.shape[0]

    @property
    def height(self) -> int:
        return self.shape[1]

    @property
    def width(self) -> int:
        return self.shape[2]

    @property
    def levels(self) -> tuple[int, ...]:
        """How many pixels along each axis make one of each overview, ascending; () where the cube has none."""
        return overview_levels(self.shape, self.shard) if self.overviews else ()

    def with_overviews(self, wanted: bool = True) -> CubeSpec:
        """The same cube with overviews, if they are wanted and it is large enough for any."""
        return replace(self, overviews=wanted and bool(overview_levels(self.shape, self.shard)))

    def overview(self, level: int) -> CubeSpec:
        """The overview as a cube of its own: same bands, pixels `level` times larger, one shard for each tile.

        Its last row and column may stand for fewer pixels of the cube.
        """
        a, b, c, d, e, f = self.transform or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        part = self.shard[1] // level
        return replace(
            self,
            shape=(self.bands, -(-self.height // level), -(-self.width // level)),
            transform=(a * level, b * level, c, d * level, e * level, f),
            chunk=(self.chunk[0], part, part),
            shard=(self.shard[0], part, part),
            overviews=False,
            defects=False,
            uncertainty=False,
        )

    @property
    def repaired(self) -> bool:
        """Whether the cube has an array `repaired`: how many bands of a pixel were predicted from the others."""
        return self.defects and self.stage == "restored"

    @property
    def defect_bytes(self) -> int:
        """Bytes that hold one bit for each band."""
        return -(-self.bands // 8)

    @property
    def grid(self) -> GeoBox | None:
        """Grid of the pixels; None without a CRS or a transform."""
        if self.crs is None or self.transform is None:
            return None
        return GeoBox(self.shape[1:], Affine(*self.transform), self.crs)

    @property
    def tiles(self) -> tuple[int, int]:
        """Number of shards along y and along x."""
        return -(-self.height // self.shard[1]), -(-self.width // self.shard[2])

    def window(self, iy: int, ix: int) -> tuple[slice, slice]:
        """Pixels of the shard (iy, ix), cut at the edge of the scene."""
        ny, nx = self.tiles
        if not (0 <= iy < ny and 0 <= ix < nx):
            raise BadCube(f"shard ({iy}, {ix}) does not exist: the cube has {ny} x {nx} shards")
        _, ty, tx = self.shard
        return slice(iy * ty, min((iy + 1) * ty, self.height)), slice(ix * tx, min((ix + 1) * tx, self.width))

    def to_dict(self) -> dict[str, Any]:
        """JSON values only: NaN is null in lists and "NaN" as fill."""
        out = {f.name: _jsonable(getattr(self, f.name)) for f in fields(self)}
        if isinstance(self.fill, float) and not math.isfinite(self.fill):
            out["fill"] = str(np.float64(self.fill)).replace("nan", "NaN")
        out["attrs"] = _json_only(self.attrs)
        for name in ("defects", "uncertainty", "overviews", "time"):
            if not out[name]:  # no key: the specs of 0.1, and the ids made of them, stay
                del out[name]
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CubeSpec:
        names = {f.name for f in fields(cls)}
        if unknown := sorted(set(data) - names):
            raise BadCube(f"unknown keys {unknown} in a CubeSpec; it has {sorted(names)}")
        values = dict(data)
        for name in ("wavelength_nm", "fwhm_nm", "gsd_m"):
            values[name] = tuple(math.nan if v is None else v for v in values[name])
        if isinstance(values.get("fill"), str):
            values["fill"] = float(values["fill"])
        try:
            return cls(**values)
        except TypeError as e:
            raise BadCube(f"incomplete CubeSpec: {e}") from e

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> CubeSpec:
        return cls.from_dict(json.loads(text))

    @staticmethod
    def layout(
        shape: Sequence[int], dtype: str, tile_px: int | None = None
    ) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """(chunk, shard) for a cube of this shape.

        One shard holds all bands of one square tile, so that one tile has one writer. It consists of chunks of at most
        32 bands and 64 x 64 pixels: the least that a reader of one spectrum or one band fetches. The bands are cut in
        equal parts, and the shard is rounded up to whole chunks (242 bands: 8 chunks of 31, a shard of 248).

        Without `tile_px` the tile is 256, or the scene rounded up to a multiple of 16 when that is less. No layout
        depends on the machine: it is part of a cube's identity.
        """
        bands, height, width = (int(v) for v in shape)
        if tile_px is None:
            longest = -(-max(height, width) // TILE_STEP_PX) * TILE_STEP_PX
            tile_px = min(SOURCE_TILE_PX, longest)
        if tile_px < TILE_STEP_PX or tile_px % TILE_STEP_PX:
            raise BadCube(f"tile_px {tile_px}: a tile is a positive multiple of {TILE_STEP_PX} pixels")
        inner = max(c for c in range(1, CHUNK_PX + 1) if tile_px % c == 0)
        parts = -(-bands // CHUNK_BANDS)
        chunk_bands = -(-bands // parts)
        return (chunk_bands, inner, inner), (chunk_bands * parts, tile_px, tile_px)


def overview_levels(shape: Sequence[int], shard: Sequence[int]) -> tuple[int, ...]:
    """4, 16, 64 ... as long as the level before is longer than a source tile, and a tile has whole pixels of it.

    Each tile then writes its own part of each level: no level has two writers of one object. A part of less than
    8 pixels is not worth an object.
    """
    levels = []
    level = LEVEL_STEP
    while max(shape[1:]) * LEVEL_STEP > level * SOURCE_TILE_PX and shard[1] % level == 0 and shard[1] >= 8 * level:
        levels.append(level)
        level *= LEVEL_STEP
    return tuple(levels)


def _utc(value: str) -> str:
    """An RFC 3339 time in UTC, or BadCube."""
    try:
        when = datetime.fromisoformat(value)
    except ValueError as e:
        raise BadCube(f"time {value!r} is not RFC 3339") from e
    if when.tzinfo is None:
        raise BadCube(f"time {value!r} has no offset from UTC; write 2026-01-31T10:00:00Z")
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _fill(value: float, dtype: str) -> float | int:
    """`value` as a number of `dtype`, or BadCube."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return float(kind.type(value))
    if kind.kind not in "iu":
        raise BadCube(f"dtype {dtype}: a cube stores integers or floats")
    info = np.iinfo(kind)
    if not math.isfinite(value) or int(value) != value or not info.min <= value <= info.max:
        raise BadCube(f"fill {value} is no {dtype} ({info.min} to {info.max}); leave it out or change the dtype")
    return int(value)


def _jsonable(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_jsonable(v) for v in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    return value


def _json_only(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy through JSON, so that the attributes read back equal those written."""
    try:
        return dict(json.loads(json.dumps(dict(attrs), allow_nan=False)))
    except (TypeError, ValueError) as e:
        raise BadCube(f"attrs hold something that is no JSON: {e}") from e
