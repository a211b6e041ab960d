"""The training-free start of fusion: a map from guide to spectrum that changes from place to place, in closed form.

Everything happens in coefficients c of the signal subspace of Y (`subspace.py`: white noise of standard deviation 1)
and on axes g of the guide that are whitened by its noise and made less noisy by a sliding DCT (`pilot.py`):

    global     c = W (g, 1)                    least squares on LR pixels, g blurred and decimated; one W for the scene
    local      r = c - W (H g, 1);  A(i) = argmin_A sum_j w(j - i) |r_j - A (H g_j, 1)|^2 + ridge |A|^2_scene
               w a Gaussian of about an LR pixel: what the materials of one neighbourhood have in common, shrunk to the
               global map; moments are smoothed images, so every pixel has its own A; interpolated, applied to sharp g
               as far as g stays near what the neighbourhood has shown
    mixed      a `LOOSE_FIT` map and a `STIFF_FIT` one, by the trust t in the loose: how much better it foretells LR
               pixels that it has not seen (leave one out, closed form) than their neighbours alone do.
               t = sqrt((E_n - E_f) / (E_n - 1)), E mean squares over the neighbourhood, 1 the noise
    back       c += upsample(q (c_Y - H c)),   q = max(0, 1 - EMPTY / local power): only what stands out of the noise

What Y holds outside the stored axes is interpolated, shrunk by one Wiener weight. Every step is local: `HALO` LR pixels
and `GUIDE_HALO` HR pixels. What each step gains is in docs/decisions/0010.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np
import torch
from torch.nn import functional

from hypermend.models.arrays import F64
from hypermend.models.fuse.blur import Blur
from hypermend.models.fuse.protocol import Pair
from hypermend.models.restorer import ArrayJson, array_from_json, array_to_json
from hypermend.models.signal.dct_shrinkage import ONE_SCALE_HALO, dct_denoise_single_scale
from hypermend.models.signal.degrade import UPSAMPLE_TAPS, blur_down, upsample
from hypermend.models.signal.subspace import EMPTY, Moments, Subspace, moments, subspace

AXES, GUIDE_AXES = 12, 12
"""Most coefficients of Y and of the guide."""
LOOSE_FIT, STIFF_FIT = (1.0, 1e-3), (1.5, 1.0)
"""(LR pixels, ridge as a share of the scene's mean squares) of the two local maps."""
LEAVE_ONE_OUT_LR_PX = 0.7
"""LR pixels: of the window over the neighbours of a pixel that is left out."""
ERROR_WINDOW_LR_PX = 1.5
"""LR pixels: of the neighbourhood in which powers and errors are averaged."""
GUIDE_RANGE_WINDOW_LR_PX, BEYOND_GUIDE_RANGE = 2, 1.0
"""LR pixels around, and how far beyond the range of their guide values a local map is followed, in ranges."""
REACH = 4
"""LR pixels that every smoothing window reaches."""
BLUR_LR, BLUR_HR = 4, 10
"""A kernel reaches 4 LR and 6 HR pixels at most (`blur.reach`), and what matches the guide `blur.MATCH` HR pixels."""
HALO = 3 * REACH + 2 * (UPSAMPLE_TAPS + 1 + BLUR_LR)
"""LR pixels that the start depends on: three windows, two interpolations, two blurs."""
GUIDE_HALO = 2 * BLUR_HR + ONE_SCALE_HALO
"""HR pixels that it depends on, on top."""


LocalRegressionStatistics = dict[str, Any]
"""`LocalRegression` as JSON types, by the names of its fields."""


@dataclass(frozen=True, kw_only=True)
class LocalRegression:
    """What the start must know of a pair. Arrays over bands b, coefficients k, guide bands m, guide axes g."""

    scale: int
    kernel: F64
    """(n, n)."""
    match: F64
    """(n, n) the guide's own blur and shift, where the kernel was known and the guide found to differ; else 1 x 1."""
    centroid_px: tuple[float, float]
    project: F64
    """(k, b): c = project y."""
    back: F64
    """(b, k): y = back c + what the axes leave."""
    rest_kept: float
    """Wiener weight of what the axes leave."""
    guide: F64
    """(g, m): axes of the guide."""
    guide_power: F64
    """(g,) second moments, noise (1) included."""
    weights: F64
    """(k, g + 1): W."""
    level: F64
    """(g + 1,) mean squares of (H g, 1)."""

    def to_json(self) -> LocalRegressionStatistics:
        """JSON types."""
        out: LocalRegressionStatistics = {}
        for f in fields(self):
            value = getattr(self, f.name)
            out[f.name] = array_to_json(value) if isinstance(value, np.ndarray) else value
        return {**out, "centroid_px": list(self.centroid_px)}

    @classmethod
    def from_json(cls, statistics: LocalRegressionStatistics) -> LocalRegression:
        """Inverse of `to_json`, to float32 precision."""
        values = {f.name: statistics[f.name] for f in fields(cls)}
        arrays = {
            k: array_from_json(cast(ArrayJson, v)).astype(np.float64) for k, v in values.items() if isinstance(v, dict)
        }
        y, x = values["centroid_px"]
        return cls(**{**values, **arrays, "centroid_px": (float(y), float(x))})


@dataclass(frozen=True)
class LocalRegressionStages:
    """The steps of the start for one window; coefficients (B, k, ., .), guide axes (B, g, H, W)."""

    y: torch.Tensor
    """LR, c of Y."""
    guide: torch.Tensor
    """HR, with less noise."""
    plain: torch.Tensor
    """HR, the global map with its residual interpolated."""
    step: torch.Tensor
    """HR, the free local map less the firm one."""
    trust: torch.Tensor
    """HR, 0 to 1, the share of `step` that was taken."""
    rest: torch.Tensor
    """LR, what the global map leaves."""
    left: torch.Tensor
    """LR, what the mixed local map leaves."""
    back: torch.Tensor
    """HR, the share of `left` that was put back."""
    coefficients: torch.Tensor
    """HR, the answer."""


class LocalRegressionModel:
    """The start bound to a scene: (y, x) -> Start."""

    def __init__(self, m: LocalRegression) -> None:
        self.scale, self.centroid_px = m.scale, m.centroid_px
        as_tensor = {f.name: getattr(m, f.name) for f in fields(m) if isinstance(getattr(m, f.name), np.ndarray)}
        self.t = {k: torch.from_numpy(v.astype(np.float32)) for k, v in as_tensor.items()}
        self.rest_kept = m.rest_kept

    def to(self, device: torch.device) -> None:
        """Follow the pixels to their device; nothing to do but the first time."""
        if self.t["kernel"].device != device:
            self.t = {k: v.to(device) for k, v in self.t.items()}

    def matched(self, x: torch.Tensor) -> torch.Tensor:
        """The guide as sharp and as placed as the image would be, HR -> HR."""
        return x if self.t["match"].numel() == 1 else blur_down(x, self.t["match"], 1)

    def up(self, c: torch.Tensor) -> torch.Tensor:
        """LR -> HR."""
        return upsample(c, self.scale, self.centroid_px)

    def down(self, c: torch.Tensor) -> torch.Tensor:
        """HR -> LR, H."""
        return blur_down(c, self.t["kernel"], self.scale)

    def __call__(self, y: torch.Tensor, x: torch.Tensor) -> LocalRegressionStages:
        """(B, b, h, w), (B, m, s*h, s*w)."""
        self.to(y.device)
        c = torch.einsum("kb,nbhw->nkhw", self.t["project"], y)
        g = dct_denoise_single_scale(
            torch.einsum("gm,nmhw->nghw", self.t["guide"], self.matched(x)), self.t["guide_power"]
        )
        low = self.down(g)
        weights = self.t["weights"]
        first = torch.einsum("kg,nghw->nkhw", weights[:, :-1], g) + weights[:, -1, None, None]
        rest = c - torch.einsum("kg,nghw->nkhw", weights[:, :-1], low) - weights[:, -1, None, None]
        free, unseen = self._local(rest, low, g, *LOOSE_FIT)
        firm, _ = self._local(rest, low, g, *STIFF_FIT)
        trust = self.up(trusted(rest, rest - unseen)).clamp(0, 1)
        mixed = first + firm + trust * (free - firm)
        left = c - self.down(mixed)
        back = self.up(shrink(left))
        return LocalRegressionStages(c, g, first + self.up(rest), free - firm, trust, rest, left, back, mixed + back)

    def bands(self, coefficients: torch.Tensor, s: LocalRegressionStages, y: torch.Tensor) -> torch.Tensor:
        """Coefficients (B, k, H, W) -> bands (B, b, H, W), with what Y holds outside the axes."""
        out = torch.einsum("bk,nkhw->nbhw", self.t["back"], coefficients)
        if self.rest_kept > 0:
            out = out + self.up(self.rest_kept * (y - torch.einsum("bk,nkhw->nbhw", self.t["back"], s.y)))
        return out

    def _local(
        self, r: torch.Tensor, low: torch.Tensor, g: torch.Tensor, sigma: float, ridge: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What a local map says of r (B, k, h, w).

        Returns:
            On the sharp guide (B, k, H, W), and on the coarse one, for each pixel as if it had been left out of the
            fit (B, k, h, w): (A f - l r) / (1 - l), l = w(0) f^T N^-1 f its leverage.
        """
        n, k, h, w = r.shape
        # In double: the equations are badly conditioned where the guide is smooth, and a tile must give what the whole
        # gives. In units of the scene's root mean squares, so that the ridge is the same along every axis.
        size = self.t["level"].double().clamp_min(1e-30).sqrt()[:, None, None]
        f = torch.cat((low, torch.ones_like(low[:, :1])), dim=1).double() / size  # (B, g + 1, h, w)
        r, m = r.double(), f.shape[1]
        ff = smooth((f[:, :, None] * f[:, None]).flatten(1, 2), sigma).reshape(n, m, m, h, w)
        fr = smooth((f[:, :, None] * r[:, None]).flatten(1, 2), sigma).reshape(n, m, k, h, w)
        normal = ff.permute(0, 3, 4, 1, 2) + ridge * torch.eye(m, dtype=torch.float64, device=f.device)
        right = torch.cat((fr, f[:, :, None]), dim=2).permute(0, 3, 4, 1, 2)  # (B, h, w, g + 1, k + 1)
        a, own = torch.linalg.solve(normal, right).permute(0, 3, 4, 1, 2).split((k, 1), dim=2)
        leverage = float(window(sigma)[REACH]) ** 2 * (own[:, :, 0] * f).sum(1, keepdim=True)  # (B, 1, h, w)
        unseen = ((a * f[:, :, None]).sum(1) - leverage * r) / (1 - leverage).clamp_min(1e-3)
        a, unseen, g = (a / size[:, None]).float(), unseen.float(), self._held(low, g)
        out = self.up(a[:, -1])
        for i in range(m - 1):
            out = out + self.up(a[:, i]) * g[:, i, None]
        return out, unseen

    def _held(self, low: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """The guide, held to what the LR pixels of the neighbourhood have shown and `BEYOND_GUIDE_RANGE` as much on
        either side.

        A local map knows nothing of values that no pixel near it has: at a glint it would go on along a slope that was
        fitted to the shade around it.
        """
        images = functional.pad(low, (GUIDE_RANGE_WINDOW_LR_PX,) * 4, mode="replicate")
        most = functional.max_pool2d(images, 2 * GUIDE_RANGE_WINDOW_LR_PX + 1, stride=1)
        least = -functional.max_pool2d(-images, 2 * GUIDE_RANGE_WINDOW_LR_PX + 1, stride=1)
        more = BEYOND_GUIDE_RANGE * (most - least) + 1  # the guide's noise
        bounds = [functional.interpolate(b, scale_factor=self.scale) for b in (least - more, most + more)]
        return torch.minimum(torch.maximum(g, bounds[0]), bounds[1])


def window(sigma: float) -> torch.Tensor:
    """(2 REACH + 1,) Gaussian of sum 1."""
    at = torch.arange(-REACH, REACH + 1, dtype=torch.float32)
    one = torch.exp(-0.5 * (at / sigma) ** 2)
    return one / one.sum()


def smooth(c: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian of `sigma` pixels, cut off at `REACH`; edges replicated. (B, c, h, w) -> the same."""
    one = window(sigma).to(c)[None, None, None]
    images = functional.pad(c.flatten(0, 1)[:, None], (REACH,) * 4, mode="replicate")
    return functional.conv2d(functional.conv2d(images, one), one.mT).reshape(c.shape)


def shrink(r: torch.Tensor) -> torch.Tensor:
    """What of a residual with unit noise stands out of the noise, by its power in the neighbourhood (Wiener)."""
    power = smooth(r.square(), ERROR_WINDOW_LR_PX)
    return r * (1 - EMPTY / power.clamp_min(EMPTY))


def trusted(r: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    """Trust in a map that left `error` on pixels that it had not seen, r being what was to be foretold; 0 to 1."""
    own = float(window(LEAVE_ONE_OUT_LR_PX)[REACH]) ** 2
    beside = (smooth(r, LEAVE_ONE_OUT_LR_PX) - own * r) / (1 - own)
    neighbours, maps = smooth((r - beside).square(), ERROR_WINDOW_LR_PX), smooth(error.square(), ERROR_WINDOW_LR_PX)
    return ((neighbours - maps) / (neighbours - 1).clamp_min(0.3)).clamp(0, 1).sqrt()


def estimate(pairs: Callable[[], Iterable[Pair]], blur: Blur, scale: int, second: F64, match: F64) -> LocalRegression:
    """Axes and the global map, from all windows of a scene. Deterministic; passes over them twice.

    Args:
        pairs: the windows.
        blur: what is known of the pair.
        scale: HR pixels for each LR pixel.
        second: `pair_moments` under the kernel, of the guide matched.
        match: `blur.match`.
    """
    sums = moments((p.y, p.y_valid) for p in pairs())
    assert sums is not None  # the kernel needed valid pixels
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
    """(k, b), (b, k) and the weight of what they leave."""
    s = subspace(sums) or _white(sums)
    k = min(AXES, s.basis.shape[1])
    unstored = len(s.noise_std) - s.basis.shape[1]
    left = [float(p) for p in s.power[k:]] + [s.rest_power] * unstored
    power = float(np.mean(left)) if left else 0.0
    return (
        s.project[:k].astype(np.float64),
        s.noise_std[:, None] * s.basis[:, :k],
        max(0.0, 1 - EMPTY / power) if power > 0 else 0.0,
    )


def _white(sums: Moments) -> Subspace:
    """Where noise cannot be told band by band: one level for all, from the weaker half of the principal axes."""
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
    """Principal axes of the guide whitened by its noise, (g, m), and their powers (g,)."""
    m = len(noise_x)
    second, pixels = np.zeros((m, m)), 0
    for pair in pairs():
        x = pair.x[:, pair.x_valid].astype(np.float64)
        second, pixels = second + x @ x.T, pixels + x.shape[1]
    second /= max(1, pixels)
    std = np.maximum(noise_x, 1e-4 * np.sqrt(np.diag(second)) + 1e-12)
    value, vector = np.linalg.eigh(second / std[:, None] / std[None, :])
    keep = slice(None, None if m <= GUIDE_AXES else GUIDE_AXES)
    vector = vector[:, ::-1][:, keep]
    vector = vector * np.where(vector.sum(axis=0) < 0, -1.0, 1.0)
    return (vector / std[:, None]).T, np.maximum(value[::-1][keep], 0.0)
