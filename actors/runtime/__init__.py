"""The turn: what comes in, what happens, what leaves after the commit. The gate in it guards the term."""
