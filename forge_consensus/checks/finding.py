"""A finding: what one check found, how bad that is, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: how bad it is, and what to do about it."""

    check: str
    """What was looked at, in a word or two."""
    level: Level
    """"ok", "warning" for what should be looked into, "problem" for what keeps a node or a cluster from its work."""
    text: str
    advice: str = ""
    """What to do; empty if nothing is to be done, or if the text says it."""


def ok(check: str, text: str) -> Finding:
    """Return the finding that all is well."""
    return Finding(check, "ok", text)


def warning(check: str, text: str, advice: str = "") -> Finding:
    """Return a finding that should be looked into."""
    return Finding(check, "warning", text, advice)


def problem(check: str, text: str, advice: str = "") -> Finding:
    """Return a finding that keeps a node or a cluster from its work."""
    return Finding(check, "problem", text, advice)


def is_fit(findings: Iterable[Finding]) -> bool:
    """Whether none of the findings is a problem."""
    return all(finding.level != "problem" for finding in findings)
