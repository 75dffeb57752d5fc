"""Studies of gradient ascent: on digits, and on examples that can be solved."""
