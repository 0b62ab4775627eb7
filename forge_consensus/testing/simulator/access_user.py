"""A user who changes and reads the list of access beside the other clients, and what its answers are judged by."""

from __future__ import annotations

import random
from hashlib import sha256
from typing import Any, Final

from forge_consensus.actors.messages import STALE
from forge_consensus.security.access import TOKEN_ID_CHARS
from forge_consensus.security.access_changes import RESERVED
from forge_consensus.security.curve import KEY_CHARS
from forge_consensus.storage.ledger.access import REFUSED
from forge_consensus.storage.machines.machine import COMMAND_FAILED, Command
from forge_consensus.testing.histories.history import Operation
from forge_consensus.testing.rules.access_rules import AccessLists
from forge_consensus.testing.rules.violations import demand
from forge_consensus.testing.simulator.habits import Habits
from forge_consensus.testing.simulator.workload import Call, Workload

NAME: Final = "admin"
"""The name of this user's client."""
PRINCIPALS: Final = ("n1", "n2", "ann", "bob", "eve")
FRESH: Final = 6
"""Of so many of the newest keys and tokens one is drawn, so that changes meet and revoked ones are named again."""
KINDS: Final = ("put", "add_key", "revoke_key", "add_token", "revoke_token", "remove")
WEIGHTS: Final = (5, 4, 4, 4, 2, 1)


class AccessWorkload(Workload):
    """Changes of the list of access, and the query for it."""

    def __init__(self) -> None:
        self.keys = self.tokens = 1

    def command(self, chance: random.Random, client: str) -> Call:
        """Return a change; some are refused."""
        kind = chance.choices(KINDS, WEIGHTS)[0]
        fields: dict[str, Any] = {"do": kind, "force": chance.random() < 0.7}
        if kind in {"put", "add_key", "add_token", "remove"}:
            fields["name"] = chance.choice(PRINCIPALS)
        if kind in {"add_key", "revoke_key"}:
            fields["key"] = self.key(chance)
        if kind in {"add_token", "revoke_token"}:
            fields["id"] = self.token(chance)
        if kind == "put":
            member = fields["name"].startswith("n")
            fields["roles"] = ["peer"] if member else [chance.choice(("admin", "read", "write"))]
            fields["rules"] = [] if member else chance.choice(([], ["read app/*"], ["write app/*", "read *"]))
            if chance.random() < 0.3:
                fields["keys"] = [self.key(chance)]
        if kind == "add_token":
            fields["sha256"] = sha256(fields["id"].encode()).hexdigest()
            fields["roles"] = chance.choice(([], ["read"]))
        return Call(kind, RESERVED, fields, Command(RESERVED, fields))

    def query(self, chance: random.Random, client: str) -> Call:
        """Return the query for the list."""
        return Call("access", RESERVED, query={RESERVED: True})

    def key(self, chance: random.Random) -> str:
        """Return a public key: often a new one."""
        self.keys += chance.random() < 0.4
        return f"{max(1, self.keys - chance.randrange(FRESH)):0{KEY_CHARS}}"

    def token(self, chance: random.Random) -> str:
        """Return the id of a token: often a new one."""
        self.tokens += chance.random() < 0.4
        return f"{max(1, self.tokens - chance.randrange(FRESH)):0{TOKEN_ID_CHARS}}"


class AccessJudge:
    """Judges the calls of an `AccessWorkload`: whoever asks later sees a list that is as new.

    Args:
        lists: knows which entries changed the list.

    """

    def __init__(self, lists: AccessLists) -> None:
        self.lists = lists
        self.floors: dict[int, int] = {}
        """By the identity of a call that was not answered: the newest change that was known when it began."""
        self.seen = 0
        """The newest change that any answer shows."""
        self.answers = 0

    def invoked(self, operation: Operation) -> None:
        """Note what a call that begins must see."""
        self.floors[id(operation)] = self.seen

    def answered(self, operation: Operation) -> None:
        """Compare what an answer shows with what was known before. Raises `ViolationError`."""
        self.answers += 1
        floor, applied = self.floors.pop(id(operation), 0), operation.applied
        if operation.kind != "access":
            self.seen = max(self.seen, self.lists.last_at(applied))
            return
        index = operation.result["index"]
        known = self.lists.last_at(applied)
        demand(index == known, "I5", f"a read of the list as of entry {applied} got that of {index}, it is of {known}")
        if operation.consistency != STALE:
            demand(index >= floor, "I13", f"a read of the list got that of entry {index}, {floor} was known before")
        self.seen = max(self.seen, index)

    def failed(self, operation: Operation, code: str, reason: Any, label: tuple[int, int] = (0, 0)) -> None:
        """Demand that it is a change that was refused. Raises `ViolationError`."""
        self.floors.pop(id(operation), None)
        refused = code == COMMAND_FAILED and reason[0] == REFUSED and operation.kind != "access"
        demand(refused, "I14", f"{operation.client}'s {operation.kind} failed with {code}: {reason}")

    def told_age(self, operation: Operation, applied: int, stale_ms: int) -> None:
        """Do nothing: ages are judged by other clients."""

    def refused(self, operation: Operation, moment: float) -> None:
        """Forget a call that was not carried out."""
        self.floors.pop(id(operation), None)


def habits(pace: float) -> Habits:
    """The habits of this user, at a plan's pace."""
    return Habits(
        pipeline_max=3,
        burst_max=3,
        read_share=0.4,
        stale_share=0.3,
        rest_s_max=0.3 * pace,
        patience_s=0.4 * pace,
        kill_share=0.01,
        copy_share=0.2,
        pace=pace,
    )
