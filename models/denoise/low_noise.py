"""Conservative denoiser for low-noise scenes, such as those of satellites: removes only what is certainly noise.

Where noise is small, removing more of it gains little, and removing structure that few bands share loses much. So
everything that may be signal is kept. In units of the noise, with the fine scale of the DCT shrinkage alone:

    gone = q W y + U ((z - dct(z)) - q z)    noise by the subspace; dct(z) for all stored coefficients
    1  gone -= its waves longer than a cell of 8 pixels
    2  gone -= its least-squares fit, in windows of 20 pixels, by the detail of the strongest coefficients and by the
               slopes of the first two: what varies with the scene belongs to the scene, in every band. The guided
               filter's fit (He et al., TPAMI 2013, eq. 5) with several guides
    3  gone *= a factor that keeps its local energy below the band's own (a constant sea stays constant) and below
               `MOST_ENERGY` (a point in a single band stays)
    4  gone -= its mean in each 8x8 cell of the scene's grid: the radiometry of these cells does not change
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from hypermend.models.arrays import F32
from hypermend.models.signal import dct_shrinkage
from hypermend.models.signal.subspace import Subspace

CELL_PX = 8
"""Edge of a cell, in pixels. Cells begin at the first pixel of the scene, so a tile begins at a multiple of it."""
GUIDES, SLOPES = 6, 2
"""Number of coefficients whose detail, and whose slopes, represent the scene's structure."""
FIT_CELL_PX, FIT_WINDOW_CELLS = 4, 5
"""The fit has one solution for each cell of 4x4 pixels, from a window of 5x5 cells."""
RIDGE = 1e-3
"""Ridge of the fit, relative to the energy of each guide."""
ENERGY_WINDOW_PX = 5
"""Edge of the window in which the removed part is compared with the band's own energy, in pixels."""
MOST_ENERGY = 1.0
"""Largest mean energy of 3x3 removed pixels, in units of the noise; noise alone exceeds it in about 3 % of them."""
_CELL_MEANS_REACH_PX = CELL_PX // 2 - 1 + CELL_PX
"""Reach of the interpolated cell means: from a pixel left of a cell's centre to the far end of the cell before."""
_FIT_REACH_PX = FIT_CELL_PX // 2 - 1 + FIT_CELL_PX * (FIT_WINDOW_CELLS // 2 + 1)
HALO = dct_shrinkage.ONE_SCALE_HALO + _CELL_MEANS_REACH_PX + _FIT_REACH_PX + ENERGY_WINDOW_PX // 2 + 1 + CELL_PX - 1
"""Pixels on each side that the result depends on."""


def detail(x: torch.Tensor) -> torch.Tensor:
    """Remove waves longer than a cell from images (B, K, H, W); H, W whole cells."""
    return x - _smooth(functional.avg_pool2d(x, CELL_PX), CELL_PX)


def _smooth(cells: torch.Tensor, size: int) -> torch.Tensor:
    """Interpolate values of cells between their centres, (B, K, h, w) -> (B, K, size h, size w)."""
    return functional.interpolate(cells, scale_factor=size, mode="bilinear", align_corners=False)


def _mean(x: torch.Tensor, size: int) -> torch.Tensor:
    """Return the mean of size x size pixels around each, (B, K, H, W) -> the same."""
    return functional.avg_pool2d(x, size, stride=1, padding=size // 2, count_include_pad=False)


class GuideRegression:
    """Least squares on guides in windows; built once for a tile, then applied to each band."""

    def __init__(self, coefficients: torch.Tensor) -> None:
        """Take denoised coefficients (B, K, H, W), strongest first; H, W whole cells."""
        edged = functional.pad(coefficients[:, :SLOPES], (1, 1, 1, 1), mode="replicate")
        across = (edged[..., 1:-1, 2:] - edged[..., 1:-1, :-2]) / 2
        down = (edged[..., 2:, 1:-1] - edged[..., :-2, 1:-1]) / 2
        self.guides = torch.cat((detail(coefficients[:, :GUIDES]), across, down), dim=1)  # (B, G, H, W)
        gram = self._windows(self.guides[:, :, None] * self.guides[:, None])  # (B, G, G, h, w)
        gram = gram.permute(0, 3, 4, 1, 2).double()
        # One scale for all guides: otherwise rounding errors exceed the weak ones.
        scale = (gram.diagonal(dim1=-2, dim2=-1) + 1e-6).rsqrt()  # (B, h, w, G)
        gram = gram * scale[..., :, None] * scale[..., None, :]
        inverse = torch.linalg.inv(gram + RIDGE * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device))
        self.inverse = (inverse * scale[..., :, None] * scale[..., None, :]).float()  # (B, h, w, G, G)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return the part of an image that the guides explain, (B, 1, H, W) -> the same."""
        weights = torch.einsum("nhwij,njhw->nihw", self.inverse, self._windows(image * self.guides))
        return (_smooth(weights, FIT_CELL_PX) * self.guides).sum(dim=1, keepdim=True)

    @staticmethod
    def _windows(products: torch.Tensor) -> torch.Tensor:
        """Return means of the windows, (B, ..., H, W) -> (B, ..., H / 4, W / 4)."""
        flat = products.flatten(1, -3)
        mean = _mean(functional.avg_pool2d(flat, FIT_CELL_PX), FIT_WINDOW_CELLS)
        return mean.reshape(*products.shape[:-2], *mean.shape[-2:])


