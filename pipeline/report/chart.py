"""Charts as SVG: noise of bands, curves of learning, maps of tiles, timeline of tasks.

They show without scripts, and in print.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import median

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 240, 84, 52, 12, 12
GAP = 4
"""A line is broken where bands are so many times farther apart than usual."""
Series = Sequence[float | None]


def noise_chart(nm: Sequence[float], detector: Sequence[str], before: Series, after: Series) -> str:
    """Draw the noise of each band, on a logarithmic axis; "" where nothing is above 0.

    Args:
        nm: wavelength of each band, rising.
        detector: that of each band; each has a line of its own.
        before: noise of each band; None for a bad band.
        after: the same of the result; a 0 is drawn at the lower end.
    """
    above = [value for value in (*before, *after) if value]
    if len(nm) < 2 or not above or nm[-1] <= nm[0]:
        return ""
    top = math.ceil(math.log10(max(above)) * 2) / 2
    low = max(math.floor(math.log10(min(above)) * 2) / 2, top - 4)
    low = min(low, top - 0.5)

    def x(wavelength: float) -> float:
        return LEFT + (wavelength - nm[0]) / (nm[-1] - nm[0]) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        share = (math.log10(max(value, 10**low)) - low) / (top - low)
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    parts = [*_y_axis(low, top, y), *_x_axis(nm[0], nm[-1], x)]
    for name, values in (("before", before), ("after", after)):
        runs = [run for one in dict.fromkeys(detector) for run in _unbroken(nm, [d == one for d in detector], values)]
        lines = "".join("M" + "L".join(f"{x(at):.1f} {y(value):.1f}" for at, value in run) for run in runs)
        parts.append(f'<path class="{name}" d="{lines}"/>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def _y_axis(low: float, top: float, y: Callable[[float], float]) -> list[str]:
    parts = []
    for half in range(math.ceil(low * 2), math.floor(top * 2) + 1):
        value = 10 ** (half / 2)
        at = y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        if half % 2 == 0 or top - low <= 1:
            parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:.2g}</text>')
    return parts


def _x_axis(first: float, last: float, x: Callable[[float], float]) -> list[str]:
    step = next(s for s in (20, 50, 100, 200, 500, 1000, 5000) if (last - first) / s <= 6 or s == 5000)
    ticks = range(math.ceil(first / step) * step, math.floor(last) + 1, step)
    parts = [f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{tick}</text>' for tick in ticks]
    middle = (LEFT + WIDTH - RIGHT) / 2
    return [*parts, f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">wavelength, nm</text>']


def _unbroken(nm: Sequence[float], on: Sequence[bool], values: Series) -> list[list[tuple[float, float]]]:
    """Runs of (wavelength, value) of the bands that are on and have a value, none across a wide gap."""
    there = [(at, value) for at, is_on, value in zip(nm, on, values, strict=True) if is_on and value is not None]
    steps = [b[0] - a[0] for a, b in pairwise(there)]
    widest = GAP * median(steps) if steps else 0.0
    runs = [there[:1]]
    for step, point in zip(steps, there[1:], strict=True):
        if step > widest:
            runs.append([])
        runs[-1].append(point)
    return [run for run in runs if run]


def curves(lines: Sequence[tuple[str, Sequence[tuple[float, float]]]], x_name: str) -> str:
    """Draw lines of one quantity on linear axes; "" where there are fewer than two points.

    Args:
        lines: class of each, and its points in order of x.
        x_name: what x is.
    """
    xs, ys = ([point[i] for _, points in lines for point in points] for i in (0, 1))
    if len(xs) < 2 or max(xs) <= min(xs):
        return ""
    first, last, low = min(xs), max(xs), min(ys)
    high = max(max(ys), low + max(abs(low), 1e-9) * 1e-3)

    def x(value: float) -> float:
        return LEFT + (value - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - BOTTOM - TOP)

    parts = []
    for value in _ticks(low, high, 5):
        at = y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    parts += [
        f'<text x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{value:.6g}</text>'
        for value in _ticks(first, last, 6)
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{x_name}</text>')
    for name, points in lines:
        path = "L".join(f"{x(at):.1f} {y(value):.1f}" for at, value in points)
        parts.append(f'<path class="{name}" d="M{path}"/>' if points else "")
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from low to high, at most so many steps."""
    ten = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(n * ten for n in (1, 2, 5, 10) if (high - low) / (n * ten) <= most)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


TIMELINE_ROW, MOST_LANES = 14, 32
PARTS = ("read", "model", "write")


def tile_map(values: Mapping[tuple[int, int], float], shape: tuple[int, int]) -> str:
    """Draw one value of each tile as a shade, darkest for the largest; "" for a scene of one tile or without values.

    Args:
        values: by (iy, ix), each 0 or more; a tile without one stays empty.
        shape: rows and columns of tiles.
    """
    rows, columns = shape
    if rows * columns < 2 or not values:
        return ""
    top = max(values.values()) or 1.0
    cells = [
        f'<rect class="tile" x="{ix}" y="{iy}" width="1" height="1" fill-opacity="{value / top:.3f}">'
        f"<title>tile {iy}-{ix}: {value:.3g}</title></rect>"
        for (iy, ix), value in sorted(values.items())
    ]
    return f'<svg class="map" viewBox="0 0 {columns} {rows}" role="img">{"".join(cells)}</svg>'


def timeline(tasks: Sequence[tuple[str, float, Sequence[float]]]) -> str:
    """Draw when tasks ran, a row for each that ran at once on a machine; "" for fewer than two.

    Args:
        tasks: machine, end in seconds, and seconds of reading, of the model and of writing.
    """
    spans = sorted((machine, end - sum(parts), end, parts) for machine, end, parts in tasks)
    if len(spans) < 2:
        return ""
    first, last = min(span[1] for span in spans), max(span[2] for span in spans)
    lanes: list[tuple[str, float]] = []
    marks = []
    for machine, start, end, parts in spans:
        free = (
            i for i, (at, busy) in enumerate(lanes) if at == machine and busy <= start + 1
        )  # ends are whole seconds
        lane = next(free, len(lanes))
        lanes[lane : lane + 1] = [(machine, end)]
        at = start
        for name, seconds in zip(PARTS, parts, strict=True) if lane < MOST_LANES else ():
            x, width = ((value / max(last - first, 1e-9)) * WIDTH for value in (at - first, seconds))
            marks.append(
                f'<rect class="{name}" x="{x:.1f}" y="{lane * TIMELINE_ROW}" width="{width:.1f}" '
                f'height="{TIMELINE_ROW - 3}"/>'
            )
            at += seconds
    height = min(len(lanes), MOST_LANES) * TIMELINE_ROW
    return f'<svg class="timeline" viewBox="0 0 {WIDTH} {height}" role="img">{"".join(marks)}</svg>'
