"""The client's core learns of a smaller limit for frames while calls are under way."""

from __future__ import annotations

from forge_consensus.actors.messages import Read, Submit
from forge_consensus.errors import CommandTooLargeError, OutcomeUnknownError
from tests.unit.client.test_session import led
from tests.worlds.client_world import World


def learn_of_a_smaller_limit(world: World) -> None:
    """Have n2 elected, whose frames hold less."""
    world.group.frame_bytes_max = 10_000
    world.group.elect("n2")


def test_what_no_frame_holds_any_more_is_not_sent_again() -> None:
    world = led()
    world.fate = lambda message, request: [] if isinstance(message, Submit | Read) else [0.001]
    small, large, asked = world.put("k"), world.put("large", b"x" * 9_500), world.get("x" * 20_000)
    world.run(0.1)
    assert (small.sends, large.sends, asked.sends) == (1, 1, 1)
    learn_of_a_smaller_limit(world)
    world.disconnect("h:1")
    world.fate = lambda message, request: [0.001]
    world.sent.clear()
    assert world.settle() < 1.0, "before the deadline"
    assert small.error is None
    assert isinstance(large.error, OutcomeUnknownError)
    assert isinstance(asked.error, CommandTooLargeError)
    for error in (large.error, asked.error):
        assert "at most 8976 fit into a frame to the nodes" in str(error)
    assert "an earlier attempt may have been carried out" in str(large.error)
    payloads = [payload for frame in world.messages(Submit) for _, payload in frame.commands]
    assert payloads == [small.payload]


def test_a_command_that_certainly_never_left_is_too_large_once_the_limit_is_known() -> None:
    world = led()
    world.refuses = True
    large, small = world.put("large", b"x" * 9_500), world.put("k")
    world.run(0.02)
    assert large.number
    learn_of_a_smaller_limit(world)
    world.refuses = False
    world.disconnect("h:1")
    world.settle()
    assert isinstance(large.error, CommandTooLargeError)
    assert small.error is None
    assert set(world.group.applied) >= {small.payload}
    assert large.payload not in world.group.applied
