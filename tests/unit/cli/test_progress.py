"""The line that shows how far a change of members is."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any, cast

from forge_consensus.cli.progress import ERASE, LINE_CHARS, ProgressLine, progress_text
from forge_consensus.client.members import ClusterMembers, Member
from forge_consensus.client.sync import Client
from forge_consensus.errors import NoLeaderError

MEMBERS = ClusterMembers(
    "n1", "demo", "n1", (Member("n1", "h:1", "voter", False), Member("n4", "h:4", "learner", True)), 7, True, False
)


def status(match: int | None, last: int = 40_000, doing: str = "") -> dict[str, Any]:
    rows = [{"id": "n1", "match_index": None}, {"id": "n4", "match_index": match}]
    return {"nodes": rows, "last_log_index": last, "snapshot_doing": doing}


def test_a_learner_that_catches_up_is_shown_with_what_it_holds() -> None:
    assert progress_text(MEMBERS, status(20_000)) == f"n4 catches up [{'#' * 15}{' ' * 15}] 20,000 of 40,000 entries"
    sends = progress_text(MEMBERS, status(None, doing="sends a snapshot to n4: 12 of 40 MB"))
    assert sends.endswith("] 0 of 40,000 entries; sends a snapshot to n4: 12 of 40 MB")
    assert len(progress_text(MEMBERS, status(40_000))) < LINE_CHARS


def test_without_a_learner_the_line_says_what_is_waited_for() -> None:
    voters = replace(MEMBERS, members=MEMBERS.members[:1])
    assert progress_text(voters, status(1)) == "almost done"
    assert progress_text(replace(voters, committed=False), status(1)).startswith("waiting for a majority")


class Screen(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


class Told:
    """A client that knows how far n4 is, or no leader."""

    def __init__(self, match: int | None) -> None:
        self.match = match

    def status(self, timeout: float) -> dict[str, Any]:
        if self.match is None:
            raise NoLeaderError("no leader")
        return status(self.match)


def shown(match: int | None, *, terminal: bool = True) -> str:
    screen = Screen(terminal=terminal)
    with ProgressLine(cast("Client", Told(match)), screen) as line:
        line.look(MEMBERS)
    return screen.getvalue()


def test_on_a_terminal_the_line_is_written_and_gone_in_the_end() -> None:
    assert shown(20_000) == f"{ERASE}{progress_text(MEMBERS, status(20_000))}{ERASE}"
    assert shown(None) == ERASE, "no leader tells anything"


def followed(match: int | None) -> str:
    screen = Screen(terminal=True)
    with ProgressLine(cast("Client", Told(match)), screen) as line:
        line.follow("n4")
    return screen.getvalue()


def test_a_handover_shows_how_much_of_the_log_the_next_leader_has() -> None:
    text = f"handing over to n4, which has [{'#' * 15}{' ' * 15}] 20,000 of 40,000 entries"
    assert followed(20_000) == f"{ERASE}{text}{ERASE}"
    assert len(text) < LINE_CHARS
    assert followed(None) == ERASE, "no leader tells anything"


def test_where_there_is_no_terminal_nothing_is_written() -> None:
    assert shown(20_000, terminal=False) == ""


def test_a_snapshot_that_arrives_is_shown_in_bytes_and_not_with_every_part() -> None:
    screen = Screen(terminal=True)
    with ProgressLine(cast("Client", Told(1)), screen) as line:
        for part in range(1, 101):
            line.arrived(part * 1_000_000, 100_000_000)
    written = screen.getvalue().split(ERASE)
    assert written[1] == f"saving [{' ' * 30}] 1.0 MB of 100 MB"
    assert written[-2] == f"saving [{'#' * 30}] 100 MB of 100 MB"
    assert len(written) < 20, "a terminal over a slow line is not flooded"
    silent = Screen(terminal=False)
    with ProgressLine(cast("Client", Told(1)), silent) as line:
        line.arrived(1, 2)
    assert silent.getvalue() == ""
