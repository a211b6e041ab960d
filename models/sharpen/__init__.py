"""Single-image super-resolution: ssrnet (the network), samples, model (bound to a scene)."""
