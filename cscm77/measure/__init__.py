"""Numbers about a model: the quality of its samples, bounds and latents."""
