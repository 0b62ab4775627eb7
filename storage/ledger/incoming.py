"""The incoming: what a leader's records must be before any of them is taken into the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from forge_consensus.errors import CorruptionError, ProtocolError
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.record import Kind, data_of, intact, kind_of, term_of

CONFIGURATION: Final = int(Kind.CONFIGURATION)


def check_records(term: int, previous: int, first: int, records: Sequence[bytes]) -> list[int]:
    """The indexes among first, first + 1, ... whose records hold a configuration.

    Raises `ProtocolError` unless each record is whole, in its place, of a term from `previous` (that of the entry
    before them) to `term` that never falls, and each configuration decodes.
    """
    found = []
    for index, record in enumerate(records, first):
        record_term = term_of(record)
        if not (previous <= record_term <= term and intact(index, record)):
            raise ProtocolError(f"entry {index} of an append is damaged or out of order")
        previous = record_term
        if kind_of(record) == CONFIGURATION:
            found.append(index)
    for index in found:
        try:
            Configuration.decode(data_of(records[index - first]))
        except CorruptionError as error:
            raise ProtocolError(f"entry {index} of an append holds no configuration that decodes") from error
    return found
