"""The training-free start of fusion: a map from guide to spectrum that changes from place to place, in closed form.

Everything happens in coefficients c of the signal subspace of Y (`subspace.py`: white noise of standard deviation 1)
and on axes g of the guide that are whitened by its noise and made less noisy by a sliding DCT (`pilot.py`):

    global     c = W (g, 1)                    least squares on LR pixels, g blurred and decimated; one W for the scene
    local      r = c - W (H g, 1);  A(i) = argmin_A sum_j w(j - i) |r_j - A (H g_j, 1)|^2 + RIDGE |A|^2_scene
               w a Gaussian of `SIGMA` LR pixels: what materials of one neighbourhood have in common, shrunk to global;
               moments are smoothed images, so every pixel has its own A; interpolated and applied to the sharp g
    back       c += upsample(q (c_Y - H c)),   q = max(0, 1 - EMPTY / local power): only what stands out of the noise

What Y holds outside the stored axes is interpolated, shrunk by one Wiener weight. Every step is local: `HALO` LR pixels
and `GUIDE_HALO` HR pixels. Measured on six CAVE training crops (s = 8, 40 dB, a motion kernel): global alone with its
residual 42.6 dB, local 45.5 / 3.0 degrees, with the shrunk back-projection 45.65 / 2.63; docs/decisions/0007.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from models.blur import Blur
from models.degrade import UPSAMPLE_TAPS, blur_down, upsample
from models.fusion import Pair
from models.pilot import ONE_SCALE_HALO, one_scale
from models.restorer import Facts, pack, unpack
from models.subspace import EMPTY, Moments, Subspace, moments, subspace

F64 = npt.NDArray[np.float64]

AXES, GUIDE_AXES = 12, 6
"""Most coefficients of Y and of the guide."""
SIGMA, WIDE = 1.5, 4.0
"""LR pixels: of the window of the local map, and of the wide one that is offered beside it."""
RIDGE = 1e-3
"""Of the local map, as a share of the scene's mean squares."""
REACH = 4
"""LR pixels that a smoothing window reaches; the wide one is cut off there too."""
BLUR_LR, BLUR_HR = 4, 10
"""A kernel reaches at most 3 LR pixels and 10 HR pixels about its middle (`blur.reach`), and that lies in the next."""
HALO = 2 * (REACH + UPSAMPLE_TAPS + 1 + BLUR_LR)
"""LR pixels that the start depends on: two windows, two interpolations, two blurs."""
GUIDE_HALO = 2 * BLUR_HR + ONE_SCALE_HALO
"""HR pixels that it depends on, on top."""


@dataclass(frozen=True, kw_only=True)
class LocalMap:
    """What the start must know of a pair. Arrays over bands b, coefficients k, guide bands m, guide axes g."""

    scale: int
    kernel: F64
    """(n, n)."""
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

    def to_facts(self) -> Facts:
        """JSON types."""
        out: Facts = {}
        for f in fields(self):
            value = getattr(self, f.name)
            out[f.name] = pack(value) if isinstance(value, np.ndarray) else value
        return {**out, "centroid_px": list(self.centroid_px)}

    @classmethod
    def from_facts(cls, facts: Facts) -> LocalMap:
        """Inverse of `to_facts`, to float32 precision."""
        values = {f.name: facts[f.name] for f in fields(cls)}
        arrays = {k: unpack(v).astype(np.float64) for k, v in values.items() if isinstance(v, dict)}
        y, x = values["centroid_px"]
        return cls(**{**values, **arrays, "centroid_px": (float(y), float(x))})


@dataclass(frozen=True)
class Start:
    """The steps of the start for one window; coefficients (B, k, ., .), guide axes (B, g, H, W)."""

    y: torch.Tensor
    """LR, c of Y."""
    guide: torch.Tensor
    """HR, with less noise."""
    plain: torch.Tensor
    """HR, the global map with its residual interpolated."""
    wide: torch.Tensor
    """HR, the local map of the wide window, with its residual."""
    rest: torch.Tensor
    """LR, what the global map leaves."""
    left: torch.Tensor
    """LR, what the local map leaves."""
    back: torch.Tensor
    """HR, the share of `left` that was put back."""
    coefficients: torch.Tensor
    """HR, the answer."""


