"""A program's log: text or JSON, other packages' lines in it, and nothing of that by an import."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from loguru import logger

from forge_consensus.cli.log_setup import configure_logging


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Give loguru and the standard library back what they had."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logger.remove()
    logger.add(sys.stderr)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_text_lines_name_their_node_and_their_cause() -> None:
    stream = io.StringIO()
    configure_logging("info", stream=stream)
    logger.info("plain")
    logger.debug("not this")
    with logger.contextualize(node="n1", cluster="demo"):
        logger.warning("refused {}", 3)
        logger.bind(event="consensus.x", correlation_id="order-1").info("n1 term 2: x")
    lines = [line[24:] for line in stream.getvalue().splitlines()]
    assert lines == ["INFO    plain", "WARNING n1: refused 3", "INFO    n1 term 2: x [order-1]"]


def test_json_lines_hold_bound_values_and_the_traceback() -> None:
    stream = io.StringIO()
    configure_logging("debug", json=True, stream=stream)
    logger.bind(node="n1", term=7, data={"members": ("n1",)}, event="consensus.x").debug("über")
    secret = "do not tell"
    try:
        raise ValueError(f"bad {len(secret)}")
    except ValueError:
        logger.exception("failed")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "DEBUG", "logger": __name__, "message": "über", "node": "n1", "term": 7,
        "data": {"members": ["n1"]}, "event": "consensus.x",
    }  # fmt: skip
    assert "ValueError: bad 11" in second["exception"]
    assert secret not in stream.getvalue()


def test_log_lines_of_other_packages_arrive_under_their_name() -> None:
    stream = io.StringIO()
    configure_logging("debug", json=True, stream=stream)
    logging.getLogger("another.package").warning("%s {left}", "as it is")
    logging.getLogger("another.package").debug("their own affair")
    (row,) = map(json.loads, stream.getvalue().splitlines())
    assert (row["level"], row["logger"], row["message"]) == ("WARNING", "another.package", "as it is {left}")


def test_an_unknown_level_is_refused_and_changes_nothing() -> None:
    with pytest.raises(ValueError, match="'loud' is none of trace, debug"):
        configure_logging("loud")


def test_importing_everything_configures_nothing() -> None:
    program = (
        "import logging, loguru\n"
        "before = repr(loguru.logger), logging.getLogger().handlers[:]\n"
        "import forge_consensus.service.node, forge_consensus.client.sync, forge_consensus.service.node_metrics\n"
        "import forge_consensus.events.log_lines, forge_consensus.cli.log_setup\n"
        "assert before == (repr(loguru.logger), logging.getLogger().handlers[:])\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
