"""The proxy forwards frames unchanged, imposes the ordered faults, and passes on connections and disconnections."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import tempfile
import threading
import time
import warnings
from pathlib import Path

import pytest
import zmq

from forge_consensus.errors import InvalidConfigError, NotStartedError, TransportUnavailableError
from forge_consensus.testing.local.network_paths import CUT, PathFaults
from forge_consensus.testing.local.ports import free_ports
from forge_consensus.testing.local.proxy import Proxy
from tests.worlds.proxy_world import QUIET_SECONDS, WAIT_MS, WAIT_SECONDS, world
from tests.worlds.waiting import wait_for

PLACES = {"path": socket.AF_UNIX, "port": socket.AF_INET}


def test_frames_pass_in_order_and_are_counted_on_the_path_that_they_took() -> None:
    with world() as made:
        one, client = made.caller("n1"), made.caller("")
        one.say(*range(50))
        assert made.node.answer(50) == list(range(50))
        assert one.numbers(50) == list(range(50))
        client.say(7)
        assert made.node.answer(1) == client.numbers(1) == [7]
        counts = made.proxy.counts()
        messages = {pair: count.messages for pair, count in counts.items()}
        assert messages == {("n1", "n2"): 50, ("n2", "n1"): 50, ("client", "n2"): 1, ("n2", "client"): 1}
        assert counts["n1", "n2"].connections == 1
        assert not any(count.dropped or count.delayed for count in counts.values())


def test_a_proxy_works_over_ipc_sockets() -> None:
    with tempfile.TemporaryDirectory() as folder, world(Path(folder)) as made:
        one = made.caller("n1")
        one.say(1)
        assert made.node.answer(1) == one.numbers(1) == [1]
        made.node.close()
        one.wait_link(made=False)
        made.raised()
        one.wait_link(made=True)
        one.say(2)
        assert made.node.answer(1) == [2]


def test_a_large_message_and_one_of_several_parts_pass_unchanged() -> None:
    with world() as made:
        one = made.caller("n1")
        large = os.urandom(6 << 20)
        one.socket.send_multipart([b"", b"x" * 300, large])
        assert made.node.socket.poll(WAIT_MS)
        assert made.node.socket.recv_multipart()[1:] == [b"", b"x" * 300, large]


def test_a_node_that_ends_is_seen_to_disconnect_and_to_come_back() -> None:
    with world() as made:
        one = made.caller("n1")
        made.node.close()
        one.wait_link(made=False)
        wait_for(lambda: "n2" not in made.proxy.listening(), WAIT_SECONDS, "the front to listen no more")
        one.links()
        time.sleep(QUIET_SECONDS)
        assert one.links() == [], "while the node is gone nobody reaches it, not even for a moment"
        made.raised()
        one.wait_link(made=True)
        one.say(3)
        assert made.node.answer(1) == one.numbers(1) == [3]


def test_a_node_sees_a_client_disconnect_through_the_proxy() -> None:
    with world() as made:
        one = made.caller("n1")
        one.say(1)
        assert made.node.answer(1) == [1]
        made.node.links()
        one.close()
        made.node.wait_link(made=False)


def test_a_one_way_cut_loses_frames_one_way_and_keeps_the_connection() -> None:
    with world() as made:
        one, three = made.caller("n1"), made.caller("n3")
        one.say(0)
        assert made.node.answer(1) == one.numbers(1) == [0]
        made.proxy.impose("n2", "n1", CUT)
        one.say(1)
        three.say(2)
        assert sorted(made.node.answer(2)) == [1, 2], "requests arrive"
        assert three.numbers(1) == [2]
        assert one.numbers(1, QUIET_SECONDS) == [], "answers do not"
        made.proxy.impose("n2", "n1", PathFaults())
        made.proxy.impose("n1", "n2", CUT)
        one.say(3)
        assert made.node.numbers(1, QUIET_SECONDS) == []
        made.proxy.heal()
        one.say(4)
        assert made.node.answer(1) == one.numbers(1) == [4]
        assert one.links() == [], "the connection stood all the time"
        counts = made.proxy.counts()
        assert (counts["n1", "n2"].dropped, counts["n2", "n1"].dropped, counts["n3", "n2"].dropped) == (1, 1, 0)


def test_a_cut_hides_the_end_of_a_node_until_it_is_healed() -> None:
    with world() as made:
        one, three = made.caller("n1"), made.caller("n3")
        for caller in (one, three):
            caller.say(0)
            assert made.node.answer(1) == caller.numbers(1) == [0]
        made.proxy.impose_all([("n1", "n2"), ("n2", "n1")], CUT)
        made.node.close()
        three.wait_link(made=False)
        time.sleep(QUIET_SECONDS)
        assert one.links() == []
        made.proxy.heal()
        one.wait_link(made=False)


def test_a_broken_connection_returns_and_one_made_during_a_cut_is_replaced() -> None:
    with world() as made:
        one = made.caller("n1")
        one.say(0)
        assert made.node.answer(1) == one.numbers(1) == [0]
        made.proxy.impose("n1", "n2", CUT)
        made.proxy.disconnect("n2", "n1")
        one.wait_link(made=False)
        one.wait_link(made=True)
        one.say(1)
        lost = lambda: made.proxy.counts()["n1", "n2"].dropped == 1  # noqa: E731
        wait_for(lost, WAIT_SECONDS, "the frame to be lost")
        made.proxy.heal()
        one.wait_link(made=False)
        one.wait_link(made=True)
        one.say(2)
        assert made.node.answer(1) == [2]


def test_a_delay_holds_frames_up_and_keeps_their_order() -> None:
    with world(seed=4) as made:
        one = made.caller("n1")
        made.proxy.impose("n1", "n2", PathFaults(delay_s_min=0.03, delay_s_max=0.06))
        began = time.monotonic()
        one.say(*range(20))
        assert made.node.answer(20) == one.numbers(20) == list(range(20))
        assert time.monotonic() - began >= 0.03
        assert made.proxy.counts()["n1", "n2"].delayed == 20
        made.proxy.heal()
        one.say(20)
        assert made.node.answer(1) == [20]


def test_frames_are_dropped_doubled_and_overtaken_by_chance_and_by_the_seed() -> None:
    seen = []
    for _ in range(2):
        with world(seed=9) as made:
            one = made.caller("n1")
            made.proxy.impose("n1", "n2", PathFaults(drop=0.3, duplicate=0.3, reorder=0.3))
            one.say(*range(100))
            sent = lambda: made.proxy.counts()["n1", "n2"].messages == 100  # noqa: E731
            wait_for(sent, WAIT_SECONDS, "all frames to come by")
            counts = made.proxy.counts()["n1", "n2"]
            arrived = made.node.numbers(100 - counts.dropped + counts.duplicated)
            assert made.node.numbers(1, QUIET_SECONDS) == []
            seen.append((counts, sorted(arrived)))
            assert counts.dropped > 10, counts
            assert counts.duplicated > 10, counts
            assert arrived != sorted(arrived)
            assert len(set(arrived)) == 100 - counts.dropped
    assert seen[0] == seen[1]


def test_a_stream_that_is_not_zeromq_reaches_the_node_and_harms_nobody() -> None:
    with world() as made:
        host, port = made.front.split(":")
        with socket.create_connection((host, int(port)), timeout=WAIT_SECONDS) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert raw.recv(1) == b"\xff", "the node greets whoever comes"
        one = made.caller("n1")
        one.socket.send(b"\xff" * 40)
        assert made.node.socket.recv_multipart()[1:] == [b"\xff" * 40]


def test_a_node_that_stops_reading_blocks_its_writer_and_not_the_proxy() -> None:
    with world(frames_max=4) as made:
        one = made.caller("n1")
        one.socket.setsockopt(zmq.SNDTIMEO, 500)
        with pytest.raises(zmq.Again):
            for _ in range(200):
                one.socket.send(b"x" * (1 << 20))
        waiting = sum(
            relay.back.transport.get_write_buffer_size() for relay in made.proxy.relays if relay.back.transport
        )
        assert waiting <= 4 << 20, f"{waiting} bytes wait in the proxy"


@pytest.mark.parametrize("kind", ["path", "port"])
def test_a_connection_to_an_ended_node_is_closed_at_once(kind: str) -> None:
    """The node's own connection to the proxy stands, its listening socket is closed: for a moment that is so."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(PLACES[kind]) as listening:
        if kind == "path":
            real, front = f"{folder}/real", f"{folder}/front"
            listening.bind(real)
            fronts = {"n2": (f"ipc://{front}", f"ipc://{real}")}
        else:
            listening.bind(("127.0.0.1", 0))
            front_port = free_ports(1)[0]
            real_port = listening.getsockname()[1]
            fronts = {"n2": (f"127.0.0.1:{front_port}", f"127.0.0.1:{real_port}")}
        listening.listen()
        with Proxy(fronts) as proxy:
            proxy.wait_listening("n2")
            watch, _ = listening.accept()
            listening.close()
            with watch, socket.socket(PLACES[kind]) as caller:
                caller.settimeout(WAIT_SECONDS)
                caller.connect(front if kind == "path" else ("127.0.0.1", front_port))
                with contextlib.suppress(ConnectionResetError):
                    assert caller.recv(1) == b""
                wait_for(lambda: not proxy.call(lambda: set(proxy.relays)), WAIT_SECONDS, "the proxy to forget it")


