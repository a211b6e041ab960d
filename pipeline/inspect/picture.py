"""The picture of a scene: its colours, its masks and its mean spectrum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hypermend.catalog.cube.quicklook import stretch_of
from hypermend.catalog.cube.spec import FLAGS, NEAR_FILL, VALID, CubeSpec
from hypermend.pipeline.inspect.sample import Spectrum, View

_COLOURS = {
    "valid": "#e8e8e8",
    "nodata": "#202020",
    "cloud": "#4f9be8",
    "shadow": "#7a5195",
    "snow": "#8be0d4",
    "saturated": "#e8543f",
    "unflagged": "#f2b134",
}
_REASONS = [name for name, bit in FLAGS.items() if bit not in (VALID, NEAR_FILL)]
_GAP = 3.0
"""A step between bands of more than this many usual steps is a gap in the line."""


def draw(path: Path, *, title: str, spec: CubeSpec, view: View, spectrum: Spectrum) -> None:
    """Write the picture as a PNG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # half a second that --no-picture need not spend

    tall = np.clip(view.flags.shape[0] / view.flags.shape[1], 0.4, 1.6)
    figure = Figure(figsize=(12.5, 0.9 + 3.9 * float(tall)), layout="constrained")
    with rc_context({"text.parse_math": False}):  # no name of a file is a formula
        figure.suptitle(title, fontsize=11)
        image, mask, line = figure.subplots(1, 3, width_ratios=(1, 1, 1.25))
        _draw_image(image, view, spec.quantity)
        _draw_mask(mask, view)
        _draw_spectrum(line, spec, spectrum)
        figure.savefig(path, dpi=110)


def _draw_image(axis: Any, view: View, quantity: str) -> None:
    rgb, name = np.nan_to_num(stretch_of(view.image, quantity).to_unit(view.image)), "colour"  # black without data
    nm = ", ".join(f"{w:.0f}" for w in view.bands_nm)
    if len(view.bands_nm) == 1:
        rgb, name = np.repeat(rgb, 3, axis=0), "one band"
    axis.imshow(rgb.transpose(1, 2, 0), interpolation="nearest")
    axis.set_title(f"{name} ({nm} nm)", fontsize=9)
    axis.set_axis_off()


def _draw_mask(axis: Any, view: View) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    picture = np.empty((*view.flags.shape, 3), dtype=np.float32)
    picture[:] = to_rgb(_COLOURS["unflagged"])
    picture[(view.flags & VALID) > 0] = to_rgb(_COLOURS["valid"])
    for name in _REASONS:
        picture[(view.flags & FLAGS[name]) > 0] = to_rgb(_COLOURS[name])
    axis.imshow(picture, interpolation="nearest")
    patches = [
        Patch(facecolor=_COLOURS[n], edgecolor="#808080", label=f"{n} {share(view.shares[n])}")
        for n in ("valid", *_REASONS)
        if n in view.shares
    ]
    axis.legend(handles=patches, fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.01), ncols=3, frameon=False)
    axis.set_title("mask", fontsize=9)
    axis.set_axis_off()


def _draw_spectrum(axis: Any, spec: CubeSpec, spectrum: Spectrum) -> None:
    nm, good, detector = np.array(spec.wavelength_nm), np.array(spec.good), np.array(spec.detector)
    step = float(np.median(np.diff(np.unique(nm)))) if nm.size > 1 else 0.0
    for name in dict.fromkeys(spec.detector):
        chosen = good & (detector == name)
        x, y = nm[chosen], spectrum.mean[chosen]
        breaks = np.flatnonzero(np.diff(x) > _GAP * max(step, 1e-9)) + 1
        x, y = np.insert(x, breaks, np.nan), np.insert(y, breaks, np.nan)
        label = name if len(set(spec.detector)) > 1 else "good bands"
        axis.plot(x, y, marker=".", markersize=3, linewidth=1, label=label)
    if (bad := ~good).any():
        known = np.where(np.isfinite(spectrum.mean), spectrum.mean, 0.0)
        axis.plot(nm[bad], known[bad], "x", color="#e8543f", markersize=4, label="bad bands")
    unit = "" if spec.units == "1" else f" ({spec.units})"
    axis.set_ylabel(f"mean {spec.quantity}{unit}", fontsize=8)
    axis.set_xlabel("wavelength (nm)", fontsize=8)
    axis.set_title(f"spectrum of {spectrum.pixels} valid pixels", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=7)


def share(part: float) -> str:
    """A share in percent; what exists never becomes 0 %, and what is not all never becomes 100 %."""
    percent = 100 * part
    if 0 < percent < 0.01:
        return "< 0.01 %"
    if 99.99 < percent < 100:
        return "> 99.99 %"
    return f"{percent:.3g} %" if percent < 99 else f"{percent:.4g} %"
