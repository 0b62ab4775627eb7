"""Who may ask the API: every route has a permission, and tokens, certificates and keys are judged by the list."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_consensus.admin.admission import ADDRESSES_MAX, API_KEY, FAILURES_MAX, Admission
from forge_consensus.admin.api import OPERATIONS, Api
from forge_consensus.admin.caller import Caller
from forge_consensus.admin.connections import CERTIFICATE
from forge_consensus.admin.openapi import document
from forge_consensus.admin.operation import Call, Operation
from forge_consensus.admin.pages import INTO_FOLDER
from forge_consensus.admin.problems import ProblemError
from forge_consensus.config.loading import load_config
from forge_consensus.errors import InvalidConfigError
from forge_consensus.security.access import AccessList, Principal, Rule, Token
from forge_consensus.security.networks import network_of
from forge_consensus.security.permissions import GRANTED, ROUTE_ACTS, ROUTES
from forge_consensus.security.x509_names import PeerCertificate, uri_of
from tests.worlds.certified import CLUSTER, CertifiedFolder

ADDRESS = "192.0.2.7"
KEY = "a key of the settings"


@pytest.fixture
def folder(tmp_path: Path) -> CertifiedFolder:
    """Clients with tokens."""
    return CertifiedFolder(tmp_path)


@pytest.fixture
def admission(folder: CertifiedFolder) -> Admission:
    """What goes by the list in the folder."""
    return Admission(CLUSTER, KEY, folder.access_file)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The monotonic time, which stands still."""
    now = [time.monotonic()]
    monkeypatch.setattr("forge_consensus.admin.admission.time.monotonic", lambda: now[0])
    yield now


def operation(name: str) -> Operation:
    """The operation of that name."""
    return next(each for each in OPERATIONS if each.name == name)


def asked(admission: Admission, name: str, token: str, **arguments: Any) -> int:
    """The status with which a request is refused; 200 if it is not."""
    try:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        caller = Caller.of(admission, operation(name), headers, {}, ADDRESS)
        if caller is not None:
            caller.check(operation(name), arguments, of_keys=True)
    except ProblemError as problem:
        return problem.status
    return 200


# --- the table of routes ---------------------------------------------------------------------------------------------


def test_every_operation_has_a_permission_and_every_permission_an_operation() -> None:
    names = {each.name for each in (*OPERATIONS, INTO_FOLDER)}
    assert names - ROUTES.keys() == set(), "add a row to ROUTES in security/permissions.py"
    assert ROUTES.keys() - names == set(), "rows without an operation"


def test_every_operation_is_marked_as_an_act_or_as_ordinary() -> None:
    names = {each.name for each in (*OPERATIONS, INTO_FOLDER)}
    assert names - ROUTE_ACTS.keys() == set(), "add a row to ROUTE_ACTS in security/permissions.py"
    assert ROUTE_ACTS.keys() - names == set(), "rows without an operation"
    changing = {each.name for each in OPERATIONS if each.needed == "admin" and each.method not in {"GET", "HEAD"}}
    assert {name for name in changing if ROUTE_ACTS[name] == "ordinary"} == set()


def test_what_changes_something_is_for_those_who_may_write_or_administer() -> None:
    for each in OPERATIONS:
        if each.method not in {"GET", "HEAD"} and each.name != "post_v1_read":
            assert each.needed in {"write", "admin"}, each.name


def test_what_needs_nothing_takes_no_argument_that_asks_for_data() -> None:
    free = [each for each in OPERATIONS if each.needed == "nothing"]
    assert {argument.name for each in free for argument in each.arguments} == {"name", "verbose", "exclude", "lag"}


def test_rules_count_only_where_a_request_names_its_keys() -> None:
    assert {each.name for each in OPERATIONS if each.keys is not None} == {
        "get_v1_kv", "get_v1_kv_key", "put_v1_kv_key", "delete_v1_kv_key", "get_v1_watch",
    }  # fmt: skip


