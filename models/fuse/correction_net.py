"""The network of the fusion that ships: how what the guide's global map leaves spreads over sharp pixels.

A scene's spectra are its own, so a network that learns spectra fails on the next scene. This one never sees any: it
works on one coefficient of the signal subspace at a time, all with the same weights, in units u of what the global map
leaves around the pixel. What it learns is the same in every scene, sensor, brightness and noise:

    c_k' = c_k + u_k N(e_k, v)        c the start (`local_regression.py`), e_k `coefficient_features`,
                                      v `guide_features`, N = `CorrectionNet`

N is the paper's fusion network (`ual.py`), narrow: its branches are the guide's view, a coefficient's evidence, and
both. u fades with the residual (`residual_scale`), and N begins at zero, so where there is nothing to learn the start
stays.
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
"""HR pixels that the local means among the features reach."""
STEPS, EVIDENCE, VIEW = 3, 7, 4
"""Channels: candidate steps, all the evidence of a coefficient, the view of the guide."""
LARGEST_CORRECTION = 6.0
"""Largest free correction and MOST + 2 the largest step, in units."""


class CorrectionNet(nn.Module):
    """N: the paper's fusion network, narrow, whose answer is a correction and a share of each candidate step."""

    def __init__(self, *, width: int, depth: int, stages: int) -> None:
        """Begin at zero."""
        super().__init__()
        self.fusion = Fusion(EVIDENCE, VIEW, out=1 + STEPS, width=width, depth=depth, stages=stages)
        self.halo = self.fusion.halo
        nn.init.zeros_(self.fusion.head.weight)
        assert self.fusion.head.bias is not None
        nn.init.zeros_(self.fusion.head.bias)

    def forward(self, e: torch.Tensor) -> torch.Tensor:
        """(B, EVIDENCE + VIEW, H, W) -> (B, 1, H, W), units. `halo` pixels at the border know the zero padding."""
        return corrected(self.fusion(e[:, :EVIDENCE], e[:, EVIDENCE:]), e)

    def answer(self, e: torch.Tensor) -> torch.Tensor:
        """(B, EVIDENCE + VIEW, H, W) -> (B, 1 + STEPS, H, W), for `corrected`; edges replicated."""
        n = self.halo
        e = functional.pad(e, (n,) * 4, mode="replicate").contiguous(memory_format=torch.channels_last)
        out: torch.Tensor = self.fusion(e[:, :EVIDENCE], e[:, EVIDENCE:])
        return out[..., n:-n, n:-n]


def corrected(
    answer: torch.Tensor, e: torch.Tensor, gain: torch.Tensor | None = None, share: torch.Tensor | None = None
) -> torch.Tensor:
    """N: a free correction and shares of the candidate steps, (B, 1 + STEPS, H, W) -> (B, 1, H, W), units.

    Args:
        answer: the network's.
        e: evidence, (B, EVIDENCE or more, H, W).
        gain: (1 + STEPS,) what a block has learned: the answer counts 1 + gain times.
        share: (STEPS,) and of each step this much more is taken.
    """
    if gain is not None:
        answer = answer * (1 + gain[:, None, None])
    shares = answer[:, 1:] if share is None else answer[:, 1:] + share[:, None, None]
    return answer[:, :1].clamp(-LARGEST_CORRECTION, LARGEST_CORRECTION) + (shares * e[:, :STEPS]).sum(1, keepdim=True)


def residual_scale(starter: LocalRegressionModel, s: LocalRegressionStages) -> torch.Tensor:
    """u, (B, k, H, W): root of the power that the global map leaves around a pixel, above the noise; at least 0.5."""
    power = starter.up(smooth(s.rest.square(), ERROR_WINDOW_LR_PX)) - 1
    return (power.clamp_min(0) + 0.25).sqrt()


def coefficient_features(starter: LocalRegressionModel, s: LocalRegressionStages, u: torch.Tensor) -> torch.Tensor:
    """What is known of each coefficient, (B, k, EVIDENCE, H, W).

    Candidate steps from the start (to the global map, from the firm to the free local map, what was put back), detail,
    and, even in the sign of the coefficient, the trust, the unit and what the local map leaves.
    """
    left = starter.up(smooth(s.left.square(), ERROR_WINDOW_LR_PX)).clamp_min(0)
    most = LARGEST_CORRECTION + 2
    steps = [(a / u).clamp(-most, most) for a in (s.plain - s.coefficients, s.step, s.back)]
    detail = torch.asinh((s.coefficients - near(s.coefficients)) / u)
    return torch.stack((*steps, detail, s.trust, u.log(), (left + 0.25).log() / 2), dim=2)


def guide_features(s: LocalRegressionStages) -> torch.Tensor:
    """Detail of the guide's first three axes and how much of it there is, (B, VIEW, H, W)."""
    g = s.guide[:, :3]
    g = functional.pad(g, (0, 0, 0, 0, 0, 3 - g.shape[1]))
    detail = torch.asinh((g - near(g)) / 4) / 2
    amount = (near(detail.square().sum(1, keepdim=True)) + 1e-3).log() / 2
    return torch.cat((detail, amount), dim=1)


def near(c: torch.Tensor) -> torch.Tensor:
    """Mean over the pixels around."""
    return functional.avg_pool2d(
        c, 2 * GUIDE_CONTRAST_RADIUS_PX + 1, stride=1, padding=GUIDE_CONTRAST_RADIUS_PX, count_include_pad=False
    )
