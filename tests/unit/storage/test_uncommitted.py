"""Uncommitted bytes are counted by batches, and the count returns to zero."""

from forge_consensus.storage.ledger.uncommitted import Uncommitted


def test_a_batch_counts_until_its_last_entry_is_committed() -> None:
    waiting = Uncommitted()
    waiting.proposed(10, 100)
    waiting.proposed(12, 7)
    waiting.committed(9)
    assert waiting.size_bytes == 107
    waiting.committed(11)
    assert waiting.size_bytes == 7
    waiting.committed(50)
    assert waiting.size_bytes == 0
    waiting.proposed(60, 5)
    waiting.clear()
    assert (waiting.size_bytes, len(waiting.batches)) == (0, 0)
