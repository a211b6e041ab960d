"""Fusion of a sharp guide and a rich image: `python -m benchmarks.fusion --data DIR [--kernels FILE.npy] [--scale 8]`.

One JSON line for each scene, kernel and method. Protocol: the whole-scene cube divided by its
maximum, then the centre crop, cut to a multiple of the scale; Y = (Z * k) decimated by the one phase convention of
`models/degrade.py` (edges replicated, the kernel used as given, its centre (n//2, n//2) on HR pixel (s i, s j)) plus
white noise, variance mean(Y^2) / 10^(dB/10) over the whole cube, from numpy.random.default_rng([0, dB]) afresh for
each scene and kernel, unclipped; X = P Z with the paper's P (Nikon D700 on 31 bands of 400-700 nm), without noise
unless --guide-snr-db asks for it; every output clipped to [0, 1]. No method is told the kernel, the noise or the truth.

Methods, the whole crop in one call (the pipeline cuts its windows at the scene's edge too, so that is what it gives):

    bicubic        Y made finer, its samples where the convention has them; no guide
    gauss-ls       the floor with an assumed Gaussian kernel (full width at half maximum s)
    floor          kernel in closed form, one least-squares map, interpolated residual (`models/least_squares.py`)
    least-squares  the better training-free start: a map that changes from place to place
    filter         the filter of this pair of sensors, not adapted
    hypermend      the default: the same, adapted in the pipeline's blocks and blended as the pipeline does it
    fusion         the network `ual-fusion`, not adapted
    ual            the same, adapted in blocks
    paper-schedule the paper's adaptation on the same fusion (`benchmarks/paper_schedule.py`); use --crop 128

Published, not ours, and under the paper's own kernels and split: UAL, s = 8, 40 dB, 43.23 dB / 6.72 degrees on its
kernel K1, 43.08 / 6.74 over its four; printed once on stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks import paper_schedule
from benchmarks.kernels import read
from benchmarks.scenes import Scenes, crop, quality
from hypermend.catalog.sensors import sensor, srf
from hypermend.models import checkpoint
from hypermend.models.arrays import F32, F64
from hypermend.models.budget import AdaptationBudget
from hypermend.models.card import ModelCard
from hypermend.models.fuse.interface import BadPair, FusionModel, Pair, PairGeometry
from hypermend.models.fuse.least_squares import GlobalRegression, LeastSquaresModel, regression
from hypermend.models.fuse.moments import pair_moments
from hypermend.models.restorer import SceneStatistics
from hypermend.models.signal import degrade, metrics
from hypermend.pipeline.protocols.kernels import built_in
from hypermend.pipeline.protocols.pairs import bicubic_pair, degraded_pair, tensors
from hypermend.pipeline.restore.guide_selection import DEFAULT_STEPS
from hypermend.pipeline.tiling.blocks import BlockGrid
from hypermend.pipeline.tiling.tiles import Window

NETWORK, FILTER = "ual-fusion", "cave-d700-filter"
FLOOR = ModelCard(name="floor", architecture="least-squares", config={"local": False})
PAPER = "UAL as published (CAVE, s = 8, 40 dB, its own kernels): 43.23 dB / 6.72 degrees on K1, 43.08 / 6.74 over four"
CAVE_BANDS = 31


@dataclass(frozen=True)
class Problem:
    """Input of a method, and the truth that scores it."""

    truth: F32
    """(b, s*h, s*w); for the score alone."""
    pair: Pair
    setup: PairGeometry
    known: dict[str, tuple[SceneStatistics, float]] = field(default_factory=dict)
    """Facts and the seconds they took, by architecture: methods of one model share them, and each is charged."""

    def facts(self, model: FusionModel) -> tuple[SceneStatistics, float]:
        """Statistics of the pair, and the seconds that estimating them took."""
        key = model.card.architecture + str(model.card.config.get("local"))
        if key not in self.known:
            begin = time.perf_counter()
            facts = model.estimate(lambda: [self.pair], self.setup)
            self.known[key] = facts, time.perf_counter() - begin
        return self.known[key]


@dataclass(frozen=True)
class Answer:
    """Result of a method: its image, its seconds, further figures."""

    image: F32
    seconds: float
    more: SceneStatistics = field(default_factory=dict)


Method = Callable[[Problem], Answer]


def problem(truth: F32, kernel: F64, setup: PairGeometry, snr_db: float, guide_snr_db: float | None = None) -> Problem:
    """Degrade a truth by the protocol: noise of Y first, then of X where asked for."""
    return Problem(truth, degraded_pair(truth, kernel, setup, snr_db, guide_snr_db), setup)


def bicubic(p: Problem) -> Answer:
    """No guide."""
    begin = time.perf_counter()
    return Answer(bicubic_pair(p.pair, p.setup), time.perf_counter() - begin)


def gauss_ls(p: Problem) -> Answer:
    """The global regression and residual with an unmeasured kernel."""
    begin, s = time.perf_counter(), p.setup.scale
    c = p.setup.expected_centroid_px
    kernel = degrade.gaussian_kernel(2 * s + 1, max(s / 2.3548, 0.1), centroid_px=c)
    weights, _ = regression(pair_moments(lambda: [p.pair], kernel, s), len(p.pair.x))
    image = GlobalRegression(s, kernel, weights)(*tensors(p.pair))[0].numpy()
    return Answer(image, time.perf_counter() - begin)


def unadapted(model: FusionModel) -> Method:
    """A model as it is, on the whole image."""

    def run(p: Problem) -> Answer:
        facts, seconds = p.facts(model)
        begin = time.perf_counter()
        image = model.bind(facts)(*tensors(p.pair))[0].numpy()
        return Answer(image, seconds + time.perf_counter() - begin, said(facts))

    return run


def said(facts: SceneStatistics) -> SceneStatistics:
    """Select the figures of a pair's estimate."""
    blur = facts["blur"]
    return {k: blur[k] for k in ("condition", "residual", "shift_px", "centroid_px")}


