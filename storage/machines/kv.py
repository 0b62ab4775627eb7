"""The key-value machine: its state is in the ledger's tables, with unsaved changes in an overlay in memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any, Final

import msgpack

from forge_consensus.storage.machines.chunks import chunks_of
from forge_consensus.storage.machines.kv_batches import BATCH_OPS_MAX, COMMANDS, OP_BYTES_MIN, check_bounds
from forge_consensus.storage.machines.kv_commands import SET_FIELDS, check_fields, check_key, packed, plain_set
from forge_consensus.storage.machines.kv_draft import Draft
from forge_consensus.storage.machines.kv_history import CHANGE_BYTES, PART_BYTES, UNKNOWN
from forge_consensus.storage.machines.kv_overlay import Overlay, Span
from forge_consensus.storage.machines.kv_queries import query_steps
from forge_consensus.storage.machines.kv_rows import BIRTH_BYTES, UNSEEN, WRITING, in_new_form, is_open, row_after
from forge_consensus.storage.machines.kv_state import KeyValueState
from forge_consensus.storage.machines.kv_tables import CLOCK, stored_rows
from forge_consensus.storage.machines.kv_watches import Watch
from forge_consensus.storage.machines.leases import LEASES
from forge_consensus.storage.machines.machine import Command, Entry, PlainRun
from forge_consensus.storage.machines.steps import Encoded, finished

FRAMES: Final = 12
"""How deep the calls nest that remove leases which are due, at most."""


class KeyValueMachine(KeyValueState):
    """Keys (str) to msgpack values; the commands are in `kv_commands` and `kv_batches`, the queries in `query`.

    Its state is `KeyValueState`, in the ledger's tables. A machine that was never bound to tables has it in memory, and
    works by itself as a `StateMachine`. Not thread-safe.
    """

    def __init__(self) -> None:
        super().__init__()
        # four times as fast as packb, since a packer keeps its buffer; so it is for one thread
        self.pack: Callable[[Any], bytes] = msgpack.Packer().pack

    # --- commands and queries ---

    admit_bytes_min = BATCH_OPS_MAX * OP_BYTES_MIN
    """Only a longer command is decoded and handed to `admit`, because no shorter one holds too large a batch."""

    @staticmethod
    def admit(command: Command) -> None:
        """Refuse a command that could only fail, before it enters the log. Raises `ValueError` or `TypeError`."""
        check_bounds(command)

    def apply(self, entry: Entry) -> Any:
        """Apply one command, entirely or not at all; before that the leases end that are due, whatever becomes of it.

        Raises `ValueError` or `TypeError` with the reason for a command that cannot be carried out.
        """
        command, index, leases, history = entry.command, entry.index, self.leases, self.history
        if entry.elapsed_ms >= leases.next_ms:
            self.expire(index, entry.elapsed_ms)
        leases.now_ms = entry.elapsed_ms
        if history.oldest > UNKNOWN:
            history.began(index)
        history.last = index
        if command.type == "set" and command.payload.keys() == SET_FIELDS:
            return self.set_plain(index, command.payload)
        operation = COMMANDS.get(command.type)
        if operation is None:
            known = ", ".join(sorted(COMMANDS))
            raise ValueError(f"unknown command {command.type!r}; there are {known}")
        if command.payload.keys() != operation.fields:
            check_fields(command.type, operation, command.payload)
        draft = Draft(self, index)
        try:
            result = operation.run(draft, command.payload)
        except BaseException:
            leases.roll_back()
            raise
        leases.settle()
        if draft.writes:
            self.merge(draft)
        return result

    def set_plain(self, index: int, payload: dict[str, Any]) -> None:
        """Apply a set without a lease, as `kv_commands` does, in half the time: it is what comes most."""
        key = check_key(payload["key"])
        value = packed(self.pack, payload["value"])
        if key in self.leases.of_key:
            self.leases.move(key, 0)
            self.leases.settle()
        self.put_plain(index, key, value)

    def apply_plain(self, run: PlainRun) -> int:
        """Apply the plain sets at the beginning of a run, each as `apply` does; returns how many.

        It ends before any other command, a set that fails, and a key that hangs on a lease. The sets that it takes move
        no lease, so the leases that are due are the same behind each of them. A class of a user's own that has another
        `apply` is handed every command there.
        """
        first, elapsed_ms = run.first, run.elapsed_ms
        leases, history, pack, put = self.leases, self.history, self.pack, self.put_plain
        if elapsed_ms >= leases.next_ms or type(self).apply is not KeyValueMachine.apply:
            return 0
        probe(FRAMES)
        leased, index = leases.of_key, first
        for command in run.commands:
            found = plain_set(pack, command)
            if found is None or found[0] in leased:
                break
            if history.oldest > UNKNOWN:
                history.began(index)
            put(index, *found)
            index += 1
        if index > first:
            leases.now_ms, history.last = elapsed_ms, index - 1
        return index - first

    def put_plain(self, index: int, key: str, value: bytes) -> None:
        """Write a key without a lease, whose value is encoded."""
        fresh, history = self.fresh, self.history
        cells = fresh.cells
        if old := cells.get(key, UNSEEN):
            row = old[:BIRTH_BYTES] + WRITING.pack(index, 0) + value
            fresh.bytes += len(row) - len(old)
            cells[key] = row
        else:
            row = row_after(old, index, 0, value)
            fresh.put(key, row)
        if index == history.run_index:
            history.note(index, key, row)
            return
        history.changes.append((index, key, row))
        history.part_bytes += len(key) + len(row) + CHANGE_BYTES
        if history.part_bytes > PART_BYTES or len(history.changes) > history.part_end:
            history.end_part()

    def merge(self, draft: Draft) -> None:
        """Take over what a command writes."""
        index, note = draft.index, self.history.note
        for key, row in draft.writes.items():
            self.replace(key, row)
            if row is not None:
                note(index, key, row)
            elif key in draft.gone:
                note(index, key, draft.gone[key] << 1)

    def replace(self, key: str, row: bytes | None) -> None:
        """Put a row, None for a deleted key, in the place of another one that may be open."""
        fresh = self.fresh
        old = fresh.cells.get(key)
        if old is not None and is_open(old) and (row is None or row[:BIRTH_BYTES] != old[:BIRTH_BYTES]):
            fresh.lost.add(key)
        fresh.put(key, row)

    def expire(self, index: int, now_ms: int) -> None:
        """Remove the leases that are due, with their keys, as far as one entry may.

        If the stack is too short for that it raises RecursionError before anything is changed: the call is made again
        with more of it, and what one entry removes must not depend on how often it was called.
        """
        probe(FRAMES)
        for lease, keys in self.leases.take_due(now_ms):
            for key in keys:
                self.replace(key, None)
                self.history.note(index, key, lease << 1 | 1)

    def query(self, query: Any) -> Any:
        """Answer a query.

        - a key, or {"get": key}: the value, or None
        - {"scan": prefix, "limit": 1000, "after": key}: [[key, value], ...] in key order. The next
          page is `after` the last key; a page with fewer than `limit` keys is the last one
        - {"count": prefix}: how many keys have it. Counting all keys costs as much as looking up the keys that changed
          since the last checkpoint; with a prefix every key that has it is passed, in steps (see `query_steps`)
        - {"entry": key}: [key, value, created, modified, lease], or None. `created` is the index of the entry since
          which the key exists, `modified` that of its last write, `lease` the id of its lease, 0 for none
        - {"entries": prefix, "limit": 1000, "after": key, "start": key, "end": key, "reverse": False}: a list of such,
          from `start` on and below `end`, in descending order with `reverse`. The next page is `after` the last key
        - {"lease": id}: [id, ttl_ms, left_ms, [key, ...]], or None; `left_ms` as of the last entry
        - {"leases": id, "limit": 1000}: [[id, ttl_ms, left_ms, number of keys], ...] of those with a higher id
        - {"changes": prefix, "since": index, "limit": 1000, "key": False, "wait_ms": 0}: what entries from `since` on
          changed, as
          {"changes": [[index, key, value, created, lease, kind], ...], "next": index, "oldest": index}. Kinds are
          "put", "delete" and "expire"; the latter two have the value None, `created` 0 and the lease that the key hung
          on. The changes are all that there were before `next`, which is the `since` of the next question; there may be
          more than `limit`, because those of one entry stay together, and fewer although more follow. With `key` True
          it asks for that key alone. With `wait_ms` a node keeps the question, for so many milliseconds at most, while
          there is no change. If `next` is less than `oldest` the answer is empty and the history from `next` on is
          gone: read the state anew

        Raises ValueError or TypeError for any other, and for a page of more than `SCAN_BYTES_MAX`.
        """
        steps = query_steps(self, query)
        answer = finished(steps) if isinstance(steps, Generator) else steps
        if isinstance(answer, Watch):
            answer = answer.answer(over=True)
        return msgpack.unpackb(answer.data) if type(answer) is Encoded else answer

    def query_steps(self, query: Any) -> Any:
        """As `query`, but for a query that may take long it returns a generator, which returns the answer in the end.

        Its first step fixes the state that it answers from; commands may be applied between its steps. A page is
        returned as `Encoded`, and at once if one step is enough; otherwise it is begun anew in the first step, because
        the state may be another one by then.
        """
        return query_steps(self, query)

    @property
    def due_ms(self) -> int | None:
        """The elapsed time at which the first lease ends, None without one: see `StateMachine`."""
        due = self.leases.first_due()
        return None if due is None else due[0]

    # --- by itself ---

    def snapshot(self) -> Iterable[bytes]:
        """Return the whole state in chunks.

        Keys and rows are copied at once; they are packed only when the result is iterated over.
        """
        clock = self.pack([self.history.last, self.leases.now_ms])
        return chunks_of([(CLOCK, clock), *self.whole_state()])

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the state, entirely or not at all.

        Raises `CorruptionError` when a chunk is none.
        """
        rows = [row for chunk in chunks for row in stored_rows(chunk)]
        index, now_ms = UNKNOWN, 0
        if rows and rows[0][0] == CLOCK:
            index, now_ms = msgpack.unpackb(rows.pop(0)[1])
        leases = self.leases.replaced((row for row in rows if row[0][:1] == LEASES), now_ms)
        fresh = Overlay()
        for key, _ in self.merged_rows(Span()):  # those deleted in memory too, because they may be on disk
            fresh.put(key, None)
        for place, row in rows:
            if place[:1] != LEASES:
                fresh.put(place.decode(), in_new_form(row))
        self.fresh, self.leases = fresh, leases
        self.begin_history(index)


def probe(frames: int) -> None:
    """Nest so many calls. Raises RecursionError if that cannot be."""
    if frames:
        probe(frames - 1)
