"""Histories: the calls that clients made, the answers that they got, and whether the two are linearizable."""
