"""The common start of all tests: the log lines of the package are on, even if an earlier test switched them off."""

from __future__ import annotations

import gc
import signal
from collections.abc import Generator, Iterator

import pytest
from loguru import logger

from forge_consensus.process.log import OUTLET

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the tests in the background has them, and every process that they start, ignore interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Spare the garbage collector the modules and tests, which stay: it took more time than many of the tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def log_lines_on() -> Iterator[None]:
    """Have the package's log lines written, and at once; a library is silent, and its lines come later."""
    logger.enable("forge_consensus")
    OUTLET.direct = True
    yield
