"""The list of access: who is known by a key or a token, what each may do, and how it is written down."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_consensus.errors import InvalidConfigError
from forge_consensus.security.access import TOKEN_MARK, AccessList, Principal, Rule, Token
from forge_consensus.security.access_file import access_of_data, data_of_access, read_access_file
from forge_consensus.security.curve import KeyPair
from forge_consensus.security.permissions import GRANTED, ROLES, Permission

KEYS = [KeyPair.made().public for _ in range(4)]


def test_a_key_belongs_to_one_principal_until_it_is_revoked() -> None:
    admin = Principal("admin", frozenset({"admin"}), keys=(KEYS[0],))
    access = AccessList([admin, Principal("n1", frozenset({"peer"}), keys=(KEYS[1], KEYS[2]))])
    assert access.of_key(KEYS[0]) is admin
    assert access.of_key(KEYS[3]) is None
    assert access.member_keys("n1") == (KEYS[1], KEYS[2])
    assert access.member_keys("admin") == ()
    without = access.without("admin")
    assert without.of_key(KEYS[0]) is None
    again = without.with_principal(admin)
    assert again.of_key(KEYS[0]) is None, "a revoked key stays so, whoever lists it"
    assert AccessList([replace(admin, keys=(KEYS[1],))], [KEYS[1]]).of_key(KEYS[1]) is None


def test_the_id_of_a_token_can_stand_on_a_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [letter * 43 for letter in "-s-t"]
    monkeypatch.setattr("forge_consensus.security.access.token_urlsafe", lambda length: drawn.pop(0))
    token, text = Token.made()
    assert (token.id, text) == ("t" * 12, f"{TOKEN_MARK}{'t' * 12}_{'s' * 43}")


@pytest.mark.parametrize(
    ("principals", "text"),
    [
        ([Principal("a", keys=(KEYS[0],)), Principal("b", keys=(KEYS[0],))], "b has the key of a"),
        ([Principal("a"), Principal("a", frozenset({"read"}))], "two principals are called 'a'"),
        ([Principal("a", tokens=(Token("t", "0" * 64),)), Principal("b", tokens=(Token("t", "1" * 64),))], "token t"),
    ],
)
def test_two_principals_share_nothing(principals: list[Principal], text: str) -> None:
    with pytest.raises(InvalidConfigError, match=text):
        AccessList(principals)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"name": ""}, "no name"),
        ({"name": "x", "roles": frozenset({"root"})}, "no role 'root'"),
        ({"name": "x", "roles": frozenset({"peer", "admin"})}, "the role peer, keys, and nothing else"),
        ({"name": "x", "keys": ("short",)}, "no public key"),
        ({"name": "x", "keys": tuple(KEYS[:3])}, "has 3 keys: at most 2"),
    ],
)
def test_a_principal_that_cannot_be_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidConfigError, match=text):
        Principal(**fields)


def test_each_role_may_do_what_the_table_says_and_nothing_else() -> None:
    permissions: list[Permission] = ["peer", "admin", "write", "read", "metrics", "anyone"]
    for role in ROLES:
        principal = Principal("x", frozenset({role}))
        assert {one for one in permissions if principal.may(one, ["k"])} == GRANTED[role]
    assert not GRANTED["admin"] & {"peer"}, "no client is a member"


def test_rules_allow_a_part_of_the_keys() -> None:
    shop = Principal("shop", rules=(Rule.of("write shop/*"), Rule.of("read prices/*")))
    assert shop.may("write", ["shop/a", "shop/b"])
    assert shop.may("read", ["shop/a", "prices/x"])
    assert not shop.may("write", ["shop/a", "prices/x"])
    assert not shop.may("read", [""]), "the prefix of all keys is beyond every rule"
    assert not shop.may("read", None)
    assert not shop.may("metrics")
    assert shop.may("anyone")
    for text in ("write shop", "own shop/*", "read *x*", ""):
        with pytest.raises(InvalidConfigError, match="is no rule"):
            Rule.of(text)


def test_a_token_is_known_by_its_digest_until_it_ends() -> None:
    token, text = Token.made(ends_ms=1_000)
    access = AccessList([Principal("app", frozenset({"read"}), tokens=(token,))])
    found = access.of_token(text, 999)
    assert found is not None
    assert found.name == "app"
    assert access.of_token(text, 1_000) is None
    assert text[16:] not in repr(access.by_name) + repr(data_of_access(access)), "the secret is stored nowhere"
    for wrong in (
        "",
        text[:-1],
        text + "x",
        text.replace("fct_", "abc_"),
        "x" * 100_000,
        f"fct_{'0' * 12}_{text[17:]}",
    ):
        assert access.of_token(wrong, 0) is None
    assert AccessList(access.by_name.values(), [token.id]).of_token(text, 0) is None
    assert access.without("app").of_token(text, 0) is None


CLIENTS = st.tuples(st.sets(st.sampled_from(["admin", "read", "write", "metrics"])), st.booleans(), st.booleans())


@given(st.integers(0, 3), st.lists(CLIENTS, max_size=3))
def test_a_list_written_down_is_read_as_the_same(members: int, clients: list[tuple[set[Any], bool, bool]]) -> None:
    made = [Principal(f"n{number}", frozenset({"peer"}), keys=(KEYS[number],)) for number in range(members)]
    for number, (roles, has_rule, has_token) in enumerate(clients):
        rules = (Rule("write", "app/"),) if has_rule else ()
        tokens = (Token(str(number), "ab" * 32, 5),) if has_token else ()
        made.append(Principal(f"c{number}", frozenset(roles), rules, (), tokens))
    access = AccessList(made, ["gone"])
    plain = json.loads(json.dumps(data_of_access(access)))
    again = access_of_data(plain)
    assert (again.by_name, again.revoked) == (access.by_name, access.revoked)
    assert data_of_access(again) == plain


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ([], "must be a map"),
        ({"user": {}}, "unknown 'user'"),
        ({"clients": {"a": {"role": ["admin"]}}}, "clients.a: unknown 'role'"),
        ({"clients": {"a": {"roles": "admin"}}}, "clients.a.roles must be a list"),
        ({"clients": {"a": {"roles": ["peer"]}}}, "peer is the role of members"),
        ({"clients": {"a": {"tokens": [{"id": "x", "sha256": "short"}]}}}, "sha256 of 64"),
        ({"members": {"n1": {"keys": [1]}}}, "members.n1.keys must be a list of texts"),
    ],
)
def test_data_that_are_no_list_of_access_are_refused_with_the_place(data: Any, text: str) -> None:
    with pytest.raises(InvalidConfigError, match=text):
        access_of_data(data)


def test_a_file_is_read_as_yaml_or_json(tmp_path: Path) -> None:
    yaml, json_file = tmp_path / "access.yaml", tmp_path / "access.json"
    yaml.write_text("clients: {a: {roles: [read]}}\n")
    json_file.write_text('{"clients": {"a": {"roles": ["read"]}}}')
    assert read_access_file(yaml).by_name == read_access_file(json_file).by_name
    json_file.write_text("{")
    with pytest.raises(InvalidConfigError, match="is no JSON"):
        read_access_file(json_file)
    yaml.write_text("clients: [")
    with pytest.raises(InvalidConfigError, match="is no YAML"):
        read_access_file(yaml)
