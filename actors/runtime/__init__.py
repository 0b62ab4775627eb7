"""The turn: frames come in, actors handle them, and frames leave after the commit. The gate in it guards the term."""
