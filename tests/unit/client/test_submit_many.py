"""Many commands in one call: each has its own outcome in its place, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from forge_consensus.actors.messages import Submit
from forge_consensus.client.aio import AsyncClient
from forge_consensus.client.pending import Pending
from forge_consensus.client.pending_many import PendingMany
from forge_consensus.client.sync import Client
from forge_consensus.config.client import ClientSettings
from forge_consensus.errors import (
    BusyError,
    CommandError,
    CommandTooLargeError,
    ConsensusError,
    ConsensusTimeoutError,
    NotStartedError,
    OutcomeUnknownError,
)
from forge_consensus.service.reports import Meter
from forge_consensus.storage.machines.machine import COMMAND_BYTES_MAX, Command
from tests.worlds.client_fakes import FakeCluster


@pytest.fixture
def client(cluster: FakeCluster) -> Iterator[Client]:
    with Client(cluster.addresses, timeout=5.0) as made:
        yield made


def count(key: str = "n") -> Command:
    return Command("increment", {"key": key, "by": 1})


def test_each_command_has_its_own_outcome_in_its_place_and_errors_are_in_theirs(client: Client) -> None:
    client.put("text", "no number")
    outcomes = client.apply_many([count(), count("text"), count(), Command("delete", {"key": "none"})])
    assert (outcomes[0], outcomes[2], outcomes[3]) == (1, 2, False)
    assert isinstance(outcomes[1], CommandError)
    assert outcomes[1].kind == "TypeError"


def test_many_commands_travel_in_one_frame_with_numbers_of_their_own(client: Client, cluster: FakeCluster) -> None:
    client.put("a", 1)
    before = len(cluster.group.submits)
    many = client.submit_many(count() for _ in range(300))
    assert many.result() == list(range(1, 301))
    assert many.applied == cluster.group.index
    frames = cluster.group.submits[before:]
    assert [number for _, frame in frames for number, _ in frame.commands] == list(range(2, 302))
    assert len(frames) == 1


def test_no_commands_have_no_outcomes(client: Client) -> None:
    many = client.submit_many([])
    seen: list[PendingMany] = []
    many.add_done_callback(seen.append)
    assert (many.done(), many.result(), many.applied, seen) == (True, [], 0, [many])


def test_a_list_longer_than_the_window_is_sent_bit_by_bit(cluster: FakeCluster) -> None:
    with Client(cluster.addresses, timeout=5.0, settings=ClientSettings(outstanding_max=10)) as client:
        client.put("a", 1)
        assert client.apply_many([count()] * 95) == list(range(1, 96))
    frames = [len(frame.commands) for _, frame in cluster.group.submits]
    assert max(frames) <= 10
    assert sum(frames) == 96


def test_nothing_is_sent_of_a_list_that_holds_what_is_no_command(client: Client, cluster: FakeCluster) -> None:
    client.put("a", 1)
    wrong: list[tuple[Any, type[Exception], str]] = [
        ([count(), "x"], ValueError, "command 1 of the list.*is no command"),
        ([count(), count(), Command("set", {"key": object()})], ValueError, "command 2 of the list.*none was sent"),
        ([Command("set", {"v": bytes(COMMAND_BYTES_MAX)})], CommandTooLargeError, "command 0 of the list"),
        (count(), ValueError, "no list of commands"),
    ]
    for commands, kind, text in wrong:
        with pytest.raises(kind, match=text):
            client.submit_many(commands)
    assert len(cluster.group.submits) == 1


def test_a_command_that_no_frame_can_hold_fails_alone(client: Client, cluster: FakeCluster) -> None:
    cluster.group.frame_bytes_max = 5000
    client.put("a", 1)
    outcomes = client.apply_many([count(), Command("set", {"key": "k", "value": bytes(9000)}), count()])
    assert (outcomes[0], outcomes[2]) == (1, 2)
    assert isinstance(outcomes[1], CommandTooLargeError)


def test_submitting_many_blocks_while_too_much_is_outstanding(cluster: FakeCluster) -> None:
    with Client(cluster.addresses, timeout=5.0, settings=ClientSettings(outstanding_max=5)) as client:
        client.put("a", 1)
        cluster.mute.add("n1")
        first = client.submit_many([count()] * 5)
        with pytest.raises(BusyError, match="5 commands are outstanding"):
            client.submit_many([count()], timeout=0.05)
        threading.Timer(0.1, cluster.mute.clear).start()
        assert client.submit_many([count()]).result() == [6]
        assert first.result() == [1, 2, 3, 4, 5]


def test_a_leader_that_dies_in_the_middle_costs_no_outcome_and_applies_nothing_twice(
    client: Client, cluster: FakeCluster
) -> None:
    client.put("a", 1)
    cluster.mute.add("n1")
    many = client.submit_many([Command("set", {"key": f"k{number}", "value": 1}) for number in range(3000)])
    time.sleep(0.02)
    cluster.kill("n1")
    cluster.elect("n2")
    assert many.result() == [None] * 3000
    assert max(cluster.group.applied.values()) == 1


def test_only_what_is_not_answered_is_sent_again(client: Client, cluster: FakeCluster) -> None:
    client.put("a", 1)

    def half(node: str, message: Any) -> Any:
        """The answer of a leader that loses the second half of what it is sent, once."""
        if not isinstance(message, Submit):
            return None
        cluster.group.hook = lambda node, message: None
        return [cluster.group.submit(Submit(message.session, message.done_below, message.commands[:50]))]

    cluster.group.hook = half
    many = client.submit_many([count() for _ in range(100)])
    deadline = time.monotonic() + 2
    while not many.parts[49].done() and time.monotonic() < deadline:
        time.sleep(0.001)
    cluster.elect("n2")
    assert many.result() == list(range(1, 101))
    again = [number for node, frame in cluster.group.submits if node == "n2" for number, _ in frame.commands]
    assert sorted(set(again)) == list(range(52, 102))


def test_a_wait_that_is_too_short_leaves_the_commands_alone_and_tells_what_is_known(
    client: Client, cluster: FakeCluster
) -> None:
    client.put("a", 1)
    cluster.mute.add("n1")
    many = client.submit_many([count()] * 3)
    with pytest.raises(ConsensusTimeoutError, match="3 of 3 answers are still outstanding") as late:
        many.result(timeout=0.02)
    assert not late.value.retryable
    assert [type(outcome) for outcome in many.outcomes()] == [ConsensusTimeoutError] * 3
    cluster.mute.clear()
    assert many.result() == [1, 2, 3]


def test_after_the_deadline_each_command_says_whether_it_may_have_been_carried_out(cluster: FakeCluster) -> None:
    with Client(cluster.addresses, timeout=0.3, settings=ClientSettings(outstanding_max=3)) as client:
        client.put("a", 1)
        cluster.mute.add("n1")
        outcomes = client.apply_many([count()] * 5)
    assert [type(outcome) for outcome in outcomes[:3]] == [OutcomeUnknownError] * 3
    assert all(isinstance(outcome, ConsensusError) for outcome in outcomes[3:])
    assert not any(isinstance(outcome, OutcomeUnknownError) for outcome in outcomes[3:])


def test_closing_ends_what_was_handed_over_and_refuses_more(client: Client, cluster: FakeCluster) -> None:
    client.put("a", 1)
    cluster.mute.add("n1")
    many = client.submit_many([count()] * 3)
    time.sleep(0.05)
    client.close()
    assert [type(outcome) for outcome in many.result()] == [OutcomeUnknownError] * 3
    with pytest.raises(NotStartedError):
        client.submit_many([count()])


def test_a_callback_comes_once_when_the_last_outcome_is_known_in_whatever_order() -> None:
    parts = [Pending[Any](b"", 0.0) for _ in range(4)]
    many, seen = PendingMany(parts), list[PendingMany]()
    many.add_done_callback(seen.append)
    for number in (3, 0, 2, 1):
        assert not seen
        assert not many.done()
        parts[number].answer = b"\x07"
        parts[number].finish()
    assert seen == [many]
    assert many.result() == [7] * 4


def test_outcomes_that_end_on_many_threads_wake_the_one_that_waits() -> None:
    parts = [Pending[Any](b"", time.monotonic() + 60) for _ in range(400)]
    for part in parts:
        part.answer = b"\x07"

    def finish(first: int) -> None:
        for part in parts[first::8]:
            part.finish()

    threads = [threading.Thread(target=finish, args=(first,)) for first in range(8)]
    many = PendingMany(parts)
    for thread in threads:
        thread.start()
    assert many.result(timeout=5) == [7] * 400
    for thread in threads:
        thread.join()


def test_a_service_counts_each_command() -> None:
    meter = Meter()
    meter.count(time.monotonic(), 2, 5)
    assert (meter.total, meter.failed, meter.window[-1][1]) == (5, 2, 5)


def test_many_commands_of_an_event_loop_have_their_outcomes_and_leave_the_loop_to_others(cluster: FakeCluster) -> None:
    async def work() -> None:
        async with AsyncClient(cluster.addresses, timeout=5.0) as client:
            await client.put("text", "no number")
            first = await client.submit_many([count(), count("text"), count()])
            outcomes = await first
            assert (outcomes[0], outcomes[2]) == (1, 2)
            assert isinstance(outcomes[1], CommandError)
            assert await client.apply_many([]) == []
            with pytest.raises(ValueError, match="command 501 of the list"):
                await client.submit_many([*[count()] * 501, "x"])  # type: ignore[list-item]
            rounds = 0
            many = asyncio.ensure_future(client.apply_many([count()] * 3000))
            while not many.done():
                await asyncio.sleep(0)
                rounds += 1
            assert await many == list(range(3, 3003))
            assert rounds > 5
            assert not client.delivery.futures

    asyncio.run(work())


def test_many_commands_of_an_event_loop_that_are_cancelled_or_closed(cluster: FakeCluster) -> None:
    async def work() -> None:
        client = AsyncClient(cluster.addresses, timeout=5.0)
        await client.put("a", 1)
        cluster.mute.add("n1")
        cancelled, left = await client.submit_many([count()] * 2), await client.submit_many([count()] * 2)
        cancelled.cancel()
        await asyncio.sleep(0.02)
        await client.close()
        assert [type(outcome) for outcome in await left] == [OutcomeUnknownError] * 2
        with pytest.raises(NotStartedError):
            await client.submit_many([count()])
        assert not client.delivery.futures

    asyncio.run(work())
