"""A cell drawn as a graph, as in Figures 5 and 6 of He et al. (ECCV 2022): nodes in a row, an arc for each edge."""

from __future__ import annotations

import io
from typing import Literal

from hypermend.models.denoise.stas import EDGES, NODES, OPS, Genotype

COLOURS = {
    "conv3": "#1f77b4",
    "conv5": "#17becf",
    "conv3_dil": "#2ca02c",
    "conv3_dil_grouped": "#98bf64",
    "conv1": "#d62728",
    "conv1_grouped": "#ff9896",
    "sep3_dil": "#9467bd",
    "sep3_dil_grouped": "#c5b0d5",
}
"""Blue and green mix neighbours, red mixes bands alone, purple does one after the other."""


def draw_cell(genotype: Genotype, *, title: str, kind: Literal["png", "svg"] = "png") -> bytes:
    """The picture as the bytes of a file: node 0 is the cell's input, 1 to 4 are summed and joined."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle, FancyArrowPatch

    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    axis = figure.subplots()
    axis.set_title(title, fontsize=10)
    step = 2.4
    for (j, k), op in zip(EDGES, genotype.ops, strict=True):
        # Neighbours are joined straight, edges over one or three nodes swing above, those over two below.
        bend = 0.0 if k == j + 1 else -0.42 if (k - j) % 2 == 0 else 0.38
        axis.add_patch(
            FancyArrowPatch(
                (j * step, 0),
                (k * step, 0),
                connectionstyle=f"arc3,rad={bend}",
                arrowstyle="-|>",
                mutation_scale=13,
                shrinkA=15,
                shrinkB=15,
                linewidth=1.8,
                color=COLOURS[op],
            )
        )
        # The top of a quadratic curve lies at half the height of its control point.
        height = -bend * (k - j) * step / 2
        axis.text(
            (j + k) * step / 2,
            height,
            op,
            fontsize=7.5,
            ha="center",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )
    for node in range(NODES + 1):
        axis.add_patch(Circle((node * step, 0), 0.26, facecolor="#eeeeee", edgecolor="black", zorder=3))
        name = "in" if node == 0 else f"$x_{node}$"
        axis.text(node * step, 0, name, ha="center", va="center", fontsize=10, zorder=4)
    axis.set_xlim(-0.6, NODES * step + 0.6)
    axis.set_ylim(-1.8, 2.3)
    axis.set_aspect("equal")
    axis.axis("off")
    counts = ", ".join(f"{n} {op}" for op in OPS if (n := genotype.ops.count(op)))
    figure.supxlabel(counts, fontsize=8)
    out = io.BytesIO()
    # No date inside: the same genotype gives the same bytes.
    figure.savefig(out, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()
