"""Estimates of the fused image beside the local regression, from which a filter of a sensor pair chooses its own.

Each candidate is an image of coefficients (`local_regression.py`) that makes another assumption about the detail below
an LR pixel. Given as the step from the local regression's result, so that zeros mean "as without them":

    stiff, narrow       local regressions of other windows and ridges
    quadratic           a local regression on the guide's first three axes and their products
    quadratic, blurred  what it adds, blurred by 1 HR pixel
    blurred             the local regression's result, blurred by 0.6, 1.0 and 1.7 HR pixels: the bands of a camera are
                        not equally sharp, which no LR pixel can tell

What a candidate leaves of Y above the noise is put back, as in the local regression. Every step is local: `HALO` LR
pixels and `GUIDE_HALO` HR pixels. docs/decisions/0028 says which others were tried.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional

from hypermend.models.fuse import local_regression
from hypermend.models.fuse.local_regression import (
    LocalRegressionModel,
    LocalRegressionStages,
    shrink,
)

NARROW_FIT, QUADRATIC_FIT = (0.7, 3e-2), (1.5, 3e-3)
"""Sigma of the window in LR pixels and ridge, as `local_regression.LOOSE_FIT`."""
QUADRATIC_AXES = 3
"""Axes of the guide whose products are features."""
QUADRATIC_BLUR_HR_PX, BLURS_HR_PX = 1.0, (0.6, 1.0, 1.7)
BLUR_REACH_HR_PX = 6
"""Radius of these blurs."""
NAMES = ("stiff", "narrow", "quadratic", "quadratic, blurred", *(f"blurred {sigma}" for sigma in BLURS_HR_PX))
HALO = local_regression.HALO
"""LR pixels: no candidate looks further than the local regression, which has the same last steps."""
GUIDE_HALO = local_regression.GUIDE_HALO + BLUR_REACH_HR_PX


class Candidates:
    """Candidates of a scene."""

    def __init__(self, regression: LocalRegressionModel) -> None:
        self.regression = regression

    def steps(self, s: LocalRegressionStages) -> Iterator[torch.Tensor]:
        """Give for each of `NAMES` the candidate minus the local regression's result, (B, k, H, W).

        Args:
            s: the local regression of the window.
        """
        r = self.regression
        low = r.down(s.guide)
        weights = r.t["weights"]
        first = torch.einsum("kg,nghw->nkhw", weights[:, :-1], s.guide) + weights[:, -1, None, None]
        mixed = s.coefficients - s.back
        stiff = mixed - first - s.trust * s.step
        yield self._put_back(first + stiff, s)
        yield self._put_back(first + r.fit(s.rest, low, s.guide, *NARROW_FIT)[0], s)
        quadratic = first + self._quadratic(s, low)
        yield self._put_back(quadratic, s)
        yield self._blurring(quadratic - mixed, QUADRATIC_BLUR_HR_PX)
        for sigma in BLURS_HR_PX:
            yield self._blurring(mixed, sigma)

    def _blurring(self, c: torch.Tensor, sigma: float) -> torch.Tensor:
        """Give the step from `c` to its blurred version, without what Y contradicts."""
        step = blurred(c, sigma) - c
        return step - self.regression.up(self.regression.down(step))

    def _put_back(self, c: torch.Tensor, s: LocalRegressionStages) -> torch.Tensor:
        """Put back what `c` leaves of Y above the noise, and subtract the local regression's result."""
        return c + self.regression.up(shrink(s.y - self.regression.down(c))) - s.coefficients

    def _quadratic(self, s: LocalRegressionStages, low: torch.Tensor) -> torch.Tensor:
        """Fit the residual by a local regression on guide axes and their products, (B, k, H, W)."""
        r = self.regression
        n = min(QUADRATIC_AXES, s.guide.shape[1])
        size = r.t["level"][:n].clamp_min(1e-30).sqrt()[:, None, None]
        a, b = torch.triu_indices(n, n)
        g = s.guide[:, :n] / size
        products = g[:, a] * g[:, b]
        level = torch.cat((r.t["level"][:-1], r.t["level"].new_ones(len(a) + 1)))
        return r.fit(
            s.rest,
            torch.cat((low, r.down(products)), dim=1),
            torch.cat((s.guide, products), dim=1),
            *QUADRATIC_FIT,
            level=level,
        )[0]


def blurred(c: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur (B, c, H, W) by a Gaussian of `sigma` HR pixels, cut off at `BLUR_REACH_HR_PX`; edges replicated."""
    at = torch.arange(-BLUR_REACH_HR_PX, BLUR_REACH_HR_PX + 1, device=c.device, dtype=c.dtype)
    gaussian = torch.exp(-0.5 * (at / sigma) ** 2)
    row = (gaussian / gaussian.sum())[None, None, None]
    padded = functional.pad(c.flatten(0, 1)[:, None], (BLUR_REACH_HR_PX,) * 4, mode="replicate")
    return functional.conv2d(functional.conv2d(padded, row), row.mT).reshape(c.shape)
