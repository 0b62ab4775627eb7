"""Under random loss, delay and changes of leader: at most once, and every future ends in time."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from forge_consensus.actors.messages import Refused, Submit, WireMessage
from forge_consensus.client.pending import PendingRead
from forge_consensus.config.client import ClientSettings
from forge_consensus.errors import OutcomeUnknownError
from tests.worlds.client_fakes import Hook
from tests.worlds.client_world import NODES, World
from tests.worlds.effort import effort

CODES = (
    "CONSENSUS_BUSY",
    "CONSENSUS_NOT_LEADER",
    "CONSENSUS_NO_LEADER",
    "CONSENSUS_OUTCOME_UNKNOWN",
    "CONSENSUS_STORAGE_FULL",
)


def rough_fate(dice: random.Random) -> Callable[[WireMessage, bool], list[float]]:
    """Lose a tenth, delay the rest, double answers: a connection does not double requests."""

    def fate(message: WireMessage, request: bool) -> list[float]:
        if dice.random() < 0.1:
            return []
        count = 1 if request or dice.random() < 0.8 else 2
        return [dice.choice((0.001, 0.01, 0.2)) * dice.random() for _ in range(count)]

    return fate


def rough_hook(world: World, dice: random.Random) -> Hook:
    """Refuse a tenth of the frames as not carried out, or as unknown."""

    def hook(node: str, message: WireMessage) -> list[WireMessage] | None:
        if not isinstance(message, Submit) or dice.random() > 0.1:
            return None
        code = dice.choice(CODES)
        if code == "CONSENSUS_OUTCOME_UNKNOWN" and node == world.group.leader:
            world.group.submit(message)
        other = dice.choice(list(NODES))
        return [Refused(code, "", other, NODES[other], world.group.term)]

    return hook


def shake(world: World, dice: random.Random, *, expiry: bool) -> None:
    """Change who leads, or a connection; with `expiry` all sessions end now and then."""
    roll = dice.random()
    if roll < 0.02:
        world.group.elect(dice.choice(["n1", "n2", "n3", "n1", "n2", "n3", ""]))
    elif roll < 0.05:
        address = dice.choice(world.given)
        if address in world.down:
            world.connect(address)
        else:
            world.disconnect(address)
    elif roll < 0.052 and expiry:
        world.group.sessions.clear()


ROUTES = (("linearizable", None), ("stale", None), ("linearizable", "any"), ("stale", "any"))


@pytest.mark.parametrize("seed", range(effort(20, 60)))
def test_each_command_is_applied_at_most_once_and_ends_by_its_deadline(seed: int) -> None:
    dice = random.Random(seed)
    world = World(seed, ClientSettings(outstanding_max=dice.choice((5, 100)), frame_items_max=20))
    world.connect()
    world.fate = rough_fate(dice)
    world.group.hook = rough_hook(world, dice)
    pendings = []
    for turn in range(600):
        if turn % 2 == 0:
            timeout = dice.choice((0.05, 0.5, 3.0))
            pendings += [world.put(f"{turn}-{n}", timeout=timeout) for n in range(dice.randrange(4))]
            consistency, read_from = dice.choice(ROUTES)
            wanted = {"read_from": read_from, "after_index": dice.choice((0, 3))}
            pendings.append(world.get("0-0", consistency, timeout, **wanted))
        shake(world, dice, expiry=True)
        world.step()
        for pending in pendings[-50:]:
            assert pending.done() or pending.deadline > world.now
    world.settle()
    for pending in pendings:
        assert pending.done()
        count = world.group.applied[pending.payload]
        assert count <= 1
        if pending.error is None and not isinstance(pending, PendingRead):
            assert count == 1
        if pending.error is not None and not isinstance(pending.error, OutcomeUnknownError):
            assert count == 0, pending.error
    assert len(world.done) == len(pendings)


@pytest.mark.parametrize("seed", range(5))
def test_every_command_succeeds_quickly_after_the_faults(seed: int) -> None:
    dice = random.Random(seed)
    world = World(seed)
    world.connect()
    world.fate = rough_fate(dice)
    pendings = [world.put(f"k{n}", timeout=60.0) for n in range(200)]
    for _ in range(200):
        shake(world, dice, expiry=False)
        world.step()
    world.fate = lambda message, request: [0.001]
    world.connect()
    world.group.elect("n2")
    assert world.settle() < 5.0
    assert all(pending.error is None for pending in pendings)
    after = world.put("after")
    assert world.settle() < 0.1
    assert after.error is None
