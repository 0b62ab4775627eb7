"""Tests of what each rule decides, by way of ASGI and of WSGI, which must decide alike."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from forge_consensus.client.calls import ReadDetail
from forge_consensus.errors import (
    BusyError,
    ConsensusError,
    ConsensusTimeoutError,
    InvalidConfigError,
    NoLeaderError,
    NoQuorumError,
    NotStartedError,
    StaleReadError,
    StorageError,
)
from forge_consensus.middleware import Confirmed, Consistency, LeadershipMiddleware, Middleware
from forge_consensus.middleware.request import origin_form
from forge_consensus.middleware.verdict import Pass, leader_headers, with_headers
from forge_consensus.middleware.wsgi import request_of as wsgi_request
from forge_consensus.service.thread_node import LeaderReport
from tests.worlds.web_world import ALONE, FOLLOWING, LEADING, Answer, Application, ToldChecker, ask_asgi

Ask = Callable[..., tuple[Answer, Application]]


def by_asgi(middleware: Middleware, method: str = "GET", path: str = "/", query: str = "", **headers: str) -> Any:
    app = Application()
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return ask_asgi(middleware(app.asgi), method, path, query, named), app


def by_wsgi(middleware: Middleware, method: str = "GET", path: str = "/", query: str = "", **headers: str) -> Any:
    app = Application()
    found = Answer()
    environ = {
        "REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": query,
        "wsgi.input": io.BytesIO(), "wsgi.url_scheme": "http", "REMOTE_ADDR": "10.0.0.9",
        **{f"HTTP_{name.upper()}": text for name, text in headers.items()},
    }  # fmt: skip

    def start(status: str, headers: list[tuple[str, str]]) -> None:
        found.status = int(status.partition(" ")[0])
        found.headers = {name.lower(): text for name, text in headers}

    found.body = b"".join(middleware.wsgi(app.wsgi)(environ, start))
    return found, app


@pytest.fixture(params=[by_asgi, by_wsgi], ids=["asgi", "wsgi"])
def ask(request: pytest.FixtureRequest) -> Ask:
    found: Ask = request.param
    return found


def made(checker: ToldChecker) -> LeadershipMiddleware:
    return LeadershipMiddleware(checker)


def test_require_leader_passes_on_the_leader_and_tells_the_application_the_standing(ask: Ask) -> None:
    answer, app = ask(made(ToldChecker(LEADING)).require_leader(), "POST", "/users")
    assert (answer.status, answer.body, app.found) == (200, b"here", [LEADING])


def test_require_leader_refuses_elsewhere_and_names_the_leader(ask: Ask) -> None:
    answer, app = ask(made(ToldChecker(FOLLOWING)).require_leader())
    body = json.loads(answer.body)
    assert (answer.status, app.found) == (503, [])
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "0", "the leader can be asked at once"
    assert answer.headers["x-raft-leader"] == answer.headers["x-consensus-leader-id"] == "n1"
    assert answer.headers["x-raft-leader-url"] == "http://one:8000"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert (body["error"], body["leader_id"], body["status"]) == ("not the leader", "n1", 503)
    assert (body["code"], body["retryable"]) == ("CONSENSUS_NOT_LEADER", True)
    assert body["detail"] == body["message"] == "n2 does not lead term 7: n1 does"


def test_where_nobody_leads_it_is_tried_again_after_a_second(ask: Ask) -> None:
    answer, _ = ask(made(ToldChecker(ALONE)).require_leader())
    body = json.loads(answer.body)
    assert (answer.status, body["error"], body["leader_id"], body["leader"]) == (503, "no leader available", "", None)
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-raft-known-leader"] == "false"
    assert "x-raft-leader" not in answer.headers


@pytest.mark.parametrize(
    ("error", "status"), [(NotStartedError(), 503), (ConsensusTimeoutError(), 503), (StorageError(), 500)]
)
def test_a_node_that_does_not_answer_is_a_refusal_and_no_exception(
    ask: Ask, error: ConsensusError, status: int
) -> None:
    answer, _ = ask(made(ToldChecker(error)).require_leader())
    assert (answer.status, json.loads(answer.body)["code"]) == (status, error.code)


def test_an_answer_to_head_has_no_body_and_the_same_headers(ask: Ask) -> None:
    answer, _ = ask(made(ToldChecker(FOLLOWING)).require_leader(), "HEAD")
    assert (answer.status, answer.body) == (503, b"")
    assert int(answer.headers["content-length"]) > 100


def test_add_leader_header_tells_who_leads_and_the_index_for_reading_ones_own_writes(ask: Ask) -> None:
    answer, _ = ask(made(ToldChecker(FOLLOWING)).add_leader_header())
    told = {name: text for name, text in answer.headers.items() if name.startswith("x-")}
    assert told == {
        "x-own": "yes",
        "x-raft-node": "n2",
        "x-raft-cluster": "test",
        "x-raft-role": "follower",
        "x-raft-term": "7",
        "x-raft-known-leader": "true",
        "x-raft-leader": "n1",
        "x-raft-leader-url": "http://one:8000",
        "x-raft-index": "41",
        "x-consensus-node-id": "n2",
        "x-consensus-cluster-id": "test",
        "x-consensus-role": "follower",
        "x-consensus-term": "7",
        "x-consensus-leader": "false",
        "x-consensus-leader-id": "n1",
    }


def test_add_leader_header_never_keeps_an_application_from_answering(ask: Ask) -> None:
    answer, _ = ask(made(ToldChecker(NotStartedError())).add_leader_header())
    assert (answer.status, answer.headers["x-raft-known-leader"]) == (200, "false")


def test_a_header_can_hold_every_node_id(ask: Ask) -> None:
    checker = ToldChecker(FOLLOWING)
    checker.found = FOLLOWING.__class__("knoten-ä%", "größe", "follower", False, "ß", "", 1)
    answer, _ = ask(made(checker).add_leader_header())
    assert answer.headers["x-raft-node"] == "knoten-%C3%A4%25"
    assert answer.headers["x-raft-leader"] == "%C3%9F"


def test_headers_that_the_answer_has_already_stay_and_the_newest_index_is_told(ask: Ask) -> None:
    """As in an answer that came from the leader, or behind another middleware."""
    leadership = made(ToldChecker(FOLLOWING))
    for index, told in (("50", "50"), ("7", "41")):
        present = [("X-Own", "1"), ("x-raft-role", "leader"), ("x-raft-index", index)]
        found = with_headers(present, Pass(FOLLOWING, headers=leader_headers(FOLLOWING), tells_index=True), 41)
        assert [text for name, text in found if name.lower() == "x-raft-role"] == ["leader"]
        assert [text for name, text in found if name.lower() == "x-raft-index"] == [told]
    outer, inner = leadership.add_leader_header(), leadership.consistency()
    app = Application()
    answer = ask_asgi(outer(inner(app.asgi)))
    assert answer.names.count("x-raft-index") == answer.names.count("x-raft-node") == 1
    assert app.found == [Confirmed(Consistency.STRONG, 40, 0)]


def test_what_several_found_out_stands_side_by_side() -> None:
    leadership = made(ToldChecker(LEADING))
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope.get("consensus.standing"), scope.get("consensus.confirmed")))

    ask_asgi(leadership.require_leader()(leadership.consistency()(leadership.require_quorum()(app))))
    assert seen[0] == (LEADING, Confirmed(Consistency.STRONG, 40, 0))


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_read_only_routing_passes_what_reads_on_any_node(ask: Ask, method: str) -> None:
    assert ask(made(ToldChecker(ALONE)).read_only_routing(), method)[0].status == 200


@pytest.mark.parametrize(("writes", "status"), [("refuse", 503), ("redirect", 307)])
def test_read_only_routing_decides_otherwise_about_what_writes(ask: Ask, writes: Any, status: int) -> None:
    assert ask(made(ToldChecker(FOLLOWING)).read_only_routing(writes), "POST")[0].status == status
    assert ask(made(ToldChecker(LEADING)).read_only_routing(writes), "DELETE")[0].status == 200


def test_require_quorum_refuses_with_the_arithmetic(ask: Ask) -> None:
    checker = ToldChecker(FOLLOWING)
    assert ask(made(checker).require_quorum())[0].status == 200
    checker.quorum = NoQuorumError(2, 1)
    answer, _ = ask(made(checker).require_quorum())
    body = json.loads(answer.body)
    assert (answer.status, body["error"], body["healthy_nodes"], body["required_nodes"]) == (503, "no quorum", 1, 2)


def test_redirect_keeps_path_and_query(ask: Ask) -> None:
    answer, _ = ask(made(ToldChecker(FOLLOWING)).redirect(), "PUT", "/a b/c", "x=1&y=%20")
    assert answer.status == 307
    assert answer.headers["location"] == "http://one:8000/a%20b/c?x=1&y=%20"
    assert json.loads(answer.body)["redirect"] is True


def test_redirect_cannot_be_led_to_another_host_or_split(ask: Ask) -> None:
    answer, _ = ask(made(ToldChecker(FOLLOWING)).redirect(), "GET", "//evil.example/\r\nX: y", "\r\nX: y")
    assert answer.headers["location"].startswith("http://one:8000//evil.example/")
    assert not {"\r", "\n"} & set(answer.headers["location"])


@pytest.mark.parametrize("name", ["redirect", "forward"])
@pytest.mark.parametrize("target", ["@evil.example/x", ".evil.example/", ":9/x", "*"])
def test_a_target_that_is_no_path_is_a_bad_request(ask: Ask, name: str, target: str) -> None:
    answer, _ = ask(getattr(made(ToldChecker(FOLLOWING)), name)(), "POST", target)
    assert (answer.status, "is no path" in json.loads(answer.body)["detail"]) == (400, True)


@pytest.mark.parametrize("target", [b"http://any/a/b?c=d", b"HTTPS://any:1/a/b?c=d", b"/a/b?c=d"])
def test_a_target_in_absolute_form_is_its_path_and_query(target: bytes) -> None:
    assert origin_form(target) == "/a/b?c=d"
    assert origin_form(b"http://any") == "/"
    assert origin_form(b"http://[") == "*"
    assert origin_form("/ä?ö".encode()) == "/%C3%A4?%C3%B6"


def test_wsgi_takes_the_path_as_it_came_where_the_server_keeps_it() -> None:
    environ = {"REQUEST_METHOD": "PUT", "PATH_INFO": "/a/b", "QUERY_STRING": "q=\xc3\xa4", "wsgi.input": io.BytesIO()}
    assert wsgi_request(environ).target == "/a/b?q=%C3%A4"
    assert wsgi_request({**environ, "RAW_URI": "/a%2Fb?q=1"}).target == "/a%2Fb?q=1"


def test_a_node_that_has_just_lost_the_leadership_and_still_names_itself_knows_no_leader() -> None:
    checker = ToldChecker(FOLLOWING)
    standing = checker.standing_by(LeaderReport(False, "n2", "follower", 7, "http://two:8000"))
    assert (standing.leader, standing.leader_url) == (None, "")
    assert isinstance(standing.not_leading(), NoLeaderError)


@pytest.mark.parametrize("name", ["redirect", "forward"])
def test_a_leader_that_told_no_address_is_a_refusal_that_says_how_it_tells_one(ask: Ask, name: str) -> None:
    checker = ToldChecker(FOLLOWING.__class__("n2", "test", "follower", False, "n1", "", 7))
    answer, _ = ask(getattr(made(checker), name)())
    body = json.loads(answer.body)
    assert (answer.status, body["error"]) == (503, "leader information unavailable")
    assert "http_url" in body["detail"]
    assert ask(getattr(made(ToldChecker(ALONE)), name)())[0].status == 503
    assert ask(getattr(made(ToldChecker(LEADING)), name)())[0].status == 200


def test_what_was_sent_on_once_goes_no_further(ask: Ask) -> None:
    answer, _ = ask(made(ToldChecker(FOLLOWING)).forward(), "POST", x_raft_forwarded="n3")
    assert answer.status == 503
    assert "n3 sent it this request" in json.loads(answer.body)["detail"]


# --- consistency -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "query", "headers", "asked"),
    [
        (Consistency.STRONG, "", {}, ("linearizable", 2.0, None, 0)),
        ("strong", "", {}, ("linearizable", 2.0, None, 0)),
        (Consistency.LEASE, "", {}, ("lease", 2.0, None, 0)),
        (Consistency.BOUNDED, "", {}, ("stale", 2.0, 5.0, 0)),
        (Consistency.EVENTUAL, "", {}, ("stale", 2.0, None, 0)),
        (Consistency.STRONG, "consistency=weak", {}, ("stale", 2.0, None, 0)),
        (Consistency.STRONG, "", {"x_consistency_level": "bounded-staleness"}, ("stale", 2.0, 5.0, 0)),
        (Consistency.EVENTUAL, "", {"x_raft_consistency": "strong"}, ("linearizable", 2.0, None, 0)),
        (Consistency.BOUNDED, "max_staleness=250ms", {}, ("stale", 2.0, 0.25, 0)),
        (Consistency.BOUNDED, "", {"x_max_staleness": "1.5s"}, ("stale", 2.0, 1.5, 0)),
        (Consistency.STRONG, "allow_stale=true", {}, ("stale", 2.0, None, 0)),
        (Consistency.EVENTUAL, "", {"x_raft_min_index": "39"}, ("stale", 2.0, None, 39)),
    ],
)
def test_what_a_request_asks_for_is_what_the_node_confirms(
    ask: Ask, level: str, query: str, headers: dict[str, str], asked: tuple[Any, ...]
) -> None:
    checker = ToldChecker(FOLLOWING)
    answer, app = ask(made(checker).consistency(level), "GET", "/", query, **headers)
    assert (answer.status, checker.asked) == (200, [asked])
    assert answer.headers["x-raft-consistency"] == str(app.found[0].consistency)
    assert answer.headers["x-raft-index"] == "41"


def test_a_request_cannot_weaken_what_must_not_be_overridden(ask: Ask) -> None:
    checker = ToldChecker(FOLLOWING)
    answer, app = ask(made(checker).consistency(override=False, timeout=2), "GET", "/", "consistency=weak&min_index=7")
    assert checker.asked == [("linearizable", 2, None, 7)]
    assert app.found == [Confirmed(Consistency.STRONG, 40, 0)]
    assert answer.headers["x-raft-consistency"] == "linearizable"


@pytest.mark.parametrize(
    "query",
    ["consistency=yes", "consistency=bounded&max_staleness=soon", "consistency=bounded&max_staleness=-1s",
     "consistency=bounded&max_staleness=0", "min_index=-1", "min_index=x", "min_index=99999999999999999999"],
)  # fmt: skip
def test_what_cannot_be_is_a_bad_request(ask: Ask, query: str) -> None:
    answer, app = ask(made(ToldChecker(FOLLOWING)).consistency(), "GET", "/", query)
    body = json.loads(answer.body)
    assert (answer.status, app.found, body["code"]) == (400, [], "INVALID_CONFIG")
    assert query.rpartition("&")[2].partition("=")[0] in body["detail"]


def test_too_many_parameters_are_a_bad_request(ask: Ask) -> None:
    answer, _ = ask(made(ToldChecker(FOLLOWING)).consistency(), "GET", "/", "&".join(["a=b"] * 1001))
    assert (answer.status, "more than 1000 parameters" in json.loads(answer.body)["detail"]) == (400, True)


@pytest.mark.parametrize(("error", "title"), [(StaleReadError(), "node too far behind"), (BusyError(), "too busy")])
def test_a_state_that_is_not_new_enough_is_a_refusal(ask: Ask, error: ConsensusError, title: str) -> None:
    answer, _ = ask(made(ToldChecker(FOLLOWING, error)).consistency("bounded"))
    assert (answer.status, json.loads(answer.body)["error"]) == (503, title)
    assert answer.headers["retry-after"] == "1"


def test_how_old_the_state_may_be_is_told(ask: Ask) -> None:
    answer, app = ask(made(ToldChecker(FOLLOWING, ReadDetail(None, 50, 120))).consistency("bounded"))
    assert answer.headers["x-raft-stale-ms"] == "120"
    assert answer.headers["x-raft-index"] == "50", "the state is newer than what this node's callers saw"
    assert app.found == [Confirmed(Consistency.BOUNDED, 50, 120)]


def test_an_eventual_answer_tells_what_is_committed_and_applied_and_when_the_leader_was_heard(ask: Ask) -> None:
    standing = replace(FOLLOWING, last_contact=0.25, commit_index=60)
    answer, _ = ask(made(ToldChecker(standing, ReadDetail(None, 50, 120))).consistency("eventual"))
    assert (answer.headers["x-commit-index"], answer.headers["x-last-applied"]) == ("60", "50")
    answer, _ = ask(made(ToldChecker(standing)).add_leader_header())
    assert answer.headers["x-raft-last-contact-ms"] == "250"
    answer, _ = ask(made(ToldChecker(FOLLOWING)).consistency("strong"))
    assert "x-commit-index" not in answer.headers


# --- making it -------------------------------------------------------------------------------------------------------


def test_wrong_arguments_say_what_is_expected() -> None:
    middleware = made(ToldChecker(LEADING))
    with pytest.raises(InvalidConfigError, match="expected 'refuse', 'redirect' or 'forward'"):
        middleware.read_only_routing("proxy")  # type: ignore[arg-type]
    with pytest.raises(InvalidConfigError, match="expected one of linearizable, lease, bounded, eventual"):
        middleware.consistency("quick")
    with pytest.raises(InvalidConfigError, match="max_staleness is 0"):
        middleware.consistency(max_staleness=0)
    with pytest.raises(InvalidConfigError, match="give it an ASGI application"):
        middleware.require_leader()()
    with pytest.raises(InvalidConfigError, match="give it a WSGI application"):
        middleware.require_leader().wsgi(None)  # type: ignore[arg-type]
    with pytest.raises(InvalidConfigError, match="is no checker"):
        LeadershipMiddleware("n1")  # type: ignore[arg-type]
    assert repr(middleware.redirect()) == "<middleware redirect of node n2>"
