"""The denoiser for scenes whose noise is small, as a satellite's is: only what is sure to be noise is removed.

Where noise is small, little is gained by removing more of it and much is lost by removing structure that few bands
share. So everything that is doubtful goes back. In units of the noise, with the pilot's fine scale alone:

    gone = q W y + U ((z - pilot(z)) - q z)    what the subspace takes for noise, all stored coefficients by the pilot
    1  gone -= its waves longer than a cell of 8 pixels
    2  gone -= its least-squares fit, in windows of 20 pixels, by the detail of the strongest coefficients and by the
               slopes of the first two: what goes along with the scene is of the scene, in whichever band. The guided
               filter's fit (He et al., TPAMI 2013, eq. 5) with several guides
    3  gone *= what keeps its local energy below the band's own (a sea that is constant stays so) and below `LIMIT`
               (a point that one band alone sees stays)
    4  gone -= its mean in each 8x8 cell of the scene's grid: radiometry of these cells is what it was
"""

from __future__ import annotations

import torch
from torch.nn import functional

from hypermend.models.signal import dct_shrinkage
from hypermend.models.signal.subspace import Subspace

CELL = 8
"""Pixels; cells begin at the first pixel of the scene, so a tile has to begin at a multiple of it."""
GUIDES, SLOPES = 6, 2
"""Coefficients whose detail, and whose slopes, count as the scene's structure."""
FIT_CELL, FIT_CELLS = 4, 5
"""The fit has one solution in each cell of 4x4 pixels, from 5x5 of them."""
RIDGE = 1e-3
"""Of the fit, relative to the energy of each guide."""
OWN = 5
"""Pixels on each side of the window in which the removed part is held against the band's own energy."""
LIMIT = 1.0
"""Largest mean energy of 3x3 removed pixels, in units of the noise; noise alone exceeds it in about 3 % of them."""
_LONG = CELL // 2 - 1 + CELL
"""Reach of the interpolated means of cells: a pixel just left of a cell's middle, to the far end of the one before."""
_FIT = FIT_CELL // 2 - 1 + FIT_CELL * (FIT_CELLS // 2 + 1)
HALO = dct_shrinkage.ONE_SCALE_HALO + _LONG + _FIT + OWN // 2 + 1 + CELL - 1
"""Pixels on each side that the answer depends on."""


def detail(x: torch.Tensor) -> torch.Tensor:
    """What is left of images without their waves longer than a cell, (B, K, H, W) -> the same; H, W whole cells."""
    return x - _smooth(functional.avg_pool2d(x, CELL), CELL)


def _smooth(cells: torch.Tensor, size: int) -> torch.Tensor:
    """Values of cells interpolated between their centres, (B, K, h, w) -> (B, K, size h, size w)."""
    return functional.interpolate(cells, scale_factor=size, mode="bilinear", align_corners=False)


def _mean(x: torch.Tensor, size: int) -> torch.Tensor:
    """Mean of size x size pixels around each, (B, K, H, W) -> the same."""
    return functional.avg_pool2d(x, size, stride=1, padding=size // 2, count_include_pad=False)


class GuideRegression:
    """Least squares on guides in windows: set up once for a tile, then used for each band."""

    def __init__(self, coefficients: torch.Tensor) -> None:
        """From clean coefficients (B, K, H, W), strongest first; H, W whole cells."""
        edged = functional.pad(coefficients[:, :SLOPES], (1, 1, 1, 1), mode="replicate")
        across = (edged[..., 1:-1, 2:] - edged[..., 1:-1, :-2]) / 2
        down = (edged[..., 2:, 1:-1] - edged[..., :-2, 1:-1]) / 2
        self.guides = torch.cat((detail(coefficients[:, :GUIDES]), across, down), dim=1)  # (B, G, H, W)
        gram = self._windows(self.guides[:, :, None] * self.guides[:, None])  # (B, G, G, h, w)
        gram = gram.permute(0, 3, 4, 1, 2).double()
        # One scale for all guides, or the weak ones would drown in rounding.
        scale = (gram.diagonal(dim1=-2, dim2=-1) + 1e-6).rsqrt()  # (B, h, w, G)
        gram = gram * scale[..., :, None] * scale[..., None, :]
        inverse = torch.linalg.inv(gram + RIDGE * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device))
        self.inverse = (inverse * scale[..., :, None] * scale[..., None, :]).float()  # (B, h, w, G, G)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """The part of an image that the guides explain, (B, 1, H, W) -> the same."""
        weights = torch.einsum("nhwij,njhw->nihw", self.inverse, self._windows(image * self.guides))
        return (_smooth(weights, FIT_CELL) * self.guides).sum(dim=1, keepdim=True)

    @staticmethod
    def _windows(products: torch.Tensor) -> torch.Tensor:
        """Means of the windows, (B, ..., H, W) -> (B, ..., H / 4, W / 4)."""
        flat = products.flatten(1, -3)
        mean = _mean(functional.avg_pool2d(flat, FIT_CELL), FIT_CELLS)
        return mean.reshape(*products.shape[:-2], *mean.shape[-2:])


def certain_noise(gone: torch.Tensor, band: torch.Tensor, fit: GuideRegression) -> torch.Tensor:
    """Steps 1 to 4: of what was to be removed from a band, what is sure to be noise.

    Args:
        gone: (B, 1, H, W) in units of the noise; H, W whole cells.
        band: (B, 1, H, W) the band itself, in the same units.
        fit: of the same pixels.

    Returns:
        (B, 1, H, W); its mean is 0 in each cell.
    """
    gone = detail(gone)
    gone = gone - fit(gone)
    own = _mean(detail(band).square(), OWN) / _mean(gone.square(), OWN).clamp_min(1e-12)
    gone = gone * own.clamp(max=1.0).sqrt()
    gone = gone * (LIMIT / _mean(gone.square(), 3).clamp_min(LIMIT))
    mean = functional.avg_pool2d(gone, CELL)
    return gone - mean.repeat_interleave(CELL, dim=2).repeat_interleave(CELL, dim=3)


class ConservativeDenoiser:
    """The restorer, bound to a scene."""

    scale = 1

    def __init__(self, s: Subspace, halo: int) -> None:
        self.halo = halo
        self.project, self.back = torch.from_numpy(s.project), torch.from_numpy(s.basis.astype("float32"))
        self.power = torch.from_numpy(s.power.astype("float32"))
        self.rest = s.noise_share[1]
        self.noise_std = s.noise_std.tolist()

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
        # Cells begin where the scene does, `halo` pixels after x does.
        top, (h, w) = -self.halo % CELL, x.shape[2:]
        edges = (top, -(w + top) % CELL, top, -(h + top) % CELL)
        inner = (..., slice(top, top + h), slice(top, top + w))
        z = functional.pad(torch.einsum("jb,nbhw->njhw", self.project, x), edges, mode="replicate")
        first = dct_shrinkage.dct_denoise_single_scale(z, self.power)
        fit = GuideRegression(first)
        noise = z - first - self.rest * z
        out = x.clone()
        for b, std in enumerate(self.noise_std):  # one at a time: a tile has hundreds
            if std > 0:
                band = functional.pad(x[:, b : b + 1] / std, edges, mode="replicate")
                gone = self.rest * band + torch.einsum("j,njhw->nhw", self.back[b], noise)[:, None]
                out[:, b] -= std * certain_noise(gone, band, fit)[inner][:, 0]
        return out
