"""Studies of gradient ascent: on digits, and where its path can be solved."""
