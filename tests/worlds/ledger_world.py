"""A ledger under test: over LMDB or memory, with turns, crashes and the part of a leader or a follower."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from forge_consensus.config.storage import StorageSettings
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.backends.tables import Batch, Tables
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.ledger import Accepted, Mismatch, Proposal
from forge_consensus.storage.ledger.record import Kind, encode
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import Command, Entry
from forge_consensus.storage.opening import Founding, Opened, open_ledger
from forge_consensus.storage.snapshots.export import export_state
from forge_consensus.storage.snapshots.file import SnapshotInfo, read_at
from forge_consensus.storage.snapshots.receiver import SnapshotReceiver
from tests.worlds.backends import new_tables

PEERS = {"n1": "host1:1", "n2": "host2:1", "n3": "host3:1"}
CONFIGURATION = Configuration.of(PEERS)
LIMITS = replace(StorageSettings(), trailing_entries=0, verify_entries=100)


class TallyMachine:
    """A user's machine that counts the applied entries, and notes every index once."""

    def __init__(self) -> None:
        self.indexes: list[int] = []
        self.total = 0

    def apply(self, entry: Entry) -> Any:
        if entry.command.type == "fail":
            raise ValueError("asked to")
        if entry.command.type == "disk":
            raise OSError(errno.EIO, "no disk")
        self.indexes.append(entry.index)
        self.total += entry.command.payload.get("n", 1)
        return self.total

    def query(self, query: Any) -> Any:
        return self.total

    def snapshot(self) -> Iterable[bytes]:
        return iter([b"%d" % self.total, b",".join(b"%d" % index for index in self.indexes)])

    def restore(self, chunks: Iterable[bytes]) -> None:
        total, indexes = chunks
        self.total = int(total)
        self.indexes = [int(index) for index in indexes.split(b",") if index]


