"""The screen of ``forge-consensus top``: rates between refreshes, what fits the terminal, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from io import StringIO, TextIOWrapper
from typing import Any, cast

import pytest
from rich.console import Console, ConsoleDimensions, Group
from rich.text import Text

from forge_consensus.cli.live_screen import LiveScreen
from forge_consensus.cli.rates import ClusterRates, Counters, NodeRates, Sample, rates
from forge_consensus.cli.refresher import JOURNAL_SECONDS, Refresher, json_line
from forge_consensus.cli.top import Asker
from forge_consensus.cli.top_screen import BLOCKS, BLOCKS_ASCII, COLUMNS, Frame, rate_text, screen, sparkline
from forge_consensus.client.sync import Client
from forge_consensus.events.envelope import ConsensusEvent
from forge_consensus.events.stream import StreamEndedError
from forge_consensus.events.types import LeaderElected
from forge_consensus.feed.event_feed import EventFeed, Gap
from tests.unit.service.test_cluster_report import ADDRESSES, NAMES, answer, report
from tests.worlds.cli_world import Shell, dead_address
from tests.worlds.source_tree import ROOT

ELECTED = tuple(
    LeaderElected(node_id="n2", term=term, time=float(term), leader="n2", votes=2, total=3, duration=0.004)
    for term in range(40)
)


def status(node: str, seconds: float, **changed: Any) -> dict[str, Any]:
    """A node's status so many seconds after its first; the leader answers 100 commands a second."""
    operations = round(100 * seconds) if node == "n1" else 0
    told = {
        "uptime": 60 + seconds, "operations_total": 7 + operations, "reads_total": 0,
        "flushes_total": 3 + round(20 * seconds), "commit_seconds": 0.004, "commit_index": 100 + round(200 * seconds),
    }  # fmt: skip
    return answer(node, **{**told, **changed})


def sample(seconds: float, *names: str, **changed: Any) -> Sample:
    """What these nodes had counted so many seconds after the first time they were asked."""
    return Sample.of({name: status(name, seconds, **changed) for name in names or NAMES}, "c", seconds)


def frame(*, seconds: float = 2.0, lost: tuple[str, ...] = (), **changed: Any) -> Frame:
    """The second frame of a cluster of three, without the nodes that are lost."""
    left = [name for name in NAMES if name not in lost]
    found = report(*(status(name, seconds) for name in left), given=(), **dict.fromkeys(lost, "no connection"))
    given: dict[str, Any] = {
        "time": 0.0, "at": seconds, "interval": 1.0, "report": found,
        "rates": rates(sample(0.0, *left), sample(seconds, *left)),
        "committed": (None, 200.0), "slowest": (0.004, 0.004), "events": ELECTED,
    }  # fmt: skip
    return Frame(**{**given, **changed})


def texts(shown: Frame, width: int = 80, height: int | None = None, **more: Any) -> list[str]:
    """The lines of the screen, without colors."""
    return [line.plain for line in screen(shown, width, height, **more)]


def cells(lines: list[str], node: str) -> Mapping[str, str]:
    """A node's cells by the heads of their columns, where no cell has a space in it."""
    head = next(line for line in lines if line.startswith("NODE"))
    row = next(line for line in lines if line.startswith(node))
    return dict(zip(head.split(), row.split(), strict=False))


# --- rates -----------------------------------------------------------------------------------------------------------


def test_rates_are_differences_between_two_refreshes_and_unknown_before() -> None:
    first = rates(None, sample(0.0))
    assert first.committed_per_second is None
    assert first.nodes["n1"] == NodeRates(slowest_commit_seconds=0.004)
    found = rates(sample(0.0), sample(2.0))
    assert found.committed_per_second == 200
    assert found.nodes["n1"] == NodeRates(100, 0, 20, 0.004)
    assert found.nodes["n2"].operations_per_second == 0
    assert rates(sample(0.0), None) == ClusterRates()


def test_a_node_measures_its_rates_by_its_own_clock() -> None:
    late = replace(sample(2.0), at=9.0)
    assert rates(sample(0.0), late).nodes["n1"].operations_per_second == 100
    assert rates(sample(0.0), late).committed_per_second == 200


@pytest.mark.parametrize(
    "again",
    [
        {"boot": 2, "uptime": 0.5, "operations_total": 1},
        {"boot": 2, "uptime": 90.0, "operations_total": 900},
        {"uptime": 0.5, "operations_total": 900},
    ],
)
def test_a_node_that_was_started_again_has_no_rates_at_first(again: dict[str, Any]) -> None:
    before, now = Counters.of(status("n1", 0.0)), Counters.of(status("n1", 2.0, **again))
    assert not now.goes_on_from(before)
    found = rates(sample(0.0), replace(sample(2.0), nodes={"n1": now})).nodes["n1"]
    assert found == NodeRates(slowest_commit_seconds=0.004)


