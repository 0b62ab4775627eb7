"""The load of keys: users and watchers of one round, and what is demanded when all is well again."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from forge_consensus.client.key_records import KeyChange, KeyEntry
from forge_consensus.client.sync import Client
from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.local.cluster import LocalCluster
from tests.cluster.siege.key_notes import KeyNotes
from tests.cluster.siege.key_users import (
    FUNDS,
    KEY_TTLS,
    LEASE_TTLS,
    LOCK_TTL,
    Appender,
    KeyUser,
    LeaseUser,
    LockUser,
    Payer,
    accounts,
)
from tests.cluster.siege.key_verdicts import (
    demand_nothing,
    judge_holds,
    judge_leases,
    judge_story,
    judge_told,
    judge_writes,
)
from tests.cluster.siege.key_watchers import ROWS_MAX, KeyWatcher, State
from tests.cluster.siege.protected import WRITER
from tests.cluster.siege.tally import Tally
from tests.cluster.siege.verdicts import LEVEL_TRIES

USERS: Final[tuple[type[KeyUser], ...]] = (LeaseUser, LeaseUser, LockUser, LockUser, LockUser, Payer, Payer, Appender)
READ_SECONDS: Final = 15.0
LATE_SECONDS: Final = 5.0
"""By so much a lease may end late when all is well, on a busy machine."""
PAGE: Final = 2_000
BEGUN: Final = "begun"
"""The mark of what is there before the users begin."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """What one node holds, all as of one entry."""

    entries: State
    leases: list[Any]
    oldest: int
    changes: list[KeyChange]


class KeyLoad:
    """One round of leases, locks, transactions and watches. The cluster holds no lease before it and after it."""

    def __init__(self, cluster: LocalCluster, number: int, dice: random.Random) -> None:
        self.cluster = cluster
        self.notes = KeyNotes(f"r{number}/")
        self.users = [
            kind(f"{kind.__name__.lower()}{n}", self.new_client(), random.Random(dice.random()), self.notes)
            for n, kind in enumerate(USERS)
        ]
        prefix = self.notes.prefix
        texts = {"": False, f"{prefix}lease/": False, "locks/": False, accounts(prefix)[0]: True}
        self.watchers = [
            KeyWatcher(self.new_client, random.Random(dice.random()), self.notes, text, exact=exact)
            for text, exact in texts.items()
        ]
        self.told: Counter[str] = Counter()

    def new_client(self) -> Client:
        """A client, closed by who asks for it."""
        return Client(
            self.cluster.endpoints, cluster_id=self.cluster.cluster_id, credentials=self.cluster.credentials(WRITER)
        )

    def start(self) -> None:
        """Let watchers watch and users work."""
        money = [Command("set", {"key": key, "value": [FUNDS, BEGUN]}) for key in accounts(self.notes.prefix)]
        for watcher in self.watchers:
            watcher.begin(READ_SECONDS)
        self.users[0].marked(
            lambda mark: self.users[0].client.batch(marked(money, mark), READ_SECONDS), keys=len(money)
        )
        for thread in (*self.watchers, *(user.thread for user in self.users)):
            thread.start()

    def stop(self) -> None:
        """Let the users end."""
        for user in self.users:
            user.stop.set()

    def join(self) -> None:
        """Wait for the users. Raises what went wrong with them."""
        for user in self.users:
            user.join()

    def judge(self, seconds: float) -> str:
        """Demand all that must hold in a cluster that is healed and at rest; returns a short account.

        Raises `AssertionError`, and the error of a call.
        """
        late = self.end_leases()
        last = self.write_ends()
        for watcher in self.watchers:
            watcher.join_well(last)
        states = self.node_states(seconds)
        everything = self.watchers[0]
        (name, first), *others = states.items()
        for other, state in others:
            assert state.entries == first.entries, f"{name} and {other} hold other keys: {differing(first, state)}"
            assert state.leases == first.leases, f"{name} has the leases {first.leases}, {other} {state.leases}"
        compared = 0
        for node, state in states.items():
            for watcher in self.watchers:
                compared += judge_told(watcher, node, state.oldest, last + 1, state.changes)
        for watcher in self.watchers[1:]:
            for part in everything.segments:
                compared += judge_told(watcher, everything.name, part.begin, part.end, part.changes)
        judge_story(self.notes.prefix, everything, first.entries)
        judge_writes(self.notes, everything)
        judge_leases(self.notes)
        judge_holds(self.notes)
        demand_nothing(self.notes.wrong)
        return self.account(compared, late)

    def account(self, compared: int, late: float) -> str:
        """What there was to judge."""
        notes, changes = self.notes, [c for part in self.watchers[0].segments for c in part.changes]
        kinds = Counter(change.kind for change in changes)
        self.told.update(
            {
                "changes": len(changes),
                "expired": kinds["expire"],
                "leases": len(notes.leases),
                "lost": notes.lost,
                "holds": len(notes.holds),
                "writes": len(notes.writes),
                "anew": sum(len(watcher.segments) - 1 for watcher in self.watchers),
            }
        )
        return (
            f"{len(changes)} changes told, compared {compared} times, {kinds['expire']} by {len(notes.leases)} leases "
            f"({notes.lost} lost), {len(notes.holds)} holds of locks, histories gone {self.told['anew']} times, "
            f"last lease {late:.1f} s after"
        )

    def end_leases(self) -> float:
        """Demand that kept leases live, end them, and see all end; returns the seconds from then on."""
        for user in self.users:
            if isinstance(user, LeaseUser):
                for held in user.held:
                    user.look(held, READ_SECONDS)
                user.leave()
        client, began = self.users[0].client, time.monotonic()
        longest = max(*LEASE_TTLS, *KEY_TTLS, LOCK_TTL)
        while left := client.leases(timeout=READ_SECONDS):
            passed = time.monotonic() - began
            assert passed < longest + LATE_SECONDS, f"{passed:.1f} s after nobody keeps them alive there are {left}"
            time.sleep(0.1)
        return time.monotonic() - began

    def write_ends(self) -> int:
        """Make a last change for each watcher; returns its entry."""
        client, user = self.users[0].client, self.users[0]
        sets = [Command("set", {"key": f"{self.notes.prefix}lease/end", "value": BEGUN})]
        sets += [Command("set", {"key": "locks/end", "value": BEGUN})]
        user.marked(lambda mark: client.batch(marked(sets, mark), READ_SECONDS), keys=1)
        key = f"{self.notes.prefix}lease/end"
        found = client.entry(key, timeout=READ_SECONDS)
        assert found is not None, f"{key} was just set"
        return found.modified

    def node_states(self, seconds: float) -> dict[str, NodeState]:
        """What each node holds, as of the same entry. Raises `AssertionError` if they do not stay level."""
        for _ in range(LEVEL_TRIES):
            index = self.cluster.wait_until_settled(*self.cluster.names, timeout=seconds)
            states = {name: self.node_state(name, index) for name in self.cluster.names}
            found = {name: state for name, state in states.items() if state is not None}
            if len(found) == len(states):
                return found
        raise AssertionError("the nodes do not stay level")

    def node_state(self, name: str, index: int) -> NodeState | None:
        """What a node holds; None if it is not as of that entry."""
        begin = self.watchers[0].segments[0].begin
        with Client(
            [self.cluster.real_addresses[name]],
            cluster_id=self.cluster.cluster_id,
            follow=False,
            credentials=self.cluster.credentials(WRITER),
        ) as client:
            entries = client.read_detail({"entries": "", "limit": ROWS_MAX}, "stale", READ_SECONDS)
            leases = client.read_detail({"leases": 0}, "stale", READ_SECONDS)
            since, changes = 0, list[KeyChange]()
            while True:
                query = {"changes": "", "since": max(begin, since), "limit": PAGE}
                page = client.read_detail(query, "stale", READ_SECONDS)
                oldest = max(begin, page.value["oldest"])
                if not {entries.applied, leases.applied, page.applied} <= {index}:
                    return None
                changes += [KeyChange.of_row(row) for row in page.value["changes"]]
                if page.value["next"] > index:
                    break
                since = max(page.value["next"], page.value["oldest"])
                if since > index:
                    break
        state = {row[0]: KeyEntry.of_row(row) for row in entries.value}
        return NodeState(state, leases.value, oldest, changes)

    def count(self, tally: Tally) -> None:
        """Add what there was to the tally."""
        tally.errors.update(self.notes.errors)
        tally.told.update(self.told)

    def close(self) -> None:
        """Close all clients."""
        for user in self.users:
            user.client.close()

    def keep(self, folder: Path) -> None:
        """Keep what explains a failure."""
        with (folder / "keys.txt").open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in self.notes.lines())
            for watcher in self.watchers:
                for part in watcher.segments:
                    file.write(f"{watcher.name} from {part.begin} to {part.end}\n")
                    file.writelines(f"  {change}\n" for change in part.changes)


def marked(commands: list[Command], mark: str) -> list[Command]:
    """These writes with that mark in their values."""
    return [Command(each.type, {**each.payload, "value": with_mark(each.payload["value"], mark)}) for each in commands]


def with_mark(value: Any, mark: str) -> Any:
    """A value with that mark."""
    return [*value[:-1], mark] if isinstance(value, list) else mark


def differing(one: NodeState, other: NodeState) -> list[Any]:
    """Some of the keys in which two nodes differ."""
    keys = sorted(one.entries.keys() | other.entries.keys())
    return [
        (one.entries.get(key), other.entries.get(key)) for key in keys if one.entries.get(key) != other.entries.get(key)
    ][:5]