def test_stopping_leaves_no_thread_and_no_socket() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with world() as made:
        one = made.caller("n1")
        one.say(1)
        assert made.node.answer(1) == [1]
        proxy = made.proxy
    assert not [thread for thread in threading.enumerate() if thread.name == "forge-proxy"]
    assert len(os.listdir("/proc/self/fd")) <= len(before)
    proxy.stop()
    with pytest.raises(NotStartedError, match="does not run"):
        proxy.heal()


def test_connections_that_are_being_made_while_it_stops_are_closed_too() -> None:
    """They were left to the garbage collector, now and then, which says so in whatever test runs then."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        for count in range(40):
            with world() as made, contextlib.ExitStack() as stack:
                host, _, port = made.front.rpartition(":")
                for _ in range(count % 8 + 1):
                    caller = stack.enter_context(socket.socket())
                    caller.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        caller.connect((host, int(port)))
                made.proxy.stop()
            gc.collect()
    assert [str(warning.message) for warning in told] == []


def test_a_front_in_use_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as node, socket.create_server(("127.0.0.1", 0)) as other:
        real, taken = (f"127.0.0.1:{listening.getsockname()[1]}" for listening in (node, other))
        with Proxy({"n1": (taken, real)}) as proxy:
            wait_for(lambda: proxy.failure is not None, WAIT_SECONDS, "the proxy to fail")
            with pytest.raises(NotStartedError, match=r"does not run: .*in use"):
                proxy.heal()


def test_wrong_faults_and_unknown_nodes_are_refused() -> None:
    with world() as made, pytest.raises(TransportUnavailableError, match="'n9' is no node of this proxy"):
        made.proxy.impose("n1", "n9", CUT)
    with pytest.raises(InvalidConfigError, match=r"drop is 1\.5: it is a chance"):
        PathFaults(drop=1.5)
    with pytest.raises(InvalidConfigError, match=r"the delay is 2\.0 to 1\.0 s"):
        PathFaults(delay_s_min=2.0, delay_s_max=1.0)