@pytest.mark.parametrize("role", ["admin", "write", "read", "metrics"])
def test_each_role_may_what_the_table_grants_and_nothing_else(
    folder: CertifiedFolder, admission: Admission, role: str
) -> None:
    arguments = {"key": "k", "prefix": ""}
    for each in OPERATIONS:
        wanted = 200 if each.needed == "nothing" or each.needed in GRANTED[role] else 403  # type: ignore[index]
        assert asked(admission, each.name, folder.tokens[role], **arguments) == wanted, each.name


def test_what_nobody_has_decided_about_is_for_administrators(
    folder: CertifiedFolder, admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(ROUTES, "get_v1_leader")
    assert asked(admission, "get_v1_leader", "") == 401
    assert asked(admission, "get_v1_leader", folder.tokens["write"]) == 403
    assert asked(admission, "get_v1_leader", folder.tokens["admin"]) == 200


def test_rules_allow_their_keys_and_no_page_that_is_wider(folder: CertifiedFolder, admission: Admission) -> None:
    token = folder.tokens["rules"]
    for name, arguments, status in (
        ("get_v1_kv_key", {"key": "app/1"}, 200),
        ("get_v1_kv_key", {"key": "prices/1"}, 200),
        ("get_v1_kv_key", {"key": "other"}, 403),
        ("put_v1_kv_key", {"key": "app/1"}, 200),
        ("put_v1_kv_key", {"key": "prices/1"}, 403),
        ("delete_v1_kv_key", {"key": "prices/1"}, 403),
        ("get_v1_kv", {"prefix": "app/x"}, 200),
        ("get_v1_kv", {"prefix": "app"}, 403),
        ("get_v1_kv", {"prefix": ""}, 403),
        ("get_v1_watch", {"key": "app/1", "prefix": None}, 200),
        ("get_v1_watch", {"key": None, "prefix": "app/"}, 200),
        ("get_v1_watch", {"key": "app/1", "prefix": ""}, 403),
        ("get_v1_watch", {"key": None, "prefix": None}, 403),
        ("get_v1_leases", {}, 403),
        ("delete_v1_leases_id", {}, 403),
    ):
        assert asked(admission, name, token, **arguments) == status, (name, arguments)


def body_asked(admission: Admission, name: str, token: str, body: Any = None, **arguments: Any) -> int:
    """The status with which a request with a body is refused; 200 if it is not."""
    found = operation(name)
    try:
        caller = Caller.of(admission, found, {"authorization": f"Bearer {token}"}, {}, ADDRESS)
        assert caller is not None
        caller.check(found, {}, of_keys=True)
        caller.check_call(found, Call(Api(), arguments, {}, body))
    except ProblemError as problem:
        return problem.status
    return 200


def test_rules_allow_what_a_body_says_if_it_reaches_their_keys_only(
    folder: CertifiedFolder, admission: Admission
) -> None:
    def apply(kind: str, **payload: Any) -> int:
        return body_asked(admission, "post_v1_apply", folder.tokens["rules"], type=kind, payload=payload)

    def transaction(compares: list[Any], *commands: Any) -> int:
        fields = {"if": compares, "then": list(commands), "else": []}
        return body_asked(admission, "post_v1_transaction", folder.tokens["rules"], **fields)

    assert apply("set", key="app/1", value=1) == 200
    assert apply("set", key="prices/1", value=1) == 403
    assert apply("delete_prefix", prefix="app/x") == 200
    assert apply("delete_prefix", prefix="") == 403
    assert apply("lease_grant", ttl_ms=1) == 200
    assert apply("lease_revoke", lease=1) == 403, "what goes with it is not known"
    assert apply("no such command") == apply("@access") == 403
    mine = {"type": "set", "key": "app/1", "value": 1}
    assert transaction([["value", "prices/1", "==", 1]], mine) == 200
    assert transaction([["value", "other", "==", 1]], mine) == 403
    assert transaction([], mine, {**mine, "key": "other"}) == 403
    for query, status in (("app/1", 200), ({"scan": "prices/"}, 200), ({"scan": ""}, 403), ({"@access": True}, 403)):
        assert body_asked(admission, "post_v1_read", folder.tokens["rules"], query) == status, query
    assert body_asked(admission, "post_v1_leases", folder.tokens["rules"]) == 200
    only_reads = Principal("r", rules=(Rule.of("read app/*"),), tokens=folder.access.by_name["read"].tokens)
    admission.of_node = lambda: AccessList([only_reads])
    for name in ("post_v1_leases", "post_v1_leases_id_keep_alive"):
        assert body_asked(admission, name, folder.tokens["read"]) == 403, "who may write nothing fills no log"


def test_what_is_reserved_is_for_administrators(folder: CertifiedFolder, admission: Admission) -> None:
    for role, status in (("write", 403), ("admin", 200)):
        token = folder.tokens[role]
        nested = {"if": [], "then": [], "else": [{"type": "@access"}]}
        assert body_asked(admission, "post_v1_apply", token, type="@access", payload={}) == status
        assert body_asked(admission, "post_v1_read", token, {"@access": True}) == status
        assert body_asked(admission, "post_v1_transaction", token, **nested) == status
        assert body_asked(admission, "post_v1_apply", token, type="set", payload={"key": "k"}) == 200


def test_no_rule_suffices_for_a_machine_that_is_not_the_built_in_one(
    folder: CertifiedFolder, admission: Admission
) -> None:
    found = operation("get_v1_kv_key")
    caller = Caller.of(admission, found, {k.lower(): v for k, v in folder.bearer("rules").items()}, {}, ADDRESS)
    assert caller is not None
    caller.check(found, {"key": "app/1"}, of_keys=True)
    with pytest.raises(ProblemError, match="may not do this"):
        caller.check(found, {"key": "app/1"}, of_keys=False)
    with pytest.raises(ProblemError, match="may not do this"):
        caller.check(operation("post_v1_apply"), {}, of_keys=False)


# --- who asks --------------------------------------------------------------------------------------------------------


def test_nobody_is_let_in_who_shows_nothing_or_what_is_not_known(folder: CertifiedFolder, admission: Admission) -> None:
    for text in ("", folder.tokens["unknown"], folder.tokens["ended"], folder.tokens["revoked"], "fct_", "x" * 5000):
        assert asked(admission, "get_v1_leader", text) == 401
    right = folder.tokens["admin"]
    for text in (right[:-1], right.replace("fct_", "FCT_"), f"{right[:-1]}{'A' if right[-1] != 'A' else 'B'}"):
        assert asked(admission, "get_v1_leader", text) == 401
    assert asked(admission, "get_v1_leader", right) == 200


def test_another_way_to_show_a_token_is_none(folder: CertifiedFolder, admission: Admission) -> None:
    token = folder.tokens["admin"]
    assert admission.credential({"authorization": f"bearer  {token}"}, {}) == token
    for text in (f"Basic {token}", token, f"Token {token}"):
        shown = admission.credential({"authorization": text}, {})
        assert admission.principal(shown) is None, text
    assert admission.credential({"x-api-key": token, "cookie": f"token={token}"}, {}) is None


@given(st.text(alphabet=st.characters(max_codepoint=255)) | st.text("fct_ABearer 0", max_size=80))
def test_no_header_is_a_fault_and_none_that_was_guessed_names_anybody(text: str) -> None:
    listed = Admission(CLUSTER, KEY)
    token, _ = Token.made()
    listed.of_node = lambda: AccessList([Principal("a", frozenset({"admin"}), tokens=(token,))])
    for header in (text, f"Bearer {text}", f"Bearer fct_{token.id}_{text}"):
        assert listed.principal(listed.credential({"authorization": header}, {})) is None


def test_the_key_of_the_settings_is_that_of_an_administrator(folder: CertifiedFolder, admission: Admission) -> None:
    found = admission.admit(KEY, ADDRESS)
    assert (found.name, found.roles) == (API_KEY, frozenset({"admin"}))
    without = Admission(CLUSTER, None, folder.access_file)
    assert without.principal(KEY) is None
    assert without.principal("") is None, "no key is not an empty key"


def shown(name: str, uri: str, seconds: float = 60) -> PeerCertificate:
    """A certificate."""
    return PeerCertificate(name, (uri,), time.time() + seconds)


def test_a_certificate_stands_for_whom_it_names_in_this_cluster(admission: Admission) -> None:
    def who(certificate: object) -> str | None:
        found = admission.principal(admission.credential({}, {CERTIFICATE: certificate}))
        return None if found is None else found.name

    assert who(shown("x", uri_of(CLUSTER, "read"))) == "read"
    assert who(shown("read", uri_of("another", "read"))) is None
    assert who(shown("x", uri_of(CLUSTER, "nobody"))) is None
    assert who(shown("x", uri_of(CLUSTER, "read"), -1)) is None
    assert who("read") is None, "what a request could put there is no certificate"


def test_a_token_goes_before_a_certificate(folder: CertifiedFolder, admission: Admission) -> None:
    state = {CERTIFICATE: shown("x", uri_of(CLUSTER, "admin"))}
    for name, wanted in (("read", "read"), ("unknown", None)):
        found = admission.principal(admission.credential({"authorization": f"Bearer {folder.tokens[name]}"}, state))
        assert (found.name if found is not None else None) == wanted


# --- failures --------------------------------------------------------------------------------------------------------


def test_an_address_that_fails_too_often_is_not_heard_for_a_second(
    folder: CertifiedFolder, admission: Admission, clock: list[float]
) -> None:
    token = folder.tokens["admin"]
    for _ in range(FAILURES_MAX):
        assert asked(admission, "get_v1_leader", "wrong") == 401
        clock[0] += 0.05
    assert asked(admission, "get_v1_leader", "wrong") == 429
    assert asked(admission, "get_v1_leader", token) == 429, "or the answer would tell a right token from a wrong one"
    assert asked(admission, "get_livez", "") == 200
    assert admission.admit(token, "192.0.2.8").name == "admin", "others are heard"
    clock[0] += 1.0
    assert asked(admission, "get_v1_leader", token) == 200
    assert admission.refusals.counts["too many failures"] == 2


def test_slow_failures_bar_nobody(folder: CertifiedFolder, admission: Admission, clock: list[float]) -> None:
    for _ in range(5 * FAILURES_MAX):
        assert asked(admission, "get_v1_leader", "wrong") == 401
        clock[0] += 0.11
    assert asked(admission, "get_v1_leader", folder.tokens["admin"]) == 200


def test_addresses_that_fail_take_bounded_memory(admission: Admission) -> None:
    for number in range(ADDRESSES_MAX + 10):
        admission.note_failure(network_of(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"))
    assert len(admission.failures) == ADDRESSES_MAX


def test_all_addresses_of_somebodys_network_count_as_one() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8:0:0:ffff::2%eth0") == "2001:db8::/64"
    assert network_of("2001:db8:0:1::1") != network_of("2001:db8::1")
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1") == "192.0.2.1"
    assert network_of("") == ""


# --- the list --------------------------------------------------------------------------------------------------------


def test_a_list_that_has_changed_is_taken_within_a_second(
    folder: CertifiedFolder, admission: Admission, clock: list[float]
) -> None:
    token = folder.tokens["write"]
    caller = Caller.of(admission, operation("get_v1_kv"), {"authorization": f"Bearer {token}"}, {}, ADDRESS)
    assert caller is not None
    caller.check(operation("get_v1_kv"), {"prefix": ""}, of_keys=True)
    folder.store(folder.access.without("write"))
    clock[0] += 1.0
    assert asked(admission, "get_v1_leader", token) == 401
    assert not caller.may_still
    with pytest.raises(ProblemError) as told:
        caller.check_again()
    assert told.value.status == 401


def test_a_role_that_is_taken_away_ends_what_is_under_way(
    folder: CertifiedFolder, admission: Admission, clock: list[float]
) -> None:
    caller = Caller.of(admission, operation("get_v1_kv"), {"authorization": f"Bearer {folder.tokens['read']}"}, {}, "")
    assert caller is not None
    caller.check(operation("get_v1_kv"), {"prefix": ""}, of_keys=True)
    assert caller.may_still
    present = folder.access.by_name["read"]
    folder.store(folder.access.with_principal(Principal("read", frozenset({"metrics"}), tokens=present.tokens)))
    clock[0] += 1.0
    assert not caller.may_still
    with pytest.raises(ProblemError) as told:
        caller.check_again()
    assert told.value.status == 403


def test_a_list_that_is_broken_changes_nothing(
    folder: CertifiedFolder, admission: Admission, clock: list[float]
) -> None:
    for content in ("{", json.dumps({"clients": {"x": {"roles": ["king"]}}})):
        folder.access_file.write_text(content)
        clock[0] += 1.0
        assert asked(admission, "get_v1_leader", folder.tokens["read"]) == 200
        assert admission.problem
    folder.store(folder.access)
    clock[0] += 1.0
    assert asked(admission, "get_v1_leader", folder.tokens["read"]) == 200
    assert admission.problem == ""


def test_the_list_of_the_log_counts_beside_that_of_the_file(folder: CertifiedFolder, admission: Admission) -> None:
    mine = folder.client("logged", frozenset({"read"}))
    of_log = AccessList([mine], [folder.access.by_name["write"].tokens[0].id])
    admission.of_log = lambda: of_log
    assert asked(admission, "get_v1_kv", folder.tokens["logged"], prefix="") == 200
    assert asked(admission, "get_v1_kv", folder.tokens["write"], prefix="") == 401, "the log revoked it"
    assert admission.access is admission.access, "it is put together once"
    only = AccessList([folder.client("alone", frozenset({"admin"}))])
    admission.of_node = lambda: only
    assert asked(admission, "get_v1_kv", folder.tokens["read"], prefix="") == 401, "the node goes by its own list"
    assert asked(admission, "get_v1_kv", folder.tokens["alone"], prefix="") == 200


def test_a_list_that_cannot_be_read_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigError, match="cannot be read"):
        Admission(CLUSTER, None, tmp_path / "none.json")


def test_somebody_is_asked_if_the_settings_say_so_or_the_node_has_a_key() -> None:
    usual: dict[str, Any] = {"node_id": "n1", "bind": "127.0.0.1:7001"}
    assert Admission.of(load_config(environment={}, **usual)) is None
    auth = {"enable_auth": True, "api_key": "k" * 32}
    assert Admission.of(load_config(environment={}, **usual, admin_api=auth)) is not None
    assert Admission.of(load_config(environment={}, **usual, security={"curve_key_file": "n1.key"})) is not None


# --- the document ----------------------------------------------------------------------------------------------------


def test_the_document_says_what_each_operation_needs_and_no_secret(admission: Admission) -> None:
    told = Api("/consensus", admission=admission).document
    assert told["components"]["securitySchemes"].keys() == {"token", "certificate"}
    for methods in told["paths"].values():
        for each in methods.values():
            free = ROUTES[each["operationId"]] == "nothing"
            assert each["security"] == ([] if free else [{"token": []}, {"certificate": []}])
            assert ("401" in each["responses"]) == ("429" in each["responses"]) == (not free)
            assert each["x-permission"] == ROUTES[each["operationId"]]
    text = json.dumps(told)
    assert KEY not in text
    assert all(token not in text for token in admission.access.by_token)
    usual = document(OPERATIONS, "/consensus")["paths"]["/v1/kv"]["get"]
    assert "security" not in usual, "nobody is asked"
    assert "401" not in usual["responses"]
