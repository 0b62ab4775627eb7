"""The rules that nodes must always follow, checked after every step of a simulation."""
