"""The list in force, of the one in the file and the one in the log."""

from __future__ import annotations

from forge_consensus.actors.runtime.access_control import AccessControl
from forge_consensus.client.access_records import AccessInfo
from forge_consensus.security.access import AccessList, Principal, Token
from forge_consensus.security.access_file import data_of_access
from forge_consensus.security.curve import KeyPair
from forge_consensus.security.in_force import in_force

ONE, TWO, THREE, FOUR, FIVE, SIX = (KeyPair.made().public for _ in range(6))


def client(name: str, *keys: str, role: str = "read", tokens: tuple[Token, ...] = ()) -> Principal:
    return Principal(name, frozenset({role}), keys=keys, tokens=tokens)  # type: ignore[arg-type]


def test_everybody_of_both_is_known_and_the_log_wins() -> None:
    """A principal of both has the roles that the log says."""
    found = in_force(
        AccessList([client("a", ONE, role="admin"), client("b", TWO)]), AccessList([client("a", THREE, role="read")])
    )
    assert found.by_name["a"].roles == {"read"}
    assert {key: one.name for key, one in found.by_key.items()} == {THREE: "a", TWO: "b"}


def test_what_either_revoked_is_gone() -> None:
    """Also from the list of the other one, and for a token."""
    token, _ = Token.made()
    found = in_force(
        AccessList([client("a", ONE, tokens=(token,))], [TWO]), AccessList([client("b", TWO)], [ONE, token.id])
    )
    assert found.by_key == {}
    assert found.by_token == {}
    assert found.of_key(ONE) is None


def test_one_key_under_two_names_is_that_of_the_log() -> None:
    """The file of one node must not keep it from having a list."""
    found = in_force(AccessList([client("old", ONE, TWO)]), AccessList([client("new", ONE)]))
    assert {key: one.name for key, one in found.by_key.items()} == {ONE: "new", TWO: "old"}


def test_control_judges_by_the_list_that_it_took_last() -> None:
    """And counts, so that whoever connected is judged anew."""
    control = AccessControl(KeyPair.made(), AccessList([client("a", ONE)]))
    assert control.of_key(ONE) is not None
    control.take_log(AccessList(revoked=[ONE]))
    assert control.of_key(ONE) is None
    assert control.version == 1
    control.take_file(AccessList([client("b", TWO)]))
    assert control.of_key(TWO) is not None
    assert control.version == 2


def test_whoever_is_told_of_both_lists_judges_as_the_node_does() -> None:
    """For each key of either list, under each name."""
    of_file = AccessList([client("a", ONE), client("b", TWO), client("c", FOUR)], [FIVE])
    of_log = AccessList([client("a", THREE), client("d", FOUR), client("e", FIVE, SIX)], [SIX])
    answer = {"index": 1, **data_of_access(of_log), "file": data_of_access(of_file)}
    told, current = AccessInfo.of_answer(answer), in_force(of_file, of_log)
    for listed, known in ((of_log, told.principals), (of_file, told.in_file)):
        assert [one.name for one in known] == sorted(listed.by_name)
        for one in known:
            for key in one.keys:
                holder = current.by_key.get(key)
                counts = holder is not None and holder.name == one.name
                assert told.counts(one.name, key, in_file=listed is of_file) is counts, (one.name, key)
    assert (told.revoked, told.revoked_in_file) == ((SIX,), (FIVE,))