def adapted(model: FusionModel, steps: int = DEFAULT_STEPS) -> Method:
    """A model adapted block by block and blended, as the pipeline's tiles do it."""

    def run(p: Problem) -> Answer:
        facts, seconds = p.facts(model)
        begin = time.perf_counter()
        plain = model.bind(facts)(*tensors(p.pair))[0].numpy()
        s, (h, w) = p.setup.scale, p.pair.y_valid.shape
        grid, halo = BlockGrid(height=h, width=w, scale=s), model.halo(s)
        out, blocks, gains = np.zeros_like(plain), [], []
        for block in grid:
            around = _grown(block.support, halo, h, w)
            y, x = _slices(block.support, around)
            learned = model.adapt(facts, _cut(p.pair, around, s), (y, x), AdaptationBudget(steps=steps))
            blocks.append({k: v for k, v in learned.figures.items() if k in ("adapted", "steps", "reason")})
            to_y, to_x = _finer(*_slices(block.support, Window(y0=0, y1=h, x0=0, x1=w)), s)
            answer = plain[:, to_y, to_x]
            if learned.state:
                inner = _finer(y, x, s)
                answer = model.bind(facts, learned.state)(*tensors(_cut(p.pair, around, s)))[0].numpy()
                answer = answer[:, inner[0], inner[1]]
                gains.append(_gain_db(p.truth[:, to_y, to_x], plain[:, to_y, to_x], answer))
            out[:, to_y, to_x] += grid.weight(block.index, block.support) * answer
        changed = sum(bool(b.get("adapted")) for b in blocks)
        more = {"blocks": len(blocks), "blocks_adapted": changed, "steps": [b.get("steps", 0) for b in blocks]}
        more["block_gain_db"] = gains
        return Answer(out, seconds + time.perf_counter() - begin, {**said(facts), **more})

    return run


def _gain_db(truth: F32, before: F32, after: F32) -> float:
    """Return the PSNR that adaptation gains, in dB."""
    a, b = (metrics.psnr(truth, np.clip(image, 0, 1)) for image in (after, before))
    return round(a - b, 4)


def _grown(window: Window, margin: int, h: int, w: int) -> Window:
    return Window(
        y0=max(0, window.y0 - margin),
        y1=min(h, window.y1 + margin),
        x0=max(0, window.x0 - margin),
        x1=min(w, window.x1 + margin),
    )


def _slices(inner: Window, outer: Window) -> tuple[slice, slice]:
    return slice(inner.y0 - outer.y0, inner.y1 - outer.y0), slice(inner.x0 - outer.x0, inner.x1 - outer.x0)


def _finer(y: slice, x: slice, scale: int) -> tuple[slice, slice]:
    return slice(y.start * scale, y.stop * scale), slice(x.start * scale, x.stop * scale)


def _cut(pair: Pair, window: Window, scale: int) -> Pair:
    y, x = slice(window.y0, window.y1), slice(window.x0, window.x1)
    fy, fx = _finer(y, x, scale)
    return Pair(y=pair.y[:, y, x], y_valid=pair.y_valid[y, x], x=pair.x[:, fy, fx], x_valid=pair.x_valid[fy, fx])


