"""Studies of Boltzmann machines whose likelihood is exact or estimated."""
