"""Configurations, and the library objects that they name."""
