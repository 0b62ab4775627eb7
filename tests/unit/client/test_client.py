"""The client on real sockets, against nodes that are scripted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
import zmq

from forge_consensus.actors.messages import Refused, Submit, WireMessage
from forge_consensus.client.pending import Pending, PendingRead
from forge_consensus.client.sync import Client
from forge_consensus.config.client import ClientSettings
from forge_consensus.config.raft import RaftSettings
from forge_consensus.errors import (
    BusyError,
    CommandError,
    ConnectionFailedError,
    ConsensusTimeoutError,
    InvalidConfigError,
    NotStartedError,
    OutcomeUnknownError,
)
from forge_consensus.storage.machines.machine import Command
from tests.worlds.client_fakes import FakeCluster, FakeGroup


@pytest.fixture
def client(cluster: FakeCluster) -> Iterator[Client]:
    with Client(cluster.addresses, timeout=5.0, cluster_id="fake") as made:
        yield made


def put(key: str, value: object = 1) -> Command:
    """A command that sets a key."""
    return Command("set", {"key": key, "value": value})


@pytest.mark.parametrize("key", [(1, 2), msgpack.ExtType(1, b"x")])
@pytest.mark.parametrize("kind", [Pending, PendingRead])
def test_a_result_that_cannot_be_decoded_is_a_typed_error(kind: type[Pending[Any]], key: Any) -> None:
    pending = kind(b"", 0.0)
    pending.answer = msgpack.packb([{key: 3}])
    pending.finish()
    with pytest.raises(CommandError, match="what was asked is done, but its result cannot be decoded") as raised:
        pending.result()
    assert "as the key of a map" in raised.value.text


def test_every_call_reaches_the_machine_and_comes_back(client: Client) -> None:
    client.put("a", b"1")
    assert client.get("a") == b"1"
    assert client.get("missing") is None
    assert client.cas("a", expected=b"1", value=b"2") is True
    assert client.cas("a", expected=b"1", value=b"3") is False
    assert client.incr("n") == 1
    assert client.incr("n", by=4) == 5
    assert client.scan("", limit=5) == [("a", b"2"), ("n", 5)]
    assert client.delete("a") is True
    assert client.delete("a") is False
    assert client.batch([put("p1"), put("p2"), Command("increment", {"key": "n", "by": 1})]) == [None, None, 6]
    assert client.delete_prefix("p") == 2
    with pytest.raises(ValueError, match="is no command"):
        client.batch(["p1"])  # type: ignore[list-item]
    assert client.apply(put("z", [1, {"x": None}])) is None
    assert client.read("z") == [1, {"x": None}]


def test_a_stale_read_says_how_stale_it_is(client: Client, cluster: FakeCluster) -> None:
    client.put("a", 1)
    detail = client.read_detail("a", consistency="stale")
    assert (detail.value, detail.stale_ms, detail.applied) == (1, 7, cluster.group.index)


def test_a_client_reads_the_status_of_one_node_or_of_the_leader(client: Client, cluster: FakeCluster) -> None:
    assert client.status(cluster.addresses[1])["node"] == "n2"
    assert client.status()["leader"] == "n1"
    assert client.locate().leader == "n1"


def test_a_refusal_of_the_machine_is_raised(client: Client) -> None:
    client.put("a", "text")
    with pytest.raises(CommandError, match="not a number") as caught:
        client.incr("a")
    assert caught.value.kind == "TypeError"


def test_a_thousand_commands_in_flight_each_get_their_own_result(client: Client) -> None:
    futures = [client.submit(Command("increment", {"key": "n", "by": 1})) for _ in range(1000)]
    assert [future.result() for future in futures] == list(range(1, 1001))


def test_many_threads_may_share_a_client(client: Client) -> None:
    def work() -> None:
        for _ in range(50):
            client.incr("n")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.get("n") == 400


def test_a_callback_runs_once_whether_it_comes_early_or_late(client: Client) -> None:
    seen: list[Pending[object]] = []
    future = client.submit(put("a"))
    future.add_done_callback(seen.append)
    future.result()
    future.add_done_callback(seen.append)
    deadline = time.monotonic() + 2
    while len(seen) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert seen == [future, future]


def test_a_killed_leader_is_replaced_without_an_error(client: Client, cluster: FakeCluster) -> None:
    client.put("a", 1)
    cluster.mute.add("n1")
    futures = [client.submit(put(f"k{number}")) for number in range(100)]
    time.sleep(0.02)
    cluster.kill("n1")
    begin = time.monotonic()
    cluster.elect("n2")
    for future in futures:
        future.result()
    assert time.monotonic() - begin < 1.0
    assert max(cluster.group.applied.values()) == 1


def test_a_client_leaves_a_hanging_leader_for_its_successor(client: Client, cluster: FakeCluster) -> None:
    client.put("a", 1)
    cluster.mute.add("n1")
    future = client.submit(put("b"))
    cluster.elect("n3")
    begin = time.monotonic()
    future.result()
    assert time.monotonic() - begin < 1.5


def test_a_restarted_node_is_used_again(client: Client, cluster: FakeCluster) -> None:
    client.put("a", 1)
    for node in ("n1", "n2", "n3"):
        cluster.kill(node)
    future = client.submit(put("b"))
    time.sleep(0.1)
    for node in ("n1", "n2", "n3"):
        cluster.revive(node)
    assert future.result() is None
    assert cluster.group.applied[put("b").encode()] == 1


def test_a_duplicated_answer_counts_once(client: Client, cluster: FakeCluster) -> None:
    cluster.doubled = True
    assert [client.incr("n") for _ in range(20)] == list(range(1, 21))


def test_a_dropped_frame_in_the_middle_of_a_pipeline_is_sent_again(client: Client, cluster: FakeCluster) -> None:
    client.put("a", 1)
    count = 0

    def hook(node: str, message: WireMessage) -> list[WireMessage] | None:
        nonlocal count
        count += isinstance(message, Submit)
        return [] if isinstance(message, Submit) and count % 3 == 2 else None

    cluster.group.hook = hook
    futures = []
    for number in range(30):
        futures.append(client.submit(put(f"k{number}")))
        time.sleep(0.001)
    for future in futures:
        future.result()
    assert max(cluster.group.applied.values()) == 1


def test_unreachable_endpoints_end_in_an_error_that_names_them() -> None:
    with Client("127.0.0.1:9", timeout=0.3) as client:
        begin = time.monotonic()
        with pytest.raises(ConnectionFailedError, match=r"127\.0\.0\.1:9: not connected"):
            client.put("a", 1)
        assert 0.25 < time.monotonic() - begin < 1.5
        with pytest.raises(ConnectionFailedError):
            client.get("a")
        with pytest.raises(ConnectionFailedError):
            client.status()


def test_a_host_that_does_not_exist_ends_in_an_error() -> None:
    with (
        Client("no-such-host.invalid:7001", timeout=0.3) as client,
        pytest.raises(ConnectionFailedError),
    ):
        client.put("a", 1)


def test_a_command_sent_and_never_answered_has_an_unknown_outcome(client: Client, cluster: FakeCluster) -> None:
    client.put("a", 1)
    cluster.group.hook = lambda node, message: [] if isinstance(message, Submit) else None
    with pytest.raises(OutcomeUnknownError):
        client.put("b", 2, timeout=0.3)


def test_a_wait_shorter_than_the_deadline_leaves_the_command_alone(client: Client, cluster: FakeCluster) -> None:
    client.put("a", 1)
    cluster.mute.add("n1")
    future = client.submit(put("b"))
    with pytest.raises(ConsensusTimeoutError, match="still outstanding") as late:
        future.result(timeout=0.05)
    assert not late.value.retryable, "it may be carried out yet"
    cluster.mute.clear()
    assert future.result() is None


def test_submit_blocks_while_too_much_is_outstanding(cluster: FakeCluster) -> None:
    with Client(cluster.addresses, timeout=5.0, settings=ClientSettings(outstanding_max=5)) as client:
        client.put("a", 1)
        cluster.mute.add("n1")
        futures = [client.submit(put(f"k{number}")) for number in range(5)]
        with pytest.raises(BusyError, match="5 commands are outstanding"):
            client.submit(put("more"), timeout=0.1)
        threading.Timer(0.1, cluster.mute.clear).start()
        futures.append(client.submit(put("more")))
        for future in futures:
            future.result()


def test_submit_in_a_callback_raises_busy_instead_of_blocking(cluster: FakeCluster) -> None:
    with Client(cluster.addresses, timeout=5.0, settings=ClientSettings(outstanding_max=2)) as client:
        client.put("a", 1)
        raised: list[Exception] = []

        def more(_: Pending[object]) -> None:
            try:
                for number in range(3):
                    client.submit(put(f"k{number}"))
            except BusyError as error:
                raised.append(error)

        client.submit(put("b")).add_done_callback(more)
        deadline = time.monotonic() + 2
        while not raised and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(raised) == 1


def test_closing_ends_outstanding_calls_and_refuses_later_ones(
    cluster: FakeCluster,
) -> None:
    client = Client(cluster.addresses, timeout=5.0)
    client.put("a", 1)
    cluster.group.hook = lambda node, message: [] if isinstance(message, Submit) else None
    sent = client.submit(put("b"))
    time.sleep(0.05)
    begin = time.monotonic()
    client.close()
    client.close()
    assert time.monotonic() - begin < 2.0
    assert isinstance(sent.exception(), OutcomeUnknownError)
    with pytest.raises(NotStartedError, match="closed"):
        client.put("c", 3)


def test_garbage_from_a_node_harms_nothing() -> None:
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    stop = threading.Event()

    def babble() -> None:
        while not stop.is_set():
            if socket.poll(10):
                identity = socket.recv_multipart()[0]
                for parts in ([b"\xc1"], [b""], [b"\x90", b"more"], [b"x" * 1000]):
                    socket.send_multipart([identity, *parts])

    thread = threading.Thread(target=babble)
    thread.start()
    with (
        Client([f"127.0.0.1:{port}"], timeout=0.3) as client,
        pytest.raises(Exception, match="no leader"),
    ):
        client.put("a", 1)
    stop.set()
    thread.join()
    socket.close(0)
    context.term()


@pytest.mark.parametrize("wrong", ["nowhere", ""])
def test_a_bad_endpoint_is_refused_before_anything_starts(wrong: str) -> None:
    before = set(threading.enumerate())
    with pytest.raises(InvalidConfigError):
        Client(wrong)
    assert not set(threading.enumerate()) - before


def test_wrong_arguments_are_refused_with_the_right_ones(client: Client) -> None:
    with pytest.raises(InvalidConfigError, match="linearizable, lease, stale"):
        client.get("a", consistency="eventual")
    with pytest.raises(InvalidConfigError, match="seconds"):
        Client("127.0.0.1:7001", timeout=0)
    with pytest.raises(ValueError, match="cannot be encoded"):
        client.apply(Command("set", {"key": object()}))
    with pytest.raises(ValueError, match="is no command"):
        client.apply("set")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot be encoded"):
        client.get("\ud800")


@pytest.mark.parametrize("timeout", [float("inf"), float("nan"), 1e300, "5"])
def test_an_impossible_timeout_is_refused(client: Client, timeout: float) -> None:
    with pytest.raises(InvalidConfigError, match="timeout is"):
        client.put("a", 1, timeout=timeout)


def test_a_call_with_an_expired_timeout_changes_nothing(client: Client) -> None:
    client.put("a", 1)
    with pytest.raises(ConsensusTimeoutError, match="nothing was changed"):
        client.put("a", 2, timeout=-1)
    assert client.get("a") == 1


class Port:
    """An embedded node that answers on the caller's thread, as a follower or leader of a group."""

    def __init__(self, group: FakeGroup, node: str) -> None:
        self.group = group
        self.node = node
        self.closed = False
        self.on_message: Callable[[WireMessage, int], None] = lambda message, request: None

    def connect(self, on_message: Callable[[WireMessage, int], None]) -> None:
        self.on_message = on_message

    def send(self, message: WireMessage, request: int) -> None:
        for answer in self.group.handle(self.node, message) or ():
            self.on_message(answer, request)

    def close(self) -> None:
        self.closed = True


