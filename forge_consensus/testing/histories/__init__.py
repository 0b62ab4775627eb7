"""What clients did and heard, and whether it is linearizable."""
