"""Waiting for a condition, with a time limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def wait_for(find: Callable[[], Found | None], seconds_max: float, what: str, *, step: float = 0.02) -> Found:
    """The first true result of `find`. Raises `TimeoutError` with `what` after `seconds_max` seconds."""
    end = time.monotonic() + seconds_max
    while True:
        found = find()
        if found:
            return found
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds_max:g} s for {what}")
        time.sleep(step)
