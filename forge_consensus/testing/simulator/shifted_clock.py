"""A wall clock that is wrong, for the twin: days ahead of the real one, and later at every look.

A machine that asks what time it is, instead of taking `entry.time_ms`, comes to something else under it, also one
that compares two times, and however coarsely. Only Python's own clocks are changed, in this process, and before the
machine's module is imported: what it imports from `time` and `datetime` is then what stands here.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from itertools import count
from typing import Any

AHEAD_NS = int((400 * 86_400 + 7 * 3600 + 13 * 60 + 17.25) * 1e9)
"""So far that year, month, day, weekday and hour are all others."""
LOOK_NS = 61_700_000_000
"""So much later it is at each look."""
WORDS = "a clock that is 400 days ahead and a minute later at each look"

RealDatetime = datetime.datetime


class InstanceCheck(type):
    """Makes what the real class made an instance of the class that stands for it."""

    def __instancecheck__(cls, instance: object) -> bool:
        """As the real class would say; classes of a user's own that inherit from it are asked as ever."""
        return isinstance(instance, RealDatetime) if cls is ShiftedDatetime else type.__instancecheck__(cls, instance)

    def __subclasscheck__(cls, subclass: type) -> bool:
        """The same for classes."""
        return issubclass(subclass, RealDatetime) if cls is ShiftedDatetime else type.__subclasscheck__(cls, subclass)


class ShiftedDatetime(RealDatetime, metaclass=InstanceCheck):
    """`datetime.datetime`, whose present is that of the changed `time.time`; those of `today` are so by themselves."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        """The present."""
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> Any:
        """The present, without a zone."""
        return cls.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)

    def __repr__(self) -> str:
        """What the real class says: results and states are compared by it."""
        text = super().__repr__()
        return f"datetime.{text}" if type(self) is ShiftedDatetime else text


def shift_clock() -> None:
    """Change the clocks of this process, for good."""
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
