"""SSRNet's fast path against the plain one: `python -m benchmarks.ssrnet [--scale 2 4] [--size 128] [--repeat 3]`.

One JSON line for each scale: seconds of a forward of the paper's network (64 filters, 3 modules, untrained; weight norm
folded in both) in the plain order of computing and in ours, and how far memory rises in it, each path in a process of
its own. Times take turns, and the least of each counts.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from hypermend.models.sharpen.ssrnet import SSRNet, fold, plain

BANDS = 31
PATHS = ("plain", "fast")
MEMORY_PX = 128
"""Edge of the input that memory is measured on, whatever --size."""


def _forward(scale: int, path: str) -> Callable[[torch.Tensor], torch.Tensor]:
    torch.manual_seed(0)
    net = fold(SSRNet(scale))
    return net if path == "fast" else lambda x: plain(net, x)


@torch.inference_mode()
def _seconds(scale: int, size: int, repeat: int) -> dict[str, float]:
    """Shortest time of each path, after one warm-up."""
    x = torch.randn(1, BANDS, size, size)
    best = dict.fromkeys(PATHS, float("inf"))
    for turn in range(repeat + 1):
        for path in PATHS:
            forward = _forward(scale, path)
            begin = time.perf_counter()
            forward(x)
            if turn:
                best[path] = min(best[path], time.perf_counter() - begin)
    return best


def _resident_bytes(field: str) -> int:
    """VmRSS (now) or VmHWM (at most so far) of this process. getrusage would count what its parent had, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


@torch.inference_mode()
def measure_memory(scale: int, path: str) -> int:
    """Growth of this process in one forward, in bytes; call it in a fresh process."""
    forward = _forward(scale, path)
    forward(torch.randn(1, 3, 8, 8))  # libraries loaded
    x, before = torch.randn(1, BANDS, MEMORY_PX, MEMORY_PX), _resident_bytes("VmRSS")
    forward(x)
    return _resident_bytes("VmHWM") - before


def _memory(scale: int) -> dict[str, int]:
    out = {}
    for path in PATHS:
        command = f"from benchmarks.ssrnet import measure_memory; print(measure_memory({scale}, {path!r}))"
        run = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
        out[path] = int(run.stdout)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    ap = argparse.ArgumentParser(prog="python -m benchmarks.ssrnet", description=__doc__.split("\n")[0])
    ap.add_argument("--scale", type=int, nargs="+", default=[2, 4], choices=[2, 3, 4])
    ap.add_argument("--size", type=int, default=128, help="edge of the timed input, pixels")
    ap.add_argument("--repeat", type=int, default=3)
    a = ap.parse_args(argv)
    for scale in a.scale:
        seconds, memory = _seconds(scale, a.size, a.repeat), _memory(scale)
        line = {
            "scale": scale,
            "shape": [BANDS, a.size, a.size],
            "plain_s": round(seconds["plain"], 3),
            "fast_s": round(seconds["fast"], 3),
            "speedup": round(seconds["plain"] / seconds["fast"], 3),
            "memory_shape": [BANDS, MEMORY_PX, MEMORY_PX],
            "plain_peak_bytes": memory["plain"],
            "fast_peak_bytes": memory["fast"],
            "memory_ratio": round(memory["plain"] / memory["fast"], 3),
            "threads": torch.get_num_threads(),
            "hypermend": importlib.metadata.version("hypermend"),
            "torch": torch.__version__,
        }
        print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
