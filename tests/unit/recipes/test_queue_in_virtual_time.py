"""A queue under faults in virtual time: each item to one consumer, none lost that was taken, in order."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import pytest

from forge_consensus.errors import ConsensusError, LeaseLostError, OutcomeUnknownError
from forge_consensus.recipes.patience import NotYetError, Patience
from forge_consensus.recipes.steps import Pause, Steps
from forge_consensus.recipes.work_queue import Item, Queue
from tests.worlds.effort import effort
from tests.worlds.recipe_world import Faults, Process, RecipeWorld, Work, WorldClient

TTL = 3.0
ITEMS = 12
HARD = Faults(unknown=0.05, refused=0.05, pause=0.02, death=0.002)


def producer(world: RecipeWorld, count: int = ITEMS, pause: float = 0.0) -> Work:
    """Puts items, one after the other, until each was certainly put."""

    def work(client: WorldClient, process: Process) -> Steps[None]:
        queue = Queue(client, "q", TTL)
        for number in range(count):
            yield partial(queue.put, number)
            yield Pause(pause)

    return work


def getter(world: RecipeWorld, got: list[int], unknown: list[int]) -> Work:
    """Gets items until none comes for a while."""

    def work(client: WorldClient, process: Process) -> Steps[None]:
        queue = Queue(client, "q", TTL)
        while True:
            patience = Patience(5.0, client.timeout, lambda: world.now)
            try:
                entry = yield from queue.getting(patience, queue.getting_one)
                got.append(entry.value)
            except NotYetError:
                return
            except OutcomeUnknownError:
                unknown.append(1)
            except ConsensusError:
                yield Pause(0.3)

    return work


def taker(world: RecipeWorld, begun: list[int], acknowledged: list[int], unsure: list[int]) -> Work:
    """Takes items and acknowledges them until none comes for a while."""

    def work(client: WorldClient, process: Process) -> Steps[None]:
        queue = Queue(client, "q", TTL)
        while True:
            patience = Patience(8.0, client.timeout, lambda: world.now)
            try:
                item = yield from queue.taking(patience, partial(Item, queue))
            except NotYetError:
                return
            except ConsensusError:
                yield Pause(0.3)
                continue
            begun.append(item.value)
            yield Pause(0.1)
            try:
                yield from item.acknowledging()
                acknowledged.append(item.value)
            except (OutcomeUnknownError, LeaseLostError):
                unsure.append(item.value)
            except ConsensusError:
                pass

    return work


@pytest.mark.parametrize("seed", range(4))
def test_items_come_in_order_to_one_consumer_each_and_at_once(seed: int) -> None:
    world, got = RecipeWorld(seed), list[int]()
    world.process("producer", producer(world, pause=0.2))
    for number in range(3):
        world.process(f"c{number}", getter(world, got, []))
    world.run()
    assert got == list(range(ITEMS))
    assert world.now < 1.0 + ITEMS * (0.2 + 0.05) + 5.5, "somebody slept while there was an item"


def test_a_get_gives_each_item_at_most_once_whatever_goes_wrong() -> None:
    total = lost = 0
    for seed in range(effort(25, 1000)):
        world, got, unknown = RecipeWorld(seed), list[int](), list[int]()
        world.process("producer", producer(world))
        for number in range(4):
            world.process(f"c{number}", getter(world, got, unknown), HARD)
        world.run()
        assert all(process.over for process in world.processes), f"seed {seed}"
        dead = sum(process.dead for process in world.processes)
        assert max(Counter(got).values()) == 1, f"seed {seed}: an item came twice"
        left = {entry.value for entry in world.entries("queues/q#item/")}
        missing = set(range(ITEMS)) - set(got) - left
        assert len(missing) <= len(unknown) + dead, f"seed {seed}: {missing} went without a word"
        total, lost = total + len(got), lost + len(missing)
    assert total > 25 * ITEMS * 0.8
    assert lost > 0, "the faults were felt"


def test_an_item_that_was_taken_is_given_again_until_it_is_acknowledged_once() -> None:
    again = 0
    for seed in range(effort(25, 1000)):
        world = RecipeWorld(seed)
        begun, acknowledged, unsure = list[int](), list[int](), list[int]()
        world.process("producer", producer(world))
        for number in range(4):
            world.process(f"c{number}", taker(world, begun, acknowledged, unsure), HARD)
        world.process("c5", taker(world, begun, acknowledged, unsure))  # it never fails
        world.run(600)
        assert all(process.over for process in world.processes), f"seed {seed}"
        assert max(Counter(acknowledged).values()) == 1, f"seed {seed}: two consumers did the same item"
        done_or_unsure = set(acknowledged) | set(unsure)
        dead = sum(process.dead for process in world.processes)
        assert len(set(range(ITEMS)) - done_or_unsure) <= dead, f"seed {seed}: an item was lost"
        world.forget()
        assert world.entries("queues/") == [], f"seed {seed}"
        again += len(begun) - len(set(begun))
    assert again > 5, "consumers failed, and their items were given again"


def test_a_taken_item_is_not_given_by_get_and_comes_back_at_its_place() -> None:
    world, seen = RecipeWorld(3), list[Any]()

    def work(client: WorldClient, process: Process) -> Steps[None]:
        queue = Queue(client, "q", TTL)
        for number in range(3):
            yield partial(queue.put, number)
        look = Patience(0, client.timeout, lambda: world.now)
        item = yield from queue.taking(look, partial(Item, queue))
        entry = yield from queue.getting(look, queue.getting_one)
        seen.extend([item.value, entry.value, queue.size()])
        yield from item.giving_back()
        entry = yield from queue.getting(look, queue.getting_one)
        seen.append(entry.value)

    world.process("p", work)
    world.run()
    assert seen == [0, 1, 2, 0]


def test_get_and_take_do_not_give_the_same_item() -> None:
    for seed in range(effort(15, 300)):
        world, got, taken = RecipeWorld(seed), list[int](), list[int]()
        world.process("producer", producer(world))
        for number in range(2):
            world.process(f"g{number}", getter(world, got, []))
            world.process(f"t{number}", taker(world, taken, [], []))
        world.run()
        assert sorted(got + taken) == list(range(ITEMS)), f"seed {seed}"


def test_the_item_of_a_consumer_that_died_is_given_again_as_soon_as_its_lease_ends() -> None:
    world, when = RecipeWorld(5), list[float]()

    def dying(client: WorldClient, process: Process) -> Steps[None]:
        queue = Queue(client, "q", TTL)
        yield partial(queue.put, "work")
        yield from queue.taking(Patience(None, client.timeout, lambda: world.now), partial(Item, queue))
        when.append(world.now)
        process.dead = True
        yield Pause(1000)

    def heir(client: WorldClient, process: Process) -> Steps[None]:
        queue = Queue(client, "q", TTL)
        yield Pause(0.5)
        item = yield from queue.taking(Patience(60, client.timeout, lambda: world.now), partial(Item, queue))
        when.append(world.now)
        yield from item.acknowledging()

    world.process("dying", dying)
    world.process("heir", heir)
    world.run()
    assert when[1] - when[0] < TTL + 1.2, "a second is the time between two looks for what is due, in this world"
