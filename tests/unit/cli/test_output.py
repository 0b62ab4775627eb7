"""How values, tables and events are written."""

from __future__ import annotations

from typing import Any

import pytest

from forge_consensus.events.text import seconds_text
from forge_consensus.events.types import LeaderElected
from forge_consensus.output import bytes_text, cell, event_text, json_text, kind_text, printable, table


def test_json_output_keeps_bytes_and_large_numbers() -> None:
    value = {"b": b"\xff", "big": (1 << 53) + 1, "fits": 1 << 53, "yes": True, "deep": [b"a", (1, None)]}
    assert json_text(value) == (
        '{"b":{"base64":"/w=="},"big":"9007199254740993","fits":9007199254740992,"yes":true,'
        '"deep":[{"base64":"YQ=="},[1,null]]}'
    )


def test_a_cell_is_one_short_printable_line() -> None:
    assert cell("a\tb\n\x1b[31m") == "a\\tb\\n\\x1b[31m"
    assert cell(b"\xffa") == "\\xffa"
    assert len(cell("x" * 1000)) == 80


def test_control_characters_of_a_value_never_reach_a_terminal() -> None:
    assert printable("a\x1b]0;owned\x07\n\u202eb", keep="\n") == "a\\x1b]0;owned\\x07\n\\u202eb"
    assert printable(b"\x9b\xff") == "\\x9b\\xff"


def test_kinds_of_values_have_names() -> None:
    values: list[Any] = [True, 1, 2.5, "a", b"a", None, [1], {"a": 1}]
    assert [*map(kind_text, values)] == ["boolean", "number", "number", "text", "bytes", "nothing", "list", "map"]


def test_columns_are_aligned() -> None:
    assert table(("A", "BB"), [("long", "x"), ("y", "z")]) == ["A     BB", "long  x", "y     z"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0, "0ms"),
        (0.0027, "2.7ms"),
        (0.0124, "12ms"),
        (1.94, "1.9s"),
        (200, "3m20s"),
        (11_520, "3h12m"),
        (187_200, "2d4h"),
    ],
)
def test_durations_are_short(seconds: float | None, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1500, "1.5 KB"), (81_000_000, "81 MB"), (3e15, "3000 TB")],
)
def test_sizes_are_short(count: float | None, text: str) -> None:
    assert bytes_text(count) == text


def test_an_event_is_one_line() -> None:
    event = LeaderElected(node_id="n1", term=3, leader="n1", votes=2, total=3, duration=0.012)
    assert event_text(event) == "n1 leader.elected term=3 leader=n1 votes=2 total=3 duration=12ms"
