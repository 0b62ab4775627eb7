"""A wrong wall clock for the twin: days ahead of the real one, and later at every reading.

With it, a machine that reads the time instead of using `entry.time_ms` returns another result, also one that compares
two times, however coarsely. Only Python's clocks in this process are changed, before the machine's module is imported:
so its imports from `time` and `datetime` are the changed versions.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from itertools import count
from typing import Any

AHEAD_NS = int((400 * 86_400 + 7 * 3600 + 13 * 60 + 17.25) * 1e9)
"""An offset at which year, month, day, weekday and hour all differ."""
LOOK_NS = 61_700_000_000
"""The advance of the clock at each reading."""
WORDS = "a clock that is 400 days ahead and a minute later at each look"

RealDatetime = datetime.datetime


class InstanceCheck(type):
    """Makes objects of the real class pass as instances of the class that replaces it."""

    def __instancecheck__(cls, instance: object) -> bool:
        """Answer as the real class would; a user's subclass is checked as usual."""
        return isinstance(instance, RealDatetime) if cls is ShiftedDatetime else type.__instancecheck__(cls, instance)

    def __subclasscheck__(cls, subclass: type) -> bool:
        """Answer as the real class would, for classes."""
        return issubclass(subclass, RealDatetime) if cls is ShiftedDatetime else type.__subclasscheck__(cls, subclass)


class ShiftedDatetime(RealDatetime, metaclass=InstanceCheck):
    """`datetime.datetime` with the present of the changed `time.time`."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        """Return the present by the changed `time.time`, in the zone given."""
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> Any:
        """The present, without a zone."""
        return cls.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)

    def __repr__(self) -> str:
        """Return the text of the real class, because results and states are compared by it."""
        text = super().__repr__()
        return f"datetime.{text}" if type(self) is ShiftedDatetime else text


def shift_clock() -> None:
    """Change the clocks of this process for the rest of its life."""
    real_ns, looks = time.time_ns, count(1)

    def time_ns() -> int:
        return real_ns() + AHEAD_NS + next(looks) * LOOK_NS

    def now() -> float:
        return time_ns() / 1e9

    def of_now(real: Callable[..., Any]) -> Callable[..., Any]:
        return lambda seconds=None: real(now() if seconds is None else seconds)

    def of_local(real: Callable[..., Any], *, format_first: bool) -> Callable[..., Any]:
        if format_first:
            return lambda format, t=None: real(format, time.localtime() if t is None else t)  # noqa: A006
        return lambda t=None: real(time.localtime() if t is None else t)

    def of_clock(real: Callable[[int], Any], present: Callable[[], Any]) -> Callable[[int], Any]:
        return lambda clock: present() if clock == time.CLOCK_REALTIME else real(clock)

    changed: dict[str, Callable[..., Any]] = {
        "time": now,
        "time_ns": time_ns,
        "localtime": of_now(time.localtime),
        "gmtime": of_now(time.gmtime),
        "ctime": of_now(time.ctime),
        "strftime": of_local(time.strftime, format_first=True),
        "asctime": of_local(time.asctime, format_first=False),
        "clock_gettime": of_clock(time.clock_gettime, now),
        "clock_gettime_ns": of_clock(time.clock_gettime_ns, time_ns),
    }
    for name, function in changed.items():
        setattr(time, name, function)
    ShiftedDatetime.__name__ = ShiftedDatetime.__qualname__ = "datetime"
    ShiftedDatetime.__module__ = "datetime"
    datetime.datetime = ShiftedDatetime  # type: ignore[misc]
