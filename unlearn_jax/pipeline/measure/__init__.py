"""Measurements of unlearned models, and their records."""
