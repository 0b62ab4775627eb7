"""Records: an encoded entry is read back, and every change of its bytes is noticed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_consensus.errors import CorruptionError
from forge_consensus.storage.backends.sealed import CRC_BYTES
from forge_consensus.storage.ledger.record import (
    HEAD_BYTES,
    Kind,
    data_of,
    decode,
    encode,
    index_of,
    intact,
    key_of,
    kind_of,
    term_of,
)

NUMBER = st.integers(0, 2**63 - 1)


@settings(max_examples=50)
@given(index=NUMBER, term=NUMBER, time_ms=NUMBER, session=NUMBER, seq=NUMBER, mark=NUMBER, data=st.binary())
def test_an_entry_comes_back_as_it_was(
    index: int, term: int, time_ms: int, session: int, seq: int, mark: int, data: bytes
) -> None:
    record = encode(index, term, Kind.COMMAND, time_ms, session, seq, mark, data)
    assert decode(index, record) == (index, term, Kind.COMMAND, time_ms, session, seq, mark, data)
    assert (term_of(record), kind_of(record), data_of(record)) == (term, Kind.COMMAND, data)
    assert len(record) == HEAD_BYTES + len(data) + CRC_BYTES


def test_every_flipped_bit_and_every_cut_is_noticed() -> None:
    record = encode(7, 3, Kind.COMMAND, 1000, 5, 6, 4, b"data")
    for bit in range(8 * len(record)):
        flipped = bytearray(record)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not intact(7, bytes(flipped))
    for length in range(len(record)):
        assert not intact(7, record[:length])
    assert not intact(7, record + b"\0")
    assert not intact(0, bytes(64))


def test_a_record_under_another_index_is_noticed() -> None:
    record = encode(7, 3, Kind.NOOP, 1000)
    assert [index for index in range(1000) if intact(index, record)] == [7]
    with pytest.raises(CorruptionError, match=r"log entry 8 fails its checksum.*new member"):
        decode(8, record)


def test_indexes_above_32_bits_work() -> None:
    index = 2**40 + 5
    assert decode(index, encode(index, 1, Kind.NOOP, 0)).index == index


def test_keys_order_as_indexes_do() -> None:
    indexes = [0, 1, 255, 256, 65_536, 2**40]
    keys = [key_of(index) for index in indexes]
    assert keys == sorted(keys)
    assert list(map(index_of, keys)) == indexes
