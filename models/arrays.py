"""Types of NumPy arrays. The type says what an element is; the shape stands beside each use."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
"""Pixels: an image (bands, h, w), physical values unless the use says otherwise."""
F64 = npt.NDArray[np.float64]
"""Numbers that are computed once for a scene or a pair: moments, axes, kernels (n, n)."""
Floats = npt.NDArray[np.floating]
"""Floating point of either precision."""
I64 = npt.NDArray[np.int64]
"""Indices and counts."""
Mask = npt.NDArray[np.bool_]
"""Flags of pixels, (h, w), or of bands, (bands,)."""
