"""Calls that are interrupted between any two instructions, as a signal handler interrupts the main thread."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any


class Interruption:
    """Calls `handler` on this thread when the traced call is about to execute its instruction number `at`."""

    def __init__(self, at: int, handler: Callable[[], object]) -> None:
        self.at = at
        self.handler = handler
        self.count = 0
        self.took = 0.0
        self.error: BaseException | None = None

    @property
    def reached(self) -> bool:
        """Whether the call had so many instructions."""
        return self.count >= self.at

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Count instructions, those of the standard library too."""
        frame.f_trace_opcodes = True
        if event == "opcode" and not self.reached:
            self.count += 1
            if self.reached:
                began = time.monotonic()
                try:
                    self.handler()
                except BaseException as error:
                    self.error = error
                self.took = time.monotonic() - began
        return self.trace

    def run(self, call: Callable[[], object]) -> BaseException | None:
        """Make the call; returns what it raised."""
        before = sys.gettrace()
        sys.settrace(self.trace)
        try:
            call()
        except BaseException as error:
            return error
        finally:
            sys.settrace(before)
        return None


def interrupt_everywhere(
    prepare: Callable[[], tuple[Callable[[], object], Callable[[], object]]],
    *,
    step: int = 1,
    seconds_max: float,
    allowed: tuple[type[BaseException], ...],
) -> int:
    """Interrupt a call at every `step`-th of its instructions; returns how often.

    `prepare` returns (call, handler), made anew each time. The handler must end within `seconds_max` and raise nothing,
    the call may raise only what is `allowed`.
    """
    at, times = 1, 0
    while True:
        call, handler = prepare()
        interruption = Interruption(at, handler)
        raised = interruption.run(call)
        if not interruption.reached:
            handler()
            return times
        where = f"interrupted at instruction {at}"
        assert interruption.error is None, f"{where}: the handler raised {interruption.error!r}"
        assert interruption.took < seconds_max, f"{where}: the handler took {interruption.took:.1f} s"
        assert raised is None or isinstance(raised, allowed), f"{where}: the call raised {raised!r}"
        at += step
        times += 1
