"""The siege itself: a short one passes, and every kind of finding makes it fail and keeps its files."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.client.sync import Client
from forge_consensus.errors import (
    BusyError,
    CommandError,
    ConnectionFailedError,
    ConsensusTimeoutError,
    NoLeaderError,
    NotStartedError,
    OutcomeUnknownError,
    ProtocolError,
    SessionExpiredError,
    StorageError,
    StorageFullError,
)
from forge_consensus.events.types import NodeStopped
from forge_consensus.feed.event_feed import Gap
from forge_consensus.storage.ledger.changes import Action, Change
from forge_consensus.testing.histories.history import History, Operation, Outcome
from forge_consensus.testing.histories.linearizability import Verdict, check
from forge_consensus.testing.local.cluster import LocalCluster
from tests.cluster.siege import callers, verdicts
from tests.cluster.siege.__main__ import orders
from tests.cluster.siege.blows import BLOWS, impossible
from tests.cluster.siege.campaign import REGISTERS, Orders, Siege
from tests.cluster.siege.feeds import FeedWatch, Numbers
from tests.cluster.siege.keys import CALLS_MAX, COUNTER, Keys
from tests.cluster.siege.members import MEMBERS, Changing
from tests.cluster.siege.places import NAMESPACES, place_of
from tests.cluster.siege.verdicts import UndecidedError, differences, judge_history, judge_machines, judge_sums
from tests.worlds.source_tree import ROOT
from tests.worlds.waiting import wait_for

SEED = int(os.environ.get("FORGE_SIEGE_SEED", "0")) or int.from_bytes(os.urandom(4))
BRIEF: dict[str, Any] = {"nodes": 3, "rounds": 1, "round_seconds": (0.5, 1.0), "loads": (REGISTERS,)}


def commands() -> Iterator[str]:
    """What all processes of this machine were started with."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield file.read_text(encoding="utf-8", errors="replace")


# --- whole sieges -----------------------------------------------------------------------------------------------------


@pytest.mark.timeout(240)
def test_a_cluster_withstands_a_short_siege(capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ("kill-one", "kill-leader", "kill-all", "pause", "part-leader", "part-one-way", "disturb")
    siege = Siege(Orders(SEED, rounds=2, nodes=3, only=kinds, loads=(REGISTERS,), round_seconds=(5.0, 6.0)))
    well = siege.run()
    said = capsys.readouterr().out
    assert well, f"FORGE_SIEGE_SEED={SEED}: {said}"
    assert (siege.tally.rounds, siege.tally.clusters) == (2, 1)
    assert siege.tally.blows.total() >= 2
    assert sum(count for (_, outcome), count in siege.tally.calls.items() if outcome == "ok") > 50
    assert siege.tally.keys >= 20
    assert siege.tally.events.total() > 0
    assert len(re.findall(r"calls of \d+ keys linearizable", said)) == 2
    table = "\n".join(siege.tally.lines(siege.passed))
    for word in ("2 rounds on 1 clusters", "faults", "set", "refused", "failovers", "snapshots", "gaps"):
        assert word in table


@pytest.mark.timeout(240)
def test_a_cluster_withstands_changes_of_its_members(capsys: pytest.CaptureFixture[str]) -> None:
    siege = Siege(Orders(SEED, rounds=1, nodes=3, only=tuple(MEMBERS), loads=(REGISTERS,), round_seconds=(6.0, 8.0)))
    well = siege.run()
    said = capsys.readouterr().out
    assert well, f"FORGE_SIEGE_SEED={SEED}: {said}"
    assert siege.tally.blows.total() >= 1
    assert set(siege.tally.blows) <= set(MEMBERS)


def test_a_change_that_is_never_made_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.cluster.siege.members.CHANGE_SECONDS_MAX", 0.5)
    with LocalCluster(1) as cluster:
        change = Changing(cluster, lambda members: False, Change(Action.REMOVE, "n9"))
        with pytest.raises(AssertionError, match=r"are not made: .*there is no member 'n9' to remove"):
            change.wait()


def test_a_folder_that_nobody_exchanged_is_reported() -> None:
    with LocalCluster(1) as cluster, FeedWatch(cluster) as watch:
        watch.numbers.replaced["n1"] += 1
        with pytest.raises(AssertionError, match="other folders of n1 than there were"):
            watch.check(cluster)
        cluster.wiped["n1"] += 1
        watch.check(cluster)


@pytest.mark.timeout(180)
def test_an_impossible_answer_ends_a_siege_and_all_files_are_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A read is answered with a value that nobody wrote."""
    honest = callers.hand_over

    def lying(client: Client, call: Operation, timeout: float) -> Callable[[], Any]:
        wait = honest(client, call, timeout)
        return (lambda: -1) if call.client == "final" else wait

    monkeypatch.setattr(callers, "hand_over", lying)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    siege = Siege(Orders(SEED, only=("pause",), **BRIEF))
    assert not siege.run()
    said = capsys.readouterr().out
    found = re.search(r"history, logs and data of the nodes are in (\S+)", said)
    assert found is not None, said
    folder = Path(found[1])
    assert f"FAILED in round 0 (3 nodes, tcp), --seed {SEED}" in said
    assert "is not linearizable" in said
    assert (folder / "failure.txt").read_text(encoding="utf-8") in said
    assert "serving n1" in (folder / "n1.log").read_text(encoding="utf-8")
    history = History.of_lines((folder / "history.jsonl").read_text(encoding="utf-8").splitlines())
    assert check(history).linearizable is False
    assert siege.tally.rounds == 0


@pytest.mark.timeout(120)
def test_an_interrupted_siege_reports_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """The moment is the worst there is: while the last node is being started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.siege", "--nodes", "3", "--only", "pause", "--minutes", "2"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        wait_for(lambda: list(tmp_path.glob("forge-siege-*/n3.log")), 60.0, "a cluster to be started")
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait(10)
    assert process.returncode == 130
    assert "interrupted" in said
    assert list(tmp_path.iterdir()) == []
    assert not [text for text in commands() if str(tmp_path) in text]


# --- what is known of a call ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, Outcome.OK),
        (OutcomeUnknownError(), Outcome.OPEN),
        (SessionExpiredError(), Outcome.OPEN),
        (ConsensusTimeoutError(), Outcome.REFUSED),
        (NoLeaderError(), Outcome.REFUSED),
        (ConnectionFailedError(), Outcome.REFUSED),
        (BusyError(), Outcome.REFUSED),
        (StorageFullError(), Outcome.REFUSED),
        (CommandError("TypeError", "no number"), Outcome.REFUSED),
        (StorageError(), Outcome.OPEN),
        (NotStartedError(), Outcome.OPEN),
        (ProtocolError(), Outcome.OPEN),
        (TimeoutError(), Outcome.OPEN),
    ],
)
def test_a_call_is_open_unless_its_outcome_is_proven(error: BaseException | None, outcome: Outcome) -> None:
    assert callers.outcome_of(error) is outcome


