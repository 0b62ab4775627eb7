"""Faults put into protocol and ledger on purpose: a campaign must find every one of them."""
