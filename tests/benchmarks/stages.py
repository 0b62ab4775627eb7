"""Where the time of one command goes: microseconds by stage, on a real cluster of three node processes.

    python -m tests.benchmarks.stages [--seconds 3] [--outstanding 1,64,1000] [--out build/bench]

With one command outstanding each command is followed from the call to its result, over the leader and that follower
whose acknowledgement left first: the stages follow one another without a gap, so their means add up to the whole. For
each number of commands outstanding it also says what the nodes' threads did, for each command. Everything is written
as JSON too.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any, Final

from forge_consensus.checks.closed_loop import ClosedLoop
from forge_consensus.client.pending import Pending
from forge_consensus.client.sync import Client
from forge_consensus.output import table
from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.local.cluster import LocalCluster
from tests.benchmarks.failover import percentile
from tests.benchmarks.machine import machine_facts
from tests.benchmarks.staged_node import Turn, program, read_turns, wrap
from tests.worlds.source_tree import ROOT

KEYS: Final = 10_000
VALUE_BYTES: Final = 128
"""A frame that is as large carries a command; heartbeats and answers are smaller."""
WARM_SECONDS: Final = 1.0
US: Final = 1000.0
"""Nanoseconds of a microsecond."""
STAGES: Final = {
    "client": "the call, the hand-over to the client's thread, the encoding",
    "to the leader": "ZeroMQ and the loopback, until the leader's thread has the frame",
    "leader's turn": "decoding, appending to the log, encoding for the followers",
    "to the follower": "until the follower's thread has the frame",
    "follower's turn": "decoding, checking, appending to the log",
    "follower's flush": "its commit: the transaction of LMDB and the flush of the disk",
    "acknowledgement": "encoding it",
    "to the leader again": "until the leader's thread has it, which may still flush itself",
    "leader counts": "decoding, counting the majority, moving the commit index",
    "apply": "the state machine and the session",
    "answer": "encoding it",
    "to the client": "until the client's thread has the frame",
    "client again": "decoding, waking the caller",
}
ACTIVITIES: Final = ("waiting and receiving", "turns without the rest", "flushes", "applying", "sending after it")


@dataclass(slots=True)
class Calls:
    """What the client noted; times as those of a `Turn`."""

    began: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    """When a frame was encoded."""
    woke: list[int] = field(default_factory=list)
    """When its thread had something to do."""


def first(turns: Sequence[Turn], since: int, fits: Callable[[Turn], bool]) -> Turn | None:
    """Return the first turn that began at or after that moment and is fit; None if there is none soon."""
    place = bisect_left(turns, since, key=lambda turn: turn.taken)
    return next((turn for turn in turns[place : place + 20] if fits(turn)), None)


def next_of(times: Sequence[int], since: int) -> int:
    """Return the first of these times at or after that moment; 0 if there is none."""
    place = bisect_left(times, since)
    return times[place] if place < len(times) else 0


def acknowledged(lead: Turn, nodes: dict[str, list[Turn]]) -> tuple[int, Turn, int] | None:
    """Return (when it was sent, turn, when it acknowledged) of the follower that acknowledged a leader's turn first."""
    found = []
    for when, node, size in lead.sent:
        turn = first(nodes[node], when, lambda turn: turn.frame_bytes >= VALUE_BYTES)
        if size >= VALUE_BYTES and turn is not None and turn.flush_ended:
            answered = next_of(turn.answered, turn.flush_ended)
            if answered:
                found.append((when, turn, answered))
    return min(found, key=lambda each: each[2], default=None)