def test_a_counter_that_went_back_or_is_not_told_is_unknown_alone() -> None:
    found = rates(sample(0.0), sample(2.0, operations_total=0)).nodes["n1"]
    assert (found.operations_per_second, found.commits_per_second) == (None, 20)
    old = status("n1", 2.0)
    for name in ("flushes_total", "commit_seconds", "reads_total"):
        del old[name]
    found = rates(sample(0.0), Sample.of({"n1": old}, "c", 2.0)).nodes["n1"]
    assert found == NodeRates(operations_per_second=100)


def test_after_a_change_of_the_leader_the_committed_rate_is_that_of_the_highest_index() -> None:
    before = Sample.of({"n1": status("n1", 1.0), "n2": status("n2", 1.0, commit_index=280)}, "c", 1.0)
    assert (before.latest, before.commit_index) == ("n1", 300)
    behind = Sample.of({"n2": status("n2", 2.0, commit_index=290)}, "c", 2.0)
    assert rates(before, behind).committed_per_second is None, "the new leader knows less at first"
    ahead = Sample.of({"n2": status("n2", 2.0, commit_index=350)}, "c", 2.0)
    assert rates(before, ahead).committed_per_second == 50
    other = replace(ahead, cluster_id="another")
    assert rates(before, other).committed_per_second is None


def test_a_node_of_another_cluster_does_not_count() -> None:
    stranger = status("n9", 1.0, cluster_id="other", commit_index=10**6)
    found = Sample.of({"n1": status("n1", 1.0), "n9": stranger}, "c", 1.0)
    assert (found.latest, found.commit_index, set(found.nodes)) == ("n1", 300, {"n1", "n9"})


# --- drawing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [50, 80, 100, 140, 200])
@pytest.mark.parametrize("lost", [(), ("n3",)])
def test_the_screen_fits_its_width(width: int, lost: tuple[str, ...]) -> None:
    lines = texts(frame(lost=lost), width)
    assert max(map(len, lines)) <= width
    head = next(line for line in lines if line.startswith("NODE")).split()
    assert {"NODE", "STATE", "LAG"} <= set(head)
    if width >= 80:
        assert {"ROLE", "MATCH", "HEARD", "OPS/S", "COMMITS/S", "SLOWEST", "DISK"} <= set(head)
    if width >= 140:
        assert {"VERSION", "SNAPSHOTS"} <= set(head)
    assert (len(head) == len(COLUMNS)) == (width >= 200)


@pytest.mark.parametrize("height", [6, 12, 24, 50])
def test_the_screen_fits_its_height_and_shows_the_newest_events(height: int) -> None:
    lines = texts(frame(), 80, height)
    assert len(lines) <= height
    shown = [line for line in lines if "leader.elected" in line]
    assert len(shown) == min(len(ELECTED), max(0, height - 10))
    if shown:
        assert "term=39" in shown[-1]
    assert len([line for line in texts(frame(), 80) if "leader.elected" in line]) == 10
    assert "elected" not in "".join(texts(frame(events=None), 80, height))


def test_health_leader_term_and_quorum_come_first() -> None:
    lines = texts(frame(lost=("n3",)))
    assert lines[1] == "Cluster c  DEGRADED   quorum 3/3, can lose 0 nodes"
    assert lines[2].startswith("leader n1 (term 3, up 1m2s)   commit 500")
    assert lines[3].startswith("! n3 at 127.0.0.1:7003 does not answer (no connection)")
    row = next(line for line in lines if line.startswith("n3"))
    assert row.split()[1:4] == ["-", "no", "answer"]
    assert row.split()[-4:] == ["-"] * 4, "what is not known is a dash"


def test_a_node_is_a_row_with_its_rates() -> None:
    row = cells(texts(frame()), "n1*")
    assert (row["ROLE"], row["OPS/S"], row["COMMITS/S"], row["SLOWEST"]) == ("leader", "100", "20", "4.0ms")
    first = cells(texts(frame(rates=rates(None, sample(2.0)))), "n2")
    assert (first["OPS/S"], first["COMMITS/S"], first["SLOWEST"]) == ("-", "-", "4.0ms")