def test_the_history_holds_calls_from_their_beginning_including_open_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three calls are under way at once; one is answered, one refused at once, and of one nobody knows."""
    history = History()
    calls = [Operation("c", "set", key, 1) for key in ("right", "refused", "open")]
    underway: list[str] = []

    def answer(key: str) -> int:
        assert underway == ["right", "open"]
        if key == "open":
            raise OutcomeUnknownError
        return 1

    def hand_over(_: Client, call: Operation, __: float) -> Callable[[], Any]:
        if call.key == "refused":
            raise NoLeaderError
        underway.append(call.key)
        return lambda: answer(call.key)

    monkeypatch.setattr(callers, "hand_over", hand_over)
    errors = callers.record(None, history, calls, 1.0)  # type: ignore[arg-type]
    assert [type(error) for error in errors] == [NoLeaderError, OutcomeUnknownError]
    assert list(history) == calls
    assert [call.outcome for call in calls] == [Outcome.OK, Outcome.REFUSED, Outcome.OPEN]
    assert [call.ended is not None and call.ended >= call.began > 0 for call in calls] == [True, True, False]


def test_keys_are_retired_after_some_calls_and_no_value_is_set_twice() -> None:
    keys = Keys("r0", 4, random.Random(1))
    taken = [keys.take(random.Random(number)) for number in range(2_000)]
    assert max(taken.count(key) for key in set(taken)) <= CALLS_MAX
    assert len(keys.left) == 4 < len(keys.made)
    assert set(taken) <= set(keys.made)
    assert any(COUNTER in key for key in keys.made)
    assert len({keys.value() for _ in range(100)}) == 100


# --- the verdicts -----------------------------------------------------------------------------------------------------


def call(kind: str, argument: Any, result: Any, *, at: float, key: str = "k") -> Operation:
    """A call that was answered."""
    return Operation("c", kind, key, argument, at, at + 0.5, Outcome.OK, result)


def test_a_lost_write_is_reported() -> None:
    kept = [call("set", 1, 1, at=1), call("get", None, 1, at=2)]
    assert judge_history(History(kept)) < 5.0
    with pytest.raises(AssertionError, match="'k'"):
        judge_history(History([*kept, call("set", 2, 2, at=3), call("get", None, 1, at=4)]))


def test_an_undecided_history_is_not_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "check", lambda *_, **__: Verdict(None, "not done", "k"))
    with pytest.raises(UndecidedError, match="not done"):
        judge_history(History([call("set", 1, 1, at=1)]))


@pytest.mark.parametrize(("total", "right"), [(4, False), (5, True), (7, True), (8, False)])
def test_a_sum_lies_between_acknowledged_and_acknowledged_plus_unknown(total: int, right: bool) -> None:
    key = f"r0-{COUNTER}-3"
    calls = [
        call("increment", 5, 5, at=1, key=key),
        Operation("c", "increment", key, 2, 2.0, None, Outcome.OPEN),
        Operation("c", "increment", key, 9, 3.0, 3.5, Outcome.REFUSED),
    ]
    if right:
        judge_sums(History(calls), {key: total})
    else:
        with pytest.raises(AssertionError, match=f"{key} is {total}: 5 is acknowledged, and up to 2 more are unknown"):
            judge_sums(History(calls), {key: total})


def test_differing_machines_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = verdicts.whole_state
    with LocalCluster(3, mode="thread") as cluster:
        with cluster.client() as client:
            for number in range(3):
                client.put(f"k{number}", number)
        assert judge_machines(cluster, 30.0) == {f"k{number}": number for number in range(3)}
        asked = 0

        def lying(client: Client) -> tuple[int, dict[str, Any]]:
            nonlocal asked
            asked += 1
            applied, state = honest(client)
            return applied, {**state, "k1": "other"} if asked % 3 == 2 else state

        monkeypatch.setattr(verdicts, "whole_state", lying)
        with pytest.raises(AssertionError, match="the nodes differ: k1: n1 holds 1, n2 'other'"):
            judge_machines(cluster, 30.0)


def test_a_missing_key_is_a_difference_even_if_its_value_is_none_elsewhere() -> None:
    assert differences({"n1": {"a": 1}, "n2": {"a": 1}}) == ""
    assert "b" in differences({"n1": {"a": 1}, "n2": {"a": 1, "b": None}})
    assert "differ in 9 keys" in differences({"n1": {}, "n2": {str(number): 0 for number in range(9)}})


# --- the feed ---------------------------------------------------------------------------------------------------------


def numbers_of(*told: int | tuple[int, int | None, str]) -> Numbers:
    """What is found of these numbers, and gaps, of one node."""
    numbers = Numbers()
    for each in told:
        if isinstance(each, int):
            numbers.take(NodeStopped(node_id="n1", sequence=each))
        else:
            first, last, reason = each
            numbers.take(Gap(node_id="n1", first=first, last=last, reason=reason))
    return numbers


@pytest.mark.parametrize(
    "told", [(1, 2, 3), (1, (2, 4, "lost"), 5), ((1, 1, "lost"), 2), (1, (2, None, "replaced"), 1, 2)]
)
def test_consecutive_event_numbers_pass_with_a_gap_for_a_crash(told: tuple[Any, ...]) -> None:
    assert numbers_of(*told).wrong == []


@pytest.mark.parametrize(
    "told",
    [
        (2,),
        (1, 3),
        (1, 1),
        (1, 2, 1),
        (1, (3, 4, "lost")),
        (1, (2, 4, "lost"), 4),
        (1, (2, 4, "damaged")),
        (1, (2, 4, "discarded")),
    ],
)
def test_missing_or_repeated_event_numbers_are_wrong(told: tuple[Any, ...]) -> None:
    assert numbers_of(*told).wrong


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--minutes", "0"], "'0' is no number above 0"),
        (["--minutes", "nan"], "'nan' is no number above 0"),
        (["--rounds", "-1"], "'-1' is no number of rounds"),
        (["--seed", "x"], "'x' is no seed"),
        (["--nodes", "2"], "'2' is no number of nodes: expected 3 to 9"),
        (["--only", "flood"], "there is no fault 'flood': expected members, registers, keys, or one of kill-one, "),
    ],
)
def test_bad_arguments_are_refused_with_the_expected_form(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        orders(arguments)
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


def test_a_fault_without_its_program_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(impossible(), "disk-fails", "there is no libfiu")
    with pytest.raises(SystemExit):
        orders(["--only", "disk-fails"])
    assert "disk-fails is not possible here: there is no libfiu" in capsys.readouterr().err


def test_arguments_become_orders() -> None:
    given = orders(["--rounds", "3", "--seed", "7", "--nodes", "5", "--only", "pause", "--only", "kill-all"])
    assert given == Orders(7, float("inf"), 3, 5, ("pause", "kill-all"))
    assert orders(["--only", "members", "--only", "pause"]).only == (*MEMBERS, "pause")
    assert orders(["--minutes", "0.5"]).seconds == 30.0
    assert orders([]).seconds == 300.0


def test_every_fault_is_allowed_only_in_fitting_places(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(impossible()):
        monkeypatch.delitem(impossible(), name)
    seen: set[str] = set()
    for number in range(10):
        place = place_of(number, (), None)
        seen.update(place.possible(list(BLOWS)))
        assert ("link-down" in place.possible(list(BLOWS))) is (place.way == NAMESPACES)
        assert not (place.leases and "clock-drifts" in place.possible(list(BLOWS)))
    assert seen == set(BLOWS)
    for name in BLOWS:
        assert all(place_of(number, [name], None).possible([name]) == [name] for number in range(10))
    assert place_of(0, (), 7).nodes == 7


def test_clusters_use_namespaces_only_for_faults_of_links(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("link-down", "link-parted"):
        monkeypatch.setitem(impossible(), name, "not here")
    assert all(place_of(number, (), None).way != NAMESPACES for number in range(10))
