"""Where a program's log goes: to stderr, for people or as JSON, with the lines of other packages in it.

For programs only, such as the command line: a library leaves the set-up to the application that uses it. Importing
this module changes nothing.
"""

from __future__ import annotations

import logging
import os
import traceback
from contextlib import suppress
from datetime import UTC
from json import dumps
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Protocol

from loguru import logger

from forge_consensus.process.bounded_writer import BoundedWriter
from forge_consensus.process.log import DROPPED, enable_logging

if TYPE_CHECKING:
    from loguru import Message, Record

HUMAN: Final = "{time:YYYY-MM-DD HH:mm:ss.SSS} {level: <7} "
STDERR: Final = 2
OURS: Final = ("time", "level", "message", "exception", "traceback")
"""What nothing that is bound to a line can replace."""
LEVELS: Final = ("trace", "debug", "info", "warning", "error", "critical")


class InterceptHandler(logging.Handler):
    """Hands what other packages log with the standard library to loguru, from the place where it was logged."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one record of the standard library on to loguru, with its level and place."""
        level: str | int = record.levelno
        if record.levelname in map(str.upper, LEVELS):
            level = record.levelname
        frame: FrameType | None = logging.currentframe()
        depth = 0
        while frame is not None and (depth == 0 or frame.f_code.co_filename == logging.__file__):
            frame = frame.f_back
            depth += 1
        bound = logger.bind(logger=record.name)
        bound.opt(depth=depth, exception=record.exc_info).log(level, "{}", record.getMessage())


SINKS: Final[list[int]] = []
"""The sink that `configure_logging` made last."""


def configure_logging(
    level: str = "info", *, json: bool = False, stream: Stream | None = None, again: bool = False
) -> None:
    """Make `stream` (default: stderr) the only place where this process logs, from `level` on.

    With `again` it takes the place of the last set-up while threads log: no line is lost, and one may come twice.

    With `json` each line is an object: `time` (RFC 3339, UTC), `level`, `logger`, `message`, and whatever is bound
    (`node`, `cluster`, `term`, `correlation_id`, `event`, `sequence`, `data`), and `exception` where there is one.
    Variables' values never get into tracebacks. Lines for stderr wait in a bounded queue, and are dropped and counted
    when nobody reads them. Raises ValueError for an unknown level.
    """
    if level.lower() not in LEVELS:
        raise ValueError(f"log level {level!r} is none of {', '.join(LEVELS)}")
    target: Any = queued_stderr(json=json) if stream is None else stream
    before = SINKS.copy() if again else []
    SINKS.clear()
    if not before:
        logger.remove()
    enable_logging()
    common: dict[str, Any] = {"level": level.upper(), "backtrace": False, "diagnose": False}
    if json:
        SINKS.append(logger.add(JsonLines(target), format="{message}", **common))
    else:
        SINKS.append(logger.add(target, format=human_format, **common))
    for sink in before:
        with suppress(ValueError):  # somebody else has removed it
            logger.remove(sink)
    # Debug lines of other packages are left out, because they would drown those of this one.
    lowest = max(logging.INFO, logger.level(level.upper()).no)
    logging.basicConfig(handlers=[InterceptHandler()], level=lowest, force=True)


def human_format(record: Record) -> str:
    """Return the format of one line; the node's id stands before the message, unless the message contains it."""
    extra = record["extra"]
    whose = "{extra[node]}: " if "node" in extra and "event" not in extra else ""
    correlation = " [{extra[correlation_id]}]" if "correlation_id" in extra else ""
    return f"{HUMAN}{whose}{{message}}{correlation}\n{{exception}}"


class Stream(Protocol):
    """What a log line is written to: stderr, or what stands in front of it."""

    def write(self, text: str, /) -> object:
        """Take a text, which may stay in a buffer; what it returns is not used."""

    def flush(self) -> object:
        """Let nothing of what was written stay in a buffer."""


class QueuedStderr:
    """Stderr behind a bounded queue: who writes never waits for the one who reads.

    The thread writes to the descriptor itself. Were it inside `sys.stderr` when the process ends, the interpreter would
    wait for it, or abort.
    """

    def __init__(self, *, json: bool) -> None:
        self.json = json
        self.writer: BoundedWriter[str] = BoundedWriter(self.write_now, "forge-stderr")
        self.write = self.writer.put

    def write_now(self, text: str, dropped: int) -> None:
        """Write a text, and before it how many were dropped; on the thread."""
        if dropped:
            told = DROPPED.format(dropped)
            notice = {"level": "WARNING", "logger": __name__, "message": told}
            text = f"{dumps(notice) if self.json else told}\n{text}"
        left = text.encode(errors="backslashreplace")
        while left:
            left = left[os.write(STDERR, left) :]

    def flush(self) -> None:
        """Nothing: the thread writes as fast as it can."""


QUEUES: Final[list[QueuedStderr]] = []
"""The one queue before stderr, once there is one."""


def queued_stderr(*, json: bool) -> QueuedStderr:
    """Return the queue before stderr, which all set-ups share, because each has a thread that never ends."""
    if not QUEUES:
        QUEUES.append(QueuedStderr(json=json))
    QUEUES[0].json = json
    return QUEUES[0]


class JsonLines:
    """A sink that writes each record as a line of JSON."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __call__(self, message: Message) -> None:
        """Write one record, at once."""
        self.stream.write(json_line(message.record) + "\n")
        self.stream.flush()


def json_line(record: Record) -> str:
    """Return one record as JSON in ASCII; values that JSON cannot hold become texts."""
    moment = record["time"].astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    extra: dict[str, Any] = dict(record["extra"])
    line = {
        "time": moment,
        "level": record["level"].name,
        "logger": extra.pop("logger", record["name"]),
        "message": record["message"].removesuffix(f"\n{extra.get('traceback')}"),
        **{name: value for name, value in extra.items() if name not in OURS},
    }
    error = record["exception"]
    if "traceback" in extra:
        line["exception"] = extra["traceback"]
    elif error is not None:
        line["exception"] = "".join(traceback.format_exception(error.type, error.value, error.traceback))
    return dumps(line, separators=(",", ":"), default=str)
