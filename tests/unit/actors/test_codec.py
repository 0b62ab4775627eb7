"""The codec against hostile and damaged bytes: what a frame may cost, its checksum, and its limits."""

from __future__ import annotations

import itertools
import time
import tracemalloc
from typing import Any

import msgpack
import pytest

from forge_consensus.actors.codec import (
    COUNTED_BYTES,
    ELEMENTS_MAX,
    DamagedFrameError,
    Frame,
    decode,
    encode,
    sealed,
)
from forge_consensus.actors.messages import AppendEntries, GetStatus, Read, Status, Submit
from forge_consensus.errors import ProtocolError

BYTES_MAX = 8 << 20
CPU_SECONDS = 1.0


def framed(body: bytes, count: int) -> bytes:
    """A frame to the gateway whose message has these fields, as bytes of msgpack, with a checksum that fits."""
    packer = msgpack.Packer(autoreset=False)
    packer.pack_array_header(12 + count)
    for part in (3, "gateway", "", "", "", 0, 0, 1, 2, (), 38):
        packer.pack(part)
    return sealed(packer.bytes() + body + b"\xce\xff\xff\xff\xff")


def tuple_keyed(count: int) -> bytes:
    """A map of which all keys are tuples of one hash."""
    packer = msgpack.Packer(autoreset=False)
    packer.pack_map_header(count)
    for combination in itertools.islice(itertools.product((-1, -2), repeat=14), count):
        packer.pack(combination)
        packer.pack(None)
    data: bytes = packer.bytes()
    return data


HOSTILE = {
    "keys of one hash": framed(tuple_keyed(8000), 1),
    "keys of one hash, nested": framed(b"\x91" * 9 + tuple_keyed(8000), 1),
    "a map": framed(b"\x81\xa1a\x01", 1),
    "empty maps": framed(b"\xdd" + (8_000_000).to_bytes(4) + b"\x80" * 8_000_000, 1),
    "empty arrays": framed(b"\xdd" + (8_000_000).to_bytes(4) + b"\x90" * 8_000_000, 1),
    "arrays of one": framed(b"\xdd" + (4_000_000).to_bytes(4) + b"\x91\xc0" * 4_000_000, 1),
    "short texts": framed(b"\xdd" + (2_600_000).to_bytes(4) + b"\xa2xy" * 2_600_000, 1),
    "numbers": framed(b"\xdd" + (2_600_000).to_bytes(4) + b"\xcd\x7f\x7f" * 2_600_000, 1),
    "fields without end": framed(b"\x01" * 60_000, 60_000)[:100],
    "deep": framed(b"\x91" * 100_000 + b"\xc0", 1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_frame_is_refused_before_it_costs(name: str) -> None:
    data = HOSTILE[name]
    began = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decode(data, BYTES_MAX)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(data) + (4 << 20)
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < CPU_SECONDS


def test_a_frame_just_below_the_counted_size_makes_no_more_than_its_bytes_allow() -> None:
    count = COUNTED_BYTES // 2 - 100
    data = framed(b"\xdd" + count.to_bytes(4) + b"\x91\xc0" * count, 1)
    assert len(data) <= COUNTED_BYTES
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decode(data, BYTES_MAX)
        assert tracemalloc.get_traced_memory()[1] < 48 << 20
    finally:
        tracemalloc.stop()


def test_the_largest_honest_frames_pass() -> None:
    full = Frame("gateway", "", "", "", 0, 0, 1, 2, Read("stale", tuple((n, b"q" * 40) for n in range(80_000))))
    assert len(encode(full)) > COUNTED_BYTES
    assert decode(encode(full), BYTES_MAX) == full
    records = Frame("replication", "", "", "", 0, 0, 1, 2, AppendEntries(1, 1, 1, 1, 1, (b"r" * (1 << 20), b"s") * 7))
    assert decode(encode(records), BYTES_MAX) == records
    over = Frame("gateway", "", "", "", 0, 0, 1, 2, Submit(1, 1, tuple((n, b"q") for n in range(ELEMENTS_MAX))))
    with pytest.raises(ProtocolError, match="more than"):
        decode(encode(over), BYTES_MAX)


@pytest.mark.parametrize("key", [1, -1, 1.5, True, None, "text", b"bytes"])
def test_a_status_may_have_scalar_keys_and_nested_maps(key: Any) -> None:
    frame = Frame("gateway", "", "", "", 0, 0, 1, 2, Status({"peers": {"n2": {key: [1, {}]}}}))
    assert decode(encode(frame), BYTES_MAX) == frame


def test_a_status_with_other_keys_is_refused() -> None:
    status = Frame("gateway", "", "", "", 0, 0, 1, 2, Status({"a": {(1, 2): 3}}))
    with pytest.raises(ProtocolError, match="Status does not decode"):
        decode(encode(status), BYTES_MAX)
    for fields in (b"", b"\xc1", b"\x93\x01\x02\x03", b"\x05"):
        broken = msgpack.unpackb(encode(status), use_list=False)
        with pytest.raises(ProtocolError, match="Status"):
            decode(sealed(msgpack.packb((*broken[:11], fields, 0xFFFFFFFF))), BYTES_MAX)


def test_every_flipped_bit_of_a_frame_is_noticed() -> None:
    data = encode(Frame("gateway", "demo", "", "", 0, 0, 1, 2, GetStatus()))
    for place in range(len(data)):
        for bit in range(8):
            spoilt = data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]
            with pytest.raises(ProtocolError):
                decode(spoilt, BYTES_MAX)
    with pytest.raises(DamagedFrameError, match="damaged on its way"):
        decode(data[:-1] + bytes([data[-1] ^ 1]), BYTES_MAX)


@pytest.mark.parametrize("size", range(8))
def test_bytes_too_few_for_a_frame_are_refused(size: int) -> None:
    with pytest.raises(ProtocolError):
        decode(b"\x9d\x03\xa7gateway"[:size], BYTES_MAX)
