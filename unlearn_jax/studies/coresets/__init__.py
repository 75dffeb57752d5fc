"""A study of core-sets of the forget set on digits."""
