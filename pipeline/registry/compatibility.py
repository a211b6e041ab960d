"""Compatibility of a model and a cube: known from its card and the cube's spec, before any pixel is read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypermend.catalog.cube.spec import CubeSpec
from hypermend.models.arrays import F32
from hypermend.models.card import BadCard, ModelCard
from hypermend.models.fuse.sensor_pair import SensorPair


def good_nm(spec: CubeSpec) -> list[float]:
    """Wavelengths of the bands that can be used."""
    return [w for w, good in zip(spec.wavelength_nm, spec.good, strict=True) if good]


def incompatibility(spec: CubeSpec, card: ModelCard) -> str | None:
    """Return why the model does not accept the cube, with both numbers; None where it accepts it."""
    nm = good_nm(spec)
    if card.quantity is not None and spec.quantity not in card.quantity:
        return f"holds {spec.quantity}, model {card.name} accepts {', '.join(card.quantity)}"
    if card.accepts_range_nm is not None:
        low, high = card.accepts_range_nm
        if nm[0] < low or nm[-1] > high:
            return f"spans {nm[0]:.0f}-{nm[-1]:.0f} nm, model {card.name} accepts {low:.0f}-{high:.0f} nm"
    steps = sorted(b - a for a, b in pairwise(nm) if b > a)
    if card.accepts_spacing_nm is not None and steps:
        low, high = card.accepts_spacing_nm
        spacing = steps[len(steps) // 2]
        if not low <= spacing <= high:
            return f"has a band every {spacing:.1f} nm, model {card.name} accepts {low:.1f}-{high:.1f} nm"
    return None


def advisory(spec: CubeSpec, card: ModelCard) -> str | None:
    """Return a warning about a cube that is accepted; None without one."""
    count = len(good_nm(spec))
    if card.window_bands is None or count >= card.window_bands:
        return None
    return f"{count} good bands are fewer than the {card.window_bands} of model {card.name}; reflected"


def pair_advisory(card: ModelCard, *, scale: int, nm: Sequence[float], response: F32) -> str | None:
    """Return a warning about a pair whose sensors the model does not know; None where it knows them, or needs none.

    Args:
        card: of a fusion.
        scale: fine pixels along the edge of a coarse one.
        nm: (b,) centres of the scene's good bands.
        response: (m, b) of the guide's bands.

    Raises:
        BadCard: the card's pair of sensors cannot be read.
    """
    if card.architecture != "pair-filter":
        return None
    try:
        known = SensorPair.from_config(card.config)
    except (ValueError, TypeError) as error:
        raise BadCard(f"model {card.name!r}: {error}") from error
    there = SensorPair(scale=scale, wavelength_nm=tuple(nm), response=response)
    unlike = known.difference(there)
    return (
        f"model {card.name} was learned on other sensors (this pair has {unlike}): fused without it" if unlike else None
    )
