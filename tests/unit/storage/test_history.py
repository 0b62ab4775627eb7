"""The history of configurations: it follows the log, and holds no pair of which majorities need not meet."""

from dataclasses import replace

import msgpack
import pytest

from forge_consensus.errors import CorruptionError, LogInconsistentError, UnsupportedVersionError
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.history import ConfigurationHistory
from forge_consensus.storage.ledger.levels import LEVEL

ONE = Configuration.of({"n1": "a:1"})
TWO = Configuration.of({"n1": "a:1", "n2": "b:1"})
THREE = Configuration.of({"n1": "a:1", "n2": "b:1", "n3": "c:1"}, lease_reads=True)


def test_a_configuration_of_a_level_that_the_program_has_not_is_refused() -> None:
    higher = replace(TWO, level=LEVEL + 1)
    made = ConfigurationHistory()
    with pytest.raises(UnsupportedVersionError):
        made.add(1, higher.encode())
    with pytest.raises(UnsupportedVersionError):
        made.compacted(1, higher.encode())
    with pytest.raises(UnsupportedVersionError):
        made.load(6, higher.encode(), None, lambda index: b"")
    with pytest.raises(UnsupportedVersionError):
        made.load(0, b"", msgpack.packb([1, 4]), {1: TWO.encode(), 4: higher.encode()}.__getitem__)
    newer = ConfigurationHistory(LEVEL + 1)
    newer.add(1, higher.encode())
    assert newer.current == higher


def history(*rows: tuple[int, Configuration]) -> ConfigurationHistory:
    made = ConfigurationHistory()
    for index, configuration in rows:
        made.add(index, configuration.encode())
    return made


def test_the_last_configuration_in_the_log_is_in_force_until_it_is_truncated() -> None:
    made = history((1, ONE), (5, TWO), (9, THREE))
    assert made.current == THREE
    assert [made.at(index) for index in (1, 4, 5, 8, 9, 100)] == [ONE, ONE, TWO, TWO, THREE, THREE]
    made.truncate(9)
    assert made.current == TWO
    made.truncate(2)
    assert made.current == ONE


def test_compaction_keeps_the_configuration_in_force() -> None:
    made = history((1, ONE), (5, TWO), (9, THREE))
    made.compacted(6, TWO.encode())
    assert made.base == TWO
    assert made.at(6) == TWO
    assert made.current == THREE
    assert msgpack.unpackb(made.stored()) == [9]


def test_loading_reads_the_entries_and_skips_those_that_are_compacted() -> None:
    made = ConfigurationHistory()
    made.load(6, TWO.encode(), msgpack.packb([5, 9]), {9: THREE.encode()}.__getitem__)
    assert made.rows == [(9, THREE)]
    assert made.at(7) == TWO


def test_a_store_that_knows_no_members_is_damaged() -> None:
    with pytest.raises(CorruptionError, match="knows no configuration"):
        ConfigurationHistory().load(0, b"", None, lambda index: b"")


def test_two_configurations_whose_majorities_need_not_meet_are_a_fault() -> None:
    others = Configuration.of({"n3": "c:1", "n4": "d:1", "n5": "e:1"})
    made = history((1, THREE))
    with pytest.raises(LogInconsistentError, match=r"n3=c:1,n4=d:1,n5=e:1 must not follow n1=a:1"):
        made.add(2, others.encode())
    assert made.current == THREE
    joint = replace(
        Configuration.of({f"n{n}": f"h{n}:1" for n in range(1, 6)}),
        incoming=("n3", "n4", "n5"),
        outgoing=("n1", "n2", "n3"),
    )
    made.add(2, joint.encode())
    made.add(3, others.encode())
    assert made.current == others
