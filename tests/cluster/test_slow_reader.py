"""Answers that a client does not read, at a real node: what it holds of them; and quick clients get all of theirs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import zmq

from forge_consensus.actors.codec import STAMP, Extension, Frame, decode, encode
from forge_consensus.actors.messages import Read, ReadResults
from forge_consensus.testing.local.cluster import LocalCluster

MIB = 1 << 20
VALUE = os.urandom(MIB - 64)
NODE_MIB_MAX = 256
"""What a fresh node takes, the unread answers, one slice of answers on their way, and what malloc keeps."""
SECONDS = 8.0

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """One node that holds a value of 1 MiB."""
    with LocalCluster(nodes=1, folder=tmp_path_factory.mktemp("unread")) as started:
        started.client().put("big", VALUE)
        yield started


def mib_of(pid: int) -> int:
    """The memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1024


@pytest.mark.parametrize("tells", [False, True])
def test_a_client_that_reads_slowly_costs_a_node_no_more_than_the_bound(cluster: LocalCluster, tells: bool) -> None:
    pid = cluster.process("n1").pid
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.RCVHWM, 1)
    dealer.setsockopt(zmq.RCVBUF, 64 << 10)
    dealer.connect(f"tcp://{cluster.addresses['n1']}")
    number = stamp = answered = peak = 0
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        queries = tuple((number + n, msgpack.packb("big")) for n in range(20))
        number += len(queries)
        extension: Extension = {STAMP: stamp} if tells and stamp else {}
        dealer.send(encode(Frame("gateway", "", "", "", 0, 0, number, 0, Read("linearizable", queries), extension)))
        if dealer.poll(0):
            frame = decode(dealer.recv(), 64 * MIB)
            stamp = int(frame.extension.get(STAMP, stamp))
            answered += isinstance(frame.message, ReadResults)
        peak = max(peak, mib_of(pid))
        time.sleep(0.05)
    assert peak < NODE_MIB_MAX
    assert answered
    with cluster.client() as other:
        assert other.get("big") == VALUE
    dealer.close(0)
    context.term()


def test_a_client_that_reads_gets_many_times_the_bound(cluster: LocalCluster) -> None:
    with cluster.client(timeout=30.0) as client:
        for _ in range(2):
            calls = [client.ask_query("big") for _ in range(150)]
            assert all(call.result() == VALUE for call in calls)
