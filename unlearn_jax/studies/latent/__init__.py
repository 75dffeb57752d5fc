"""A study of concepts erased from a diffusion model."""
