"""What a network holds of a tile at its peak, from its card alone: no torch, so that a plan can be made on a laptop.

The figures are float32 numbers for each pixel of the tile, halo included. They were held against the peak that a
process was seen to reach on tiles of 400 and 816 pixels (`tests/test_pipeline_worker_memory.py`): within a factor
of 1.5.
"""

from __future__ import annotations

from hypermend.models.card import ModelCard

_CELL = 58
"""STAS, of its width: at Conv2 the cell's input and sum (8 each), both joined twice (32), and five nodes (2 each)."""
_FEATURES = 11
"""STAS on a subspace, of its channels: the features in two orders (4 each), coefficients, pilot and correction."""
_PER_BAND = 4
"""Of the bands: input, output, and two steps between."""
SHARPEN_MAPS = 7
"""SSRNet, of its filters and bands: maps alive at once, at most: skips, mix, chain and the factor under way."""
SHARPEN_BYTES = 2**30
"""What they may take in one call; more bands go through in groups."""


def activation_bytes(card: ModelCard, bands: int, pixels: int) -> int:
    """Bytes for a tile of ``bands`` bands, on top of the tile's own pixels.

    Args:
        pixels: of the output, the halo's included; of the finer image where a fusion makes it.
    """
    numbers = 0 if card.architecture == "identity" else _PER_BAND * bands
    if card.architecture == "stas":
        channels = int(card.config["channels"])
        per_channel = _FEATURES if card.config["domain"] == "subspace" else _PER_BAND
        numbers += _CELL * int(card.config["width"] or channels) + per_channel * channels
    features = 0
    if card.architecture == "ssrnet":
        features = 4 * SHARPEN_MAPS * int(card.config["filters"]) * bands * pixels // card.scale**2
    return 4 * numbers * pixels + min(features, SHARPEN_BYTES)
