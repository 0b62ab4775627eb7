"""Watches, blocking and for asyncio, against nodes that are scripted."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Iterator

import pytest

from forge_consensus.client.aio import AsyncClient
from forge_consensus.client.change_cursor import KEPT_SECONDS, ChangeCursor
from forge_consensus.client.key_records import KeyChange
from forge_consensus.client.sync import Client
from forge_consensus.client.watch import Watch
from forge_consensus.config.client import ClientSettings
from forge_consensus.errors import CompactedError, InvalidConfigError, NoLeaderError, NotStartedError
from tests.worlds.client_fakes import FakeCluster


@pytest.fixture
def client(cluster: FakeCluster) -> Iterator[Client]:
    with Client(cluster.addresses, timeout=3.0, cluster_id="fake") as made:
        yield made


def values(watch: Watch, count: int) -> list[object]:
    """The values of the next changes."""
    return [watch.get(timeout=5.0).value for _ in range(count)]


# --- the place in the changes ----------------------------------------------------------------------------------------


def answer(since: int, *indexes: int, then: int = 0, oldest: int = 1) -> dict[str, object]:
    """The answer of a node with changes at these indexes."""
    rows = [[index, "k", index, 1, 0, "put"] for index in indexes]
    return {"changes": rows, "next": then or (indexes or (since - 1,))[-1] + 1, "oldest": oldest}


def test_a_cursor_asks_for_what_comes_after_the_last_answer() -> None:
    cursor = ChangeCursor(None, "p/", 7)
    assert cursor.question()[0] == {"changes": "p/", "since": 7, "limit": 1000, "wait_ms": 5000}
    assert cursor.take(answer(7, 8, 9, then=12), 0.0) == 0.0
    assert [change.index for change in cursor.changes] == [8, 9]
    assert cursor.question()[0]["since"] == 12
    assert cursor.take(answer(12, then=9), 1.0) == 0.0, "a node that lags knows of nothing new"
    assert cursor.question()[0]["since"] == 12


def test_a_cursor_goes_on_where_its_reader_is() -> None:
    cursor = ChangeCursor("k", None, 1)
    cursor.take(answer(1, 3, 3, 5), 0.0)
    for position in (3, 3, 5, 6):
        assert cursor.position == position
        if cursor.changes:
            cursor.changes.popleft()


def test_a_cursor_asks_the_leader_where_the_usual_node_has_forgotten() -> None:
    cursor = ChangeCursor("k", None, 5)
    near = cursor.question()[1]
    assert cursor.take(answer(5, then=5, oldest=20), 0.0) == 0.0
    leader = cursor.question()[1]
    assert (near.by_leader, leader.by_leader) == (False, True)
    cursor.take(answer(5, 6, then=25), 0.0)
    assert not cursor.question()[1].by_leader, "the usual node has what comes next"
    cursor.take(answer(25, then=25, oldest=30), 0.0)
    cursor.question()
    with pytest.raises(CompactedError, match="from entry 25 on are not kept any more, those from 28 on are") as raised:
        cursor.take(answer(25, then=25, oldest=28), 0.0)
    assert (raised.value.oldest, raised.value.code, raised.value.retryable) == (28, "CONSENSUS_COMPACTED", False)


def test_a_cursor_goes_on_if_what_was_forgotten_while_its_question_waited_was_not_for_it() -> None:
    cursor = ChangeCursor("k", None, 5)
    for oldest in (20, 40):
        assert cursor.take(answer(5, then=oldest + 5, oldest=oldest), 5.0) == 0.0
        assert cursor.question()[0]["since"] == oldest + 5
        assert not cursor.question()[1].by_leader, "nothing is missing"
    assert cursor.take(answer(45, 60, then=61, oldest=50), 1.0) == 0.0
    assert [change.index for change in cursor.changes] == [60]
    cursor.take(answer(61, then=70, oldest=80), 1.0)
    assert cursor.question()[1].by_leader, "the history was lost while the question waited"
    with pytest.raises(CompactedError, match="from entry 75 on are not kept any more, those from 80 on are"):
        cursor.take(answer(70, then=75, oldest=80), 1.0)


def test_a_cursor_pauses_where_nobody_keeps_its_questions() -> None:
    cursor = ChangeCursor("k", None, 5)
    pauses = [cursor.take(answer(5), 0.0) for _ in range(8)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.02, 1.0)
    assert cursor.failed(NoLeaderError()) == 1.0
    assert cursor.take(answer(5, 6), 0.0) == 0.0
    with pytest.raises(NotStartedError):
        cursor.failed(NotStartedError())


@pytest.mark.parametrize(
    ("key", "prefix", "since"),
    [("k", "p", None), (1, None, None), (None, b"p", None), ("k", None, -1), ("k", None, "1")],
)
def test_a_watch_of_what_cannot_be_watched_is_refused(key: object, prefix: object, since: object) -> None:
    with pytest.raises(InvalidConfigError):
        ChangeCursor(key, prefix, since)  # type: ignore[arg-type]


# --- watching --------------------------------------------------------------------------------------------------------


def test_a_watch_begins_behind_what_was_acknowledged_and_tells_each_change_once(client: Client) -> None:
    client.put("p/a", 0)
    with client.watch(prefix="p/") as watch:
        client.put("p/a", 1)
        client.put("other", 2)
        client.delete("p/a")
        first, second = watch.get(5.0), watch.get(5.0)
        assert (first.key, first.value, first.kind) == ("p/a", 1, "put")
        assert (second.key, second.value, second.kind) == ("p/a", None, "delete")
        assert first.index < second.index < watch.next_index
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            watch.get(0.2)
        assert 0.2 <= time.monotonic() - began < 3.0


def test_a_watch_of_one_key_tells_nothing_of_longer_ones(client: Client) -> None:
    with client.watch("k") as watch:
        for key, value in (("k2", 1), ("k", 2)):
            client.put(key, value)
        assert values(watch, 1) == [2]


def test_a_watch_goes_on_from_an_index_and_ends_after_silence(client: Client) -> None:
    for value in range(4):
        client.put("k", value)
    with client.watch("k", since=1, timeout=0.3) as watch:
        assert [change.value for change in watch] == [0, 1, 2, 3]
        client.put("k", 4)
        assert [change.value for change in watch] == [4], "an iteration that ended can begin again"
        place = watch.next_index
    assert list(watch) == []
    with pytest.raises(NotStartedError, match="closed"):
        watch.get()
    client.put("k", 5)
    with client.watch("k", since=place) as further:
        assert values(further, 1) == [5]


def test_a_watch_waits_without_asking_again_and_again(client: Client, cluster: FakeCluster) -> None:
    turns: list[int] = []
    real = client.driver.core.tick

    def tick(now: float) -> None:
        turns.append(1)
        real(now)

    with client.watch("k") as watch:
        with pytest.raises(TimeoutError):
            watch.get(0.1)
        client.driver.core.tick = tick  # type: ignore[method-assign]
        with pytest.raises(TimeoutError):
            watch.get(1.0)
        client.put("k", 1)
        assert values(watch, 1) == [1]
    assert len(cluster.asked) <= 2
    assert len(turns) < 25, "the client's thread sleeps while a node keeps its question"


def test_other_reads_do_not_wait_for_a_watch(client: Client) -> None:
    with client.watch("k") as watch:
        with pytest.raises(TimeoutError):
            watch.get(0.05)
        for consistency in ("linearizable", "stale"):
            began = time.monotonic()
            client.get("k", consistency)
            assert time.monotonic() - began < KEPT_SECONDS / 2


def test_close_ends_whoever_waits_at_once(client: Client) -> None:
    watch = client.watch("k")
    threading.Timer(0.2, watch.close).start()
    began = time.monotonic()
    assert list(watch) == []
    assert time.monotonic() - began < KEPT_SECONDS / 2


def test_the_end_of_the_client_ends_its_watches(client: Client) -> None:
    watch = client.watch("k")
    threading.Timer(0.2, client.close).start()
    with pytest.raises(NotStartedError, match="the client is closed"):
        list(watch)


def test_threads_that_share_a_watch_get_each_change_once(client: Client) -> None:
    got: list[object] = []
    with client.watch("k") as watch:
        threads = [threading.Thread(target=lambda: got.extend(change.value for change in watch)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for value in range(100):
            client.put("k", value)
        end = time.monotonic() + 5
        while len(got) < 100 and time.monotonic() < end:
            time.sleep(0.01)
        watch.close()
        for thread in threads:
            thread.join(2)
            assert not thread.is_alive()
    assert sorted(map(str, got)) == sorted(map(str, range(100)))


def test_a_watch_goes_on_at_another_node_without_a_gap_or_a_repetition(client: Client, cluster: FakeCluster) -> None:
    with client.watch("k") as watch:
        client.put("k", 1)
        assert values(watch, 1) == [1]
        with pytest.raises(TimeoutError):
            watch.get(0.05)
        cluster.kill("n1")
        cluster.elect("n2")
        client.put("k", 2)
        client.put("k", 3)
        assert values(watch, 2) == [2, 3]
        with pytest.raises(TimeoutError):
            watch.get(0.2)


def test_a_node_that_keeps_a_question_for_too_long_is_passed_over(cluster: FakeCluster) -> None:
    settings = ClientSettings(silence_seconds=0.1)
    with Client(cluster.addresses, timeout=3.0, settings=settings) as client, client.watch("k") as watch:
        with pytest.raises(TimeoutError):
            watch.get(0.05)
        cluster.mute.add("n1")
        cluster.elect("n2")
        began = time.monotonic()
        client.put("k", 1)
        assert [watch.get(KEPT_SECONDS + 3).value] == [1]
        assert time.monotonic() - began < KEPT_SECONDS + 2


def test_the_leader_is_asked_for_what_the_usual_node_has_forgotten(cluster: FakeCluster) -> None:
    with Client(cluster.addresses, timeout=3.0, prefer=cluster.addresses[2]) as client:
        client.put("k", 1)
        client.put("k", 2)
        cluster.do(lambda: cluster.group.oldest.update(n3=cluster.group.index + 1))
        with client.watch("k", since=1) as watch:
            assert values(watch, 2) == [1, 2]
            client.put("k", 3)
            assert values(watch, 1) == [3]
        assert [node for node, _, _ in cluster.asked][:3] == ["n3", "n1", "n3"]


def test_a_history_that_nobody_has_is_told(client: Client, cluster: FakeCluster) -> None:
    client.put("k", 1)
    cluster.do(lambda: cluster.group.oldest.update(n1=9, n2=9, n3=9))
    with client.watch("k", since=1) as watch, pytest.raises(CompactedError) as raised:
        next(watch)
    assert raised.value.oldest == 9


def test_a_watch_goes_on_in_a_forked_child_and_in_its_parent(client: Client) -> None:
    with client.watch("k") as watch:
        with pytest.raises(TimeoutError):
            watch.get(0.05)  # the parent's question is under way
        pid = os.fork()
        if not pid:
            code = 1
            try:
                code = 0 if watch.get(5.0).value == 1 else 2
            finally:
                os._exit(code)
        time.sleep(0.1)
        client.put("k", 1)
        assert values(watch, 1) == [1]
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_watch_that_was_forgotten_keeps_no_client_alive(cluster: FakeCluster) -> None:
    client = Client(cluster.addresses, timeout=3.0)
    watch = client.watch("k")
    with pytest.raises(TimeoutError):
        watch.get(0.05)
    driver = client.driver
    del client, watch
    gc.collect()
    assert driver.thread is not None
    driver.thread.join(KEPT_SECONDS + 3)
    assert not driver.thread.is_alive()


# --- asyncio ---------------------------------------------------------------------------------------------------------


def test_a_watch_for_asyncio_tells_each_change_once(cluster: FakeCluster) -> None:
    async def main() -> None:
        async with AsyncClient(cluster.addresses, timeout=3.0) as client:
            await client.put("k", 0)
            async with client.watch("k", timeout=0.5) as watch:
                for value in (1, 2, 3):
                    await client.put("k", value)
                assert [change.value async for change in watch] == [1, 2, 3]
                task = asyncio.ensure_future(watch.get())
                await asyncio.sleep(0.05)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await client.put("k", 4)
                assert (await watch.get(2.0)).value == 4, "a task that is cancelled loses none"
                with pytest.raises(TimeoutError):
                    await watch.get(0.1)
                got: list[KeyChange] = []

                async def take() -> None:
                    got.extend([change async for change in watch])

                tasks = [asyncio.ensure_future(take()) for _ in range(3)]
                for value in range(5, 25):
                    await client.put("k", value)
                await asyncio.sleep(0.1)
                await watch.close()
                await asyncio.wait_for(asyncio.gather(*tasks), KEPT_SECONDS / 2)
                assert sorted(change.value for change in got) == list(range(5, 25))
                with pytest.raises(NotStartedError):
                    await watch.get()

    asyncio.run(main())


def test_a_watch_for_asyncio_goes_on_at_another_node(cluster: FakeCluster) -> None:
    async def main() -> None:
        async with AsyncClient(cluster.addresses, timeout=3.0) as client, client.watch(prefix="") as watch:
            await client.put("a", 1)
            assert (await watch.get(2.0)).key == "a"
            waiting = asyncio.ensure_future(watch.get(5.0))
            await asyncio.sleep(0.1)
            await asyncio.to_thread(cluster.kill, "n1")
            await asyncio.to_thread(cluster.elect, "n2")
            await client.put("b", 2)
            assert (await waiting).key == "b"
            await asyncio.to_thread(cluster.do, lambda: cluster.group.oldest.update(n2=99, n3=99))
            async with client.watch("a", since=1) as late:
                with pytest.raises(CompactedError):
                    await late.get(2.0)

    asyncio.run(main())


def test_a_watch_that_is_left_alone_with_a_question_is_no_complaint(cluster: FakeCluster) -> None:
    complaints: list[object] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        async with AsyncClient(cluster.addresses, timeout=3.0) as client:
            watch = client.watch("k")
            with pytest.raises(TimeoutError):
                await watch.get(0.1)
            waiting = asyncio.ensure_future(client.watch("k").get())
            await asyncio.sleep(0.1)
            waiting.cancel()
        del watch
        await asyncio.sleep(0.05)
        gc.collect()

    asyncio.run(main())
    assert not complaints
