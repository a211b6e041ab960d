"""Denoising: stas (the network), supernet and stas_search (its search), low_noise, samples, model."""