def test_what_a_node_does_with_snapshots_is_told_also_where_the_column_does_not_fit() -> None:
    doing = "sends the snapshot up to entry 1234000 to n3: 45%"
    found = report(status("n1", 2.0, snapshot_doing=doing), status("n2", 2.0, snapshot_doing=""), status("n3", 2.0))
    narrow, wide = texts(frame(report=found), 80), texts(frame(report=found), 220)
    assert f"  n1 {doing}" in narrow
    assert next(line for line in wide if line.startswith("n1*")).endswith(doing)
    assert f"  n1 {doing}" not in wide


def test_of_many_nodes_those_that_are_not_well_are_shown() -> None:
    names = [f"n{number}" for number in range(1, 30)]
    leader = status("n1", 2.0)
    leader["nodes"] = [
        {"id": name, "address": f"127.0.0.1:{8000 + int(name[1:])}", "status": "active"} for name in names
    ]
    found = report(leader, *(status(name, 2.0, nodes=leader["nodes"]) for name in names[1:-1]))
    lines = texts(frame(report=found), 80, 20)
    assert len(lines) <= 20
    shown = [line.split()[0] for line in lines if line.startswith("n") and line[1].isdigit()]
    assert shown[:2] == ["n29", "n1*"]
    assert f"and {29 - len(shown)} more nodes" in lines
    assert any(line.startswith("slowest commit") for line in lines)


def test_without_an_answer_it_says_so_and_since_when() -> None:
    silent = frame(
        report=None, rates=ClusterRates(), error="no node answers (127.0.0.1:7001: no connection): see", time=12.0,
        committed=(200.0, None), slowest=(0.004, None),
    )  # fmt: skip
    lines = texts(replace(silent, answered_at=9.0))
    assert lines[1] == "NO NODE ANSWERS  the last answer is of 3.0s ago; trying on"
    assert lines[2] == "! no node answers (127.0.0.1:7001: no connection): see"
    assert not [line for line in lines if line.startswith("NODE")]
    assert "committed/s            -  max       200" in "\n".join(lines)
    assert "none has answered yet" in texts(silent)[1]


def test_an_old_picture_says_that_it_is_old() -> None:
    assert "waiting" not in texts(frame(), now=3.5)[0]
    assert texts(frame(), now=9.0, hint="  q ends")[0].endswith("q ends  waiting for answers for 7.0s")


def test_no_text_of_a_node_moves_the_cursor() -> None:
    evil = report(status("n1", 2.0, details=["\x1b[2Jgone"], snapshot_doing="\x1b[2J"), status("n2", 2.0))
    silent = frame(report=None, error="\x1b[2J", events_error="\x1b[2J")
    assert "\x1b" not in "".join([*texts(frame(report=evil), 200), *texts(silent)])


def test_colors_are_shown_unless_no_color_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for variable, colored in (("", True), ("1", False)):
        monkeypatch.setenv("NO_COLOR", variable)
        stream = StringIO()
        Console(file=stream, force_terminal=True, width=80).print(Group(*screen(frame(lost=("n3",)), 80)))
        assert ("\x1b[31mno answer" in stream.getvalue()) == colored


def test_figures_are_short_and_a_small_one_is_not_none() -> None:
    found = [rate_text(value) for value in (None, 0.0, 0.01, 0.5, 9.96, 12_345.6)]
    assert found == ["-", "0", "<0.1", "0.5", "10", "12,346"]


def test_a_sparkline_has_a_space_for_what_is_unknown() -> None:
    assert sparkline((None, 0.0, 5.0, 10.0)) == f" {BLOCKS[0]}{BLOCKS[4]}{BLOCKS[-1]}"
    assert sparkline((0.0, None), BLOCKS_ASCII) == "_ "
    assert sparkline(()) == ""
    lines = texts(frame(committed=tuple(map(float, range(500)))))
    line = next(line for line in lines if line.startswith("committed/s"))
    assert (line[:15], line[-1], len(line)) == ("committed/s    ", BLOCKS[-1], 80)


# --- asking ----------------------------------------------------------------------------------------------------------


class Cluster(Refresher):
    """A refresher whose nodes answer what it is told; None for no answer."""

    def __init__(self, client: Client, *answers: dict[str, dict[str, Any]] | None) -> None:
        super().__init__(client, ["127.0.0.1:7001"], 0.1, 1.0, None)
        self.told = list(answers)

    def ask(self) -> tuple[Any, Mapping[str, Any]]:
        found = self.told.pop(0)
        return super().ask() if found is None else (report(*found.values()), found)


