"""Scores of an estimate against the truth, and a whole image through a model: benchmarks and `evaluate` share them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hypermend.models.arrays import F32, Mask
from hypermend.models.denoise.model import StasModel
from hypermend.models.restorer import Model, SceneStatistics
from hypermend.models.signal import metrics
from hypermend.models.signal.repair import Repair, masked
from hypermend.pipeline.restore.chain import Chain, bind_model
from hypermend.pipeline.restore.steps import Step
from hypermend.pipeline.tiling.spectral_windows import SpectralWindow
from hypermend.pipeline.tiling.tiles import TileGrid, padded_window

STRIP_ROWS = 64
"""Rows of an image in which defects are looked for at once."""
TILE_PX, FINER_TILE_PX = 512, 128
"""Source pixels of the tiles that an image goes through in, and where pixels become finer."""


def scores(
    truth: F32, estimate: F32, valid: Mask | None = None, *, ratio: float = 1.0
) -> dict[str, float | int | None]:
    """PSNR, SSIM, SAM, ERGAS, RMSE (`models.metrics`) of an estimate clipped to 0..1; None: equal to the truth, or
    not defined.

    Args:
        truth, estimate: (bands, h, w).
        valid: (h, w); None for all.
        ratio: of pixel sizes, for ERGAS.
    """
    clipped = np.clip(estimate, 0, 1)
    psnr, bands = metrics.psnr(truth, clipped, valid), metrics.psnr_bands(truth, clipped, valid)
    angle = metrics.sam(truth, clipped, valid)
    try:
        ergas: float | None = metrics.ergas(truth, clipped, valid, ratio=ratio)
    except ValueError:  # a band without signal
        ergas = None
    return {
        "psnr": psnr if math.isfinite(psnr) else None,
        "ssim": metrics.ssim(truth, clipped, valid),
        "sam_deg": angle.degrees,
        "ergas": ergas,
        "rmse": metrics.rmse(truth, clipped, valid),
        "psnr_bands": bands if math.isfinite(bands) else None,
        "sam_left_out": angle.left_out,
    }


def restored(
    model: Model,
    image: F32,
    known: Mask | None = None,
    *,
    windows: Sequence[SpectralWindow] | None = None,
    missing: Mask | None = None,
    destripe: bool = False,
) -> F32:
    """A whole image through a model, in tiles and padded as a restoration does it: (b, h, w) -> (b, s*h, s*w).

    Args:
        image: physical values of the good bands, without holes.
        known: where the scene's facts are estimated; None for everywhere.
        windows: where the model takes a window of the bands at a time.
        missing: (b, h, w) numbers that are known to be defective, for a model that repairs; None for none.
        destripe: whether such a model subtracts stripes.
    """
    bands, h, w = image.shape
    known = np.ones((h, w), dtype=bool) if known is None else known
    if isinstance(model, StasModel) and model.repairs:
        statistics, image = repaired(
            model, image, known, np.zeros(image.shape, dtype=bool) if missing is None else missing, destripe=destripe
        )
        facts = [statistics]
    else:
        fed = [image] if windows is None else [image[list(window.take)] for window in windows]
        facts = [model.estimate([(part, known)]) for part in fed]
    restorer = bind_model(model, windows, (True,) * bands, facts)
    s = model.scale
    step = Step(task="", model=model.card.name, weights_sha256="", window_bands=None, halo=model.halo, scale=s)
    chain = Chain([step], [restorer])
    out = np.empty((bands, s * h, s * w), np.float32)
    grid = TileGrid(height=h, width=w, tile_px=TILE_PX if s == 1 else FINER_TILE_PX)
    for tile in grid:
        at = tile.core
        values = padded_window(h, w, grid.to_read(tile.index), chain.margin)
        cut = np.ascontiguousarray(values.take(image[:, values.window.y, values.window.x]))
        answer = chain(cut)
        if answer is None:
            out[:, at.y, at.x] = image[:, at.y, at.x]
            continue
        fine = slice(s * at.y0, s * at.y1), slice(s * at.x0, s * at.x1)
        out[(slice(None), *fine)] = answer[:, : s * at.height, : s * at.width]
    return out


def repaired(
    model: StasModel, image: F32, known: Mask, missing: Mask, *, destripe: bool = False
) -> tuple[SceneStatistics, F32]:
    """Statistics of a whole image, and the image with its defects repaired.

    Args:
        image: physical values (b, h, w), without holes.
        known: (h, w) pixels that hold data.
        missing: (b, h, w) numbers that are known to be defective.
        destripe: whether stripes are subtracted.
    """
    x = np.arange(image.shape[2])
    strips = range(0, image.shape[1], STRIP_ROWS)
    defects, stripes, windows = masked(
        lambda: [(image, known, missing, x)],
        lambda: [
            ((image[:, y : y + STRIP_ROWS], known[y : y + STRIP_ROWS], missing[:, y : y + STRIP_ROWS]) for y in strips)
        ],
        destripe=destripe,
    )
    defective = bool(defects) or bool(missing.any()) or stripes is not None
    statistics, fit = model.estimate_masked(windows, defective=defective)
    if fit is None:
        return statistics, image
    return statistics, Repair(defects=defects, fit=fit, stripes=stripes)(image, known, missing, x)[0]


def truncated_svd(noisy: F32, truth: F32) -> F32:
    """Truncated SVD of the rank of 3 to 8 that is closest to the truth: an oracle."""
    basis, images = eigenimages(noisy, min(8, len(noisy)))
    ranks = [from_eigenimages(basis[:, :r], images[:r]) for r in range(min(3, len(noisy)), basis.shape[1] + 1)]
    return max(ranks, key=lambda y: metrics.psnr(truth, np.clip(y, 0, 1)))


def eigenimages(noisy: F32, rank: int) -> tuple[F32, F32]:
    """Orthonormal spectra (b, rank) and their images (rank, h, w): noise keeps its level in each image."""
    b, h, w = noisy.shape
    flat = noisy.reshape(b, -1).astype(np.float64)
    _, vectors = np.linalg.eigh(flat @ flat.T)
    basis = vectors[:, ::-1][:, :rank]
    return basis.astype(np.float32), (basis.T @ flat).reshape(rank, h, w).astype(np.float32)


def from_eigenimages(basis: F32, images: F32) -> F32:
    return np.asarray(np.tensordot(basis, images, 1), dtype=np.float32)
