"""Regression of the image on the guide, which varies from place to place, in closed form.

This training-free result is the start of the network (statistics key "start"). It works on coefficients c of the signal
subspace of Y (`signal/subspace.py`: white noise of standard deviation 1) and on axes g of the guide, whitened by its
noise and denoised by a sliding DCT (`signal/dct_shrinkage.py`):

    global     c = W (g, 1)                    least squares on LR pixels, g blurred and decimated; one W for the scene
    local      r = c - W (H g, 1);  A(i) = argmin_A sum_j w(j - i) |r_j - A (H g_j, 1)|^2 + ridge |A|^2_scene
               w is a Gaussian of about one LR pixel. A fits the materials of a neighbourhood, shrunk towards the
               global map. The moments are smoothed images, so every pixel has its own A. A is interpolated and
               applied to sharp g as far as g stays near the guide values of the neighbourhood
    mixed      a `LOOSE_FIT` and a `STIFF_FIT` regression, mixed by the trust t in the loose one: by how much its
               leave-one-out prediction of LR pixels (closed form) beats the mean of their neighbours.
               t = sqrt((E_n - E_f) / (E_n - 1)), E_n and E_f the mean squared errors of neighbours and fit over the
               neighbourhood, 1 the noise
    back       c += upsample(q (c_Y - H c)),   q = max(0, 1 - EMPTY / local power): the part above the noise

The rest of Y, outside the stored axes, is interpolated and shrunk by one Wiener weight. Every step is local: `HALO` LR
pixels and `GUIDE_HALO` HR pixels. docs/decisions/0010 says what each step gains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np
import torch
from torch.nn import functional

from hypermend.models.arrays import F64
from hypermend.models.fuse.interface import Pair
from hypermend.models.fuse.kernel_estimate import Blur
from hypermend.models.restorer import ArrayJson, array_from_json, array_to_json
from hypermend.models.signal.dct_shrinkage import ONE_SCALE_HALO, dct_denoise_single_scale
from hypermend.models.signal.degrade import UPSAMPLE_TAPS, blur_down, upsample
from hypermend.models.signal.subspace import EMPTY, Moments, Subspace, moments, subspace

MOST_AXES, MOST_GUIDE_AXES = 12, 12
"""Most axes of Y and of the guide."""
LOOSE_FIT, STIFF_FIT = (1.0, 1e-3), (1.5, 1.0)
"""Sigma of the window in LR pixels and ridge as a share of the scene's mean squares, of the two local regressions."""
LEAVE_ONE_OUT_LR_PX = 0.7
"""Sigma of the window over the neighbours of a left-out pixel, in LR pixels."""
ERROR_WINDOW_LR_PX = 1.5
"""Sigma of the window in which powers and errors are averaged, in LR pixels."""
GUIDE_RANGE_WINDOW_LR_PX, BEYOND_GUIDE_RANGE = 2, 1.0
"""Radius, in LR pixels, of the neighbourhood whose range of guide values bounds a local regression, and how far beyond
that range it is still applied, in ranges."""
WINDOW_REACH_LR_PX = 4
"""Radius of every smoothing window, in LR pixels."""
BLUR_REACH_LR_PX, BLUR_REACH_HR_PX = 4, 10
"""A kernel reaches at most 4 LR and 6 HR pixels (`blur.reach`), the guide's own blur `blur.MATCH_REACH_PX`."""
HALO = 3 * WINDOW_REACH_LR_PX + 2 * (UPSAMPLE_TAPS + 1 + BLUR_REACH_LR_PX)
"""LR pixels that the result depends on: three windows, two interpolations, two blurs."""
GUIDE_HALO = 2 * BLUR_REACH_HR_PX + ONE_SCALE_HALO
"""HR pixels that the result depends on, in addition to `HALO`."""


LocalRegressionStatistics = dict[str, Any]
"""`LocalRegression` as JSON types, by the names of its fields."""


