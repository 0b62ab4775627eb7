"""Recipes on real nodes whose leaders fail: every history has an order, nobody waits for ever, nothing is left."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from forge_consensus import Client, Command
from forge_consensus.recipes import Lock
from forge_consensus.testing import LocalCluster, check
from forge_consensus.testing.histories.history import Outcome
from forge_consensus.testing.histories.linearizability import REGISTER
from forge_consensus.testing.histories.models import Model
from tests.worlds.recipe_load import (
    LIMIT,
    PATIENCE,
    Notes,
    adder,
    candidate,
    consumer,
    gatekeeper,
    locker,
    noted,
    permitted,
    producer,
    walker,
    with_asyncio,
    worker,
)
from tests.worlds.recipe_models import BarrierModel, LockModel, QueueModel, SemaphoreModel, WorkModel
from tests.worlds.source_tree import ROOT

LOAD_SECONDS = 3.0
LEASED = ("locks/load#", "semaphores/load#", "elections/load#", "queues/work#taken/")


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Three nodes, each a process."""
    with LocalCluster(nodes=3) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def notes(cluster: LocalCluster) -> Notes:
    """What clients of all recipes were answered while a leader was killed and another one stopped."""
    notes, dice = Notes(), random.Random(11)
    clients = [cluster.client() for _ in range(4)]
    clients[0].put("counters/load", 0)
    notes.end(notes.begin("setup", "set", "counter", 0))
    works = [
        *(locker(notes, f"l{n}", clients[n], careless=n == 0) for n in range(3)),
        *(permitted(notes, f"s{n}", clients[n % 4]) for n in range(3)),
        *(candidate(notes, f"e{n}", clients[n]) for n in range(2)),
        *(producer(notes, f"p{n}", clients[n], "queue") for n in range(2)),
        *(consumer(notes, f"c{n}", clients[n]) for n in range(2)),
        producer(notes, "pw", clients[2], "work"),
        *(worker(notes, f"w{n}", clients[n], dice) for n in range(2)),
        adder(notes, "a0", clients[0], dice),
        gatekeeper(notes, clients[3]),
        walker(notes, "g0", clients[0]),
    ]
    threads = [threading.Thread(target=noted(notes, work), daemon=True) for work in works]
    endpoints = cluster.endpoints
    threads.append(threading.Thread(target=lambda: asyncio.run(with_asyncio(notes, endpoints)), daemon=True))
    for thread in threads:
        thread.start()
    time.sleep(LOAD_SECONDS / 3)
    killed = cluster.kill("leader")
    cluster.wait_for_leader()
    time.sleep(LOAD_SECONDS / 3)
    cluster.restart(killed)
    paused = cluster.pause("leader")
    cluster.wait_for_leader(other_than=paused)
    cluster.resume(paused)
    time.sleep(LOAD_SECONDS / 3)
    notes.stop.set()
    ended_by = time.monotonic() + PATIENCE + 15
    for thread in threads:
        thread.join(max(0.0, ended_by - time.monotonic()))
    assert not [thread for thread in threads if thread.is_alive()], "somebody waits for ever"
    assert not notes.failures
    return notes


@pytest.mark.parametrize(
    ("key", "model", "calls_min"),
    [
        ("lock", LockModel(), 8),
        ("semaphore", SemaphoreModel(LIMIT), 12),
        ("election", LockModel(), 12),
        ("queue", QueueModel(), 12),
        ("work", WorkModel(), 10),
        ("counter", REGISTER, 12),
        ("barrier", BarrierModel(), 8),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_recipe_is_linearizable_over_failovers(notes: Notes, key: str, model: Model, calls_min: int) -> None:
    calls = notes.of(key)
    assert sum(call.outcome is Outcome.OK for call in calls) >= calls_min
    verdict = check(calls, model)
    assert verdict.linearizable, verdict.text


def test_stale_writes_were_tried_and_refused(notes: Notes) -> None:
    writes = [call for call in notes.of("lock") if call.kind == "write" and call.outcome is Outcome.OK]
    assert {call.result for call in writes} == {True, False}


def test_everybody_had_a_turn_in_time(notes: Notes) -> None:
    for key in ("lock", "semaphore", "election"):
        acquired = [call for call in notes.of(key) if call.kind == "acquire" and call.outcome is Outcome.OK]
        clients = {call.client for call in notes.of(key)}
        assert {call.client for call in acquired} == clients, key
        assert max((call.ended or 0) - call.began for call in acquired) < PATIENCE, key


def test_each_item_went_to_one_consumer_and_none_was_lost(notes: Notes, cluster: LocalCluster) -> None:
    client = cluster.client()
    for queue, kind in (("queue", "pop"), ("work", "ack")):
        calls = notes.of(queue)
        put = {call.argument for call in calls if call.kind == "put" and call.outcome is Outcome.OK}
        done = [
            call.result if kind == "pop" else call.argument[0] for call in calls if call.kind == kind and call.result
        ]
        assert max(Counter(done).values()) == 1
        open_ends = sum(call.outcome is Outcome.OPEN and call.kind == kind for call in calls)
        left = {value for _, value in client.scan(f"queues/{queue}#item/")}
        assert len(put - set(done) - left) <= open_ends


def test_no_key_is_left_behind(notes: Notes, cluster: LocalCluster) -> None:
    client, end = cluster.client(), time.monotonic() + 12.0
    while left := [key for prefix in LEASED for key, _ in client.scan(prefix)]:
        assert time.monotonic() < end, left
        time.sleep(0.2)


def test_a_holder_that_was_stopped_cannot_write_when_another_has_the_lock(cluster: LocalCluster) -> None:
    ttl = 3.0
    client: Client = cluster.client()
    arguments = [sys.executable, "-m", "tests.worlds.recipe_holder", ",".join(cluster.endpoints), "stopped", str(ttl)]
    with subprocess.Popen(
        arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            token = int(holder.stdout.readline())
            holder.stdin.write("write\n")
            assert holder.stdout.readline() == "True True\n"
            holder.send_signal(19)  # SIGSTOP
            began = time.monotonic()
            with Lock(client, "stopped", ttl) as lock:
                assert time.monotonic() - began < ttl + 10.0
                assert lock.token > token
                write = Command("set", {"key": "stopped/data", "value": lock.token})
                assert client.transaction(lock.guard(), [write])
                holder.send_signal(18)  # SIGCONT
                holder.stdin.write("write\n")
                assert holder.stdout.readline() == "False False\n"
                assert client.get("stopped/data") == lock.token
        finally:
            holder.kill()