def stages_of(number: int, calls: Calls, leader: str, nodes: dict[str, list[Turn]]) -> list[int] | None:
    """Return the nanoseconds of each stage of a call, of the leader's own flush, and of the wait for that.

    None if the call cannot be followed, because something else happened meanwhile.
    """
    began, ended = calls.began[number], calls.ended[number]
    sent = next_of(calls.sent, began)
    lead = first(nodes[leader], sent, lambda turn: turn.flush_ended > 0 and turn.frame_bytes >= VALUE_BYTES)
    if lead is None or (follower := acknowledged(lead, nodes)) is None:
        return None
    replicated, turn, answered = follower
    done = first(nodes[leader], lead.taken + 1, lambda turn: turn.apply_ended > 0)
    if done is None or not (replied := next_of(done.answered, done.apply_ended)):
        return None
    moments = [
        *(began, sent, lead.taken, replicated, turn.taken, turn.flush_began, turn.flush_ended, answered),
        *(done.taken, done.apply_began, done.apply_ended, replied, next_of(calls.woke, replied), ended),
    ]
    steps = [later - earlier for earlier, later in pairwise(moments)]
    if min(steps) < 0:
        return None
    return [*steps, lead.flush_ended - lead.flush_began, max(0, lead.ended - answered)]


def activities(turns: Sequence[Turn], began: int, ended: int) -> dict[str, float]:
    """Return the nanoseconds that a node's thread spent on each activity between two moments; its turns and flushes."""
    inside = [turn for turn in turns if began <= turn.taken and turn.ended <= ended]
    spent = dict.fromkeys(ACTIVITIES, 0.0)
    for earlier, turn in pairwise(inside):
        flush, applying = turn.flush_ended - turn.flush_began, turn.apply_ended - turn.apply_began
        behind = turn.ended - turn.flush_ended if flush else 0
        parts = (
            turn.taken - earlier.ended,
            turn.ended - turn.taken - flush - applying - behind,
            flush,
            applying,
            behind,
        )
        for name, part in zip(ACTIVITIES, parts, strict=True):
            spent[name] += part
    return {**spent, "turns": len(inside), "commits": sum(turn.flush_ended > 0 for turn in inside)}