def paper(model: FusionModel) -> Method:
    """See `paper_schedule.py`."""

    def run(p: Problem) -> Answer:
        image, seconds, figures = paper_schedule.schedule(model, p)
        ours = paper_schedule.reached(figures["best_psnr"], p, unadapted(model), adapted(model))
        return Answer(image, seconds, {**figures, "ours_reached_seconds": ours})

    return run


def _network() -> FusionModel:
    return checkpoint.load_fusion(checkpoint.builtin(NETWORK))


METHODS: dict[str, Callable[[], Method]] = {
    "bicubic": lambda: bicubic,
    "gauss-ls": lambda: gauss_ls,
    "floor": lambda: unadapted(LeastSquaresModel(FLOOR, {})),
    "least-squares": lambda: unadapted(checkpoint.load_fusion(checkpoint.builtin("least-squares"))),
    "fusion": lambda: unadapted(_network()),
    "filter": lambda: unadapted(checkpoint.load_fusion(checkpoint.builtin(FILTER))),
    "hypermend": lambda: adapted(checkpoint.load_fusion(checkpoint.builtin(FILTER))),
    "ual": lambda: adapted(_network()),
    "paper-schedule": lambda: paper(_network()),
}
DEFAULT = ("bicubic", "gauss-ls", "floor", "least-squares", "filter", "hypermend")


def laboratory(bands: int, scale: int) -> PairGeometry:
    """The protocol's pair.

    Raises:
        SystemExit: not 31 bands, so their wavelengths are not known.
    """
    if bands != CAVE_BANDS:
        raise SystemExit(f"{bands} bands: the folder holds no wavelengths, and only CAVE's 31 of 400-700 nm are known")
    response = srf("cave", "nikon-d700").astype(np.float32)
    nm = tuple(sensor("cave").wavelength_nm)
    return PairGeometry(scale=scale, response=response, expected_centroid_px=0.0, wavelength_nm=nm)


def line(p: Problem, answer: Answer, scale: int) -> dict[str, object]:
    """Score an image."""
    clipped = np.clip(answer.image, 0, 1)
    scores = quality(p.truth, answer.image)
    return {**scores, "ergas": metrics.ergas(p.truth, clipped, ratio=scale), "seconds": round(answer.seconds, 3)}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 1 when a scene could not be read or fused, or there is none of a name."""
    ap = argparse.ArgumentParser(prog="python -m benchmarks.fusion", description=__doc__.split("\n")[0])
    ap.add_argument("--data", type=Path, required=True, help="folder of scene folders")
    ap.add_argument("--kernels", type=Path, help="K x n x n in a .npy file; default: five built in, none Gaussian")
    ap.add_argument("--scale", type=int, default=8)
    ap.add_argument("--snr-db", type=float, default=40, help="of Y")
    ap.add_argument("--guide-snr-db", type=float, help="of X; default: without noise")
    ap.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(DEFAULT))
    ap.add_argument("--crop", type=int, default=512, help="central pixels")
    ap.add_argument("--max-scenes", type=int, help="only the first so many")
    ap.add_argument("--scenes", nargs="+", help="only these scenes, by name")
    a = ap.parse_args(argv)
    tested = read(a.kernels) if a.kernels else built_in()
    methods = {m: METHODS[m]() for m in a.methods}
    scenes = Scenes(a.data, names=a.scenes, most=a.max_scenes)
    print(PAPER, file=sys.stderr)
    for name, cube in scenes:
        size = min(a.crop, *cube.shape[1:]) // a.scale * a.scale
        if size == 0:
            raise SystemExit(f"scene {name}: {cube.shape[1]}x{cube.shape[2]} pixels and crop {a.crop} are too few")
        setup = laboratory(len(cube), a.scale)
        for kernel_name, kernel in tested.items():
            p = problem(np.ascontiguousarray(crop(cube, size)), kernel, setup, a.snr_db, a.guide_snr_db)
            for method, run in methods.items():
                head = {"scene": name, "kernel": kernel_name, "scale": a.scale, "snr_db": a.snr_db, "method": method}
                try:
                    answer = run(p)
                except BadPair as e:
                    scenes.failed += 1
                    print(f"failed: {json.dumps(head)}: {e}", file=sys.stderr)
                    continue
                print(json.dumps({**head, **line(p, answer, a.scale), **answer.more}, allow_nan=False), flush=True)
    return 1 if scenes.failed else 0


if __name__ == "__main__":
    sys.exit(main())