def certain_noise(gone: torch.Tensor, band: torch.Tensor, fit: GuideRegression) -> torch.Tensor:
    """Return the part of `gone` that is certainly noise: steps 1 to 4.

    Args:
        gone: (B, 1, H, W) candidate for removal, in units of the noise; H, W whole cells.
        band: (B, 1, H, W) the band itself, in the same unit.
        fit: regression of the same pixels.

    Returns:
        (B, 1, H, W); its mean is 0 in each cell.
    """
    gone = detail(gone)
    gone = gone - fit(gone)
    ratio = _mean(detail(band).square(), ENERGY_WINDOW_PX) / _mean(gone.square(), ENERGY_WINDOW_PX).clamp_min(1e-12)
    gone = gone * ratio.clamp(max=1.0).sqrt()
    gone = gone * (MOST_ENERGY / _mean(gone.square(), 3).clamp_min(MOST_ENERGY))
    mean = functional.avg_pool2d(gone, CELL_PX)
    return gone - mean.repeat_interleave(CELL_PX, dim=2).repeat_interleave(CELL_PX, dim=3)


class ConservativeDenoiser:
    """Restorer bound to a low-noise scene."""

    scale = 1

    def __init__(self, s: Subspace, halo: int, band_errors: F32 | None = None) -> None:
        """Take a scene, and the square error of each band (b,) in units of its noise's variance."""
        self.halo, self.band_errors = halo, band_errors
        self.project, self.back = torch.from_numpy(s.project), torch.from_numpy(s.basis.astype("float32"))
        self.power = torch.from_numpy(s.power.astype("float32"))
        self.rest = s.noise_share[1]
        self.noise_std = s.noise_std.tolist()

    def with_std(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The result, and the standard deviation of its error, (B, bands, H, W) each: one value for each band.

        NaN without errors of the scene.
        """
        std = np.array(self.noise_std) * np.sqrt(np.nan if self.band_errors is None else self.band_errors)
        return self(x), torch.from_numpy(std.astype(np.float32)).to(x.device)[:, None, None].expand_as(x)

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
        for name in ("project", "back", "power"):
            setattr(self, name, getattr(self, name).to(x.device))
        # The scene, and with it the first cell, begins `halo` pixels after x.
        top, (h, w) = -self.halo % CELL_PX, x.shape[2:]
        edges = (top, -(w + top) % CELL_PX, top, -(h + top) % CELL_PX)
        inner = (..., slice(top, top + h), slice(top, top + w))
        z = functional.pad(torch.einsum("jb,nbhw->njhw", self.project, x), edges, mode="replicate")
        first = dct_shrinkage.dct_denoise_single_scale(z, self.power)
        fit = GuideRegression(first)
        noise = z - first - self.rest * z
        out = x.clone()
        for b, std in enumerate(self.noise_std):  # one at a time: a tile has hundreds of bands
            if std > 0:
                band = functional.pad(x[:, b : b + 1] / std, edges, mode="replicate")
                gone = self.rest * band + torch.einsum("j,njhw->nhw", self.back[b], noise)[:, None]
                out[:, b] -= std * certain_noise(gone, band, fit)[inner][:, 0]
        return out