class Loading:
    """The commands of one client to a cluster, one after the other or in a closed loop."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.value = "x" * VALUE_BYTES

    def write(self, number: int) -> Pending[Any]:
        """Begin a write."""
        return self.client.submit(Command("set", {"key": f"k{number % KEYS}", "value": self.value}))

    def one_by_one(self, seconds: float) -> Calls:
        """Write for so many seconds, one command after the other."""
        calls, number = Calls(), 0
        connections = self.client.driver.connections
        assert connections is not None, "the client has begun"
        for connection in connections.by_address.values():
            wrap(connection, "send", lambda send: noting(calls.sent, send, after=False))
        wrap(connections.poller, "wait", lambda wait: noting(calls.woke, wait, after=True))
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            calls.began.append(time.perf_counter_ns())
            self.write(number).result()
            calls.ended.append(time.perf_counter_ns())
            number += 1
        return calls

    def closed_loop(self, outstanding: int, seconds: float) -> int:
        """Write with so many commands under way; return how many were acknowledged."""
        loop = ClosedLoop(self.write, outstanding)
        loop.run(seconds)
        if loop.failures:
            sys.exit(f"commands failed: {dict(loop.failures)}")
        return len(loop.took)


def noting(times: list[int], call: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    """Return a function that calls `call` and notes when, before or after it."""

    def noted(*arguments: Any) -> Any:
        if not after:
            times.append(time.perf_counter_ns())
        found = call(*arguments)
        if after:
            times.append(time.perf_counter_ns())
        return found

    return noted


def measure(outstanding: int, seconds: float) -> dict[str, Any]:
    """Load a fresh cluster and return what its nodes and, with one command outstanding, what the stages took."""
    with TemporaryDirectory(prefix="stages-") as folder:
        with LocalCluster(program=program(Path(folder))) as cluster:
            loading = Loading(cluster.client(timeout=30.0))
            loading.closed_loop(outstanding, WARM_SECONDS)
            leader = cluster.wait_for_leader()
            calls, began = Calls(), time.perf_counter_ns()
            if outstanding == 1:
                calls = loading.one_by_one(seconds)
                count = len(calls.ended)
            else:
                count = loading.closed_loop(outstanding, seconds)
            ended = time.perf_counter_ns()
            if cluster.wait_for_leader() != leader:
                sys.exit("another node leads in the end: measure again on a machine that is less busy")
            for name in cluster.names:
                cluster.shut_down(name)
        nodes = {name: read_turns(Path(folder) / f"{name}.json") for name in cluster.names}
    spent = {name: activities(turns, began, ended) for name, turns in nodes.items()}
    followed = [stages_of(number, calls, leader, nodes) for number in range(len(calls.ended))]
    return {
        "outstanding": outstanding,
        "commands": count,
        "per_second": round(count / (ended - began) * 1e9, 1),
        "leader": per_command(spent.pop(leader), count),
        "followers": [per_command(each, count) for each in spent.values()],
        "calls": {"all": len(followed), "followed": len([each for each in followed if each])},
        "stages": stage_figures([each for each in followed if each]),
    }


def per_command(spent: dict[str, float], count: int) -> dict[str, float]:
    """Return the microseconds of each activity for a command, and how many commands shared a turn and a flush."""
    return {
        **{f"{name}, us": round(spent[name] / count / US, 2) for name in ACTIVITIES},
        "commands a turn": round(count / max(spent["turns"], 1), 2),
        "commands a flush": round(count / max(spent["commits"], 1), 2),
    }


def stage_figures(followed: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Return mean, median and 99th percentile of each stage in microseconds; nothing if no call could be followed."""
    names = {**STAGES, "whole": "from the call to the result"}
    beside = {
        "leader's flush": "its own commit, beside the followers",
        "waited for it": "from the follower's acknowledgement until the leader's turn with its flush had ended",
    }
    rows = [[*each[: len(STAGES)], sum(each[: len(STAGES)]), *each[len(STAGES) :]] for each in followed]
    return [
        {
            "stage": name,
            "what": what,
            "mean_us": round(mean(column) / US, 1),
            "p50_us": round(percentile(column, 0.5) / US, 1),
            "p99_us": round(percentile(column, 0.99) / US, 1),
        }
        for (name, what), column in zip((names | beside).items(), map(list, zip(*rows, strict=True)), strict=False)
    ]


def text_of(found: dict[str, Any]) -> list[str]:
    """Return the tables of one measurement."""
    lines = [f"{found['outstanding']:,} outstanding: {found['per_second']:,.0f} commands/s"]
    if found["stages"]:
        head = ("STAGE", "MEAN US", "P50 US", "P99 US", "")
        lines += table(
            head,
            [
                (
                    each["stage"],
                    f"{each['mean_us']:.1f}",
                    f"{each['p50_us']:.1f}",
                    f"{each['p99_us']:.1f}",
                    each["what"],
                )
                for each in found["stages"]
            ],
        )
        lines.append("{followed:,} of {all:,} calls could be followed".format(**found["calls"]))
    nodes = [("leader", found["leader"]), *(("follower", each) for each in found["followers"])]
    head = ("NODE", *(name.upper() for name in found["leader"]))
    return [*lines, "", *table(head, [(name, *(f"{each:,.2f}" for each in node.values())) for name, node in nodes]), ""]


def main() -> None:
    """Measure as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement; default: %(default)s")
    parser.add_argument("--outstanding", default="1,64,1000", help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", help="default: build/bench")
    arguments = parser.parse_args()
    measured = []
    for outstanding in map(int, arguments.outstanding.split(",")):
        measured.append(measure(outstanding, arguments.seconds))
        print("\n".join(text_of(measured[-1])), flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "stages.json"
    file.write_text(
        json.dumps({"machine": machine_facts(), "value_bytes": VALUE_BYTES, "measured": measured}, indent=1)
    )
    print(f"wrote {file}", file=sys.stderr)


if __name__ == "__main__":
    main()
