"""Middleware for web applications on a cluster: who leads, where a request may go, and how new its data must be."""

from __future__ import annotations

from forge_consensus.middleware.leadership import LeadershipMiddleware, Middleware
from forge_consensus.middleware.request import Consistency
from forge_consensus.middleware.verdict import Confirmed

__all__ = ["Confirmed", "Consistency", "LeadershipMiddleware", "Middleware"]
