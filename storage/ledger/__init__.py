"""The ledger: term, vote, log, configuration and applied index as one unit."""
