"""Tests of the middleware inside FastAPI, Starlette, Flask and Django, as their users write it."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import flask
import httpx
import pytest
from django.http import HttpResponse
from django.urls import path
from fastapi import Depends, FastAPI, Request
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from forge_consensus.errors import InvalidConfigError
from forge_consensus.middleware import Confirmed, Consistency, LeadershipMiddleware
from forge_consensus.service.leadership import Standing
from tests.worlds.django_world import django_handler
from tests.worlds.web_world import FOLLOWING, LEADING, ToldChecker


def ask(app: Any, method: str, path: str, **more: Any) -> httpx.Response:
    """Send one request to an ASGI application."""

    async def one() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
            return await client.request(method, path, **more)

    return asyncio.run(one())


def ask_wsgi(app: Any, method: str, path: str) -> httpx.Response:
    """Send one request to a WSGI application."""
    with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://app") as client:
        return client.request(method, path)


def test_fastapi_takes_it_as_middleware_and_as_a_dependency() -> None:
    checker = ToldChecker(FOLLOWING)
    middleware = LeadershipMiddleware(checker)
    app = FastAPI()
    app.add_middleware(middleware.add_leader_header())

    @app.post("/users", dependencies=[Depends(middleware.require_leader())])
    def create() -> str:
        return "created"

    @app.get("/users")
    def read(found: Confirmed = Depends(middleware.consistency(Consistency.STRONG))) -> int:  # noqa: B008
        return found.applied

    @app.get("/who")
    def who(standing: Standing = Depends(middleware.require_leader())) -> str:  # noqa: B008
        return standing.node_id

    refused = ask(app, "POST", "/users")
    assert (refused.status_code, refused.json()["detail"]["leader_id"]) == (503, "n1")
    assert refused.headers["retry-after"] == "0"
    assert refused.headers.get_list("x-raft-leader") == ["n1"]
    found = ask(app, "GET", "/users?consistency=bounded&max_staleness=2s")
    assert (found.status_code, found.json()) == (200, 40)
    assert found.headers["x-raft-consistency"] == "bounded"
    assert found.headers.get_list("x-raft-index") == ["41"]
    assert checker.asked == [("stale", 2.0, 2.0, 0)]
    checker.found = LEADING
    assert ask(app, "POST", "/users").json() == "created"
    assert ask(app, "GET", "/who").json() == "n1"
    assert app.openapi()["paths"]["/users"]["post"].get("parameters") is None, "a dependency adds none to the document"


def test_what_sends_requests_on_is_refused_as_a_dependency() -> None:
    middleware = LeadershipMiddleware(ToldChecker(FOLLOWING))
    with pytest.raises(InvalidConfigError, match="use it as middleware, not as a dependency"):
        inspect.signature(middleware.forward())
    with pytest.raises(AttributeError, match="has no attribute 'app'"):
        middleware.redirect().app  # noqa: B018


def test_starlette_takes_it_for_the_application_and_for_a_route() -> None:
    async def where(request: Request) -> PlainTextResponse:
        return PlainTextResponse(" ".join(sorted(name for name in request.scope if name.startswith("consensus."))))

    checker = ToldChecker(FOLLOWING)
    middleware = LeadershipMiddleware(checker)
    guarded = Route("/strong", middleware.consistency()(Route("/strong", where)))
    app = Starlette(routes=[Route("/", where, methods=["GET", "POST"]), guarded])
    app.add_middleware(middleware.read_only_routing("redirect"))
    assert ask(app, "GET", "/strong").text == "consensus.confirmed"
    sent = ask(app, "POST", "/?a=b")
    assert (sent.status_code, sent.headers["location"]) == (307, "http://one:8000/?a=b")
    checker.found = LEADING
    assert ask(app, "POST", "/").text == "consensus.standing"


def test_flask_takes_it_around_its_application() -> None:
    app = flask.Flask(__name__)

    @app.post("/")
    def create() -> str:
        return type(flask.request.environ["consensus.standing"]).__name__

    checker = ToldChecker(FOLLOWING)
    guarded = LeadershipMiddleware(checker).require_leader().wsgi(app.wsgi_app)
    assert ask_wsgi(guarded, "POST", "/").status_code == 503
    checker.found = LEADING
    assert ask_wsgi(guarded, "POST", "/").text == "Standing"


def view(request: Any) -> HttpResponse:
    """Answer with what the middleware found out."""
    return HttpResponse(type(request.environ["consensus.confirmed"]).__name__)


urlpatterns = [path("", view)]


def test_django_takes_it_around_its_application() -> None:
    checker = ToldChecker(FOLLOWING)
    guarded = LeadershipMiddleware(checker).consistency().wsgi(django_handler(__name__))
    found = ask_wsgi(guarded, "GET", "/")
    assert (found.status_code, found.text, found.headers["x-raft-index"]) == (200, "Confirmed", "41")
