"""The package's log lines: silent by themselves, never in the way, short, and without values of variables."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from loguru import logger

from forge_consensus.events.bus import EventBus
from forge_consensus.events.log_lines import log_events
from forge_consensus.events.types import NodeStarted
from forge_consensus.process.bounded_writer import BoundedWriter
from forge_consensus.process.log import (
    FRAMES_MAX,
    OUTLET,
    LogLines,
    brief,
    disable_logging,
    enable_logging,
    log_context,
)
from tests.worlds.source_tree import ROOT

LINES = LogLines("forge_consensus.somewhere")


class Records(logging.Handler):
    """Keeps what a logger of the standard library is given."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def records() -> Iterator[Records]:
    handler, target = Records(), logging.getLogger("application.consensus")
    target.addHandler(handler)
    target.setLevel(logging.INFO)
    yield handler
    target.removeHandler(handler)
    disable_logging()


@pytest.fixture
def sink() -> Iterator[list[str]]:
    lines: list[str] = []
    number = logger.add(lines.append, format="{name} {function} {level} {message} {extra}", diagnose=True)
    yield lines
    logger.remove(number)


def deep(left: int) -> None:
    secret = "do not tell " + str(left)
    if not left:
        raise ValueError("bad")
    deep(left - 1)
    del secret


def test_a_line_has_the_place_where_it_was_logged_and_what_is_bound(sink: list[str]) -> None:
    with log_context(node="n1"):
        LINES.warning("refused {} times", 3, reason="x")
    place = "forge_consensus.somewhere test_a_line_has_the_place_where_it_was_logged_and_what_is_bound"
    assert sink == [f"{place} WARNING refused 3 times {{'node': 'n1', 'reason': 'x'}}\n"]


def test_a_traceback_is_short_and_holds_no_values(sink: list[str]) -> None:
    try:
        deep(30)
    except ValueError as error:
        LINES.error("failed", error=error)
        told = brief(error)
    assert len(told.splitlines()) <= 2 * FRAMES_MAX + 2
    assert "ValueError: bad" in sink[0]
    assert "do not tell 0" not in sink[0]


def test_lines_go_to_a_logger_of_the_standard_library(
    records: Records, sink: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # those of other tests, one of which leads to loguru
    enable_logging(logging.getLogger("application.consensus"))
    LINES.warning("refused {}", "x", reason="y")
    LINES.line("TRACE", "too much", (), None, {})
    (record,) = records.records
    assert (record.name, record.levelname, record.getMessage()) == ("application.consensus", "WARNING", "refused x")
    assert record.__dict__["forge_consensus"] == {"reason": "y"}
    assert sink == []


def test_events_go_to_a_logger_of_the_standard_library(records: Records) -> None:
    bus = EventBus()
    log_events(bus, to=logging.getLogger("application.consensus"))
    bus.publish(NodeStarted(node_id="n1", term=2))
    assert bus.close(5)
    (record,) = records.records
    assert record.getMessage().startswith("n1 term 2: node.started")


def test_a_writer_that_stands_still_holds_nobody_up_and_drops_are_counted() -> None:
    going, written = threading.Event(), list[tuple[int, int]]()

    def write(item: int, dropped: int) -> None:
        going.wait(20)
        written.append((item, dropped))

    writer: BoundedWriter[int] = BoundedWriter(write, "slow", 10)
    began = time.monotonic()
    for number in range(1000):
        writer.put(number)
    assert time.monotonic() - began < 1
    assert not writer.flush(0.05)
    going.set()
    assert writer.flush(10)
    assert writer.dropped >= 980 and len(written) + writer.dropped == 1000
    writer.put(1000)
    assert writer.flush(10)
    assert sum(dropped for _, dropped in written) == writer.dropped


PROGRAM = """
import logging, sys
logging.basicConfig(filename=sys.argv[1], level=logging.INFO)
from forge_consensus import ConsensusService, enable_logging
if len(sys.argv) > 3:
    enable_logging(logging.getLogger("consensus"))
for mode in ("thread", "process"):
    with ConsensusService("n1", storage_path=sys.argv[2], bind="127.0.0.1:0", mode=mode, metrics="127.0.0.1:0") as one:
        one.put("a", 1)
"""


@pytest.mark.parametrize("asked", [False, True])
def test_an_application_sees_lines_only_if_it_asks_and_then_in_its_own_log(asked: bool, tmp_path: Path) -> None:
    arguments = [str(tmp_path / "app.log"), str(tmp_path / "n1"), *(["asked"] if asked else [])]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=ROOT, timeout=40, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    lines = (tmp_path / "app.log").read_text().splitlines()
    assert [line.partition(" at ")[0] for line in lines] == (["INFO:consensus:n1: metrics"] * 2 if asked else [])


def test_a_node_goes_on_when_nobody_reads_its_stderr(tmp_path: Path) -> None:
    program = """
import sys, time
from forge_consensus.cli.log_setup import configure_logging
from forge_consensus.process.log import LogLines
configure_logging("info", json=len(sys.argv) > 1)
for number in range(20_000):
    LogLines("forge_consensus.x").warning("{} {}", number, "x" * 100)
print("done", flush=True)
"""
    reading, writing = os.pipe()
    try:
        began = time.monotonic()
        process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=writing)
        told, _ = process.communicate(timeout=30)
        assert (told, process.returncode) == (b"done\n", 0)
        assert time.monotonic() - began < 20
    finally:
        os.close(reading)
        os.close(writing)
    assert OUTLET.direct


def test_a_command_that_fails_ends_when_nobody_reads_its_stderr(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    arguments = ["node", "--id", "n1", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "file" / "n1")]
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writing, b"x")
        os.set_blocking(writing, True)
        command = [sys.executable, "-m", "forge_consensus", *arguments]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=writing)
        assert process.wait(20) == 70
    finally:
        os.close(reading)
        os.close(writing)
