"""Correction of the local regression by a small network.

The spectra of a scene are its own, so a network that learns spectra fails on the next scene. This network never sees
any. It corrects one coefficient of the signal subspace at a time, with the same weights for all, in units u of the
residual of the global map around the pixel. What it learns holds for every scene, sensor, brightness and noise:

    c_k' = c_k + u_k N(e_k, v)        c the local regression (`local_regression.py`), e_k `coefficient_features`,
                                      v `guide_features`, u `residual_scale`, N = `CorrectionNet`

N is the paper's fusion network (`ual.Fusion`) with fewer channels: its three branches see the guide features, the
coefficient features, and both. u falls with the residual, and the untrained N is zero, so the local regression stays
where there is nothing to learn.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from hypermend.models.fuse.local_regression import (
    ERROR_WINDOW_LR_PX,
    LocalRegressionModel,
    LocalRegressionStages,
    smooth,
)
from hypermend.models.fuse.ual import Fusion

GUIDE_CONTRAST_RADIUS_PX = 4
"""Radius of the local means among the features, in HR pixels."""
STEPS, COEFFICIENT_FEATURES, GUIDE_FEATURES = 3, 7, 4
"""Number of candidate steps, of features of a coefficient (the steps included), and of features of the guide."""
LARGEST_CORRECTION = 6.0
"""Largest free correction in units of u; the largest candidate step is 2 u more."""


class CorrectionNet(nn.Module):
    """N: the paper's fusion network; predicts a free correction and a share of each candidate step."""

    def __init__(self, *, width: int, depth: int, stages: int) -> None:
        """Build with an output of zero."""
        super().__init__()
        self.fusion = Fusion(
            COEFFICIENT_FEATURES, GUIDE_FEATURES, out=1 + STEPS, width=width, depth=depth, stages=stages
        )
        self.halo = self.fusion.halo
        nn.init.zeros_(self.fusion.head.weight)
        assert self.fusion.head.bias is not None
        nn.init.zeros_(self.fusion.head.bias)

    def forward(self, e: torch.Tensor) -> torch.Tensor:
        """Map features (B, COEFFICIENT_FEATURES + GUIDE_FEATURES, H, W) to N (B, 1, H, W).

        `halo` pixels at the border depend on the zero padding.
        """
        return correction(self.fusion(e[:, :COEFFICIENT_FEATURES], e[:, COEFFICIENT_FEATURES:]), e)

    def predict(self, e: torch.Tensor) -> torch.Tensor:
        """Predict free correction and shares (B, 1 + STEPS, H, W) for `correction`; edges replicated."""
        n = self.halo
        e = functional.pad(e, (n,) * 4, mode="replicate").contiguous(memory_format=torch.channels_last)
        out: torch.Tensor = self.fusion(e[:, :COEFFICIENT_FEATURES], e[:, COEFFICIENT_FEATURES:])
        return out[..., n:-n, n:-n]


def correction(
    prediction: torch.Tensor,
    features: torch.Tensor,
    gain: torch.Tensor | None = None,
    share: torch.Tensor | None = None,
) -> torch.Tensor:
    """Add up the free correction and the shares of the candidate steps: (B, 1, H, W), in units of u.

    n_0 (1 + gain_0) + sum_i (n_i (1 + gain_i) + share_i) step_i, with n the prediction; the first term is clamped.

    Args:
        prediction: (B, 1 + STEPS, H, W) of the network: free correction, then the share of each candidate step.
        features: (B, COEFFICIENT_FEATURES or more, H, W); the first STEPS channels are the candidate steps.
        gain: (1 + STEPS,) relative change of each predicted channel, learned by adaptation. None: 0.
        share: (STEPS,) addition to the predicted share of each step, learned by adaptation. None: 0.
    """
    if gain is not None:
        prediction = prediction * (1 + gain[:, None, None])
    free = prediction[:, :1].clamp(-LARGEST_CORRECTION, LARGEST_CORRECTION)
    shares = prediction[:, 1:] if share is None else prediction[:, 1:] + share[:, None, None]
    return free + (shares * features[:, :STEPS]).sum(1, keepdim=True)


def residual_scale(regression: LocalRegressionModel, s: LocalRegressionStages) -> torch.Tensor:
    """Return u (B, k, H, W): root mean square of the global map's residual around a pixel, less noise; at least 0.5."""
    power = regression.up(smooth(s.rest.square(), ERROR_WINDOW_LR_PX)) - 1
    return (power.clamp_min(0) + 0.25).sqrt()


def coefficient_features(regression: LocalRegressionModel, s: LocalRegressionStages, u: torch.Tensor) -> torch.Tensor:
    """Return the features of each coefficient, (B, k, COEFFICIENT_FEATURES, H, W).

    Three candidate steps (towards the global map, from the stiff to the loose regression, the part added back) and
    detail, which change sign with the coefficient; trust, log of u and log of the local residual, which do not.
    """
    left = regression.up(smooth(s.left.square(), ERROR_WINDOW_LR_PX)).clamp_min(0)
    most = LARGEST_CORRECTION + 2
    steps = [(a / u).clamp(-most, most) for a in (s.plain - s.coefficients, s.step, s.back)]
    detail = torch.asinh((s.coefficients - near(s.coefficients)) / u)
    return torch.stack((*steps, detail, s.trust, u.log(), (left + 0.25).log() / 2), dim=2)


def guide_features(s: LocalRegressionStages) -> torch.Tensor:
    """Return the detail of the guide's first three axes and its amount, (B, GUIDE_FEATURES, H, W)."""
    g = s.guide[:, :3]
    g = functional.pad(g, (0, 0, 0, 0, 0, 3 - g.shape[1]))
    detail = torch.asinh((g - near(g)) / 4) / 2
    amount = (near(detail.square().sum(1, keepdim=True)) + 1e-3).log() / 2
    return torch.cat((detail, amount), dim=1)


def near(c: torch.Tensor) -> torch.Tensor:
    """Return the mean over the pixels around each."""
    return functional.avg_pool2d(
        c, 2 * GUIDE_CONTRAST_RADIUS_PX + 1, stride=1, padding=GUIDE_CONTRAST_RADIUS_PX, count_include_pad=False
    )
