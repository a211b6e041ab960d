"""Genotypes that an archive has found, each with the spectrum it was found on: `genotypes/<id>.json` and its picture.

How near two sensors are is a matter of their spectra alone (He et al., ECCV 2022: an architecture goes over to another
sensor by its bands, not by the noise): doublings of the band count between them, plus the share of the wavelengths that
only one of them covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from hypermend.catalog.documents import MALFORMED, validated
from hypermend.catalog.errors import ArchiveError, Refused
from hypermend.catalog.storage.archive_store import ArchiveStore, NotJson
from hypermend.pipeline.registry.spectrum import Spectrum

if TYPE_CHECKING:
    from hypermend.models.denoise.stas import Genotype

FOLDER = "genotypes"
FIGURES = ("strategy", "domain", "budget", "steps", "trials", "seconds", "validation_loss", "baseline_loss")
"""Figures that every search has."""


_Number = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class _Figures:
    """Types of `FIGURES`."""

    strategy: str
    domain: str
    budget: str
    steps: _Number
    trials: Mapping[str, int]
    seconds: _Number
    validation_loss: _Number
    baseline_loss: _Number


class BadGenotype(ArchiveError):
    """A genotype's file that cannot be used: says which, why and what to do."""


@dataclass(frozen=True, kw_only=True)
class StoredGenotype:
    """A genotype with where it comes from."""

    id: str
    genotype: Genotype
    sensor: str
    spectrum: Spectrum
    search: str
    """Id of the search: its plan and trials are in `searches/<search>` of the archive."""
    picture: str
    """Key in the archive."""
    figures: Mapping[str, Any]
    """Figures of the search: `FIGURES`, and others that it adds."""

    @property
    def key(self) -> str:
        return f"{FOLDER}/{self.id}.json"

    def to_dict(self) -> dict[str, Any]:
        """JSON types; `from_dict` is the inverse."""
        return {
            "id": self.id,
            "genotype": self.genotype.to_dict(),
            "sensor": self.sensor,
            "spectrum": self.spectrum.to_dict(),
            "search": self.search,
            "picture": self.picture,
            "figures": dict(self.figures),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, where: str) -> StoredGenotype:
        """Parse JSON types.

        Raises:
            BadGenotype: keys missing, another version of the search space, or an unknown operation.
        """
        from hypermend.models.denoise.stas import Genotype

        try:
            found = cls(
                id=_text(data["id"]),
                genotype=Genotype.from_dict(data["genotype"]),
                sensor=_text(data["sensor"]),
                spectrum=validated(Spectrum, data["spectrum"]),
                search=str(data["search"]),
                picture=str(data["picture"]),
                figures={**{name: data["figures"][name] for name in FIGURES}, **data["figures"]},
            )
            validated(_Figures, {name: found.figures[name] for name in FIGURES})
            return found
        except KeyError as e:
            raise BadGenotype(f"{where}: key {e.args[0]!r} is missing; search again with --anew") from None
        except MALFORMED as e:
            raise BadGenotype(f"{where}: {e}; search again with --anew") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is expected, found {repr(value)[:40]}")
    return value


def put(root: ArchiveStore, found: StoredGenotype) -> None:
    """Keep a genotype; its picture is there before it."""
    root.put_json(found.key, found.to_dict())


def read(root: ArchiveStore, id: str) -> StoredGenotype:
    """One genotype of the archive.

    Raises:
        NotFound, BadGenotype: as they say.
    """
    key = f"{FOLDER}/{id}.json"
    found = StoredGenotype.from_dict(root.get_json(key), where=root.href(key))
    if found.id != id:
        raise BadGenotype(f"{root.href(key)}: it is that of {found.id}; give the file its name, or remove it")
    return found


def stored_genotypes(root: ArchiveStore) -> Iterator[StoredGenotype | BadGenotype]:
    """All genotypes of the archive in order of id; a file that cannot be used comes as its error."""
    for entry in sorted(root.list(FOLDER), key=lambda e: e.key):
        if entry.key.endswith(".json"):
            try:
                yield read(root, entry.key.removeprefix(f"{FOLDER}/").removesuffix(".json"))
            except BadGenotype as e:
                yield e
            except (NotJson, Refused) as e:
                yield BadGenotype(str(e))


def nearest(genotypes: Iterable[StoredGenotype], spectrum: Spectrum) -> tuple[StoredGenotype, float] | None:
    """The genotype with the nearest spectrum, and its distance; of equals the first."""
    ranked = [(found.spectrum.distance(spectrum), found.id, found) for found in genotypes]
    return (best[2], best[0]) if (best := min(ranked, default=None)) else None
