"""The network's restorer in the signal subspace of a scene: axes, estimate, correction, and what lies outside.

The formulas stand in `model.py`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from hypermend.models.denoise.stas import Stas
from hypermend.models.denoise.uncertainty import ErrorTable
from hypermend.models.signal import dct_shrinkage
from hypermend.models.signal.spectral_wiener import spectral_wiener
from hypermend.models.signal.subspace import Subspace

CONTRAST_RADIUS_PX = 2
"""Radius of the local mean among the features, in pixels."""
CONTEXT_PX = dct_shrinkage.HALO
"""Pixels on each side of a pixel that its features depend on."""
LARGEST_CORRECTION = 4.0
"""Largest correction of the DCT estimate, in standard deviations of the noise."""
RARE = 6.0
"""Standard deviations above which the rest of a pixel is no noise: of a million pixels noise exceeds it in a few."""
LARGEST_REST = 10.0
"""Most that a band tells of a rare spectrum, in standard deviations of the noise: a stripe is in one band."""


def features(z: torch.Tensor, first: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    """Return the features that the network takes.

    Args:
        z: (B, K, H, W) whitened coefficients.
        first: (B, K, H, W) their DCT estimate.
        power: (B, K) second moment of each coefficient over the scene, noise (1) included.

    Returns:
        (B, 4K, H, W): the part that the DCT estimate removed; the contrast of the pixel with its 5x5 mean, compressed
        far from zero; the DCT estimate and the noise, both relative to the coefficient's power.
    """
    scale = power.clamp_min(1e-6).rsqrt()[:, :, None, None]  # (B, K, 1, 1)
    mean = functional.avg_pool2d(
        z, 2 * CONTRAST_RADIUS_PX + 1, stride=1, padding=CONTRAST_RADIUS_PX, count_include_pad=False
    )
    contrast = 4 * torch.asinh((z - mean) / 4)
    return torch.cat((z - first, contrast, first * scale, scale.expand_as(z)), dim=1)


def trust(power: torch.Tensor) -> torch.Tensor:
    """Return the weight of the network's correction, (B, K) -> (B, K, 1, 1): sqrt(1 - 1 / power).

    It fades where there is no signal, as in the preconditioning of Karras et al., NeurIPS 2022, eq. 7: without it
    errors of 0.2 standard deviations in each empty coefficient cost 1 to 2 dB.
    """
    return (1 - power.clamp_min(1.0).reciprocal()).sqrt()[:, :, None, None]


class SubspaceDenoiser:
    """Domain "subspace", bound to a scene."""

    scale = 1

    def __init__(
        self, net: Stas, s: Subspace, restored: list[bool], halo: int, errors: ErrorTable | None = None
    ) -> None:
        self.net, self.halo, self.errors = net, halo, errors
        live = s.noise_std > 0
        white = np.divide(1.0, s.noise_std, where=live, out=np.zeros_like(s.noise_std))
        self.project = torch.from_numpy(s.project)  # (J, bands): z = project y
        self.back = torch.from_numpy((s.basis * s.noise_std[:, None]).astype(np.float32))  # (bands, J)
        self.power = torch.from_numpy(s.power.astype(np.float32))
        self.white = torch.from_numpy(white.astype(np.float32))[:, None, None]  # (bands, 1, 1), 0: does not vary
        self.restored = torch.tensor(restored)[:, None, None]

    @torch.inference_mode()
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(B, bands, H, W) -> the same shape.

        Raises:
            ValueError: another number of bands than the scene had.
        """
        if x.shape[1] != self.project.shape[1]:
            raise ValueError(
                f"tile with {x.shape[1]} bands; the scene's statistics are of {self.project.shape[1]} bands"
            )
        return self._restored(x, *self._estimated(x))

    @torch.inference_mode()
    def with_std(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same, and the standard deviation of its error, (B, bands, H, W) each, physical units.

        A band that does not vary has 0, one that is not restored its noise; NaN without errors of the scene.
        """
        z, first, signal = self._estimated(x)
        if self.errors is None:
            return self._restored(x, z, first, signal), torch.full_like(x, torch.nan)
        var = self.errors.variance(signal, self.axes)
        rest = self._rest(x, z)
        var += rare_share(rest, self.white).square() * (1 - self.axes.sum(dim=1))[:, None, None]
        std = torch.where(self.restored, var, 1.0).sqrt_()
        return self._restored(x, z, first, signal), torch.where(self.white > 0, std / self.white, 0.0)

    @property
    def unit(self) -> torch.Tensor:
        """(bands, J) the axes, of whitened bands."""
        return self.back * self.white[:, :, 0]

    @property
    def axes(self) -> torch.Tensor:
        """(bands, J) squares of the axes' elements."""
        return self.unit.square()

    @torch.inference_mode()
    def estimated(self, x: torch.Tensor) -> torch.Tensor:
        """(B, bands, H, W) -> coefficients as estimated without the network, (B, J, H, W)."""
        return self._estimated(x)[2]

    def _estimated(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Coefficients, their DCT estimate, and the estimate without the network, (B, J, H, W) each."""
        self._move(x.device)
        z = torch.einsum("jb,nbhw->njhw", self.project, x)
        first = dct_shrinkage.dct_denoise(z, self.power)
        return z, first, spectral_wiener(first) + dct_shrinkage.low_frequency_residual(z, first)

    def _restored(self, x: torch.Tensor, z: torch.Tensor, first: torch.Tensor, signal: torch.Tensor) -> torch.Tensor:
        """Pixels from what `_estimated` made of them."""
        k, noise = min(self.net.channels, z.shape[1]), z - signal
        noise[:, :k] += self._correction(z[:, :k], first[:, :k])
        gone = self._rest(x, z)
        gone *= 1 - rare_share(gone, self.white)  # in place, because a tile has hundreds of bands
        gone += torch.einsum("bj,njhw->nbhw", self.back, noise)
        return torch.where(self.restored, x - gone, x)

    def _rest(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """What lies outside of the axes, (B, bands, H, W) physical; 0 in bands that do not vary."""
        rest = torch.where(self.white > 0, x, 0.0)
        rest -= torch.einsum("bj,njhw->nbhw", self.back, z)
        return rest

    def _move(self, device: torch.device) -> None:
        """Move network and tensors to a device, once."""
        if self.project.device != device:
            self.net.to(device)
            for name in ("project", "back", "power", "white", "restored"):
                setattr(self, name, getattr(self, name).to(device))

    def _correction(self, z: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """Return the noise that the network sees in the DCT estimate of the first coefficients, (B, K, H, W).

        Scenes with fewer than K axes are padded with zeros.
        """
        k, missing = z.shape[1], self.net.channels - z.shape[1]
        power = torch.cat((self.power[:k], self.power.new_ones(missing)))[None]  # (1, K)
        z, first = (functional.pad(t, (0, 0, 0, 0, 0, missing)) for t in (z, first))
        x = features(z, first, power).contiguous(memory_format=torch.channels_last)
        correction: torch.Tensor = self.net(x) - x[:, : self.net.channels]
        return (trust(power) * correction.clamp(-LARGEST_CORRECTION, LARGEST_CORRECTION))[:, :k]


def rare_share(rest: torch.Tensor, white: torch.Tensor) -> torch.Tensor:
    """Return the share of the rest that is no noise, in each pixel: a spectrum that no axis holds, being rare.

    Noise is independent in two neighbouring bands, a spectrum is alike in them; a spike or a stripe is in one band. So
    the sum over bands of r_b r_b+1 tells it: noise gives 0, with a standard deviation of the root of their number.

    Args:
        rest: (B, bands, H, W).
        white: (bands, 1, 1) the inverse of each band's noise; 0 for a band that does not vary.

    Returns:
        (B, 1, H, W): 0 below `RARE` standard deviations, 1 above twice that, linear between.
    """
    alike = before = torch.zeros_like(rest[:, :1])
    for b in range(rest.shape[1]):
        now = (rest[:, b : b + 1] * white[b]).clamp_(-LARGEST_REST, LARGEST_REST)
        alike, before = alike + before * now, now
    return (alike / (RARE * math.sqrt(rest.shape[1] - 1)) - 1).clamp_(0, 1)
