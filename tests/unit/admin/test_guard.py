"""The guard: what a page of another origin can make a browser send is refused, and programs are not hindered."""

from __future__ import annotations

import socket

import pytest

from forge_consensus.admin.guard import Guard
from forge_consensus.admin.problems import ProblemError

HERE = "127.0.0.1:8001"


def status_of(method: str, headers: dict[str, str]) -> int:
    """With what a request is refused, 200 if it is not."""
    try:
        Guard(["node1.lan"]).check(method, {"host": HERE, **headers})
    except ProblemError as problem:
        return problem.status
    return 200


@pytest.mark.parametrize(
    "host",
    [
        HERE, "127.0.0.1", "localhost:8001", "LOCALHOST", "dev.localhost:1", "[::1]:8001", "10.0.0.7:80", "node1.lan",
        "Node1.LAN:8001", socket.gethostname(),
    ],
)  # fmt: skip
def test_addresses_and_own_names_are_answered(host: str) -> None:
    assert status_of("GET", {"host": host}) == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "[", "127.0.0.1.evil.example:8001"])
def test_a_foreign_name_is_not(host: str) -> None:
    assert status_of("GET", {"host": host}) == 421


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT", "PATCH"])
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:8001", "http://[", "http://a]"]
)
def test_another_origin_is_refused(method: str, origin: str) -> None:
    assert status_of(method, {"origin": origin}) == 403


def test_the_own_page_is_answered() -> None:
    own = {"origin": f"http://{HERE}", "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}
    assert status_of("POST", own) == 200
    assert status_of("GET", {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"}) == 200


def test_a_link_on_another_page_can_be_followed_and_nothing_else_comes_from_there() -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert status_of("GET", link) == 200
    assert status_of("POST", link) == 403
    for mode in ("no-cors", "cors", "websocket"):
        assert status_of("GET", {"sec-fetch-site": "cross-site", "sec-fetch-mode": mode}) == 403
    assert status_of("GET", {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}) == 403


def test_a_load_balancer_without_a_host_is_answered_and_a_browser_is_not() -> None:
    guard = Guard()
    guard.check("GET", {})
    for header in ("origin", "sec-fetch-site"):
        with pytest.raises(ProblemError):
            guard.check("GET", {header: "null"})


def test_what_a_proxy_passed_on_is_not_from_this_machine() -> None:
    guard = Guard(only_local=True)
    for client in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        guard.check("GET", {"host": "localhost"}, client)
    for client, more in (
        ("10.0.0.7", {}),
        ("", {}),
        ("127.0.0.1", {"x-forwarded-for": "127.0.0.1"}),
        ("::1", {"via": "1.1 p"}),
    ):
        with pytest.raises(ProblemError, match="this machine only"):
            guard.check("GET", {"host": "localhost", **more}, client)


def type_status(method: str, media_type: str, *, only_json: bool) -> int:
    """With what a body of a type is refused, 200 if it is not."""
    try:
        Guard.check_type(method, media_type, has_body=True, only_json=only_json)
    except ProblemError as problem:
        return problem.status
    return 200


@pytest.mark.parametrize("media_type", ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"])
def test_what_a_form_can_send_is_never_taken_by_post(media_type: str) -> None:
    assert type_status("POST", media_type, only_json=False) == 403
    assert type_status("POST", media_type, only_json=True) == 415


def test_bodies_of_other_types() -> None:
    assert type_status("POST", "application/json", only_json=True) == 200
    assert type_status("POST", "", only_json=True) == 415
    assert type_status("PUT", "text/plain", only_json=False) == 200  # a browser asks before it puts
