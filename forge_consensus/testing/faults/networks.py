"""The faults of the network: partitions of every shape, lost, late and doubled frames, and connections that break."""

from __future__ import annotations

import dataclasses
from functools import partial

from forge_consensus.testing.faults.strike import NOBODY, Strike
from forge_consensus.testing.world.network import Weather

FLAPS_MAX = 20
HOLD_SECONDS = 0.5
"""How often a lasting cut is renewed, because other faults mend and rejoin."""
CLIENT_SHARE = 0.25
"""The share of clients' connections among those that break."""


def text_of(one: list[str], other: list[str], between: str = "|") -> str:
    """Return a cut in words."""
    return f"{'+'.join(sorted(one))} {between} {'+'.join(sorted(other))}"


def mend(strike: Strike) -> str:
    """End all cuts, also those that earlier strikes made, so that all nodes reach each other."""
    strike.network.cut.clear()
    return "all cuts"


def isolate(strike: Strike) -> str:
    """Cut one node off from all others."""
    one, *rest = strike.shuffled()
    strike.network.part([one], rest)
    return one


def isolate_leader(strike: Strike) -> str:
    """Cut the leader off from all others; it does not notice at once."""
    leader = strike.leader()
    if leader is None:
        return NOBODY
    strike.network.part([leader.name], strike.others(leader.name))
    return leader.name


def stun_leader(strike: Strike) -> str:
    """Cut the leader off and stop its process for about as long as the others need to elect a new one."""
    leader, seconds = strike.leader(), strike.seconds(0.5, 2.0)
    if leader is None:
        return NOBODY
    strike.network.part([leader.name], strike.others(leader.name))
    leader.pause(seconds)
    return f"{leader.name} for {seconds:.3f} s"


def split(strike: Strike) -> str:
    """Split the cluster into two parts."""
    names = strike.shuffled()
    middle = len(names) // 2
    strike.network.part(names[:middle], names[middle:])
    return text_of(names[:middle], names[middle:])


def one_way(strike: Strike) -> str:
    """Lose all frames from one node to some others, but not those in the other direction."""
    names = strike.shuffled()
    if len(names) < 2:
        return NOBODY
    deaf = names[1 : strike.chance.randint(2, len(names))]
    strike.network.part(names[:1], deaf, both_ways=False)
    return text_of(names[:1], deaf, "-x->")


def send_only(strike: Strike) -> str:
    """Lose all frames to one node; the frames that it sends arrive."""
    one, *rest = strike.shuffled()
    strike.network.part(rest, [one], both_ways=False)
    return one


def receive_only(strike: Strike) -> str:
    """Lose all frames from one node; it still receives."""
    one, *rest = strike.shuffled()
    strike.network.part([one], rest, both_ways=False)
    return one


def bridge(strike: Strike) -> str:
    """Split the cluster into two parts that are connected through one node only."""
    names = strike.shuffled()
    half = len(names) // 2
    one, other = names[1 : half + 1], names[half + 1 :]
    strike.network.part(one, other)
    return f"{text_of(one, other)} with {names[0]} between"


def flap(strike: Strike) -> str:
    """Cut and rejoin a node or a half quickly and repeatedly, in both directions or in one."""
    names = strike.shuffled()
    chance = strike.chance
    middle = chance.choice((1, len(names) // 2))
    one, other = names[:middle], names[middle:]
    both_ways, period = chance.random() < 0.7, chance.choice((0.02, 0.1, 0.4, 1.0)) * strike.seconds(0.5, 1.5)
    left = chance.randint(2, FLAPS_MAX)

    def turn(left: int) -> None:
        if left % 2:
            strike.network.join_again(one, other)
        else:
            strike.network.part(one, other, both_ways=both_ways)
        if left > 1:
            strike.after(period, lambda: turn(left - 1))

    turn(left + left % 2)  # the last change rejoins
    return f"{text_of(one, other, '|' if both_ways else '-x->')} every {period:.3f} s, {left} times"


def change_weather(strike: Strike) -> str:
    """Draw new loss, delay, duplication and reordering of frames."""
    chance = strike.chance

    def sometimes(value: float) -> float:
        return chance.choice((0.0, 0.0, value * chance.random()))

    delay = chance.choice((0.002, 0.02, 0.1, 0.5)) * strike.seconds(0.0, 1.0) + 0.001
    weather = strike.network.weather = dataclasses.replace(
        Weather(),
        loss=sometimes(0.3),
        duplicate=sometimes(0.3),
        reorder=sometimes(0.5),
        replay=sometimes(0.2),
        delay_seconds_max=delay,
        unreported=chance.choice((0.0, 0.5, 1.0)),
        report_seconds_max=chance.choice((0.002, 0.5, 3.0)) * strike.pace,
    )
    if strike.network.corrupts:
        weather.corrupt = sometimes(0.1)
    named = dataclasses.asdict(weather)
    return ", ".join(f"{name} {value:.3g}" for name, value in named.items() if value and name != "delay_seconds_min")


def cut_for_long(strike: Strike) -> str:
    """Cut a node off in both directions or in one, until the faults end or for many seconds, whatever mends."""
    one, *rest = strike.shuffled()
    both_ways, sends = strike.chance.random() < 0.5, strike.chance.random() < 0.5
    seconds = strike.seconds(5.0, 20.0)
    pairs = (([one], rest), (rest, [one]))[sends]

    def hold(left: float) -> None:
        strike.network.part(*pairs, both_ways=both_ways)
        if left > 0.0:
            strike.after(HOLD_SECONDS, partial(hold, left - HOLD_SECONDS))
        else:
            strike.network.join_again([one], rest)

    hold(seconds)
    return f"{text_of(*pairs, '|' if both_ways else '-x->')} for {seconds:.3f} s"


def break_link(strike: Strike) -> str:
    """Break one connection while both processes run; its owner is notified at once or late."""
    one, *rest = strike.shuffled()
    rest = [other for other in rest if not strike.network.calm(one, other)]
    late = strike.chance.choice((0.0, 0.0, strike.seconds(0.0, 3.0)))
    clients, whose = strike.network.callers.get(one, ()), strike.chance.random()
    if clients and whose < CLIENT_SHARE:
        client = clients[int(whose / CLIENT_SHARE * len(clients))]
        strike.after(late, partial(strike.network.report, client, one))
        return f"{client.name}>{one} in {late:.3f} s"
    for other in rest:
        if (one, other) in strike.network.links and one in strike.network.live:
            strike.after(late, partial(strike.network.report, strike.network.live[one], other))
            return f"{one}>{other} in {late:.3f} s"
    return NOBODY


CUTS = (isolate, isolate_leader, stun_leader, split, one_way, send_only, receive_only, bridge)
NETWORK_FAULTS = (mend, *CUTS, flap, cut_for_long, change_weather, break_link)
