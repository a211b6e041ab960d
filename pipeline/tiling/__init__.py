"""How a scene is cut and put together: tiles, spectral_windows, blocks, pixels. Pure functions of plain values."""