@dataclass(frozen=True, kw_only=True)
class LocalRegression:
    """Axes and maps of a pair. Arrays are over bands b, coefficients k, guide bands m, guide axes g."""

    scale: int
    kernel: F64
    """(n, n) blur kernel."""
    match: F64
    """(n, n) the guide's own blur and shift, where the kernel was given and the guide differs; else 1 x 1."""
    centroid_px: tuple[float, float]
    project: F64
    """(k, b): c = project y."""
    back: F64
    """(b, k): y = back c + the rest of y, outside the axes."""
    rest_kept: float
    """Wiener weight of that rest."""
    guide: F64
    """(g, m) axes of the guide."""
    guide_power: F64
    """(g,) second moments, noise (1) included."""
    weights: F64
    """(k, g + 1) the global map W."""
    level: F64
    """(g + 1,) mean squares of (H g, 1)."""

    def to_json(self) -> LocalRegressionStatistics:
        """Return the fields as JSON types."""
        out: LocalRegressionStatistics = {}
        for f in fields(self):
            value = getattr(self, f.name)
            out[f.name] = array_to_json(value) if isinstance(value, np.ndarray) else value
        return {**out, "centroid_px": list(self.centroid_px)}

    @classmethod
    def from_json(cls, statistics: LocalRegressionStatistics) -> LocalRegression:
        """Parse JSON types; the inverse of `to_json`, to float32 precision."""
        values = {f.name: statistics[f.name] for f in fields(cls)}
        arrays = {
            k: array_from_json(cast(ArrayJson, v)).astype(np.float64) for k, v in values.items() if isinstance(v, dict)
        }
        y, x = values["centroid_px"]
        return cls(**{**values, **arrays, "centroid_px": (float(y), float(x))})


@dataclass(frozen=True)
class LocalRegressionStages:
    """Steps of the local regression for one window; coefficients (B, k, ., .), guide axes (B, g, H, W)."""

    y: torch.Tensor
    """LR: coefficients of Y."""
    guide: torch.Tensor
    """HR: denoised axes of the guide."""
    plain: torch.Tensor
    """HR: the global map plus its interpolated residual."""
    step: torch.Tensor
    """HR: the loose local regression minus the stiff one."""
    trust: torch.Tensor
    """HR: share of `step` in the result, 0 to 1."""
    rest: torch.Tensor
    """LR: residual of the global map."""
    left: torch.Tensor
    """LR: residual of the mixed local regression."""
    back: torch.Tensor
    """HR: part of `left` above the noise, which is added back."""
    coefficients: torch.Tensor
    """HR: the result."""


