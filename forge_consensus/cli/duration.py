"""The type of options that are a time: ``15s``, ``250ms``, ``1m30s``, or seconds without a unit."""

from __future__ import annotations

import re
from math import isfinite
from typing import Any, Final

import click

UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
CHARS_MAX: Final = 40


class Duration(click.ParamType[float]):
    """A time in seconds, of at least `least` and at most `most`."""

    name = "duration"

    def __init__(self, least: float = 0.0, most: float = 1e9) -> None:
        self.least, self.most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds that a text stands for."""
        seconds = value if isinstance(value, int | float) else seconds_of(str(value).strip().lower())
        if seconds is None or not isfinite(seconds):
            self.fail(f"{value!r:.60} is no time: write 15s, 250ms or 1m30s", param, ctx)
        if not self.least <= seconds <= self.most:
            self.fail(f"{value!r:.60} is not between {self.least:g} s and {self.most:g} s", param, ctx)
        return float(seconds)


def seconds_of(text: str) -> float | None:
    """The seconds that a text stands for, None if it is no time."""
    if len(text) > CHARS_MAX:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * UNITS[unit] for number, unit in parts)
