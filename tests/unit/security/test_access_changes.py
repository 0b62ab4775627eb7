"""Changes of the list of access in the log: what each does, what is refused, and that a model comes to the same."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_consensus.errors import InvalidConfigError
from forge_consensus.security import access_changes
from forge_consensus.security.access import AccessList, Principal, Token
from forge_consensus.security.access_changes import CHANGES, LIST_BYTES_MAX, PRINCIPALS_MAX, changed, packed_access
from forge_consensus.security.access_file import access_of_data, data_of_access
from forge_consensus.security.curve import KeyPair
from tests.worlds import access_model
from tests.worlds.access_model import IDS, KEYS, SHA, AccessModel, RefusedError
from tests.worlds.effort import effort

ADMIN = {"do": "put", "name": "ann", "roles": ["admin"], "keys": [KEYS[0]]}
TOKEN = {"do": "add_token", "name": "bob", "id": IDS[0], "sha256": SHA[IDS[0]]}


def after(*payloads: dict[str, Any], time_ms: int = 10) -> AccessList:
    access = AccessList()
    for payload in payloads:
        access = changed(access, payload, time_ms)
    return access


@settings(max_examples=effort(300, 3000), deadline=None)
@given(st.lists(st.tuples(access_model.CHANGES, access_model.TIME), max_size=30))
def test_a_random_history_of_changes_equals_that_of_a_model(history: list[tuple[dict[str, Any], int]]) -> None:
    access, model = AccessList(), AccessModel()
    for payload, time_ms in history:
        try:
            differs: bool | None = model.apply(payload, time_ms)
        except RefusedError:
            differs = None
        try:
            following = changed(access, payload, time_ms)
        except InvalidConfigError as error:
            assert differs is None, f"{payload} was refused: {error}"
            continue
        assert differs is not None, f"{payload} must be refused"
        assert (following is not access) == differs
        access = following
        assert data_of_access(access) == model.data
        assert packed_access(access_of_data(data_of_access(access))) == packed_access(access)
        assert not [key for key in access.revoked if access.of_key(key) or key in access.by_token]


def test_a_key_that_was_revoked_does_not_come_back() -> None:
    access = after(ADMIN, {"do": "add_key", "name": "ann", "key": KEYS[1]}, {"do": "revoke_key", "key": KEYS[0]})
    assert (access.of_key(KEYS[0]), access.by_name["ann"].keys) == (None, (KEYS[1],))
    for payload in (
        {"do": "add_key", "name": "ann", "key": KEYS[0]},
        {"do": "put", "name": "eve", "roles": ["read"], "keys": [KEYS[0]]},
    ):
        with pytest.raises(InvalidConfigError, match="was revoked: make a new pair"):
            changed(access, payload, 10)
    assert changed(access, {"do": "forget", "revoked": KEYS[0]}, 10).revoked == frozenset()


def test_keys_that_a_principal_loses_are_revoked_and_its_tokens_stay() -> None:
    access = after(
        ADMIN,
        {"do": "put", "name": "bob", "roles": ["read"], "keys": [KEYS[1]]},
        TOKEN,
        {"do": "put", "name": "bob", "roles": ["write"], "keys": [KEYS[2]]},
    )
    bob = access.by_name["bob"]
    assert bob.roles == frozenset({"write"})
    assert (bob.keys, [token.id for token in bob.tokens]) == ((KEYS[2],), [IDS[0]])
    assert access.revoked == {KEYS[1]}
    same = changed(access, {"do": "put", "name": "bob", "roles": ["write"]}, 10)
    assert same is access, "keys that are not named stay, so nothing differs"


def test_the_last_admin_goes_only_by_force() -> None:
    access = after(ADMIN)
    for payload in (
        {"do": "remove", "name": "ann"},
        {"do": "revoke_key", "key": KEYS[0]},
        {"do": "put", "name": "ann", "roles": ["read"]},
    ):
        with pytest.raises(InvalidConfigError, match="nobody with the role admin would be left"):
            changed(access, payload, 10)
        assert changed(access, {**payload, "force": True}, 10) is not access
    ends = {**TOKEN, "name": "eve", "roles": ["admin"], "ends_ms": 20}
    access = changed(access, ends, 10)
    assert changed(access, {"do": "remove", "name": "ann"}, 19).by_name.keys() == {"eve"}
    with pytest.raises(InvalidConfigError, match="nobody with the role admin"):
        changed(access, {"do": "remove", "name": "ann"}, 20)  # the other one's token is over by then


def test_a_token_that_replaces_another_one_leaves_it_until_its_end() -> None:
    access = after(ADMIN, {**TOKEN, "roles": ["read"]})
    following = {**TOKEN, "id": IDS[1], "sha256": SHA[IDS[1]], "replaces": IDS[0]}
    overlap = changed(access, {**following, "replaced_ends_ms": 100}, 10)
    assert [(token.id, token.ends_ms) for token in overlap.by_name["bob"].tokens] == [(IDS[0], 100), (IDS[1], 0)]
    at_once = changed(access, following, 10)
    assert ([token.id for token in at_once.by_name["bob"].tokens], set(at_once.revoked)) == ([IDS[1]], {IDS[0]})
    with pytest.raises(InvalidConfigError, match=f"has no token '{IDS[5]}'"):
        changed(access, {**following, "replaces": IDS[5]}, 10)


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({}, "a value of type NoneType is no change of the list of access; there are put, remove"),
        ({"do": "drop"}, "'drop' is no change"),
        ({"do": ["put"]}, "a value of type list is no change"),
        ({"do": "put", "name": "x", "role": ["read"]}, "put has no field 'role'; it has keys, name, roles, rules and"),
        ({"do": "put", "name": 7}, "name must be a text of ASCII"),
        ({"do": "put", "name": "J\u00fcrgen"}, "name must be a text of ASCII"),
        ({"do": "put", "name": "a\nb"}, "is no name"),
        ({"do": "put", "name": "x", "roles": "read"}, "roles must be a list"),
        ({"do": "put", "name": "x", "roles": [7]}, "roles must be a list of texts"),
        ({"do": "put", "name": "x", "roles": ["root"]}, "there is no role 'root'"),
        ({"do": "put", "name": "x", "roles": ["peer", "admin"]}, "a member has the role peer"),
        ({"do": "put", "name": "x", "rules": ["app"]}, "'app' is no rule"),
        ({"do": "put", "name": "x", "keys": [KEYS[1], KEYS[1]]}, "x is given a key twice"),
        ({"do": "put", "name": "x", "keys": KEYS[1:4]}, "x has 3 keys: at most 2"),
        ({"do": "put", "name": "x", "keys": [KEYS[0]]}, "is that of ann: make a pair for x"),
        ({"do": "put", "name": "x", "force": 1}, "force must be True or False"),
        ({"do": "remove", "name": "x"}, "there is no 'x' in the list"),
        ({"do": "add_key", "name": "ann", "key": "short"}, "'short' is no public key"),
        ({"do": "revoke_key", "key": None}, "a value of type NoneType is no public key"),
        ({"do": "revoke_token", "id": "x" * 13}, "is no id of a token"),
        ({**TOKEN}, "there is no 'bob': say which roles or rules"),
        ({**TOKEN, "name": "ann", "roles": ["read"]}, "ann is there with other roles or rules"),
        ({**TOKEN, "name": "ann", "sha256": "0"}, "64 hexadecimal digits"),
        ({**TOKEN, "name": "ann", "ends_ms": True}, "ends_ms must be milliseconds"),
        ({**TOKEN, "name": "ann", "ends_ms": 10}, "would be over at once"),
        ({**TOKEN, "name": "ann", "replaces": "x", "replaced_ends_ms": -1}, "replaced_ends_ms must be"),
        ({"do": "forget", "revoked": ["x"]}, "a value of type list was not revoked"),
    ],
)
def test_a_change_that_cannot_be_is_refused_and_told(payload: dict[str, Any], text: str) -> None:
    access = after(ADMIN)
    with pytest.raises(InvalidConfigError, match="(?s)" + re.escape(text)):
        changed(access, payload, 10)


ANYTHING = st.recursive(
    st.sampled_from([None, True, 0, -1, 1 << 60, 0.5, "", "x", "read", b"", b"x", KEYS[0], IDS[0], "a" * 200]),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("ab"), inner, max_size=2)),
    max_leaves=5,
)
FIELDS = sorted({"force", "other"}.union(*(fields for fields, _ in CHANGES.values())))


@settings(max_examples=effort(200, 2000), deadline=None)
@given(st.sampled_from(list(CHANGES)), st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=6))
def test_no_payload_makes_it_raise_anything_else(do: str, fields: dict[str, Any]) -> None:
    try:
        changed(after(ADMIN), {**fields, "do": do}, 10)
    except InvalidConfigError as error:
        assert str(error)


def test_the_list_has_bounds_and_a_full_one_takes_revocations() -> None:
    made = [Principal(f"c{number}", frozenset({"read"})) for number in range(PRINCIPALS_MAX - 1)]
    access = changed(AccessList(made), ADMIN, 10)
    with pytest.raises(InvalidConfigError, match=f"has {PRINCIPALS_MAX} principals already"):
        changed(access, {"do": "put", "name": "more", "roles": ["read"]}, 10)
    assert "c1" not in changed(access, {"do": "remove", "name": "c1"}, 10).by_name

    full, number = after(ADMIN, {"do": "put", "name": "bob", "roles": ["read"], "keys": [KEYS[1]]}), 0
    long = "write " + "p" * 3000
    with pytest.raises(InvalidConfigError, match=f"at most {LIST_BYTES_MAX} are possible"):
        while True:
            full = changed(full, {"do": "put", "name": f"c{number}", "rules": [f"{long}{number}*"]}, 10)
            number += 1
    room = LIST_BYTES_MAX - len(packed_access(full))
    full = changed(full, {"do": "put", "name": "pad", "rules": [f"write {'p' * (room - 40)}*"]}, 10)
    assert LIST_BYTES_MAX - 30 < len(packed_access(full)) <= LIST_BYTES_MAX
    with pytest.raises(InvalidConfigError, match="forget revoked keys"):
        changed(full, {"do": "revoke_key", "key": KeyPair.made().public}, 10)  # no principal of it gives room
    assert changed(full, {"do": "revoke_key", "key": KEYS[1]}, 10).revoked == {KEYS[1]}
    assert changed(full, {"do": "remove", "name": "bob"}, 10).revoked == {KEYS[1]}


def test_which_fault_is_named_does_not_depend_on_how_a_node_came_to_its_list() -> None:
    built = after(*[{"do": "put", "name": name, "roles": ["read"], "keys": []} for name in ("eve", "n1", "bob")])
    loaded = access_of_data(data_of_access(built))
    assert [*built.by_name] == [*access_changes.in_order(loaded.by_name.values(), loaded.revoked).by_name]
    assert [*built.by_name] == ["bob", "eve", "n1"]


@pytest.mark.parametrize(
    "fields",
    [
        {"do": "revoke_token", "id": ...},
        {"do": "revoke_key", "key": ...},
        {"do": "add_key", "name": "ann", "key": ...},
        {"do": "add_key", "name": ..., "key": KEYS[0]},
        {"do": "put", "name": "ann", "keys": [...]},
        {"do": ...},
    ],
)
def test_no_error_tells_a_token_that_stands_in_the_place_of_something_else(fields: dict[str, Any]) -> None:
    _, text = Token.made()
    payload = {name: text if value is ... else [text] if value == [...] else value for name, value in fields.items()}
    with pytest.raises(InvalidConfigError) as raised:
        changed(AccessList([Principal("ann", frozenset({"read"}))]), payload, 1)
    assert text[-20:] not in str(raised.value)
    assert "looks like a secret" in str(raised.value)
