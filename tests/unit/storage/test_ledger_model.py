"""The ledger against a naive model: random calls, turns taken back and crashes leave both with the same."""

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_consensus.errors import BusyError, StaleTermError
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.ledger import Mismatch, Proposal
from forge_consensus.storage.ledger.record import Kind, data_of, encode, encode_untimed, kind_of, parse, term_of
from tests.worlds.effort import effort
from tests.worlds.ledger_world import CONFIGURATION, LIMITS, World, put

OPERATIONS = ("advance", "stand", "lead", "vote", "resign", "propose", "accept", "commit", "apply", "admit")
TURNS = ("end", "end", "rollback", "crash", "checkpoint")
LIKELY = {"accept": 10, "advance": 4, "stand": 3, "lead": 3, "propose": 3, "apply": 3, "end": 8, "rollback": 2}
STEP = st.tuples(st.sampled_from(OPERATIONS + TURNS), st.integers(0, 9), st.integers(0, 9))


def moved(port: int) -> bytes:
    """The bytes of a configuration in which a member has another address."""
    return Configuration.of({**CONFIGURATION.addresses, "n2": f"b:{port}"}).encode()


@dataclass
class State:
    """Everything that a rollback must bring back."""

    term: int = 0
    vote: str = ""
    log: list[bytes] = field(default_factory=list)
    boots: dict[str, tuple[str, int]] = field(default_factory=dict)

    def copy(self) -> "State":
        return State(self.term, self.vote, self.log.copy(), self.boots.copy())


