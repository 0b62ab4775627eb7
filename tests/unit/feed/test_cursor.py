"""A reader's place in a node's events: whatever happens, each event once, ascending, and every gap named."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_consensus.actors.messages import EventPage, ReadEvents
from forge_consensus.actors.raft.journal_pages import page_of
from forge_consensus.events.encoding import to_msgpack
from forge_consensus.events.types import BecameLeader, ConsensusEvent, LogAppended, LogCommitted, QuorumLost, stamp
from forge_consensus.feed.cursor import Delivery, EventCursor, Gap, Position, Since, Wanted
from forge_consensus.storage.backends.memory import MemoryTables
from tests.unit.storage.test_journal import START_MS, Teller

MAKERS = (
    BecameLeader,
    lambda: LogAppended(first_index=1, last_index=2),
    lambda: LogCommitted(first_index=1, last_index=2),
    lambda: QuorumLost(required=2, healthy=1, total=3),
)


class World:
    """A node with a journal, its publisher, a wire that loses, and one reader."""

    def __init__(self, wanted: Wanted, since: Since, rows_max: int) -> None:
        self.wanted = wanted
        self.rows_max = rows_max
        self.now = 0.0
        self.life = 0
        self.trusted = -1
        self.told: dict[tuple[str, int], ConsensusEvent] = {}
        self.live: list[tuple[int, ConsensusEvent]] = []
        self.answers: list[tuple[int, int, EventPage]] = []
        self.asked = 0
        self.seen: list[Delivery] = []
        self.began: Position | None = None
        self.capacity = 100
        self.found()
        self.reader = EventCursor(since, wanted)

    def found(self) -> None:
        """A folder, new."""
        self.tables = MemoryTables()
        self.incarnation = f"folder-{self.life}"
        self.start()

    def start(self) -> None:
        self.life += 1
        self.live.clear()
        self.tables = self.tables.clone_durable()
        self.node = Teller(lambda: self.tables, rows_max=self.rows_max)
        identity = SimpleNamespace(node_id="n1", cluster_id="c", incarnation=self.incarnation, boot=self.life)
        self.ledger: Any = SimpleNamespace(journal=self.node.journal, identity=identity)

    def tell(self, kinds: list[int]) -> None:
        """One turn's events: numbered, kept for the journal, published."""
        for kind in kinds:
            event = stamp(
                MAKERS[kind](), node_id="n1", cluster_id="c", term=1, sequence=self.node.numbers.next(),
                time=START_MS / 1000, monotonic=self.now,
            )  # fmt: skip
            self.told[self.incarnation, event.sequence] = event
            self.node.journal.append(event.sequence, self.now, to_msgpack(event))
            if any(event.topic.startswith(prefix) for prefix in self.wanted.prefixes):
                self.live.append((self.life, event))

    def ask(self) -> None:
        self.now += 0.3
        request = self.reader.request(self.now, self.capacity)
        if request is not None:
            self.asked += 1
            page = page_of(request, self.ledger, "127.0.0.1:1")
            self.answers.append((self.asked, self.life, page))

    def answer(self) -> None:
        """The wire brings answers; only the one to the last request counts."""
        for number, life, page in self.answers:
            if number == self.asked:
                self.take(self.reader.page(page, self.capacity))
                self.trusted = life
                self.began = self.began or self.reader.position
        self.answers.clear()

    def hear(self) -> None:
        for life, event in self.live:
            if life == self.trusted:
                self.take(self.reader.event(event, self.capacity))
            else:
                self.reader.note_news()
        self.live.clear()

    def take(self, told: list[Delivery]) -> None:
        assert len(told) <= max(self.capacity, 1)
        self.seen += told

    def act(self, rng: random.Random) -> None:
        """One step of whatever may happen."""
        step = rng.randrange(16)
        if step < 5:
            self.tell([rng.randrange(len(MAKERS)) for _ in range(rng.randrange(1, 6))])
        elif step < 8:
            self.node.commit()
        elif step in (8, 9):
            if step == 9:  # in good order, else a crash
                self.node.journal.seal()
            self.start()
        else:
            self.mishap(step, rng)
        self.ask()
        if rng.random() < 0.5:
            self.answer()

    def mishap(self, step: int, rng: random.Random) -> None:
        """Something between the node and the reader."""
        if step == 10:
            self.live = [item for item in self.live if rng.random() < 0.5]  # the publisher drops
        elif step == 11:
            self.answers.clear()  # an answer is lost
        elif step == 12:
            self.capacity = rng.choice((0, 1, 3, 100))
        elif step == 13 and rng.random() < 0.1:
            self.found()
        elif step == 14:
            self.answer()
        else:
            self.hear()

    def finish(self) -> None:
        """No more faults: the reader gets level."""
        self.capacity = 100
        for _ in range(2000):
            self.ask()
            self.answer()
            self.hear()
            same = self.reader.incarnation == self.incarnation
            if same and self.reader.next == self.node.numbers.sequence + 1:
                return
        raise AssertionError("the reader never got level")

    def check(self) -> None:
        """Ascending, each number once, nothing skipped unless it is of a kind that nobody wants."""
        place = self.began
        assert place is not None
        for event, _, position in self.seen:
            if isinstance(event, Gap) and event.reason == "replaced":
                assert event.first == event.sequence >= place.next
                place = position
                continue
            assert position.incarnation == place.incarnation
            first, last = (event.first, event.last) if isinstance(event, Gap) else (event.sequence, event.sequence)
            assert last is not None
            self.check_skipped(place, first)
            if not isinstance(event, Gap):
                assert event == self.told[place.incarnation, event.sequence]
                assert self.wanted.selection.wants(event)
            assert position == (place.incarnation, last + 1)
            place = position
        assert place.incarnation == self.incarnation
        self.check_skipped(place, self.node.numbers.sequence + 1)

    def check_skipped(self, place: Position, upto: int) -> None:
        assert upto >= place.next
        for number in range(place.next, min(upto, place.next + 5000)):
            event = self.told.get((place.incarnation, number))
            assert event is not None, "a number that was never told is a gap"
            assert not self.wanted.selection.wants(event), "a wanted event was skipped in silence"