class Starter:
    """The start bound to a scene: (y, x) -> Start."""

    def __init__(self, m: LocalMap) -> None:
        self.scale, self.centroid_px = m.scale, m.centroid_px
        as_tensor = {f.name: getattr(m, f.name) for f in fields(m) if isinstance(getattr(m, f.name), np.ndarray)}
        self.t = {k: torch.from_numpy(v.astype(np.float32)) for k, v in as_tensor.items()}
        self.rest_kept = m.rest_kept

    def to(self, device: torch.device) -> None:
        """Follow the pixels to their device; nothing to do but the first time."""
        if self.t["kernel"].device != device:
            self.t = {k: v.to(device) for k, v in self.t.items()}

    def up(self, c: torch.Tensor) -> torch.Tensor:
        """LR -> HR."""
        return upsample(c, self.scale, self.centroid_px)

    def down(self, c: torch.Tensor) -> torch.Tensor:
        """HR -> LR, H."""
        return blur_down(c, self.t["kernel"], self.scale)

    def __call__(self, y: torch.Tensor, x: torch.Tensor) -> Start:
        """(B, b, h, w), (B, m, s*h, s*w)."""
        self.to(y.device)
        c = torch.einsum("kb,nbhw->nkhw", self.t["project"], y)
        g = one_scale(torch.einsum("gm,nmhw->nghw", self.t["guide"], x), self.t["guide_power"])
        low = self.down(g)
        weights = self.t["weights"]
        first = torch.einsum("kg,nghw->nkhw", weights[:, :-1], g) + weights[:, -1, None, None]
        rest = c - torch.einsum("kg,nghw->nkhw", weights[:, :-1], low) - weights[:, -1, None, None]
        narrow = first + self._local(rest, low, g, SIGMA)
        wide = first + self._local(rest, low, g, WIDE)
        left = c - self.down(narrow)
        back = self.up(shrink(left))
        return Start(
            c, g, first + self.up(rest), wide + self.up(shrink(c - self.down(wide))), rest, left, back, narrow + back
        )

    def bands(self, coefficients: torch.Tensor, s: Start, y: torch.Tensor) -> torch.Tensor:
        """Coefficients (B, k, H, W) -> bands (B, b, H, W), with what Y holds outside the axes."""
        out = torch.einsum("bk,nkhw->nbhw", self.t["back"], coefficients)
        if self.rest_kept > 0:
            out = out + self.up(self.rest_kept * (y - torch.einsum("bk,nkhw->nbhw", self.t["back"], s.y)))
        return out

    def _local(self, r: torch.Tensor, low: torch.Tensor, g: torch.Tensor, sigma: float) -> torch.Tensor:
        """What the local map says of r (B, k, h, w) on the sharp guide: (B, k, H, W)."""
        n, k, h, w = r.shape
        f = torch.cat((low, torch.ones_like(low[:, :1])), dim=1)  # (B, g + 1, h, w)
        m = f.shape[1]
        ff = smooth((f[:, :, None] * f[:, None]).flatten(1, 2), sigma).reshape(n, m, m, h, w)
        fr = smooth((f[:, :, None] * r[:, None]).flatten(1, 2), sigma).reshape(n, m, k, h, w)
        normal = ff.permute(0, 3, 4, 1, 2) + RIDGE * torch.diag(self.t["level"])
        a = torch.linalg.solve(normal, fr.permute(0, 3, 4, 1, 2)).permute(0, 3, 4, 1, 2)  # (B, g + 1, k, h, w)
        out = self.up(a[:, -1])
        for i in range(m - 1):
            out = out + self.up(a[:, i]) * g[:, i, None]
        return out


def smooth(c: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian of `sigma` pixels, cut off at `REACH`; edges replicated. (B, c, h, w) -> the same."""
    at = torch.arange(-REACH, REACH + 1, device=c.device, dtype=c.dtype)
    one = torch.exp(-0.5 * (at / sigma) ** 2)
    one = (one / one.sum()).reshape(1, 1, 1, -1)
    images = functional.pad(c.flatten(0, 1)[:, None], (REACH,) * 4, mode="replicate")
    return functional.conv2d(functional.conv2d(images, one), one.mT).reshape(c.shape)


def shrink(r: torch.Tensor) -> torch.Tensor:
    """What of a residual with unit noise stands out of the noise, by its power in the neighbourhood (Wiener)."""
    power = smooth(r.square(), SIGMA)
    return r * (1 - EMPTY / power.clamp_min(EMPTY))


def estimate(pairs: Callable[[], Iterable[Pair]], blur: Blur, scale: int) -> LocalMap:
    """Axes and the global map, from all windows of a scene. Deterministic; passes over them three times."""
    sums = moments((p.y, p.y_valid) for p in pairs())
    assert sums is not None  # the kernel needed valid pixels
    project, back, rest_kept = image_axes(sums)
    guide, guide_power = _guide_axes(pairs, blur.noise_x)
    h, b = normal_equations(pairs, blur, scale, project, guide)
    ridge = 1e-6 * np.diag(np.diag(h)) + 1e-12 * np.trace(h) * np.eye(len(h))
    return LocalMap(
        scale=scale,
        kernel=blur.kernel,
        centroid_px=blur.centroid_px,
        project=project,
        back=back,
        rest_kept=rest_kept,
        guide=guide,
        guide_power=guide_power,
        weights=np.linalg.solve(h + ridge, b).T,
        level=np.diag(h) / h[-1, -1],
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


def _guide_axes(pairs: Callable[[], Iterable[Pair]], noise_x: F64) -> tuple[F64, F64]:
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


def normal_equations(pairs: Callable[[], Iterable[Pair]], blur: Blur, scale: int, project: F64, guide: F64) -> tuple[F64, F64]:
    """Normal equations of the global map, (g + 1, g + 1) and (g + 1, k), over LR pixels seen by valid guide pixels."""
    g, k = len(guide), len(project)
    h, b = np.zeros((g + 1, g + 1)), np.zeros((g + 1, k))
    kernel = torch.from_numpy(blur.kernel.astype(np.float32))
    for pair in pairs():
        x = torch.from_numpy(np.einsum("gm,mhw->ghw", guide, pair.x).astype(np.float32))
        gaps = torch.from_numpy(~pair.x_valid).float()
        low = blur_down(torch.cat((x, gaps[None]))[None], kernel, scale)[0].numpy().astype(np.float64)
        ok = pair.y_valid & (low[-1] < 1e-3)
        f = np.concatenate((low[:-1, ok], np.ones((1, int(ok.sum())))))
        h, b = h + f @ f.T, b + f @ (project @ pair.y[:, ok]).T
    return h, b