class Model:
    """The ledger as a few lists; its log begins with entry 1."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.now = State(log=[encode_untimed(1, 0, Kind.CONFIGURATION, 0, CONFIGURATION.encode())])
        self.durable = self.now.copy()
        self.commit = self.commit_before = 1
        self.hint = 1
        self.leading = False
        self.stood = self.led = 0
        self.applied = self.wall_ms = 0

    def begin(self) -> None:
        self.world.ledger.begin(0.0)
        self.commit_before = self.commit

    def end(self) -> None:
        commits = self.world.tables.commits
        self.world.ledger.commit()
        if self.world.tables.commits != commits:
            self.hint = self.commit
        else:
            assert self.now == self.durable
        self.durable = self.now.copy()

    def rollback(self) -> None:
        self.world.ledger.rollback()
        self.now = self.durable.copy()
        self.commit = max(self.commit_before, self.applied)
        self.leading, self.stood = False, 0

    def crash(self) -> None:
        self.world.crash()
        self.now = self.durable.copy()
        self.commit = max(self.hint, self.world.ledger.applied)
        self.leading, self.stood, self.led = False, 0, 0
        assert self.world.ledger.applied <= self.applied
        self.applied = self.world.ledger.applied

    def step(self, what: str, a: int, b: int) -> None:
        if what in OPERATIONS:
            getattr(self, "do_" + what)(a, b)
            return
        if what == "checkpoint":
            self.world.ledger.checkpoint_wanted = True
        {"rollback": self.rollback, "crash": self.crash}.get(what, self.end)()
        self.check()
        self.begin()

    def check(self) -> None:
        ledger, now = self.world.ledger, self.now
        assert (ledger.term, ledger.vote, ledger.commit_index) == (now.term, now.vote, self.commit)
        assert ledger.leading_term == (now.term if self.leading else None)
        assert (ledger.log.last, ledger.log.last_term) == (len(now.log), term_of(now.log[-1]))
        assert ledger.log.read(1, 1000, 1 << 30) == now.log
        configurations = [data_of(record) for record in now.log if kind_of(record) == Kind.CONFIGURATION]
        assert ledger.configuration.encode() == configurations[-1]
        assert ledger.identity.boots == now.boots
        assert ledger.applied == self.applied <= self.commit
        assert ledger.log.durable == len(self.durable.log)

    # --- operations --------------------------------------------------------------------------------------------------

    @contextmanager
    def refused_unless(self, allowed: bool) -> Iterator[None]:
        try:
            yield
        except StaleTermError:
            assert not allowed
        else:
            assert allowed

    def do_advance(self, a: int, b: int) -> None:
        term = self.now.term + a - 4
        if self.world.ledger.advance(term):
            self.now.term, self.now.vote, self.leading = term, "", False
        assert self.now.term >= term

    def do_stand(self, a: int, b: int) -> None:
        if a > 1:
            with self.refused_unless(not self.leading):
                self.stood = self.world.ledger.stand(self.now.term)
            if not self.leading:
                self.now.term, self.now.vote = self.now.term + 1, "n1"

    def do_lead(self, a: int, b: int) -> None:
        term = self.now.term
        allowed = self.stood == term > self.led and self.now.vote == "n1"
        with self.refused_unless(allowed):
            self.world.ledger.lead(term, 1000)
        if allowed:
            self.led, self.leading = term, True
            self.wall_ms = parse(1, self.now.log[-1]).time_ms or 1000  # the time goes on, and here no time passes
            self.do_propose(1, 0)

    def do_vote(self, a: int, b: int) -> None:
        tip = (term_of(self.now.log[-1]) + b - 4, len(self.now.log) + a - 4)
        candidate = f"n{2 + a % 2}"
        granted = self.now.vote in ("", candidate) and tip >= (term_of(self.now.log[-1]), len(self.now.log))
        assert self.world.ledger.grant_vote(self.now.term, candidate, tip[1], tip[0]) is granted
        if granted:
            self.now.vote = candidate

    def do_resign(self, a: int, b: int) -> None:
        assert self.world.ledger.resign(self.now.term) is self.leading
        self.leading = False

    def do_propose(self, a: int, b: int) -> None:
        kind, data = Kind.COMMAND, put("k", b)
        if b == 9:
            data = moved(len(self.now.log))
            kind, a = Kind.CONFIGURATION, 1
        count, first = max(a, 1), len(self.now.log) + 1
        proposals = [Proposal(kind, 0, 0, 0, data)] * count
        if kind == Kind.CONFIGURATION and self.leading and not self.may_reconfigure():
            with pytest.raises(BusyError):
                self.world.ledger.propose(self.now.term, proposals)
            return
        with self.refused_unless(self.leading):
            assert self.world.ledger.propose(self.now.term, proposals) == (first, first + count - 1)
        if self.leading:
            self.now.log += [encode(first + n, self.now.term, kind, self.wall_ms, data=data) for n in range(count)]

    def may_reconfigure(self) -> bool:
        """Whether an entry of the term is committed, and every configuration (I12)."""
        waiting = self.now.log[self.commit :]
        ripe = term_of(self.now.log[self.commit - 1]) == self.now.term
        return ripe and all(kind_of(record) != Kind.CONFIGURATION for record in waiting)

    def do_accept(self, a: int, b: int) -> None:
        if self.leading:
            return
        now, ledger = self.now, self.world.ledger
        prev = max(len(now.log) + 2 - b, self.commit)
        kind, data = (Kind.CONFIGURATION, moved(a)) if a == 7 else (0, put("k", a))
        records = [encode(prev + 1 + n, now.term, kind, 5, data=data) for n in range(a)]
        for n, known in enumerate(now.log[prev : prev + a]):
            if term_of(known) == now.term:  # what a term has written it never changes (I3)
                records[n] = known
        if prev > len(now.log):
            assert ledger.accept(now.term, prev, now.term, records) == Mismatch(len(now.log), term_of(now.log[-1]))
            return
        result = ledger.accept(now.term, prev, term_of(now.log[prev - 1]), records)
        assert not isinstance(result, Mismatch)
        for index, record in enumerate(records, prev):
            if index < len(now.log) and term_of(now.log[index]) != now.term:
                assert result.truncated_from == index + 1
                del now.log[index:]
            if index == len(now.log):
                now.log.append(record)

    def do_commit(self, a: int, b: int) -> None:
        index = self.commit + a
        if self.leading:
            moved = self.commit < index <= len(self.now.log) and term_of(self.now.log[index - 1]) == self.now.term
            moved = moved and index <= len(self.durable.log)
            if moved:
                assert self.world.ledger.commit_leading(self.now.term, index)
                self.commit = index
        else:
            self.world.ledger.commit_following(self.now.term, index)
            self.commit = min(max(index, self.commit), len(self.now.log))

    def do_apply(self, a: int, b: int) -> None:
        before = self.applied
        done = self.world.ledger.apply(a)
        self.applied = self.world.ledger.applied
        assert [each.index for each in done] == list(range(before + 1, self.applied + 1))
        assert len(done) <= a
        assert self.applied <= self.commit
        # Only what no rollback takes away may have been applied.
        assert self.now.log[: self.applied] == self.durable.log[: self.applied]

    def do_admit(self, a: int, b: int) -> None:
        node, known = f"n{2 + a % 3}", self.now.boots.get(f"n{2 + a % 3}")
        refused = self.world.ledger.identity.admit(self.world.ledger.turn, node, f"f{a % 2}", b, "")
        assert bool(refused) is bool(known and (known[0] != f"f{a % 2}" or known[1] > b))
        if not refused:
            self.now.boots[node] = (f"f{a % 2}", b)


def play(backend: str, steps: list[tuple[str, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(backend, Path(folder), limits=replace(LIMITS, tail_bytes_max=300))
        model = Model(world)
        model.begin()
        for what, a, b in [*steps, ("end", 0, 0), ("crash", 0, 0)]:
            model.step(what, a, b)
        world.close()


def walk(seed: int, length: int) -> list[tuple[str, int, int]]:
    """Steps among which entries are often replaced, for little is committed."""
    chance = random.Random(seed)
    names = [*OPERATIONS, *TURNS[1:]]
    chosen = chance.choices(names, [LIKELY.get(name, 1) for name in names], k=length)
    return [(name, chance.randrange(3 if name == "commit" else 10), chance.randrange(10)) for name in chosen]


@settings(max_examples=effort(50, 150), deadline=None)
@given(st.lists(STEP, max_size=60))
def test_over_memory_the_ledger_is_as_the_model_after_every_turn(steps: list[tuple[str, int, int]]) -> None:
    play("memory", steps)


@settings(max_examples=effort(5, 50), deadline=None)
@given(st.integers(0, 1 << 32))
def test_over_encrypted_tables_a_long_walk_leaves_both_with_the_same(seed: int) -> None:
    play("encrypted", walk(seed, 150))


@settings(max_examples=effort(30, 100), deadline=None)
@given(st.integers(0, 1 << 32))
def test_over_memory_a_long_walk_leaves_both_with_the_same(seed: int) -> None:
    play("memory", walk(seed, 200))


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1 << 32))
def test_over_lmdb_a_long_walk_leaves_both_with_the_same(seed: int) -> None:
    play("lmdb", walk(seed, 200))
