"""Faults put into protocol and ledger on purpose: a campaign that does not find every one of them proves nothing."""
