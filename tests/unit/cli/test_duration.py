"""Times on the command line."""

from __future__ import annotations

import click
import pytest

from forge_consensus.cli.options import Duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15s", 15.0), ("250ms", 0.25), ("1m30s", 90.0), ("2h", 7200.0), ("7", 7.0), ("0", 0.0), (" 1.5s ", 1.5)],
)
def test_a_time_has_a_unit_or_is_in_seconds(text: str, seconds: float) -> None:
    assert Duration(0, 1e6).convert(text, None, None) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "-1s", "1x", "1s2", "nan", "inf", "1e3", "9" * 50, "2000000"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Duration(0, 1e6).convert(text, None, None)