def test_an_embedded_node_is_an_endpoint_without_a_socket() -> None:
    port = Port(FakeGroup({"n1": "127.0.0.1:9"}), "n1")
    with Client(port=port) as client:
        client.put("a", 1)
        assert client.get("a") == 1
        assert client.status("local")["node"] == "n1"
        assert client.driver.connections is not None and client.driver.connections.context is None
    assert port.closed


def test_an_embedded_follower_leads_the_client_to_the_leader(cluster: FakeCluster) -> None:
    cluster.elect("n2")
    port = Port(cluster.group, "n1")
    with Client(port=port) as client:
        client.put("a", 1)
        assert cluster.group.submits[-1][0] == "n2"
        assert client.get("a", consistency="stale") == 1
        assert cluster.group.reads[-1][0] == "n1"


def test_a_permanent_refusal_is_raised(client: Client, cluster: FakeCluster) -> None:
    client.put("a", 1)
    cluster.group.hook = lambda node, message: (
        [Refused("CONSENSUS_COMMAND_TOO_LARGE", "9 bytes", "", "", 1)] if isinstance(message, Submit) else None
    )
    with pytest.raises(Exception, match="9 bytes"):
        client.put("b", 1)


def test_the_representation_shows_endpoints_leader_and_whether_the_client_is_open(cluster: FakeCluster) -> None:
    with Client(cluster.addresses[:1], cluster_id="fake") as client:
        client.put("a", 1)
        assert repr(client).startswith(f"<Client endpoints={cluster.addresses[0]},")
        assert repr(client).endswith("leader=n1 in term 1 open>")
    assert repr(client).endswith(" closed>")
    nobody = Client(["127.0.0.1:1"])
    assert repr(nobody) == "<Client endpoints=127.0.0.1:1 leader=unknown open>"
    nobody.close()


