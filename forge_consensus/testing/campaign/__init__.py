"""Campaigns: many seeds in parallel, and a smaller plan for each seed that fails."""
