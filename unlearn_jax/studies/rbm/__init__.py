"""Studies of Boltzmann machines, with exact or estimated likelihood."""
