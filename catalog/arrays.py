"""Types of the arrays that the catalog hands on, each with its axes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Stored = NDArray[Any]
"""Numbers as a cube or a file stores them, in its own dtype: (band, h, w) unless the function says otherwise."""
Flags = NDArray[np.uint8]
"""Flags of each pixel, as `cube.spec` lists them: (h, w)."""
Defects = NDArray[np.bool_]
"""True where the product calls a band of a pixel defective: (band, h, w)."""
Mask = NDArray[np.bool_]
"""True where a pixel counts: (h, w)."""
F32 = NDArray[np.float32]
"""Single-precision numbers; the function says their axes."""
F64 = NDArray[np.float64]
"""Double-precision numbers; the function says their axes."""
LonLat = tuple[F64, F64]
"""Longitude and latitude of the pixel centres in degrees, (h, w) each."""
