"""Recipes as people use and misuse them, on a real node: what they get, and what they are told."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from forge_consensus import AsyncClient, Client, Command, ConsensusService
from forge_consensus.errors import (
    AlreadyHeldError,
    CommandError,
    ConsensusError,
    ConsensusTimeoutError,
    InvalidConfigError,
    LeaseLostError,
    NotHeldError,
    NotStartedError,
)
from forge_consensus.recipes import Barrier, Counter, Election, Leader, Lock, Queue, RLock, Semaphore
from tests.worlds.waiting import wait_for


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsensusService]:
    """A cluster of one node, in this process."""
    folder = Path(tmp_path_factory.mktemp("recipes"))
    with ConsensusService("n1", bind="127.0.0.1:0", storage_path=folder) as service:
        service.wait_for_leader(10)
        yield service


@pytest.fixture
def client(service: ConsensusService) -> Iterator[Client]:
    """A client of that node."""
    with Client([service.address]) as client:
        yield client


def on_a_thread(work: Callable[[], Any]) -> Callable[[], Any]:
    """Begin the work on a thread; calling what is returned waits for its result or error."""
    outcome: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(60)
        assert outcome, "it does not end"
        value, error = outcome[0]
        if error is not None:
            raise error
        return value

    return result


# --- locks -----------------------------------------------------------------------------------------------------------


def test_a_lock_is_held_in_a_with_statement_and_its_tokens_grow(client: Client) -> None:
    lock = Lock(client, "plain", owner="me")
    with lock as held:
        assert held is lock
        assert lock.is_held
        assert not lock.lost.is_set()
        assert lock.contenders() == ["me"]
        assert client.entry(lock.key) is not None
        first = lock.token
        assert repr(lock) == f"<Lock 'plain', held with token {first}>"
    assert repr(lock) == "<Lock 'plain', not held>"
    assert lock.acquire() > first
    lock.release()
    assert client.scan("locks/plain") == []


def test_a_service_is_as_good_as_a_client(service: ConsensusService) -> None:
    with Lock(service, "by service") as lock, Semaphore(service, "by service", 1) as permit:
        assert lock.token < permit.token
    assert Counter(service, "by service").add(3) == 3


def test_others_wait_in_their_order_and_give_up_without_a_trace(client: Client) -> None:
    with Lock(client, "order", owner="first") as first:
        began = time.monotonic()
        with pytest.raises(ConsensusTimeoutError, match=r"was not to be had within 1 s: 'first' is ahead"):
            Lock(client, "order").acquire(1.0)
        assert time.monotonic() - began < 15.0
        assert Lock(client, "order").try_acquire() is None
        assert first.contenders() == ["first"]
        order: list[str] = []
        waiting = []
        for name in ("second", "third"):

            def work(name: str = name) -> None:
                with Lock(client, "order", owner=name):
                    order.append(name)

            waiting.append(on_a_thread(work))
            wait_for(lambda name=name: name in first.contenders(), 20, name)  # type: ignore[misc]
    for each in waiting:
        each()
    assert order == ["second", "third"]


def test_releasing_what_is_not_held_says_so(client: Client) -> None:
    lock = Lock(client, "never")
    for call in (lock.release, lock.guard, lambda: lock.token, lambda: lock.lost, lambda: lock.key):
        with pytest.raises(NotHeldError, match="'never' is not held through this object: acquire it first"):
            call()
    with pytest.raises(RuntimeError):  # as a lock of threading
        lock.release()
    lock.acquire()
    lock.release()
    with pytest.raises(NotHeldError):
        lock.release()
    assert not lock.is_held


def test_acquiring_twice_is_refused_and_an_rlock_may(client: Client) -> None:
    with Lock(client, "twice") as lock:
        with pytest.raises(AlreadyHeldError, match=r"this very thread, which would wait for itself: .* RLock"):
            lock.acquire()
        assert lock.is_held
    with RLock(client, "twice") as rlock:
        with rlock:
            assert rlock.acquire() == rlock.token
            rlock.release()
        assert rlock.is_held
        with pytest.raises(NotHeldError, match="another thread"):
            on_a_thread(rlock.release)()
    assert not rlock.is_held
    with pytest.raises(NotHeldError):
        rlock.release()


def test_threads_that_share_a_lock_take_turns_and_any_of_them_may_release_it(client: Client) -> None:
    lock, inside, most = Lock(client, "shared"), list[int](), 0

    def work() -> None:
        nonlocal most
        for _ in range(3):
            with lock:
                inside.append(1)
                most = max(most, len(inside))
                inside.pop()

    for each in [on_a_thread(work) for _ in range(3)]:
        each()
    assert most == 1
    lock.acquire()
    with pytest.raises(ConsensusTimeoutError, match="another thread of this process"):
        on_a_thread(lambda: lock.acquire(0.1))()
    on_a_thread(lock.release)()
    assert not lock.is_held


def test_a_lock_that_was_lost_is_told_and_guarded(client: Client) -> None:
    told = threading.Event()
    lock = Lock(client, "lost", 3.0, on_lost=told.set)
    lock.acquire()
    guard = lock.guard()
    assert client.transaction(guard, [Command("set", {"key": "data", "value": 1})])
    [lease] = [entry.lease for entry in client.entries("locks/lost#")]
    client.apply(Command("lease_revoke", {"lease": lease}))  # as an operator may
    assert told.wait(20)
    assert not lock.is_held
    assert lock.lost.is_set()
    assert not client.transaction(guard, [Command("set", {"key": "data", "value": 2})])
    with pytest.raises(LeaseLostError, match="was lost before it was let go"):
        lock.release()
    with lock:  # it can be used again
        assert lock.is_held


def test_the_error_of_the_body_stays_the_one_that_is_raised(client: Client) -> None:
    with pytest.raises(ZeroDivisionError) as raised, Lock(client, "body") as lock:
        client.delete(lock.key)
        _ = 1 / 0
    assert any("LeaseLostError" in note for note in raised.value.__notes__)
    with pytest.raises(LeaseLostError), Lock(client, "body") as lock:
        client.delete(lock.key)


def test_an_rlock_that_was_lost_is_not_entered_again(client: Client) -> None:
    lock = RLock(client, "relost", 2.0)
    lock.acquire()
    lock.held().held().lease.stop_keeping()
    assert lock.lost.wait(20)
    with pytest.raises(LeaseLostError, match="was lost while this thread held it"):
        lock.acquire()
    with suppress(LeaseLostError):  # this process gives it up a little before the cluster does
        lock.release()
    with lock:
        assert lock.is_held


def test_a_client_that_is_closed_ends_the_wait(service: ConsensusService, client: Client) -> None:
    other = Client([service.address])
    with Lock(client, "closed") as lock:
        waiting = on_a_thread(Lock(other, "closed", 2.0).acquire)
        wait_for(lambda: len(lock.contenders()) == 2, 20, "the other one waits")
        other.close()
        with pytest.raises(NotStartedError):
            waiting()
        wait_for(lambda: len(lock.contenders()) == 1, 20, "its key goes with its lease")
    held = Lock(Client([service.address]), "closed", 1.0)
    held.acquire()
    held.line.client.close()  # type: ignore[attr-defined]
    wait_for(lambda: not held.is_held, 20, "a closed client keeps nothing alive")


def test_a_lock_object_that_is_dropped_is_free_when_its_lease_ends(client: Client) -> None:
    Lock(client, "dropped", 1.0).acquire()
    with Lock(client, "dropped", timeout=30):
        pass
    Election(client, "dropped", 1.0).campaign("me")
    Election(client, "dropped").campaign("you", timeout=30).resign()
    Semaphore(client, "dropped", 1, 1.0).acquire()
    with Semaphore(client, "dropped", 1, timeout=30):
        pass
    queue = Queue(client, "dropped", 1.0)
    queue.put(1)
    queue.take()
    with queue.take(timeout=30):
        pass


def test_a_fork_does_not_hold_what_its_parent_holds(client: Client) -> None:
    with Lock(client, "forked", 30.0) as lock:
        token = lock.token
        awaited = Lock(client, "forked")
        waiting = on_a_thread(awaited.acquire)
        wait_for(lambda: len(lock.contenders()) == 2, 20, "a thread that waits")
        child = os.fork()
        if not child:
            code = 1
            try:
                refused = 0
                for call in (lock.release, lock.guard, lambda: lock.token):
                    try:
                        call()
                    except NotHeldError:
                        refused += 1
                code = 0 if refused == 3 and not lock.is_held and awaited.try_acquire() is None else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert lock.is_held
        assert lock.token == token
    assert waiting() > token
    awaited.release()


@pytest.mark.parametrize("name", ["", "a#b", 7, None, b"x", "x" * 400, "ä" * 200, "\ud800"])
@pytest.mark.parametrize("recipe", [Lock, RLock, Election, Barrier, Queue, Counter])
def test_a_name_that_is_none_is_refused_before_anything_is_asked(client: Client, recipe: Any, name: Any) -> None:
    with pytest.raises(InvalidConfigError, match=r"name|Unicode"):
        recipe(client, name)


def test_names_with_slashes_and_one_that_begins_with_another_are_apart(client: Client) -> None:
    with Lock(client, "a") as one, Lock(client, "a/b") as two, Lock(client, "/a/") as three, Lock(client, "a ä"):
        assert {each.is_held for each in (one, two, three)} == {True}
        assert one.contenders() == two.contenders() == three.contenders()


@pytest.mark.parametrize("ttl", [0, 0.5, -1, 1e9, float("nan"), float("inf"), "10", None, True])
def test_a_ttl_that_is_none_is_refused(client: Client, ttl: Any) -> None:
    for make in (Lock, Election, Queue, lambda *rest: Semaphore(rest[0], rest[1], 1, rest[2])):
        with pytest.raises(InvalidConfigError, match="ttl is"):
            make(client, "x", ttl)


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), "5", True, False])
def test_a_timeout_that_is_none_is_refused(client: Client, timeout: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: Lock(client, "x").acquire(timeout),
        lambda: Lock(client, "x", timeout=timeout),
        lambda: Semaphore(client, "x", 1).acquire(timeout),
        lambda: Election(client, "x").campaign(1, timeout),
        lambda: Election(client, "x").observe(timeout),
        lambda: Barrier(client, "x").wait(timeout),
        lambda: Queue(client, "x").get(timeout),
        lambda: Queue(client, "x").take(timeout),
    ]
    for call in calls:
        with pytest.raises(InvalidConfigError, match="timeout is"):
            call()
    assert client.scan("locks/x#") == []


def test_what_is_no_client_or_the_wrong_one_is_refused(service: ConsensusService) -> None:
    with pytest.raises(InvalidConfigError, match=r"take forge_consensus\.recipes\.aio\.Lock for it"):
        Lock(AsyncClient([service.address]), "x")
    with pytest.raises(InvalidConfigError, match="is no client with keys and leases"):
        Queue("127.0.0.1:7001", "x")  # type: ignore[arg-type]
    with pytest.raises(InvalidConfigError, match="owner is 7"):
        Lock(service, "x", owner=7)  # type: ignore[arg-type]
    with pytest.raises(InvalidConfigError, match="owner is"):
        Lock(service, "x", owner="\ud800")
    with pytest.raises(InvalidConfigError, match="owner has at most 1,000 bytes"):
        Lock(service, "x", owner="x" * 1001)


def test_a_cluster_that_does_not_answer_is_told_and_not_waited_for() -> None:
    with Client(["127.0.0.1:1"], timeout=0.5) as client:
        for call in (
            Lock(client, "x").acquire,
            Queue(client, "x").get,
            Barrier(client, "x").wait,
            Semaphore(client, "x", 2).try_acquire,
            lambda: Election(client, "x").campaign(1, 1.0),
        ):
            began = time.monotonic()
            with pytest.raises(ConsensusError):
                call()
            assert time.monotonic() - began < 15.0


# --- semaphores and elections ----------------------------------------------------------------------------------------


def test_a_semaphore_gives_its_permits_through_one_object_or_many(client: Client) -> None:
    semaphore = Semaphore(client, "permits", 2, owner="me")
    with semaphore as first:
        second = Semaphore(client, "permits", 2).acquire()
        assert second.token > first.token
        assert client.transaction(second.guard(), [])
        assert semaphore.try_acquire() is None
        assert semaphore.holders()[0] == "me"
        waiting = on_a_thread(semaphore.acquire)
        second.release()
        third = waiting()
        assert third.is_held
        third.release()  # of another thread, by its own release
        with pytest.raises(NotHeldError):
            third.release()
        again = semaphore.acquire()
        semaphore.release()  # the one that this thread acquired last
        with pytest.raises(NotHeldError):
            again.release()
        assert first.is_held
    with pytest.raises(NotHeldError, match="holds no permit"):
        semaphore.release()
    assert client.scan("semaphores/permits#") == []


def test_nested_with_statements_of_one_semaphore_each_release_their_own(client: Client) -> None:
    semaphore = Semaphore(client, "nested", 3)
    with semaphore as outer:
        with semaphore as inner:
            assert outer.token < inner.token
        assert outer.is_held
        assert not inner.is_held
    assert semaphore.holders() == []


def test_another_limit_is_refused_and_may_come_when_nobody_holds_it(client: Client) -> None:
    with (
        Semaphore(client, "limits", 2, owner="two"),
        pytest.raises(InvalidConfigError, match=r"has a limit of 2 for 'two', .* and 3 here"),
    ):
        Semaphore(client, "limits", 3).acquire()
    with Semaphore(client, "limits", 3):
        pass
    for limit in (0, -1, 1001, 1.5, "2", True):
        with pytest.raises(InvalidConfigError, match="limit is"):
            Semaphore(client, "limits", limit)  # type: ignore[arg-type]


def test_an_election_tells_its_leaders_to_all(client: Client) -> None:
    election = Election(client, "jobs")
    assert election.leader() is None
    seen: list[Leader | None] = []

    def observe() -> None:
        for leader in Election(client, "jobs").observe(timeout=20):
            seen.append(leader)
            if leader is None and len(seen) > 1:
                return

    observer = on_a_thread(observe)
    wait_for(lambda: seen, 20, "the first look")
    with election.campaign("first") as leadership:
        assert leadership.is_held
        assert election.leader() == Leader("first", leadership.token, leadership.key)
        assert election.try_campaign("second") is None
        second = on_a_thread(lambda: election.campaign({"address": "second"}))
        wait_for(lambda: len(client.scan("elections/jobs#")) == 2, 20, "the second candidate")
        leadership.proclaim("still first")
        wait_for(lambda: seen[-1] and seen[-1].value == "still first", 20, "what was proclaimed")
    heir = second()
    wait_for(lambda: seen[-1] and seen[-1].value == {"address": "second"}, 20, "the next leader")
    heir.resign()
    observer()
    assert seen[0] is None
    assert seen[-1] is None
    with pytest.raises(NotHeldError):
        heir.resign()
    with pytest.raises(NotHeldError):
        heir.proclaim(1)


def test_who_lost_the_leadership_proclaims_nothing(client: Client) -> None:
    leadership = Election(client, "deposed").campaign("me")
    client.delete(leadership.key)
    with pytest.raises(LeaseLostError, match="nothing was proclaimed"):
        leadership.proclaim("me again")
    assert client.scan("elections/deposed#") == []
    with pytest.raises(LeaseLostError):
        leadership.resign()


# --- barriers, queues, counters --------------------------------------------------------------------------------------


def test_a_barrier_holds_all_until_it_is_removed(client: Client) -> None:
    barrier = Barrier(client, "start", owner="me")
    barrier.wait(0)
    assert barrier.create()
    assert not barrier.create()
    assert barrier.exists()
    with pytest.raises(ConsensusTimeoutError, match=r"'start' was not removed within 1 s: 'me' made it"):
        barrier.wait(1.0)
    waiting = [on_a_thread(lambda: Barrier(client, "start").wait(30)) for _ in range(3)]
    time.sleep(0.2)
    assert barrier.remove()
    for each in waiting:
        each()
    assert not barrier.remove()
    assert not barrier.exists()


def test_a_barrier_with_a_ttl_falls_by_itself(client: Client) -> None:
    barrier, began = Barrier(client, "falls"), time.monotonic()
    barrier.create(ttl=0.5)
    barrier.wait(20)
    assert 0.4 < time.monotonic() - began < 10.0


def test_a_queue_gives_items_in_order_and_waits(client: Client) -> None:
    queue = Queue(client, "plain")
    assert queue.try_get("nothing") == "nothing"
    assert queue.peek("nothing") == "nothing"
    keys = [queue.put(value) for value in (1, {"a": [2]}, None, b"bytes")]
    assert keys == sorted(keys)
    assert len(queue) == queue.size() == 4
    assert queue.peek() == 1
    assert [queue.get() for _ in range(4)] == [1, {"a": [2]}, None, b"bytes"]
    with pytest.raises(ConsensusTimeoutError, match=r"'plain' had no item within 1 s"):
        queue.get(1.0)
    waiting = on_a_thread(lambda: queue.get(30))
    time.sleep(0.2)
    queue.put("late")
    assert waiting() == "late"


def test_an_item_is_acknowledged_given_back_or_given_again(client: Client) -> None:
    queue = Queue(client, "work", 3.0)
    for value in "abc":
        queue.put(value)
    with queue.take() as item:
        assert (item.value, item.is_held) == ("a", True)
        assert client.transaction(item.guard(), [])
        assert queue.peek() == "b"
        assert queue.size() == 3
    with pytest.raises(NotHeldError, match="was acknowledged or given back before"):
        item.ack()
    with pytest.raises(ZeroDivisionError), queue.take() as item:
        assert item.value == "b"
        _ = 1 / 0
    item = queue.take()
    assert item.value == "b"
    item.release()
    lost = queue.take()
    lost.lease.stop_keeping()
    again = queue.take(timeout=0)
    assert again.value == "c"
    heir = queue.take(20)
    assert heir.value == "b"
    assert heir.token > lost.token
    with pytest.raises(LeaseLostError, match="was not acknowledged"):
        lost.ack()
    heir.ack()
    with again:
        again.ack()
    assert client.scan("queues/work#") == []


def test_many_items_that_were_taken_do_not_hide_the_next(client: Client) -> None:
    queue = Queue(client, "many")
    client.batch([Command("append", {"prefix": queue.items, "value": number}) for number in range(60)])
    items = [queue.take() for _ in range(45)]
    assert [item.value for item in items] == list(range(45))
    assert queue.get() == 45
    assert queue.peek() == 46
    for item in items:
        item.ack()
    assert queue.size() == 14


def test_large_items_are_looked_at_one_by_one(client: Client) -> None:
    queue = Queue(client, "large")
    for number in range(6):
        queue.put(bytes([number]) * 950_000)
    with queue.take() as item, queue.take() as other:
        assert (item.value[0], other.value[0]) == (0, 1)
        assert [queue.get()[0] for _ in range(3)] == [2, 3, 4]
        assert queue.peek()[0] == 5


def test_a_counter_counts(client: Client) -> None:
    counter = Counter(client, "n")
    assert counter.get() == 0
    assert counter.compare_and_set(0, 5)
    assert not counter.compare_and_set(0, 6)
    counter += 2
    counter -= 1
    assert counter.value == 6
    assert counter.add(-6) == 0
    assert counter.compare_and_set(0, 1)
    counter.set(1 << 63)
    with pytest.raises(CommandError, match="64 bits"):
        counter.add((1 << 64) - 1)
    for wrong in (1.5, "1", None, True, 1 << 64):
        with pytest.raises(InvalidConfigError, match="no whole number of 64 bits"):
            counter.add(wrong)  # type: ignore[arg-type]
    client.put("counters/n", "text")
    with pytest.raises(CommandError, match="no whole number"):
        counter.get()
    assert not counter.compare_and_set(1, 2)