def test_completion_offers_the_calls_and_no_internals(client: Client) -> None:
    names = {name for name in dir(client) if not name.startswith("_")}
    calls = {
        "submit",
        "submit_many",
        "apply",
        "apply_many",
        "ask_query",
        "read",
        "read_detail",
        "last_index",
        "status",
        "locate",
        "close",
    }
    calls |= {
        "members",
        "change_members",
        "get_cluster_info",
        "barrier",
        "ask_barrier",
        "save_snapshot",
        "snapshot",
        "snapshots",
        "add_node",
        "remove_node",
        "transfer_leadership",
        "step_down",
        "reload_config",
    }
    keys = {"put", "get", "delete", "cas", "incr", "scan", "batch", "delete_prefix", "append", "entry", "entries"}
    keys |= {"transaction", "lease", "lease_info", "leases", "watch"}
    keys |= {"access", "add_principal", "remove_principal", "add_key", "revoke_key"}
    keys |= {"create_token", "rotate_token", "revoke_token", "forget_revoked"}
    assert names == calls | keys | {"timeout", "from_config"}


@pytest.mark.parametrize("wrong", [RaftSettings(), "fast", {}, 0, ClientSettings])
def test_settings_of_another_kind_are_refused(wrong: Any) -> None:
    with pytest.raises(InvalidConfigError, match=r"give forge_consensus\.ClientSettings"):
        Client(["127.0.0.1:1"], settings=wrong)


def test_endpoints_of_another_kind_are_refused() -> None:
    nothing: Any = None
    with pytest.raises(InvalidConfigError, match="endpoints is None"):
        Client(nothing)
