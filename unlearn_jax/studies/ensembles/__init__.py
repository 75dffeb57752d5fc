"""Studies of robust ensembles: attacks that transfer between members."""
