"""A study of spectral norms: estimators and clipped training."""
