"""Hostile peers: real nodes under frames, handshakes and connections that mean no good, beside an honest client."""