@pytest.mark.parametrize("kinds", [(), ("leader.*", "cluster.quorum.*", BecameLeader)], ids=["all", "some"])
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 1 << 32), rows_max=st.sampled_from((8, 40, 10_000)), steps=st.integers(1, 120))
def test_each_event_comes_once_in_order_or_is_in_a_gap(
    kinds: tuple[type[ConsensusEvent] | str, ...], seed: int, rows_max: int, steps: int
) -> None:
    world, rng = World(Wanted(kinds), 0, rows_max), random.Random(seed)
    for _ in range(steps):
        world.act(rng)
    world.finish()
    world.check()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_a_reader_that_begins_again_where_one_ended_misses_nothing(seed: int) -> None:
    world, rng = World(Wanted(()), 0, 10_000), random.Random(seed)
    for _ in range(6):
        for _ in range(12):
            world.act(rng)
        world.live.clear()
        world.answers.clear()
        if world.seen:  # the reader dies with what it did not take, and another begins
            world.seen = world.seen[: rng.randrange(1, len(world.seen) + 1)]
            world.reader = EventCursor({"n1": world.seen[-1].position}, world.wanted)
            world.trusted = -1
    world.finish()
    world.check()


def test_without_since_a_feed_begins_with_future_events() -> None:
    world = World(Wanted(()), None, 100)
    world.tell([0, 1, 2])
    world.ask()
    world.answer()
    world.tell([3])
    world.hear()
    assert [told.event.sequence for told in world.seen] == [4]


def test_an_event_in_order_comes_at_once_and_any_other_after_reading_the_journal() -> None:
    world = World(Wanted(()), 0, 100)
    world.finish()
    world.tell([0])
    world.hear()
    assert [told.event.sequence for told in world.seen] == [1]
    world.tell([1])
    world.live.clear()
    world.tell([2])
    world.hear()
    assert len(world.seen) == 1
    world.finish()
    assert [told.event.sequence for told in world.seen] == [1, 2, 3]


def test_a_restored_older_folder_is_a_gap() -> None:
    world = World(Wanted(()), 0, 100)
    world.tell([0])
    world.node.commit()
    old = world.tables.clone_durable()
    world.tell([0, 0, 0])
    world.finish()
    world.tables = old
    world.start()
    world.node.numbers.sequence = 1
    world.tell([1])
    world.finish()
    assert [type(told.event).__name__ for told in world.seen] == ["BecameLeader"] * 4 + ["Gap"]


def test_a_request_without_an_answer_is_sent_again() -> None:
    reader = EventCursor(0, Wanted(()))
    assert reader.request(10.0, 100) == ReadEvents(1, 0)
    assert reader.request(10.5, 100) is None
    assert reader.wake_at(100) == 11.0
    assert reader.request(11.0, 100) == ReadEvents(1, 0)


def test_a_full_queue_asks_for_no_events() -> None:
    world = World(Wanted(()), 0, 100)
    world.ask()
    world.answer()
    assert world.reader.request(99.0, 0) is None
    assert world.reader.wake_at(0) == float("inf")
    assert world.reader.request(99.0, 7) == ReadEvents(1, 7)


def test_kinds_are_classes_and_patterns_with_or_without_the_first_word() -> None:
    wanted = Wanted(("leader.*", "consensus.role.changed", LogAppended))
    assert set(wanted.patterns) == {"consensus.leader.*", "consensus.role.changed", "consensus.log.appended"}
    assert wanted.prefixes == {"consensus.leader.", "consensus.role.changed", "consensus.log.appended"}
    assert Wanted((ConsensusEvent, "leader.*")).patterns == ()
    assert Wanted(("*.quorum.*",)).prefixes == {""}
    with pytest.raises(ValueError, match="lieder"):
        Wanted(("lieder.*",))


def test_an_undecodable_event_is_a_gap() -> None:
    world = World(Wanted(()), 0, 100)
    world.node.journal.append(world.node.numbers.next(), world.now, b"\xff")
    world.finish()
    gap = world.seen[0].event
    assert isinstance(gap, Gap)
    assert (gap.first, gap.last, gap.reason) == (1, 1, "damaged")
