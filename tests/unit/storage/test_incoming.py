"""A leader's records are taken only if they are whole, in place, of fitting terms, and what they say they are."""

import pytest

from forge_consensus.errors import ProtocolError
from forge_consensus.storage.ledger.incoming import check_records
from forge_consensus.storage.ledger.record import Kind
from tests.worlds.ledger_world import CONFIGURATION, entry


def test_good_records_pass_and_configurations_are_found() -> None:
    configuration = entry(6, 3, CONFIGURATION.encode(), Kind.CONFIGURATION)
    assert check_records(4, 2, 5, [entry(5, 2), configuration, entry(7, 4)]) == [6]
    assert check_records(4, 2, 5, []) == []


@pytest.mark.parametrize(
    ("what", "records"),
    [
        ("a damaged one", [entry(5, 2), entry(6, 2)[:-1] + b"?"]),
        ("one of another place", [entry(5, 2), entry(7, 2)]),
        ("an empty one", [b""]),
        ("one of a term above the leader's", [entry(5, 5)]),
        ("one of a term below its predecessor's", [entry(5, 1)]),
        ("terms that fall", [entry(5, 3), entry(6, 2)]),
        ("a configuration that is none", [entry(5, 2, b"\xc1", Kind.CONFIGURATION)]),
    ],
)
def test_anything_else_is_refused(what: str, records: list[bytes]) -> None:
    with pytest.raises(ProtocolError, match=r"entry [56] of an append"):
        check_records(4, 2, 5, records)