def test_refreshes_go_on_over_silence_another_leader_and_a_restart() -> None:
    def all_at(seconds: float, **changed: Any) -> dict[str, dict[str, Any]]:
        return {name: status(name, seconds, **changed) for name in NAMES}

    led = all_at(4.0, leader_id="n2")
    led["n1"]["role"], led["n2"]["role"] = "follower", "leader"
    led["n1"] |= {"boot": 2, "uptime": 0.1, "operations_total": 0}
    with Client(dead_address()) as client:
        cluster = Cluster(client, all_at(0.0), all_at(1.0), None, all_at(3.0), led)
        frames = [cluster.refresh() for _ in range(5)]
    assert [each.report is not None and each.report.leader_id for each in frames] == ["n1", "n1", False, "n1", "n2"]
    assert frames[-1].committed == (None, 200, None, None, 200)
    assert "no node answers (127.0.0.1:7001: no connection; " in frames[2].error
    assert ADDRESSES["n3"] in frames[2].error, "members that were found are asked too"
    assert frames[2].answered_at == frames[1].time
    told = frames[-1].rates.nodes
    assert (told["n1"].operations_per_second, told["n2"].operations_per_second) == (None, 0)
    line = json.loads(json_line(frames[2]))
    assert (line["report"], line["rates"], line["committed_per_second"]) == (None, {}, None)
    assert set(line) == set(json.loads(json_line(frames[0])))


class Feed:
    """The event feed of a refresher, with what has come at each refresh: events, then an error or nothing."""

    def __init__(self, *batches: list[ConsensusEvent | Exception]) -> None:
        self.batches = list(batches)

    def get(self, timeout: float | None = None) -> ConsensusEvent:
        if not self.batches[0]:
            del self.batches[0]
            raise TimeoutError
        event = self.batches[0].pop(0)
        if isinstance(event, Exception):
            raise event
        return event


def test_past_events_are_put_in_order_and_the_end_of_the_feed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three, four = ELECTED[:4]
    gap = Gap(node_id="n1", first=1, last=9, reason="discarded", time=9.0)
    feed = Feed([three, gap, one], [two], [ELECTED[9], four], [StreamEndedError("it ended")])
    with Client(dead_address()) as client:
        refresher = Refresher(client, [], 0.1, 1.0, cast("EventFeed", feed))
        assert refresher.take_events() == (one, three, gap), "programs see gaps too"
        refresher.take_events()
        assert refresher.events == [one, two, three]
        refresher.began -= JOURNAL_SECONDS
        refresher.take_events()
        assert refresher.events == [one, two, three, four, ELECTED[9]]
        monkeypatch.setattr("forge_consensus.cli.refresher.EVENTS_MAX", 2)
        assert refresher.take_events() == ()
        assert (refresher.events, refresher.events_error) == (
            [four, ELECTED[9]],
            "events are not followed any more: it ended",
        )
        assert refresher.take_events() == ()


# --- the command -----------------------------------------------------------------------------------------------------


def test_without_a_terminal_frames_are_printed_one_after_the_other() -> None:
    arguments = ("top", "--timeout", "0.2", "--interval", "0.2", "--count", "2")
    done = Shell(dead_address()).run(*arguments)
    assert done.exit_code == 69
    frames = done.stdout.split("\n\n")
    assert len(frames) == 2
    assert all(each.splitlines()[1].startswith("NO NODE ANSWERS") for each in frames)
    assert "\x1b" not in done.stdout
    lines = Shell(dead_address()).run(*arguments, "-o", "json", "--no-events").stdout.splitlines()
    assert [json.loads(line)["report"] for line in lines] == [None, None]


def test_wrong_arguments_are_refused() -> None:
    shell = Shell(dead_address())
    for wrong in (("--interval", "0.1"), ("--interval", "61"), ("--count", "0")):
        assert shell.run("top", *wrong).exit_code == 2
    assert Shell("").run("top").exit_code == 78
    assert "did you mean top?" in shell.run("monitor").stderr


@dataclass
class Picture:
    """The source of a live screen: it says when it was drawn, and ends when it is told to."""

    ended: bool = False
    drawn: list[tuple[int, int]] = field(default_factory=list)
    on_draw: Callable[[int], object] = lambda count: None

    def version(self, now: float) -> object:
        return None

    def lines(self, width: int, height: int, now: float) -> Sequence[Text]:
        self.drawn.append((width, height))
        self.on_draw(len(self.drawn))
        return [Text(f"picture {len(self.drawn)}")]


