"""Sealed rows: a value comes back as it was written, or not at all."""

import pytest

from forge_consensus.errors import CorruptionError
from forge_consensus.storage.backends.sealed import CRC_BYTES, seal, unseal


@pytest.mark.parametrize("value", [b"", b"\xc0", b"value" * 100])
def test_a_value_comes_back(value: bytes) -> None:
    row = seal(b"key", value)
    assert len(row) == len(value) + CRC_BYTES
    assert unseal(b"key", row, "the row") == value


def test_every_flipped_bit_a_wrong_key_and_a_cut_row_are_noticed() -> None:
    row = seal(b"key", b"value")
    damaged = [
        bytes(byte ^ (1 << bit) * (n == at) for n, byte in enumerate(row)) for at in range(9) for bit in range(8)
    ]
    for wrong in [*damaged, *(row[:size] for size in range(len(row))), row + b"\0"]:
        with pytest.raises(CorruptionError, match="the row fails its checksum: the node does not run"):
            unseal(b"key", wrong, "the row")
    with pytest.raises(CorruptionError):
        unseal(b"kez", row, "the row")
