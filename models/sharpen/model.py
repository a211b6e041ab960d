"""SsrnetModel: single-image super-resolution by SSRNet, bound to a scene, for any sensor and any number of bands.

    y' = scale * SSRNet((y - mean) / scale) + mean

`mean` is the scene's mean of each band and `scale` a bright value of the scene. (The paper subtracts the means of the
training set, which are those of one camera. Here training subtracts each scene's own means, too.)

The network sees zeros beyond the first and the last band, as in training, and zeros beyond the tile, which the halo
covers. Cubes whose features would not fit into memory go through in groups of bands. Each group has as many additional
bands on either side as the network reaches, so the result is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypedDict, cast

import numpy as np
import torch

from hypermend.models.card import MOST_LAYERS, MOST_SCALE, BadCard, ModelCard, setting
from hypermend.models.memory import SHARPEN_BYTES, SHARPEN_MAPS
from hypermend.models.restorer import ArrayJson, Restorer, SceneStatistics, Window, array_from_json, array_to_json
from hypermend.models.sharpen.ssrnet import SSRNet, fold
from hypermend.models.signal.bicubic import REACH, enlarge

SETTINGS = {"scale", "filters", "modules", "separable", "residual"}
"""Keys of a card's `config`."""


def network(config: Mapping[str, object]) -> SSRNet:
    """Build the network of a card's `config`.

    Raises:
        BadCard: keys that are unknown or missing, or values that are out of range.
    """
    if set(config) != SETTINGS:
        raise BadCard(f"ssrnet config with keys {sorted(config)}: keys are {sorted(SETTINGS)}")
    scale, filters = setting(config, "scale", most=MOST_SCALE), setting(config, "filters")
    modules = setting(config, "modules", most=MOST_LAYERS)
    try:
        separable, residual = bool(config["separable"]), bool(config["residual"])
        return SSRNet(scale, filters=filters, modules=modules, separable=separable, residual=residual)
    except ValueError as e:
        raise BadCard(f"ssrnet config: {e}") from e


class BandMeans(TypedDict):
    """Scene statistics that the network needs."""

    kind: Literal["network"]
    input_scale: float
    """A bright value of the scene, physical units."""
    mean: ArrayJson
    """(bands,) mean of each band, physical units."""


class NothingValid(TypedDict):
    """Scene statistics of a scene without a valid pixel."""

    kind: Literal["bicubic"]
    reason: str


def measure(windows: Iterable[Window]) -> BandMeans | NothingValid:
    """Return the mean of each band, and a bright value: the largest 99.9th percentile of a window."""
    bright, total, pixels = 0.0, np.zeros(0), 0
    for values, valid in windows:
        if valid.any():
            y = values[:, valid].astype(np.float64)  # (bands, n)
            bright = max(bright, float(np.quantile(y, 0.999)))
            total, pixels = y.sum(axis=1) + (total if pixels else 0.0), pixels + y.shape[1]
    if not pixels:
        return {"kind": "bicubic", "reason": "no valid pixel"}
    return {"kind": "network", "input_scale": bright, "mean": array_to_json(total / pixels)}


class SsrnetModel:
    """Architecture `ssrnet`."""

    def __init__(self, card: ModelCard, state: Mapping[str, torch.Tensor]) -> None:
        """Build, load and fold the network.

        Raises:
            BadCard: an invalid config, or weights, a scale or a halo that do not fit it.
        """
        self.card = card
        with torch.device("meta"):  # without memory: that of the network is that of its weights
            net = network(card.config)
        try:
            net.load_state_dict({k: v.float().clone() for k, v in state.items()}, assign=True)
        except RuntimeError as e:
            raise BadCard(f"model {card.name!r}: weights do not fit the config: {e}") from e
        for key, value in (("scale", net.scale), ("halo", net.halo)):
            if getattr(card, key) != value:
                raise BadCard(f"model {card.name!r}: card says {key} {getattr(card, key)}, its config has {value}")
        self.net = fold(net).requires_grad_(False)
        self.scale, self.halo = net.scale, net.halo

    def estimate(self, windows: Iterable[Window]) -> BandMeans | NothingValid:
        """See `measure`."""
        return measure(windows)

    def bind(self, statistics: SceneStatistics) -> Restorer:
        """Return the restorer of the scene; bicubic for a scene without a valid pixel."""
        scene = cast(BandMeans | NothingValid, statistics)
        if scene["kind"] == "bicubic":
            return Bicubic(self.scale, halo=self.halo)
        return BoundSsrnet(self.net, float(scene["input_scale"]), torch.from_numpy(array_from_json(scene["mean"])))


class Bicubic:
    """Restorer that enlarges by bicubic interpolation alone."""

    def __init__(self, scale: int, *, halo: int = REACH) -> None:
        self.scale, self.halo = scale, halo

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(B, bands, H, W) -> (B, bands, scale*H, scale*W)."""
        return enlarge(x, self.scale)


class BoundSsrnet:
    """SSRNet bound to a scene."""

    def __init__(self, net: SSRNet, input_scale: float, mean: torch.Tensor) -> None:
        self.net, self.scale, self.halo = net, net.scale, net.halo
        self.input_scale = input_scale if input_scale > 0 else 1.0
        self.mean = mean[:, None, None]  # (bands, 1, 1)

    @torch.inference_mode()
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(B, bands, H, W) -> (B, bands, scale*H, scale*W).

        Raises:
            ValueError: another number of bands than the scene had.
        """
        if x.shape[1] != len(self.mean):
            raise ValueError(f"tile with {x.shape[1]} bands; the scene's statistics are of {len(self.mean)} bands")
        self._move(x.device)
        return by_bands(self.net, (x - self.mean) / self.input_scale) * self.input_scale + self.mean

    def _move(self, device: torch.device) -> None:
        """Move network and means to a device, if they are on another one."""
        if next(self.net.parameters()).device != device:  # the network is shared by all scenes of the model
            self.net.to(device)
        self.mean = self.mean.to(device)


def by_bands(net: SSRNet, x: torch.Tensor, *, feature_bytes: int = SHARPEN_BYTES) -> torch.Tensor:
    """Return `net(x)`, in groups of bands whose features stay below `feature_bytes` where possible.

    A group of fewer bands than the network reaches would cost more than three times its share; no group is smaller.
    """
    b, bands, h, w = x.shape
    of_band = SHARPEN_MAPS * net.filters * b * h * w * x.element_size()
    if bands * of_band <= feature_bytes:
        y: torch.Tensor = net(x)
        return y
    reach = net.reach_bands
    group = max(reach, feature_bytes // of_band - 2 * reach)
    out = []
    for first in range(0, bands, group):
        low, last = max(0, first - reach), min(bands, first + group)
        y = net(x[:, low : min(bands, last + reach)])
        out.append(y[:, first - low : last - low])
    return torch.cat(out, dim=1)