class World:
    """One node's ledger and its surroundings; `crash` keeps only the data on disk and starts again."""

    def __init__(
        self,
        backend: str,
        path: Path,
        *,
        limits: StorageSettings = LIMITS,
        machine: Callable[[], Any] = KeyValueMachine,
        tables: Tables | None = None,
        node: str = "n1",
    ) -> None:
        self.backend, self.path, self.limits, self.machine, self.node = backend, path, limits, machine, node
        self.folder = path / "snapshots"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.now = 100.0
        self.drawn = 0
        self.tables = tables or self.new_tables()
        self.opened = self.open()

    def new_tables(self) -> Tables:
        return new_tables(self.backend, self.path)

    def draw(self) -> str:
        """Return the incarnation first, then the draw of each boot."""
        self.drawn += 1
        return f"folder-{self.node}" if self.drawn == 1 else f"{self.drawn:08}"

    def open(
        self, configuration: Configuration | None = CONFIGURATION, cluster: str = "c", *, amends: bool = False
    ) -> Opened:
        founding = Founding(self.node, cluster, configuration, self.draw, amends)
        made: Any = self.machine()
        tables, folder = self.tables, self.folder
        self.opened = open_ledger(
            tables, folder, founding, made, self.limits, lambda: export_state(tables, folder, type(made))
        )
        self.ledger, self.snapshots = self.opened.ledger, self.opened.snapshots
        return self.opened

    def crash(self) -> Opened:
        """End the process; a new one opens the data on disk."""
        self.restart_tables()
        return self.open()

    def restart_tables(self) -> None:
        if isinstance(self.tables, MemoryTables):
            self.tables = self.tables.clone_durable()
        else:
            self.tables.close()
            self.tables = self.new_tables()

    def close(self) -> None:
        self.tables.close()

    def write(self, build: Callable[[Batch], None]) -> None:
        """Change the tables behind the ledger's back, as a bad disk does."""
        batch = Batch()
        build(batch)
        self.tables.commit(batch)

    # --- turns -------------------------------------------------------------------------------------------------------

    @contextmanager
    def turn(self) -> Iterator[None]:
        self.ledger.begin(self.now)
        yield
        self.ledger.commit()

    def lead(self) -> int:
        """Become a candidate, win, and append a no-op; all of it is durable."""
        with self.turn():
            self.ledger.resign(self.ledger.term)
            term = self.ledger.stand(self.ledger.term)
        with self.turn():
            self.ledger.lead(term, 1000)
            self.ledger.propose(term, [Proposal(Kind.NOOP, 0, 0, 0, b"")])
        return term

    def propose(self, *commands: bytes, session: int = 0, seq: int = 1) -> int:
        """Propose commands in a turn of their own; returns the last index."""
        term = self.ledger.leading_term
        assert term is not None
        proposals = [Proposal(Kind.COMMAND, session, seq + n if session else 0, 0, c) for n, c in enumerate(commands)]
        with self.turn():
            return self.ledger.propose(term, proposals)[1]

    def settle(self, count_max: int | None = None) -> list[Any]:
        """Commit and apply everything, as the leader; or one slice, if it is bounded."""
        with self.turn():
            assert self.ledger.leading_term is not None
            self.ledger.commit_leading(self.ledger.leading_term, self.ledger.log.last)
            done = list(self.ledger.apply(count_max or 10_000))
        # After a start, what is applied again is marked first, which takes a turn.
        while self.ledger.more_to_apply and not self.ledger.applier.replacing and (count_max is None or not done):
            with self.turn():
                done += self.ledger.apply(count_max or 10_000)
        return done

    def do(self, *commands: bytes) -> list[Any]:
        """Propose, commit and apply."""
        self.propose(*commands)
        return self.settle()

    def follow(self, term: int) -> None:
        """Enter a term that another node leads."""
        with self.turn():
            self.ledger.advance(term)

    def accept(self, prev: int, prev_term: int, *records: bytes) -> Accepted | Mismatch:
        """Accept entries from the leader of the present term, within the present turn."""
        return self.ledger.accept(self.ledger.term, prev, prev_term, records)

    def checkpoint(self) -> None:
        with self.turn():
            self.ledger.checkpoint_wanted = True

    def snapshot(self) -> Any:
        """Checkpoint and take a snapshot, as the snapshot actor does."""
        with self.turn():
            self.snapshots.prepare()
        with self.turn():
            job = self.snapshots.capture()
        info = job()
        with self.turn():
            self.snapshots.taken(info)
        return info

    def compact(self) -> None:
        with self.turn():
            self.snapshots.compact()

    @property
    def log_bytes(self) -> list[bytes]:
        """All records above the base."""
        log = self.ledger.log
        return log.read(log.base_index + 1, log.last, 1 << 40)

    @property
    def state(self) -> dict[str, Any]:
        """All keys and values."""
        return dict(self.ledger.applier.machine.query({"scan": "", "limit": 10_000}))


def put(key: str, value: Any) -> bytes:
    return Command("set", {"key": key, "value": value}).encode()


def increment(key: str) -> bytes:
    return Command("increment", {"key": key}).encode()


def entry(index: int, term: int, data: bytes = b"", kind: int = Kind.COMMAND) -> bytes:
    return encode(index, term, kind, 1000, data=data or put("k", index))


def entries(first: int, last: int, term: int) -> list[bytes]:
    return [entry(index, term) for index in range(first, last + 1)]


def leader(path: Path, machine: Callable[[], Any] = KeyValueMachine, commands: int = 200) -> World:
    """A leader in term 1 with this many commands, a snapshot of a few chunks and a log compacted behind it."""
    made = World("memory", path, machine=machine, node="n2")
    made.lead()
    if machine is TallyMachine:
        given = [Command("add").encode()] * commands
    else:
        given = [put(f"k{n}", f"{n}" + "x" * 3_000) for n in range(commands)]
    made.do(*given)
    made.snapshot()
    made.compact()
    return made


def received(of: World, by: World) -> SnapshotInfo:
    """Copy the leader's newest snapshot into the follower's folder, as after the last chunk."""
    info = of.snapshots.newest
    assert info is not None
    receiver = SnapshotReceiver(by.folder, info.index, info.term, info.size_bytes, keys=by.snapshots.keys)
    receiver.write(0, read_at(info.path, 0, info.size_bytes, info.keys))
    return receiver.finish()
