"""The screen of ``forge-consensus status``: it fits the terminal and shows in colors what is not well."""

from __future__ import annotations

from dataclasses import replace

import click
import pytest

from forge_consensus.actors.runtime.refusals import ORDINARY
from forge_consensus.cli.status import COLUMNS, notes, screen
from tests.unit.service.test_cluster_report import NAMES, answer, report


def many(text: str) -> str:
    """A text of 24 characters or more."""
    return text * (24 // len(text) + 1)


@pytest.mark.parametrize("width", [50, 80, 120, 200])
def test_the_screen_fits_its_terminal(width: int) -> None:
    found = report(*(answer(name, last_log_index=1_234_567, storage_used_bytes=123_456_789) for name in NAMES))
    lines = click.unstyle(screen(found, width)).splitlines()
    assert max(map(len, lines)) <= width
    shown = [column.head for column in COLUMNS if column.head in lines[2].split()]
    assert {"NODE", "ADDRESS", "STATE", "LAG"} <= set(shown)
    assert (shown == [column.head for column in COLUMNS]) == (width >= 120)


def test_an_address_that_is_wider_than_the_terminal_is_shown_whole() -> None:
    found = report(*map(answer, NAMES))
    long = replace(found, nodes=(replace(found.nodes[0], address=many("n1.example.")), *found.nodes[1:]))
    assert many("n1.example.") in screen(long, 20)


def test_states_have_the_color_of_their_meaning_and_the_columns_stay_aligned() -> None:
    leader = answer("n1")
    leader["nodes"][2].update(status="failed")
    found = report(leader, answer("n2"), n3="no connection")
    text = screen(found, 80)
    assert click.style("DEGRADED", "yellow") in text
    assert click.style("ok", "green") in text
    assert click.style("no answer", "red") in text
    columns = click.unstyle(text).splitlines()[2:]
    assert len({line.index(word) for line, word in zip(columns, ("STATE", "ok", "ok", "no answer"), strict=True)}) == 1


def test_warnings_and_refusals_are_wrapped_to_the_terminal() -> None:
    found = report(
        answer("n1"), answer("n2", details=[many("its disk is full, ")], refused={"full": 1_200, "identity": 1})
    )
    lines = click.unstyle(notes(found, 60)).splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[0].startswith("! ")
    assert "full 1,200, identity 1" in " ".join(line.strip() for line in lines)


def test_what_nodes_refuse_in_ordinary_work_is_not_told_to_people() -> None:
    found = report(answer("n1"), answer("n2", refused=dict.fromkeys(ORDINARY, 7)), answer("n3"))
    assert notes(found, 80) == ""
    assert found.nodes[1].refused == dict.fromkeys(ORDINARY, 7), "programs still see it"
    with_one = report(answer("n1"), answer("n2", refused={**dict.fromkeys(ORDINARY, 7), "damaged frame": 1}))
    assert "n2 has refused since its start: damaged frame 1" in click.unstyle(notes(with_one, 80))
