"""UalModel: the steps of fusion together, as one model.

estimate    least_squares.py: kernel, noise, gains, axes, the global map; adaptation.py: whether the network is used
bind        local_regression.py estimates the coefficients, correction_net.py corrects each of them
adapt       adaptation.py: seven numbers for each block
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import cast

import torch

from hypermend.models.budget import AdaptationBudget
from hypermend.models.card import MOST_LAYERS, BadCard, ModelCard, setting
from hypermend.models.fuse import adaptation
from hypermend.models.fuse.adaptation import UalStatistics
from hypermend.models.fuse.correction_net import (
    GUIDE_CONTRAST_RADIUS_PX,
    CorrectionNet,
    coefficient_features,
    correction,
    guide_features,
    residual_scale,
)
from hypermend.models.fuse.interface import Adapted, Pair, PairGeometry, State
from hypermend.models.fuse.least_squares import LeastSquaresModel
from hypermend.models.fuse.local_regression import GUIDE_HALO, HALO, LocalRegression, LocalRegressionModel
from hypermend.models.restorer import SceneStatistics


class UalModel:
    """Architecture `ual`."""

    adapts = True

    def __init__(self, card: ModelCard, state: State) -> None:
        """Build and load the network.

        Raises:
            BadCard: an invalid config, or weights or a halo that do not fit it.
        """
        keys = {"channels", "width", "depth", "stages"}
        if set(card.config) != keys:
            raise BadCard(f"model {card.name!r}: config with keys {sorted(card.config)}; ual takes {sorted(keys)}")
        self.card = card
        self.channels = setting(card.config, "channels")
        with torch.device("meta"):  # without memory: that of the network is that of its weights
            self.net = CorrectionNet(
                width=setting(card.config, "width"),
                depth=setting(card.config, "depth", most=MOST_LAYERS),
                stages=setting(card.config, "stages", most=MOST_LAYERS),
            )
        try:
            self.net.load_state_dict({k: v.float().clone() for k, v in state.items()}, assign=True)
        except RuntimeError as e:
            raise BadCard(f"model {card.name!r}: weights do not fit the config: {e}") from e
        self.net.eval().requires_grad_(False)
        halos = (HALO, GUIDE_HALO + GUIDE_CONTRAST_RADIUS_PX + self.net.halo)
        if (card.halo, card.guide_halo) != halos:
            raise BadCard(f"model {card.name!r}: card says halo {card.halo} and {card.guide_halo}, it reaches {halos}")
        self.start = LeastSquaresModel(
            ModelCard(name=card.name, architecture="least-squares", config={"local": True}), {}
        )

    def halo(self, scale: int) -> int:
        """Return the halo in LR pixels."""
        return self.card.halo_at(scale)

    def estimate(self, pairs: Callable[[], Iterable[Pair]], setup: PairGeometry) -> UalStatistics:
        """Estimate the statistics of the local regression, and whether the network improves on it (`adaptation.trial`).

        Raises:
            BadPair: as `blur.estimate`.
        """
        statistics = self.start.estimate(pairs, setup)
        return {**statistics, "network": adaptation.trial(self.net, self.channels, statistics, pairs())}

    def bind(self, statistics: SceneStatistics, state: State | None = None) -> UalRestorer:
        """Return the restorer of the scene, with the learned state of a block if it has one."""
        return UalRestorer(self, cast(UalStatistics, statistics), state or {})

    def adapt(
        self, statistics: SceneStatistics, pair: Pair, core: tuple[slice, slice], budget: AdaptationBudget
    ) -> Adapted:
        """Adapt to one block: see `adaptation.py`."""
        return adaptation.adapt(self.net, self.channels, cast(UalStatistics, statistics), pair, core, budget)


class UalRestorer:
    """Fusion bound to a scene, and to a block if it has adapted."""

    def __init__(self, model: UalModel, statistics: UalStatistics, state: State) -> None:
        self.scale = int(statistics["scale"])
        self.halo, self.channels = model.halo(self.scale), model.channels
        self.local_regression = LocalRegressionModel(LocalRegression.from_json(statistics["start"]))
        self.net = model.net
        if not state and not statistics["network"]["used"]:
            state = adaptation.silent()
        self.learned = (state["gain"].float(), state["share"].float()) if state else (None, None)

    @torch.no_grad()
    def __call__(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Fuse (B, b, h, w) and (B, m, s*h, s*w) -> (B, b, s*h, s*w)."""
        s = self.local_regression(y, x)
        if next(self.net.parameters()).device != y.device:
            self.net = copy.deepcopy(self.net).to(y.device)  # `adapt` needs the model's network where it is
        gain, share = (t if t is None else t.to(y.device) for t in self.learned)
        u = residual_scale(self.local_regression, s)
        e, v = coefficient_features(self.local_regression, s, u), guide_features(s)
        coefficients = s.coefficients.clone()
        for k in range(min(self.channels, e.shape[1])):  # one at a time: a window of all coefficients would not fit
            prediction = self.net.predict(torch.cat((e[:, k], v), dim=1))
            coefficients[:, k] += u[:, k] * correction(prediction, e[:, k], gain, share)[:, 0]
        return self.local_regression.bands(coefficients, s, y)

    @torch.no_grad()
    def without_guide(self, y: torch.Tensor) -> torch.Tensor:
        """Interpolate (B, b, h, w) -> (B, b, s*h, s*w)."""
        return self.local_regression.up(y)
