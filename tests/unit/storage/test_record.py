"""Records: an encoded entry is read back, and every change of its bytes is noticed."""

import struct
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_consensus.errors import CorruptionError
from forge_consensus.storage.backends.sealed import CRC_BYTES
from forge_consensus.storage.ledger.record import (
    HEAD_BYTES,
    UNTIMED,
    Kind,
    Record,
    data_of,
    decode,
    encode,
    encode_untimed,
    index_of,
    intact,
    key_of,
    kind_of,
    term_of,
)

NUMBER = st.integers(0, 2**63 - 1)


@settings(max_examples=50)
@given(
    index=NUMBER, term=NUMBER, time_ms=NUMBER, session=NUMBER, seq=NUMBER, mark=NUMBER, data=st.binary(), elapsed=NUMBER
)
def test_an_entry_comes_back_as_it_was(
    index: int, term: int, time_ms: int, session: int, seq: int, mark: int, data: bytes, elapsed: int
) -> None:
    record = encode(index, term, Kind.COMMAND, time_ms, session, seq, mark, data, elapsed)
    assert decode(index, record) == Record(index, term, Kind.COMMAND, time_ms, session, seq, mark, data, elapsed)
    assert (term_of(record), kind_of(record), data_of(record)) == (term, Kind.COMMAND, data)
    assert len(record) == HEAD_BYTES + len(data) + CRC_BYTES


@settings(max_examples=50)
@given(index=NUMBER, term=NUMBER, time_ms=NUMBER, data=st.binary())
def test_an_entry_of_format_2_is_read_as_it_was_written(index: int, term: int, time_ms: int, data: bytes) -> None:
    """The layout as version 2 of the folder had it, put together here by hand."""
    body = struct.pack(">QBQQQQ", term, int(Kind.NOOP), time_ms, 0, 0, 0) + data
    record = body + crc32(body, index).to_bytes(4, "little")
    assert encode_untimed(index, term, Kind.NOOP, time_ms, data) == record
    assert intact(index, record)
    assert decode(index, record) == Record(index, term, Kind.NOOP, time_ms, 0, 0, 0, data, UNTIMED)
    assert (term_of(record), kind_of(record), data_of(record)) == (term, Kind.NOOP, data)


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
    with pytest.raises(CorruptionError, match=r"log entry 8 fails its checksum.*majority of the members"):
        decode(8, record)


def test_indexes_above_32_bits_work() -> None:
    index = 2**40 + 5
    assert decode(index, encode(index, 1, Kind.NOOP, 0)).index == index


def test_keys_order_as_indexes_do() -> None:
    indexes = [0, 1, 255, 256, 65_536, 2**40]
    keys = [key_of(index) for index in indexes]
    assert keys == sorted(keys)
    assert list(map(index_of, keys)) == indexes
