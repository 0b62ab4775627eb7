"""Configurations: the same bytes everywhere, and a history that follows the log."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_consensus.errors import CorruptionError, InvalidConfigError, UnsupportedVersionError
from forge_consensus.storage.ledger.configuration import MEMBERS_MAX, VERSION, Configuration
from forge_consensus.storage.ledger.levels import FIRST_LEVEL, LEVEL

ONE = Configuration.of({"n1": "a:1"})
TWO = Configuration.of({"n1": "a:1", "n2": "b:1"})
THREE = Configuration.of({"n1": "a:1", "n2": "b:1", "n3": "c:1"}, lease_reads=True)


def test_the_bytes_do_not_depend_on_the_order_of_the_peers() -> None:
    turned = Configuration.of({"n2": "b:1", "n1": "a:1"})
    assert turned.encode() == TWO.encode()
    assert turned.digest == TWO.digest
    assert Configuration.decode(THREE.encode()) == THREE


def test_leases_and_addresses_are_part_of_the_hash() -> None:
    assert Configuration.of({"n1": "a:1", "n2": "b:1"}, lease_reads=True).digest != TWO.digest
    assert Configuration.of({"n1": "a:1", "n2": "b:2"}).digest != TWO.digest


def test_empty_configurations_and_shared_addresses_are_refused() -> None:
    with pytest.raises(InvalidConfigError, match="empty"):
        Configuration.of({})
    with pytest.raises(InvalidConfigError, match=r"share one address in n1=a:1,n2=a:1"):
        Configuration.of({"n1": "a:1", "n2": "a:1"})
    with pytest.raises(InvalidConfigError, match=f"a cluster has at most {MEMBERS_MAX} members"):
        Configuration.of({f"n{number}": f"a:{number}" for number in range(MEMBERS_MAX + 1)})


@settings(max_examples=100)
@given(st.binary(max_size=40))
def test_any_bytes_are_a_configuration_or_corruption(data: bytes) -> None:
    with suppress(CorruptionError, UnsupportedVersionError):
        Configuration.decode(data)


@pytest.mark.parametrize(("name", "lease_reads"), [("initial", False), ("with leases", True)])
def test_the_bytes_and_the_digest_of_a_plain_list_of_members_never_change(name: str, lease_reads: bool) -> None:
    written = json.loads((Path(__file__).parent / "folder_format_2.json").read_text())["configurations"][name]
    peers = {"n1": "host1:1", "n2": "host2:1", "n3": "host3:1"}
    configuration = Configuration.of(peers, lease_reads=lease_reads)
    assert configuration.encode().hex() == written["bytes"]
    assert configuration.digest == written["digest"]
    assert Configuration.decode(bytes.fromhex(written["bytes"])) == configuration


def test_a_later_version_is_refused_by_number_and_any_other_value_is_damage() -> None:
    members = [["n1", "a:1"]]
    for row in ([VERSION + 1, members, False, []], [300], [VERSION + 1, members]):
        with pytest.raises(
            UnsupportedVersionError, match=f"in version {row[0]}, and .* reads versions up to {VERSION}"
        ):
            Configuration.decode(msgpack.packb(row))
    broken: list[object] = [
        [2, members],
        [2, members, True, 0, 0, ""],
        [2, members, True, 800, 1_000_000, ""],
        [2, 3, True, 1, 0, ""],
        [3, members, True, 800, 0, ""],
        [3, members, True, 800, 0, "", 0],
        [3, members, True, 800, 0, "", True],
        [3, members, True, 800, 0, "", "2"],
        [3, members, True, 0, 0, "", 2],
        [3],
    ]
    broken += [[1, members, False], [0, members], [-3], [True, members], [2.0, members], [], ["2", members]]
    for wrong in broken:
        with pytest.raises(CorruptionError, match="does not decode"):
            Configuration.decode(msgpack.packb(wrong))


def test_the_feature_level_is_written_once_it_is_not_the_first() -> None:
    """So a cluster that never leaves the first level keeps its bytes, its digest and its readers."""
    for base in (ONE, THREE, replace(TWO, machine="kv")):
        assert base.level == Configuration.decode(base.encode()).level == FIRST_LEVEL
        higher = replace(base, level=FIRST_LEVEL + 1)
        assert msgpack.unpackb(higher.encode())[0] == 3
        assert Configuration.decode(higher.encode(), FIRST_LEVEL + 1) == higher
        assert Configuration.decode_any(higher.encode()) == higher
        assert f"at feature level {FIRST_LEVEL + 1}" in higher.text
        assert "level" not in base.text
    assert replace(ONE, level=7).voters == ONE.voters


def test_a_configuration_of_a_level_that_the_program_has_not_is_refused() -> None:
    higher = replace(TWO, level=LEVEL + 1)
    with pytest.raises(UnsupportedVersionError, match=f"reached feature level {LEVEL + 1}, .* has level {LEVEL}"):
        Configuration.decode(higher.encode())


FOUR = Configuration.of({"n1": "a:1", "n2": "b:1", "n3": "c:1", "n4": "d:1"}, machine="kv")
JOINT = replace(
    FOUR,
    incoming=("n2", "n3"),
    outgoing=("n1", "n2"),
    learners_next=("n1",),
    joining=("n4",),
    folders=(("n3", "f3"), ("n4", "f4")),
)


def test_voters_and_learners_are_written_in_version_4_and_read_again() -> None:
    assert msgpack.unpackb(JOINT.encode())[0] == 4
    assert Configuration.decode(JOINT.encode()) == JOINT
    assert JOINT.is_joint
    parts = [JOINT.part_of(node) for node in ("n1", "n2", "n3", "n4", "n5")]
    assert parts == ["leaving", "voter", "voter", "learner", ""]
    assert JOINT.voters == {"n1", "n2", "n3"}
    assert JOINT.incoming_voters == {"n2", "n3"}
    assert JOINT.learners == {"n4"}
    assert JOINT.text == (
        "n1=a:1 (leaving),n2=b:1,n3=c:1,n4=d:1 (learner), jointly with the voters n1,n2 and the state machine 'kv'"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"incoming": ("n1", "n2", "n3", "n4")},  # all of them: written as none
        {"incoming": ("n2", "n1")},
        {"incoming": ("n1", "n1")},
        {"incoming": ("n9",)},
        {"incoming": (1,)},
        {"outgoing": ("n9",)},
        {"outgoing": ("n1",), "incoming": ("n2",), "learners_next": ("n2",)},
        {"incoming": ("n2",), "learners_next": ("n1",)},
        {"incoming": ("n2",), "joining": ("n2",)},
        {"joining": ("n2",)},
        {"incoming": ("n2",), "outgoing": ("n1",), "joining": ("n1",)},
        {"folders": (("n9", "f9"),)},
        {"folders": (("n2", ""),)},
        {"folders": (("n2", 3),)},
        {"folders": (("n2", "f2"), ("n1", "f1"))},
        {"priorities": (("n9", 1),)},
        {"priorities": (("n2", 0),)},
        {"priorities": (("n2", "1"),)},
        {"priorities": (("n2", 1_000_001),)},
        {"priorities": (("n2", 1), ("n1", 1))},
        {"no_leader": ("n9",)},
        {"no_leader": ("n2", "n1")},
        {"urls": (("n9", "http://n9"),)},
        {"urls": (("n2", ""),)},
        {"urls": (("n2", 7),)},
        {"urls": (("n2", "http://n2\r\nX: y"),)},
        {"urls": (("n2", f"http://{'n' * 256}"),)},
        {"urls": (("n2", "http://n2"), ("n1", "http://n1"))},
    ],
    ids=str,
)
def test_sets_that_do_not_fit_together_are_damage(wrong: dict[str, Any]) -> None:
    with pytest.raises(CorruptionError):
        Configuration.decode(replace(FOUR, **wrong).encode())


def test_who_is_to_lead_is_written_in_version_6_and_read_again() -> None:
    for wishes in ({"priorities": (("n1", 3), ("n2", -1))}, {"no_leader": ("n1", "n4")}):
        wished = replace(JOINT, **wishes)
        assert msgpack.unpackb(wished.encode())[0] == 6
        assert Configuration.decode(wished.encode()) == wished


def test_where_members_answer_http_is_written_in_version_7_and_read_again() -> None:
    for configuration in (FOUR, JOINT, replace(JOINT, priorities=(("n1", 3),))):
        told = replace(configuration, urls=(("n1", "http://one:8000"), ("n2", "https://[::1]/x")))
        assert msgpack.unpackb(told.encode())[0] == 7
        assert Configuration.decode(told.encode()) == told
        assert (told.url_of("n2"), told.url_of("n3")) == ("https://[::1]/x", "")
        assert "HTTP at n1=http://one:8000" in told.text
        assert told.without_members.urls == told.begun_anew({"n1": "a:1"}, "token").urls == ()
        assert replace(told, urls=()).encode() == configuration.encode(), "without them nothing is written"


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_earlier_version_has_voters_only(version: int) -> None:
    row: list[object] = [[["n1", "a:1"], ["n2", "b:1"]], False]
    row = row if version == 1 else [version, *row, 800, 0, ""] + [1] * (version - 2)
    found = Configuration.decode(msgpack.packb(row))
    assert found.voters == found.nodes == {"n1", "n2"}
    assert not found.learners
    assert not found.is_joint
