"""Peak memory of a network for one tile, from its card alone: no torch, so that a plan can be made on a laptop.

The factors are float32 numbers for each pixel of the tile, halo included. They agree, within a factor of 1.5, with the
measured peak of a process on tiles of 400 and 816 pixels (`tests/test_pipeline_memory_grant.py`).
"""

from __future__ import annotations

from hypermend.models.card import ModelCard, setting

_CELL = 58
"""STAS, for each unit of width: at Conv2, cell's input and sum (8 each), joined twice (32), and five nodes (2 each)."""
_FEATURES = 11
"""STAS on a subspace, for each channel: features in two layouts (4 each), coefficients, DCT estimate, correction."""
_STEPS = 13 * 12
"""A filter of candidates: 13 images of at most 12 coefficients at once."""
_PER_BAND = 4
"""For each band: input, output, and two intermediate results."""
SHARPEN_MAPS = 7
"""SSRNet, for each filter and band: most maps alive at once (skips, mix, chain and the current factor)."""
SHARPEN_BYTES = 2**30
"""Most bytes of these maps in one call; more bands go through in groups."""


def activation_bytes(card: ModelCard, bands: int, pixels: int) -> int:
    """Return the bytes for a tile of ``bands`` bands, in addition to the tile's own pixels.

    Args:
        pixels: number of output pixels, halo included; HR pixels for a fusion.

    Raises:
        BadCard: a setting is out of range.
    """
    numbers = 0 if card.architecture == "identity" else _PER_BAND * bands
    if card.architecture == "stas":
        channels = setting(card.config, "channels")
        per_channel = _FEATURES if card.config.get("domain") == "subspace" else _PER_BAND
        width = channels if card.config.get("width") is None else setting(card.config, "width")
        numbers += _CELL * width + per_channel * channels
    if card.architecture == "pair-filter":
        numbers += _STEPS
    features = 0
    if card.architecture == "ssrnet":
        features = 4 * SHARPEN_MAPS * setting(card.config, "filters") * bands * pixels // card.scale**2
    return 4 * numbers * pixels + min(features, SHARPEN_BYTES)
