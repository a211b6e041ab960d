"""ModelCard: requirements and origin of a set of weights, as one frozen value that is stored beside the weights.

A card is JSON. An unknown key is an error, so that a card of a newer version is not misread.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

JSON = dict[str, Any]
"""Values that nobody but an architecture reads."""
SPECTRUM = {"bands", "low_nm", "high_nm"}
"""Keys of a card's `spectrum`."""


MOST_CHANNELS = 4096
"""Of a layer of a network."""
MOST_LAYERS = 64
MOST_SCALE = 64
MOST_HALO = 4096


class BadCard(ValueError):
    """Raised for a model card that cannot be used; the message says which card, which key and what to do."""


def setting(config: Mapping[str, Any], key: str, *, most: int = MOST_CHANNELS) -> int:
    """A whole number of a card's `config`, from 1 to `most`.

    Raises:
        BadCard: another value, or none.
    """
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise BadCard(f"config with {key} {repr(value)[:40]}; it is a whole number from 1 to {most}")
    return value


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Everything about a model except the numbers in its weights."""

    name: str
    """Name of the weights: the folder `models/<name>` of an archive or of the package."""
    architecture: str
    """Key of `checkpoint.ARCHITECTURES`."""
    config: JSON = field(default_factory=dict)
    """Settings of the architecture, which checks them itself."""
    window_bands: int | None = None
    """Number of bands in one call. None: any number; all bands of the scene go in one call."""
    accepts_spacing_nm: tuple[float, float] | None = None
    """Smallest and largest band spacing accepted. None: any."""
    accepts_range_nm: tuple[float, float] | None = None
    """Smallest and largest wavelength accepted. None: any."""
    quantity: tuple[str, ...] | None = None
    """Accepted quantities ("reflectance", "radiance", "counts"). None: any."""
    scale: int = 1
    """Output pixels for each input pixel along one axis."""
    halo: int = 0
    """Input pixels around an output pixel that it may depend on."""
    guide_halo: int = 0
    """Fusion only: pixels of the finer grid that it may depend on, on top of `halo` pixels of the coarse one."""
    input_scaling: str = "none"
    """Description of how physical values become network input."""
    trained_on: tuple[str, ...] = ()
    """Training scenes, by data set."""
    spectrum: JSON = field(default_factory=dict)
    """Spectrum of those scenes: bands (number of good bands), low_nm, high_nm. A scene with a similar spectrum uses the
    model by default. Empty: unknown."""
    metrics: JSON = field(default_factory=dict)
    """Validation figures, with their protocol."""
    weights_sha256: str = ""
    """sha256 of the file weights.safetensors. Empty: the architecture has no weights."""
    code_version: str = ""
    """Version of this package that made the weights."""
    licence: str = "Apache-2.0"
    """Licence of the weights."""
    recipe: JSON = field(default_factory=dict)
    """Command, settings and seconds of the training."""

    def __post_init__(self) -> None:
        """Check the numbers that others compute with.

        Raises:
            BadCard: scale, halo or window out of range, a spectrum with other keys, or an upside-down
                range.
        """
        if not 1 <= self.scale <= MOST_SCALE or not all(0 <= n <= MOST_HALO for n in (self.halo, self.guide_halo)):
            raise BadCard(
                f"model {self.name!r}: scale {self.scale} must be 1 to {MOST_SCALE}, halo {self.halo} and "
                f"guide_halo {self.guide_halo} 0 to {MOST_HALO}"
            )
        if self.window_bands is not None and not 1 <= self.window_bands <= MOST_CHANNELS:
            raise BadCard(
                f"model {self.name!r}: window_bands {self.window_bands} must be 1 to {MOST_CHANNELS}, or null"
            )
        if self.spectrum and set(self.spectrum) != SPECTRUM:
            raise BadCard(f"model {self.name!r}: spectrum with keys {sorted(self.spectrum)}; it has {sorted(SPECTRUM)}")
        if any(not isinstance(v, int | float) or not 0 < v < 1e6 for v in self.spectrum.values()):
            raise BadCard(f"model {self.name!r}: spectrum {self.spectrum}; its values are numbers from 0 to a million")
        if self.spectrum and self.spectrum["low_nm"] > self.spectrum["high_nm"]:
            raise BadCard(f"model {self.name!r}: spectrum {self.spectrum} with low_nm above high_nm")
        for key in ("accepts_spacing_nm", "accepts_range_nm"):
            pair = getattr(self, key)
            if pair is not None and (len(pair) != 2 or not pair[0] <= pair[1]):
                raise BadCard(f"model {self.name!r}: {key} {pair} must be [low, high] or null")

    def halo_at(self, scale: int) -> int:
        """Return the coarse pixels that a fusion at this scale may depend on: halo + ceil(guide_halo / scale)."""
        return self.halo - (-self.guide_halo // scale)

    def to_dict(self) -> JSON:
        """Return the card as JSON types; `from_dict` is the inverse."""
        return {
            f.name: list(value) if isinstance(value := getattr(self, f.name), tuple) else value
            for f in dataclasses.fields(self)
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelCard:
        """Parse JSON types.

        Raises:
            BadCard: an unknown key (the nearest known one is named), a missing name or architecture, or a value of
                another type.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for key in data:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(known)}"
                raise BadCard(f"model card {data.get('name', '?')!r}: unknown key {key!r}{hint}")
        for key in ("name", "architecture"):
            if not isinstance(data.get(key), str) or not data[key]:
                raise BadCard(f"model card: key {key!r} must be a non-empty string, found {data.get(key)!r}")
        try:
            card: ModelCard = _adapter().validate_python(dict(data))
        except ValidationError as e:
            first = e.errors(include_url=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise BadCard(
                f"model card {data['name']!r}: {where}{': ' * bool(where)}{first['msg'].removeprefix('Value error, ')}"
            ) from None
        return card

    def write(self, path: Path) -> None:
        """Write the card as indented JSON."""
        path.write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> ModelCard:
        """Read a card.

        Raises:
            BadCard: no such file, no JSON object, or wrong keys.
        """
        try:
            if path.exists() and not path.is_file():  # a FIFO would make it wait
                raise BadCard(f"model card {path} is no file")
            data = json.loads(path.read_text())
        except FileNotFoundError:
            raise BadCard(f"no model card at {path}; a model is a folder with card.json in it") from None
        except (ValueError, RecursionError) as e:
            raise BadCard(f"model card {path} is not JSON: {e}") from e
        if not isinstance(data, dict):
            raise BadCard(f"model card {path} holds a {type(data).__name__}, not a JSON object")
        return cls.from_dict(data)


@cache
def _adapter() -> TypeAdapter[ModelCard]:
    return TypeAdapter(ModelCard)
