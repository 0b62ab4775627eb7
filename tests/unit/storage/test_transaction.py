"""The ledger's own small records: sealed, so that a damaged vote is not taken for a vote."""

import pytest

from forge_consensus.errors import CorruptionError
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.ledger.transaction import META, Transaction, get_meta, unsealed


def test_a_record_comes_back_and_a_missing_one_is_none() -> None:
    tables, turn = MemoryTables(), Transaction()
    assert not turn.batch
    turn.put_meta(b"hard", b"value")
    tables.commit(turn.batch)
    assert get_meta(tables, b"hard") == b"value"
    assert get_meta(tables, b"base") is None


def test_every_flipped_bit_and_a_record_under_another_name_are_noticed() -> None:
    tables, turn = MemoryTables(), Transaction()
    turn.put_meta(b"hard", b"value")
    tables.commit(turn.batch)
    stored = tables.get(META, b"hard") or b""
    for bit in range(8 * len(stored)):
        flipped = bytearray(stored)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptionError, match="'hard' fails its checksum"):
            unsealed(b"hard", bytes(flipped))
    batch = Batch()
    batch.put(META, b"base", stored)
    tables.commit(batch)
    with pytest.raises(CorruptionError, match="'base' fails its checksum"):
        get_meta(tables, b"base")
