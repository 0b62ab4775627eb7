"""A line under faults in virtual time: one turn at a time, in order, nobody forgotten and nobody in the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from forge_consensus.client.compare import Compare
from forge_consensus.client.key_records import KeyEntry
from forge_consensus.errors import ConsensusError, InvalidConfigError
from forge_consensus.recipes.line import Claim, Line, give_up
from forge_consensus.recipes.patience import NotYetError, Patience
from forge_consensus.recipes.steps import Pause, Steps
from forge_consensus.storage.machines.machine import Command
from tests.worlds.effort import effort
from tests.worlds.recipe_world import Faults, Process, RecipeWorld, Work, WorldClient

TTL = 3.0
HOLD = 0.05
HANDOVER = 0.1
HARD = Faults(unknown=0.05, refused=0.05, pause=0.02, death=0.002)


@dataclass
class Diary:
    """What the holders did."""

    turns: list[int] = field(default_factory=list)
    """The tokens, in the order in which the turns were noticed."""
    writes: list[int] = field(default_factory=list)
    """The tokens of guarded writes that succeeded, in their order."""
    refused: int = 0
    waited: list[float] = field(default_factory=list)


def holder(
    world: RecipeWorld, diary: Diary, rounds: int, places: int = 1, timeout: float | None = None, hold: float = 0.2
) -> Work:
    """What a process does: wait for a turn, write under its guard, leave; some rounds."""

    def work(client: WorldClient, process: Process) -> Steps[int]:
        line = Line(client, "lock", "x", TTL, places=places)
        done = 0
        for _ in range(rounds):
            patience = Patience(timeout, client.timeout, lambda: world.now)
            began = world.now
            try:
                turn = yield from line.wait(process.name, patience)
            except ConsensusError:
                yield Pause(0.5)
                continue
            assert turn.key.endswith(f"{turn.token:016}"), "that is somebody else's turn"
            diary.turns.append(turn.token)
            process.inside = turn
            diary.waited.append(world.now - began)
            for _ in range(3):
                yield Pause(hold / 3)
                yield from guarded(client, diary, turn.key, turn.token)
            process.inside = None
            yield from give_up(turn.lease)
            done += 1
        return done

    return work


def guarded(client: WorldClient, diary: Diary, key: str, token: int) -> Steps[None]:
    """Write the token under its guard."""

    def write() -> None:
        when = [Compare.created(key) == token]
        result = client.world.apply(Command("transaction", {"if": [when[0].row()], "then": [SET(token)]}))
        if result["succeeded"]:
            diary.writes.append(token)
        else:
            diary.refused += 1

    yield write


def SET(token: int) -> dict[str, object]:  # noqa: N802 - it stands for a command
    return {"type": "set", "key": "data", "value": token}


def test_one_holder_at_a_time_whatever_goes_wrong() -> None:
    turns = refused = 0
    for seed in range(effort(40, 2000)):
        world, diary = RecipeWorld(seed), Diary()
        for number in range(4):
            world.process(f"p{number}", holder(world, diary, 3), HARD)
        world.run(600)
        assert all(process.over for process in world.processes), f"seed {seed}: somebody waits for ever"
        assert diary.writes == sorted(diary.writes), f"seed {seed}: a stale holder wrote after its successor"
        world.forget()
        assert world.entries("locks/") == [], f"seed {seed}: a key was left behind"
        turns += len(diary.turns)
        refused += diary.refused
    assert turns > 200
    assert refused > 20, "stale holders tried to write"


@pytest.mark.parametrize("seed", range(effort(4, 100)))
def test_turns_come_in_the_order_of_the_line_and_without_delay(seed: int) -> None:
    world, diary = RecipeWorld(seed), Diary()
    for number in range(6):
        world.process(f"p{number}", holder(world, diary, 3, hold=HOLD))
    began = world.now
    world.run()
    assert [process.result for process in world.processes] == [3] * 6
    assert diary.turns == sorted(diary.turns)
    assert len(diary.writes) == 18 * 3
    assert world.now - began < 18 * (HOLD + HANDOVER), "somebody slept though its turn had come"


@pytest.mark.parametrize("seed", range(effort(4, 100)))
def test_a_semaphore_lets_in_as_many_as_it_has_places_and_wakes_without_delay(seed: int) -> None:
    world, diary = RecipeWorld(seed), Diary()
    places, clients, rounds = 3, 8, 3
    for number in range(clients):
        world.process(f"p{number}", holder(world, diary, rounds, places, hold=HOLD))
    began, most = world.now, 0
    while not all(process.over for process in world.processes):
        world.turn()
        most = max(most, len(world.inside()))
    assert most == places
    assert [process.result for process in world.processes] == [rounds] * clients
    assert world.now - began < clients * rounds / places * (HOLD + HANDOVER), "a place was free and somebody slept"


def test_a_semaphore_under_faults_never_has_too_many() -> None:
    places, turns = 2, 0
    for seed in range(effort(20, 1000)):
        world, diary = RecipeWorld(seed), Diary()
        for number in range(5):
            world.process(f"p{number}", holder(world, diary, 3, places), HARD)
        while not all(process.over for process in world.processes):
            world.turn()
            assert world.now < 600, f"seed {seed}: somebody waits for ever"
            assert len(world.inside()) <= places, f"seed {seed}: at {world.now}"
        world.forget()
        assert world.entries("locks/") == [], f"seed {seed}: a key was left behind"
        turns += len(diary.turns)
    assert turns > 120


@pytest.mark.parametrize("seed", range(effort(5, 300)))
def test_who_gives_up_leaves_nothing_behind(seed: int) -> None:
    world, diary = RecipeWorld(seed), Diary()
    world.process("holder", holder(world, diary, 1, hold=6.0))
    for number in range(5):
        world.process(f"p{number}", holder(world, diary, 2, timeout=0.7), Faults(unknown=0.05, refused=0.05))
    world.run()
    assert all(process.over for process in world.processes)
    world.forget()
    assert world.entries("locks/") == []


def test_another_limit_is_refused_to_the_later_one() -> None:
    world = RecipeWorld(1)

    def check_of(limit: int) -> Callable[[Sequence[KeyEntry]], None]:
        def check(ahead: Sequence[KeyEntry]) -> None:
            if any(entry.value != limit for entry in ahead):
                raise InvalidConfigError("another limit")

        return check

    def work_of(limit: int) -> Work:
        def work(client: WorldClient, process: Process) -> Steps[int]:
            line = Line(client, "semaphore", "x", TTL, places=limit, check=check_of(limit))
            turn = yield from line.wait(limit, Patience(None, 5.0, lambda: world.now))
            yield Pause(1.0)
            yield from give_up(turn.lease)
            return turn.token

        return work

    for limit in (2, 3, 2, 3):
        world.process(str(limit), work_of(limit))
    world.run()
    outcomes = {process.name for process in world.processes if process.error is None}
    assert len(outcomes) == 1
    assert all(isinstance(process.error, InvalidConfigError | None) for process in world.processes)
    assert world.entries("semaphores/") == []


def test_who_lost_the_lease_unawares_does_not_take_the_turn_of_another() -> None:
    world, diary = RecipeWorld(2), Diary()
    first = world.process("first", holder(world, diary, 1, hold=2.0))
    while first.inside is None:
        world.turn()
    second = world.process("second", holder(world, diary, 1, timeout=0.3))
    while not second.watch:
        world.turn()
    waiter = world.process("waiter", holder(world, diary, 1))
    while not waiter.watch:
        world.turn()
    world.apply(Command("lease_revoke", {"lease": waiter.leases[0].id}))  # as an operator may
    world.run()
    assert waiter.result == 1
    assert len(waiter.leases) == 2, "it joined the line again"
    assert diary.turns == sorted(diary.turns)


def test_who_was_ahead_is_told_though_the_last_look_was_not_answered() -> None:
    world, diary = RecipeWorld(4), Diary()
    first = world.process("first", holder(world, diary, 1, hold=5.0))
    while first.inside is None:
        world.turn()

    def work(client: WorldClient, process: Process) -> Steps[Claim]:
        return Line(client, "lock", "x", TTL).wait("late", Patience(1.0, client.timeout, lambda: world.now))

    late = world.process("late", work)
    while not late.watch:
        world.turn()
    late.faults = Faults(refused=1.0)
    world.run()
    assert isinstance(late.error, NotYetError)
    assert "was not to be had within 1 s: 'first' is ahead" in str(late.error)