@dataclass
class Terminal:
    """A terminal of 80 columns and 24 lines; `near` is the side of its user."""

    near: int
    far: int
    console: Console
    before: list[Any]

    def shown(self) -> bytes:
        """What was written to it so far."""
        found = b""
        with suppress(BlockingIOError):
            while read := os.read(self.near, 65536):
                found += read
        return found


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """A terminal that is stdin of this process."""
    near, far = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    os.set_blocking(near, False)
    with open(far, "r+b", buffering=0) as raw, TextIOWrapper(raw, write_through=True) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        console = Console(file=stream, force_terminal=True, width=80, height=24)
        yield Terminal(near, far, console, termios.tcgetattr(far))
    os.close(near)


@pytest.mark.parametrize("way", ["q", "interrupt", "terminate", "end", "failure"])
def test_a_live_screen_ends_and_leaves_the_terminal_as_it_was(terminal: Terminal, way: str) -> None:
    picture = Picture()

    def act(count: int) -> None:
        assert termios.tcgetattr(terminal.far) != terminal.before
        match way:
            case "q":
                os.write(terminal.near, b"xyq")
            case "interrupt" | "terminate":
                os.kill(os.getpid(), signal.SIGINT if way == "interrupt" else signal.SIGTERM)
            case "end":
                picture.ended = True
            case _:
                raise ZeroDivisionError

    picture.on_draw = act
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTSTP)]
    with pytest.raises(ZeroDivisionError) if way == "failure" else nullcontext():
        assert LiveScreen(picture, terminal.console).run() == (way == "end")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTSTP)] == handlers
    assert termios.tcgetattr(terminal.far) == terminal.before
    shown = terminal.shown()
    assert shown.count(b"\x1b[?1049h") == shown.count(b"\x1b[?1049l") == 1
    assert shown.index(b"\x1b[?25l") < shown.index(b"\x1b[?25h"), "the cursor is shown again"
    assert (b"picture 1" in shown) == (way != "failure")


def test_a_live_screen_is_drawn_anew_when_it_goes_on_or_its_terminal_has_another_size(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, stops = Picture(), []

    def act(count: int) -> None:
        if count == 1:
            terminal.console.size = ConsoleDimensions(60, 20)
        elif count == 2:
            signal.raise_signal(signal.SIGTSTP)
        else:
            os.write(terminal.near, b"q")

    def stop(process: int, number: int) -> None:
        assert termios.tcgetattr(terminal.far) == terminal.before, "the shell gets the terminal as it was"
        stops.append((process, number))

    picture.on_draw = act
    monkeypatch.setattr("forge_consensus.cli.live_screen.os.kill", stop)
    assert not LiveScreen(picture, terminal.console).run()
    assert stops == [(os.getpid(), signal.SIGSTOP)]
    assert picture.drawn == [(80, 24), (60, 20), (60, 20)]
    assert terminal.shown().count(b"\x1b[?1049l") == 2


def test_ctrl_c_ends_the_command_with_0_while_it_waits_for_an_answer() -> None:
    near, far = pty.openpty()
    command = [sys.executable, "-m", "forge_consensus", "top", "--endpoints", dead_address(), "--timeout", "60"]
    with open(near, "r+b", buffering=0) as user, open(far, "r+b", buffering=0) as stream:
        program = subprocess.Popen(
            command, stdin=stream, stdout=stream, stderr=stream, cwd=ROOT, env={**os.environ, "TERM": "xterm"}
        )
        try:
            shown = b""
            while b"asking 127.0.0.1" not in shown:
                shown += user.read(65536)
            program.send_signal(signal.SIGINT)
            while b"\x1b[?1049l" not in shown:
                shown += user.read(65536)
            assert program.wait(20) == 0, "it waits for no answer"
        finally:
            program.kill()
            program.wait()


def test_the_asker_takes_all_refreshes_and_tells_what_went_wrong() -> None:
    with Client(dead_address()) as client:
        cluster = Cluster(client, {"n1": status("n1", 0.0)}, {"n1": status("n1", 1.0)})
        cluster.interval = 0.01
        asker = Asker(cluster, 2, BLOCKS)
        assert "asking 127.0.0.1:7001" in asker.lines(80, 24, 0.0)[0].plain
        asker.run()
        assert asker.ended
        assert asker.answered
        assert asker.frame is not None
        at = asker.frame.at
        assert "Cluster c" in asker.lines(80, 24, at)[1].plain
        assert asker.version(at) != asker.version(at + 9), "an old picture is drawn anew"
        broken = Asker(cluster, None, BLOCKS)
        broken.run()
        with pytest.raises(IndexError):
            _ = broken.ended
