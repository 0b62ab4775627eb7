"""The verdicts of a round: histories are linearizable, sums add up, and all nodes hold the same."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any, Final

from forge_consensus.client.sync import Client
from forge_consensus.testing.histories.history import History, Operation, Outcome
from forge_consensus.testing.histories.linearizability import REGISTER, check
from forge_consensus.testing.local.cluster import LocalCluster
from tests.cluster.siege.callers import record
from tests.cluster.siege.keys import COUNTER
from tests.cluster.siege.protected import READER

CHECK_SECONDS: Final = 60.0
READ_SECONDS: Final = 15.0
PAGE: Final = 500
LEVEL_TRIES: Final = 10


class UndecidedError(Exception):
    """The judge did not finish in time, which proves neither a fault nor correctness."""


def final_reads(client: Client, history: History, keys: list[str]) -> None:
    """Read all keys once more after healing; every read must succeed."""
    for key in keys:
        errors = record(client, history, [Operation("final", "get", key)], READ_SECONDS)
        assert not errors, f"{key} could not be read when all was well again: {errors[0]!r}"


def judge_history(history: History) -> float:
    """Judge each key; returns the seconds for the slowest. Raises `AssertionError`, `UndecidedError`."""
    keys: defaultdict[str, list[Operation]] = defaultdict(list)
    for call in history:
        keys[call.key].append(call)
    slowest = 0.0
    undecided = []
    for calls in keys.values():
        began = time.monotonic()
        verdict = check(calls, REGISTER, seconds=CHECK_SECONDS)
        slowest = max(slowest, time.monotonic() - began)
        assert verdict.linearizable is not False, verdict.text
        if verdict.linearizable is None:
            undecided.append(verdict.text)
    if undecided:
        raise UndecidedError("; ".join(undecided))
    return slowest


def judge_sums(history: History, state: dict[str, Any]) -> None:
    """Demand that each counter holds the acknowledged sum, plus at most the unknown part. Raises `AssertionError`."""
    sure: defaultdict[str, int] = defaultdict(int)
    possible: defaultdict[str, int] = defaultdict(int)
    for call in history:
        if COUNTER in call.key and call.kind == "increment":
            sure[call.key] += call.argument if call.outcome is Outcome.OK else 0
            possible[call.key] += call.argument if call.outcome is Outcome.OPEN else 0
    for key, total in sure.items():
        found = state.get(key, 0)
        assert total <= found <= total + possible[key], (
            f"{key} is {found}: {total} is acknowledged, and up to {possible[key]} more are unknown"
        )


def whole_state(client: Client) -> tuple[int, dict[str, Any]]:
    """All keys and values of the node that this client is connected to, and their index."""
    applied, state = 0, {}
    after: str | None = None
    while True:
        page = client.read_detail({"scan": "", "limit": PAGE, "after": after}, "stale", READ_SECONDS)
        assert not applied or page.applied == applied, "something was applied between two pages"
        applied = page.applied
        state.update(page.value)
        if len(page.value) < PAGE:
            return applied, state
        after = page.value[-1][0]


def differences(states: dict[str, dict[str, Any]]) -> str:
    """The keys in which machines differ, with their values; empty if the machines are equal."""
    (first, expected), *others = states.items()
    lines = []
    for name, state in others:
        keys = sorted(key for key in expected.keys() | state.keys() if expected.get(key, ...) != state.get(key, ...))
        lines += [f"{key}: {first} holds {expected.get(key)!r}, {name} {state.get(key)!r}" for key in keys[:5]]
        lines += [f"{name} and {first} differ in {len(keys)} keys"] * (len(keys) > 5)
    return "; ".join(lines)


def judge_machines(cluster: LocalCluster, seconds: float) -> dict[str, Any]:
    """Demand that all nodes hold the same at the same index; returns that state. Raises `AssertionError`."""
    for _ in range(LEVEL_TRIES):
        index = cluster.wait_until_settled(*cluster.names, timeout=seconds)
        states, applied = {}, set()
        for name in cluster.names:
            with Client(
                [cluster.real_addresses[name]],
                cluster_id=cluster.cluster_id,
                follow=False,
                credentials=cluster.credentials(READER),
            ) as client:
                at, states[name] = whole_state(client)
                applied.add(at)
        if applied == {index}:
            differing = differences(states)
            assert not differing, f"at index {index} the nodes differ: {differing}"
            return states[cluster.names[0]]
    raise AssertionError(f"the nodes do not stay level: they are settled at {index} and answer as of {applied}")
