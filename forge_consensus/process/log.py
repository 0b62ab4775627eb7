"""The package's own log lines: silent unless asked for, and never in the way of a node.

A line goes into a bounded queue, and a thread hands it to loguru, where the package is disabled until somebody calls
`enable_logging` (or ``logger.enable("forge_consensus")`` of loguru), or to a logger of the standard library. No value
of a local variable gets into a line: a traceback is a text of few frames by then.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from loguru import logger

from forge_consensus.process.bounded_writer import BoundedWriter

PACKAGE: Final = "forge_consensus"
FRAMES_MAX: Final = 4
"""So many of the innermost frames of a traceback are told."""
DROPPED: Final = "{} log lines were dropped, because they were not written fast enough"

logger.disable(PACKAGE)


class Line(NamedTuple):
    """One line of the log, with all that is known where it is written."""

    level: str
    text: str
    module: str
    function: str
    number: int
    """The line of the source."""
    time: float
    """Seconds since 1970."""
    extra: Mapping[str, Any]
    """What is bound to the line; `traceback` if it tells of an error, and then the text ends with it."""
    error: BaseException | None = None
    """What the line tells of, until it is written: then it is a text."""

    def complete(self) -> Line:
        """The line with the traceback of its error, because making that reads files and takes milliseconds."""
        if self.error is None:
            return self
        told = brief(self.error)
        return self._replace(text=f"{self.text}\n{told}", extra={**self.extra, "traceback": told}, error=None)


Target = Callable[[Line], object]


def to_loguru(line: Line) -> None:
    """Write a line into loguru's log, as if its own module had called it."""
    moment = datetime.fromtimestamp(line.time, UTC).astimezone()

    def place(record: Any) -> None:
        record["name"], record["module"] = line.module, line.module.rpartition(".")[2]
        record["function"], record["line"] = line.function, line.number
        record["time"] = record["time"].__class__.fromtimestamp(moment.timestamp(), moment.tzinfo)

    logger.bind(**line.extra).patch(place).log(line.level, "{}", line.text)


def to_standard_logger(target: logging.Logger) -> Target:
    """Return what writes lines into a logger of the standard library."""

    def write(line: Line) -> None:
        level = max(logging.getLevelName(line.level) if line.level != "TRACE" else logging.DEBUG, 1)
        if target.isEnabledFor(level):
            record = target.makeRecord(
                target.name, level, line.module, line.number, "%s", (line.text,), None, line.function
            )
            record.created, record.msecs = line.time, line.time % 1 * 1000
            record.forge_consensus = dict(line.extra)
            target.handle(record)

    return write


class Outlet:
    """All lines of the package on their way to where they are written."""

    def __init__(self) -> None:
        self.target: Target = to_loguru
        self.direct = False
        """Whether lines are written at once, on the thread that logs: for tests only."""
        self.writer: BoundedWriter[Line] = BoundedWriter(self.write, "forge-log")

    def put(self, line: Line) -> None:
        """Send a line on its way."""
        if self.direct:
            self.target(line.complete())
        else:
            self.writer.put(line)

    def write(self, line: Line, dropped: int) -> None:
        """Write a line; before it, how many were dropped."""
        if dropped:
            self.target(line._replace(level="WARNING", text=DROPPED.format(dropped), extra={}))
        self.target(line.complete())


NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
OUTLET: Final = Outlet()
CONTEXT: ContextVar[Mapping[str, Any]] = ContextVar("forge_consensus_log", default=NOTHING)


@contextmanager
def log_context(**extra: Any) -> Iterator[None]:
    """Bind these values to all lines that are logged inside, on this thread."""
    token = CONTEXT.set({**CONTEXT.get(), **extra})
    try:
        yield
    finally:
        CONTEXT.reset(token)


class LogLines:
    """The log of one module. Each method formats `text` with the arguments as `str.format` does, and never waits.

    `error` is an exception that is told with the line; `extra` is bound to it.
    """

    def __init__(self, module: str) -> None:
        self.module = module

    def line(
        self, level: str, text: str, values: tuple[object, ...], error: BaseException | None, extra: dict[str, Any]
    ) -> None:
        """Send one line on its way; called by the methods below only, because it looks for their caller."""
        frame = sys._getframe(2)
        bound = {**CONTEXT.get(), **extra}
        told = text.format(*values) if values else text
        code = frame.f_code
        OUTLET.put(Line(level, told, self.module, code.co_name, frame.f_lineno, time.time(), bound, error))

    def info(self, text: str, *values: object, error: BaseException | None = None, **extra: Any) -> None:
        """Log what is good to know."""
        self.line("INFO", text, values, error, extra)

    def warning(self, text: str, *values: object, error: BaseException | None = None, **extra: Any) -> None:
        """Log what somebody should look at."""
        self.line("WARNING", text, values, error, extra)

    def error(self, text: str, *values: object, error: BaseException | None = None, **extra: Any) -> None:
        """Log what failed while the node goes on."""
        self.line("ERROR", text, values, error, extra)

    def critical(self, text: str, *values: object, error: BaseException | None = None, **extra: Any) -> None:
        """Log what ended the node."""
        self.line("CRITICAL", text, values, error, extra)


def brief(error: BaseException) -> str:
    """The innermost frames of an error's traceback and its text, without values of variables."""
    told = "".join(traceback.format_exception(type(error), error, error.__traceback__, limit=-FRAMES_MAX, chain=False))
    cause = error.__cause__
    if cause is not None:
        told += f"because of {type(cause).__name__}: {cause}"
    return told.rstrip("\n")


def enable_logging(to: logging.Logger | None = None) -> None:
    """Have the package write log lines, which it does not by itself.

    Args:
        to: a logger of the standard library, such as ``logging.getLogger("consensus")``; None for loguru, whose sinks
            and levels are the application's own business.

    """
    OUTLET.target = to_loguru if to is None else to_standard_logger(to)
    if to is None:
        logger.enable(PACKAGE)


def disable_logging() -> None:
    """Have the package write no log lines, as at first."""
    OUTLET.target = to_loguru
    logger.disable(PACKAGE)
