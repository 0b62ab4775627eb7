"""The turn: what comes in, what happens, what leaves after the commit. It knows no Raft."""