class LocalRegressionModel:
    """Local regression bound to a scene: (y, x) -> LocalRegressionStages."""

    def __init__(self, m: LocalRegression) -> None:
        self.scale, self.centroid_px = m.scale, m.centroid_px
        as_tensor = {f.name: getattr(m, f.name) for f in fields(m) if isinstance(getattr(m, f.name), np.ndarray)}
        self.t = {k: torch.from_numpy(v.astype(np.float32)) for k, v in as_tensor.items()}
        self.rest_kept = m.rest_kept

    def to(self, device: torch.device) -> None:
        """Move the tensors to a device, once."""
        if self.t["kernel"].device != device:
            self.t = {k: v.to(device) for k, v in self.t.items()}

    def matched(self, x: torch.Tensor) -> torch.Tensor:
        """Give the guide the sharpness and position of the image, HR -> HR."""
        return x if self.t["match"].numel() == 1 else blur_down(x, self.t["match"], 1)

    def up(self, c: torch.Tensor) -> torch.Tensor:
        """Upsample, LR -> HR."""
        return upsample(c, self.scale, self.centroid_px)

    def down(self, c: torch.Tensor) -> torch.Tensor:
        """Blur and decimate (H), HR -> LR."""
        return blur_down(c, self.t["kernel"], self.scale)

    def __call__(self, y: torch.Tensor, x: torch.Tensor) -> LocalRegressionStages:
        """Estimate the coefficients of Z from (B, b, h, w) and (B, m, s*h, s*w)."""
        self.to(y.device)
        c = torch.einsum("kb,nbhw->nkhw", self.t["project"], y)
        g = dct_denoise_single_scale(
            torch.einsum("gm,nmhw->nghw", self.t["guide"], self.matched(x)), self.t["guide_power"]
        )
        low = self.down(g)
        weights = self.t["weights"]
        first = torch.einsum("kg,nghw->nkhw", weights[:, :-1], g) + weights[:, -1, None, None]
        rest = c - torch.einsum("kg,nghw->nkhw", weights[:, :-1], low) - weights[:, -1, None, None]
        loose, left_out = self.fit(rest, low, g, *LOOSE_FIT)
        stiff, _ = self.fit(rest, low, g, *STIFF_FIT)
        trust = self.up(trusted(rest, rest - left_out)).clamp(0, 1)
        mixed = first + stiff + trust * (loose - stiff)
        left = c - self.down(mixed)
        back = self.up(shrink(left))
        return LocalRegressionStages(c, g, first + self.up(rest), loose - stiff, trust, rest, left, back, mixed + back)

    def bands(self, coefficients: torch.Tensor, s: LocalRegressionStages, y: torch.Tensor) -> torch.Tensor:
        """Turn coefficients (B, k, H, W) into bands (B, b, H, W), with the rest of Y outside the axes."""
        out = torch.einsum("bk,nkhw->nbhw", self.t["back"], coefficients)
        if self.rest_kept > 0:
            out = out + self.up(self.rest_kept * (y - torch.einsum("bk,nkhw->nbhw", self.t["back"], s.y)))
        return out

    def fit(
        self,
        r: torch.Tensor,
        low: torch.Tensor,
        g: torch.Tensor,
        sigma: float,
        ridge: float,
        level: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Fit r (B, k, h, w) by a local regression.

        Args:
            r: residual of the global map.
            low: (B, g, h, w) guide on LR pixels.
            g: (B, g, H, W) guide.
            sigma: of the window, in LR pixels.
            ridge: as a share of `level`.
            level: (g + 1,) mean squares of (low, 1); None for those of the guide's axes.

        Returns:
            Prediction on the sharp guide (B, k, H, W), and leave-one-out prediction on LR pixels (B, k, h, w):
            (A f - l r) / (1 - l), l = w(0) f^T N^-1 f the leverage of the pixel.
        """
        n, k, h, w = r.shape
        # In double: the equations are ill-conditioned where the guide is smooth, and a tile must equal the whole. In
        # units of the scene's root mean squares, so that the ridge is the same along every axis.
        size = (self.t["level"] if level is None else level).double().clamp_min(1e-30).sqrt()[:, None, None]
        f = torch.cat((low, torch.ones_like(low[:, :1])), dim=1).double() / size  # (B, g + 1, h, w)
        r, m = r.double(), f.shape[1]
        ff = smooth((f[:, :, None] * f[:, None]).flatten(1, 2), sigma).reshape(n, m, m, h, w)
        fr = smooth((f[:, :, None] * r[:, None]).flatten(1, 2), sigma).reshape(n, m, k, h, w)
        normal = ff.permute(0, 3, 4, 1, 2) + ridge * torch.eye(m, dtype=torch.float64, device=f.device)
        right = torch.cat((fr, f[:, :, None]), dim=2).permute(0, 3, 4, 1, 2)  # (B, h, w, g + 1, k + 1)
        a, self_fit = torch.linalg.solve(normal, right).permute(0, 3, 4, 1, 2).split((k, 1), dim=2)
        leverage = float(window(sigma)[WINDOW_REACH_LR_PX]) ** 2 * (self_fit[:, :, 0] * f).sum(
            1, keepdim=True
        )  # (B, 1, h, w)
        left_out = ((a * f[:, :, None]).sum(1) - leverage * r) / (1 - leverage).clamp_min(1e-3)
        a, left_out, g = (a / size[:, None]).float(), left_out.float(), self.clamped(low, g)
        out = self.up(a[:, -1])
        for i in range(m - 1):
            out = out + self.up(a[:, i]) * g[:, i, None]
        return out, left_out

    def clamped(self, low: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """Clamp the guide to the range of the LR pixels around, extended by `BEYOND_GUIDE_RANGE` on both sides.

        A local regression does not extrapolate: at a glint it would follow a slope that was fitted to the shade around.
        """
        images = functional.pad(low, (GUIDE_RANGE_WINDOW_LR_PX,) * 4, mode="replicate")
        most = functional.max_pool2d(images, 2 * GUIDE_RANGE_WINDOW_LR_PX + 1, stride=1)
        least = -functional.max_pool2d(-images, 2 * GUIDE_RANGE_WINDOW_LR_PX + 1, stride=1)
        more = BEYOND_GUIDE_RANGE * (most - least) + 1  # the guide's noise
        bounds = [functional.interpolate(b, scale_factor=self.scale) for b in (least - more, most + more)]
        return torch.minimum(torch.maximum(g, bounds[0]), bounds[1])


def window(sigma: float) -> torch.Tensor:
    """Return a Gaussian of sum 1, (2 WINDOW_REACH_LR_PX + 1,)."""
    at = torch.arange(-WINDOW_REACH_LR_PX, WINDOW_REACH_LR_PX + 1, dtype=torch.float32)
    gaussian = torch.exp(-0.5 * (at / sigma) ** 2)
    return gaussian / gaussian.sum()


def smooth(c: torch.Tensor, sigma: float) -> torch.Tensor:
    """Smooth (B, c, h, w) by a Gaussian of `sigma` pixels, cut off at `WINDOW_REACH_LR_PX`; edges replicated."""
    row = window(sigma).to(c)[None, None, None]
    images = functional.pad(c.flatten(0, 1)[:, None], (WINDOW_REACH_LR_PX,) * 4, mode="replicate")
    return functional.conv2d(functional.conv2d(images, row), row.mT).reshape(c.shape)


def shrink(r: torch.Tensor) -> torch.Tensor:
    """Shrink a residual with unit noise by its power in the neighbourhood (Wiener)."""
    power = smooth(r.square(), ERROR_WINDOW_LR_PX)
    return r * (1 - EMPTY / power.clamp_min(EMPTY))


def trusted(r: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    """Return the trust, 0 to 1, in a regression that predicts r with this leave-one-out `error`."""
    centre = float(window(LEAVE_ONE_OUT_LR_PX)[WINDOW_REACH_LR_PX]) ** 2
    beside = (smooth(r, LEAVE_ONE_OUT_LR_PX) - centre * r) / (1 - centre)
    neighbours, maps = smooth((r - beside).square(), ERROR_WINDOW_LR_PX), smooth(error.square(), ERROR_WINDOW_LR_PX)
    return ((neighbours - maps) / (neighbours - 1).clamp_min(0.3)).clamp(0, 1).sqrt()


def estimate(pairs: Callable[[], Iterable[Pair]], blur: Blur, scale: int, second: F64, match: F64) -> LocalRegression:
    """Estimate axes and the global map from all windows of a scene. Deterministic; reads them twice.

    Args:
        pairs: windows of the scene.
        blur: kernel and noise of the pair.
        scale: HR pixels for each LR pixel.
        second: `pair_moments` with the kernel, of the matched guide.
        match: `blur.match`.
    """
    sums = moments((p.y, p.y_valid) for p in pairs())
    assert sums is not None  # the kernel estimate needs valid pixels
    project, back, rest_kept = image_axes(sums)
    guide, guide_power = guide_axes(pairs, blur.noise_x)
    m = guide.shape[1]
    axes = np.zeros((len(guide) + 1, m + 1))
    axes[:-1, :m] = guide
    axes[-1, -1] = 1.0
    h, b = axes @ second[: m + 1, : m + 1] @ axes.T, axes @ second[: m + 1, m + 1 :] @ project.T
    ridge = 1e-6 * np.diag(np.diag(h)) + 1e-12 * np.trace(h) * np.eye(len(h))
    return LocalRegression(
        scale=scale,
        kernel=blur.kernel,
        match=match,
        centroid_px=blur.centroid_px,
        project=project,
        back=back,
        rest_kept=rest_kept,
        guide=guide,
        guide_power=guide_power,
        weights=np.linalg.solve(h + ridge, b).T,
        level=np.diag(h),
    )


def image_axes(sums: Moments) -> tuple[F64, F64, float]:
    """Return axes of Y: `project` (k, b), `back` (b, k), and the Wiener weight of the rest."""
    s = subspace(sums) or _white(sums)
    k = min(MOST_AXES, s.basis.shape[1])
    unstored = len(s.noise_std) - s.basis.shape[1]
    left = [float(p) for p in s.power[k:]] + [s.rest_power] * unstored
    power = float(np.mean(left)) if left else 0.0
    return (
        s.project[:k].astype(np.float64),
        s.noise_std[:, None] * s.basis[:, :k],
        max(0.0, 1 - EMPTY / power) if power > 0 else 0.0,
    )


def _white(sums: Moments) -> Subspace:
    """Return a subspace with one noise level for all bands, from the weaker half of the principal axes."""
    second = sums.second / sums.pixels
    value, vector = np.linalg.eigh(second)
    std = max(float(np.sqrt(max(value[: max(1, len(value) // 2)].mean(), 0.0))), 1e-4 * sums.bright, 1e-12)
    return Subspace(
        input_scale=sums.bright,
        rms=np.sqrt(np.diag(second)),
        noise_std=np.full(len(second), std),
        basis=vector[:, ::-1],
        power=value[::-1] / std**2,
        rest_power=0.0,
    )


def guide_axes(pairs: Callable[[], Iterable[Pair]], noise_x: F64) -> tuple[F64, F64]:
    """Return the principal axes of the guide, whitened by its noise (g, m), and their powers (g,)."""
    m = len(noise_x)
    second, pixels = np.zeros((m, m)), 0
    for pair in pairs():
        x = pair.x[:, pair.x_valid].astype(np.float64)
        second, pixels = second + x @ x.T, pixels + x.shape[1]
    second /= max(1, pixels)
    std = np.maximum(noise_x, 1e-4 * np.sqrt(np.diag(second)) + 1e-12)
    value, vector = np.linalg.eigh(second / std[:, None] / std[None, :])
    keep = slice(None, None if m <= MOST_GUIDE_AXES else MOST_GUIDE_AXES)
    vector = vector[:, ::-1][:, keep]
    vector = vector * np.where(vector.sum(axis=0) < 0, -1.0, 1.0)
    return (vector / std[:, None]).T, np.maximum(value[::-1][keep], 0.0)
