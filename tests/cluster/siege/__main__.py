"""The command: besieges real clusters for some minutes, and prints a summary or the failure."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from tests.cluster.siege.blows import BLOWS, impossible
from tests.cluster.siege.campaign import LOADS, Orders, Siege
from tests.cluster.siege.members import MEMBERS
from tests.cluster.siege.protected import WHAT

MINUTES = 5.0
NODES_MIN = 3
NODES_MAX = 9


def positive(text: str) -> float:
    """A number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0, such as 5 or 0.5")
    return number


def whole(text: str, low: int, high: int, what: str) -> int:
    """A whole number within bounds."""
    if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
        raise argparse.ArgumentTypeError(f"{text!r} is no {what}: expected {low} to {high}")
    return int(text)


def fault(text: str) -> tuple[str, ...]:
    """The fault or the load with that name, or all faults that change the members."""
    if text == "members":
        return tuple(MEMBERS)
    if text in LOADS:
        return (text,)
    if text not in BLOWS:
        raise argparse.ArgumentTypeError(
            f"there is no fault {text!r}: expected members, {', '.join(LOADS)}, or one of {', '.join(BLOWS)}"
        )
    if text in impossible():
        raise argparse.ArgumentTypeError(f"{text} is not possible here: {impossible()[text]}")
    return (text,)


def orders(arguments: Sequence[str] | None = None) -> Orders:
    """The arguments of the command; a wrong argument ends the process with 2."""
    parser = argparse.ArgumentParser("python -m tests.cluster.siege", description=__doc__)
    parser.add_argument("--minutes", type=positive, help=f"how long; {MINUTES:g} unless there are --rounds")
    parser.add_argument("--rounds", type=lambda text: whole(text, 1, 10**6, "number of rounds"), help="how many rounds")
    parser.add_argument(
        "--seed", type=lambda text: whole(text, 0, 2**63, "seed"), help="what the faults are drawn from"
    )
    parser.add_argument(
        "--nodes",
        type=lambda text: whole(text, NODES_MIN, NODES_MAX, "number of nodes"),
        help="how many nodes; 3 and 5 in turn unless given",
    )
    parser.add_argument(
        "--only",
        type=fault,
        action="append",
        default=[],
        metavar="KIND",
        help="this fault, repeatable; members for all that change the members; "
        "keys or registers for rounds in which clients do that",
    )
    parser.add_argument(
        "--secure",
        action="store_true",
        help=f"with {WHAT}; without faults of links and changes of members",
    )
    given = parser.parse_args(arguments)
    minutes = given.minutes or (float("inf") if given.rounds else MINUTES)
    seed = int.from_bytes(os.urandom(4)) if given.seed is None else given.seed
    names = [name for names in given.only for name in names]
    faults, loads = (tuple(name for name in names if (name in LOADS) is wanted) for wanted in (False, True))
    return Orders(seed, minutes * 60, given.rounds, given.nodes, faults, loads or LOADS, secure=given.secure)


def main() -> int:
    """Run the siege; returns 0 if all checks passed, 1 if not, 130 after Ctrl-C."""
    siege = Siege(orders())
    print(
        f"siege --seed {siege.orders.seed}",
        *(f"without {name}: {reason}" for name, reason in impossible().items()),
        sep="\n",
        flush=True,
    )
    code = 1
    try:
        code = 0 if siege.run() else 1
    except KeyboardInterrupt:
        code = 130
    print("\n".join(siege.tally.lines(siege.passed)))
    if siege.orders.secure:
        print(f"with {WHAT}")
    print({0: "all was well", 1: "FAILED, see above", 130: "interrupted; what was judged was well"}[code], flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
