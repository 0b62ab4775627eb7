"""Campaigns: many seeds in parallel, and a smaller plan for each that fails."""
