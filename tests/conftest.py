"""The common start of all tests: the log lines of the package are on, even if an earlier test switched them off."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from loguru import logger


@pytest.fixture(autouse=True)
def log_lines_on() -> Iterator[None]:
    """Switch the package's log lines on again after a test, because commands that run in it may leave them off."""
    yield
    logger.enable("forge_consensus")
