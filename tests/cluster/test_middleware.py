"""Web applications on three real nodes: their middleware under requests while the leader ends."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flask
import httpx
import pytest
import uvicorn
from django.http import HttpRequest, HttpResponse
from django.urls import path
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from werkzeug.serving import make_server

from forge_consensus import Command, ConsensusService, Entry, LeadershipChecker
from forge_consensus.middleware import Confirmed, LeadershipMiddleware
from forge_consensus.testing.local.ports import free_ports
from tests.worlds.django_world import django_handler
from tests.worlds.service_world import QUICK, eventually, leader_and_others, one_leads

NAMES = ("n1", "n2", "n3")
SECONDS = 4.0
"""How long clients ask in all; the leader ends after a third of it."""


def fastapi_app(service: ConsensusService) -> Any:
    """An application whose reads come from any node and whose writes are sent on to the leader."""
    middleware = LeadershipMiddleware(LeadershipChecker(service))
    app = FastAPI()
    app.add_middleware(middleware.read_only_routing("forward", timeout=2))
    app.add_middleware(middleware.add_leader_header())

    @app.post("/counter")
    def count() -> int:
        return int(service.apply(Command("add", {}), 2))

    @app.get("/counter")
    def read(confirmed: Confirmed = Depends(middleware.consistency(timeout=2))) -> int:  # noqa: B008
        return int(service.read(None, "stale", 2, after_index=confirmed.applied))

    return app


def flask_app(service: ConsensusService) -> Any:
    """The same in Flask."""
    middleware = LeadershipMiddleware(LeadershipChecker(service))
    app = flask.Flask("counter")

    @app.post("/counter")
    def count() -> str:
        return str(service.apply(Command("add", {}), 2))

    @app.get("/counter")
    def read() -> str:
        confirmed = flask.request.environ["consensus.confirmed"]
        return str(service.read(None, "stale", 2, after_index=confirmed.applied))

    confirming = middleware.consistency(timeout=2).wsgi(app.wsgi_app)
    return middleware.read_only_routing("forward", timeout=2).wsgi(confirming)


def starlette_app(service: ConsensusService) -> Any:
    """The same in Starlette."""
    middleware = LeadershipMiddleware(LeadershipChecker(service))

    def count(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(service.apply(Command("add", {}), 2)))

    def read(request: Request) -> PlainTextResponse:
        confirmed = request.scope["consensus.confirmed"]
        return PlainTextResponse(str(service.read(None, "stale", 2, after_index=confirmed.applied)))

    routes = [Route("/counter", count, methods=["POST"]), Route("/counter", read, methods=["GET"])]
    app = middleware.consistency(timeout=2)(Starlette(routes=routes))
    return middleware.read_only_routing("forward", timeout=2)(app)


def counter_view(request: HttpRequest) -> HttpResponse:
    """The only view of the Django application; the service is that of the site whose server was asked."""
    service = request.META["site.service"]
    if request.method == "POST":
        return HttpResponse(str(service.apply(Command("add", {}), 2)))
    confirmed = request.META["consensus.confirmed"]
    return HttpResponse(str(service.read(None, "stale", 2, after_index=confirmed.applied)))


urlpatterns = [path("counter", counter_view)]


def django_app(service: ConsensusService) -> Any:
    """The same in Django."""
    application, middleware = django_handler(__name__), LeadershipMiddleware(LeadershipChecker(service))

    def of_site(environ: dict[str, Any], start_response: Any) -> Any:
        return application({**environ, "site.service": service}, start_response)

    confirming = middleware.consistency(timeout=2).wsgi(of_site)
    return middleware.read_only_routing("forward", timeout=2).wsgi(confirming)


class Counter:
    """A state machine that counts, at which its application may look directly."""

    def __init__(self) -> None:
        self.value = 0

    def apply(self, entry: Entry) -> int:
        self.value += 1
        return self.value

    def query(self, query: Any) -> int:
        return self.value

    def snapshot(self) -> list[bytes]:
        return [b"%d" % self.value]

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.value = int(b"".join(chunks))


@dataclass
class Site:
    """A node, its machine and the web server of its application, in this process."""

    url: str
    service: ConsensusService
    machine: Counter


def serve_asgi(app: Any, port: int) -> Callable[[], None]:
    """Serve an ASGI application on a thread; returns what ends it."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", ws="none", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    eventually(lambda: server.started)

    def stop() -> None:
        server.should_exit = True
        thread.join(10)
        listening.close()

    return stop


def serve_wsgi(app: Any, port: int) -> Callable[[], None]:
    """Serve a WSGI application, with a thread for each request; returns what ends it."""
    server = make_server("127.0.0.1", port, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def stop() -> None:
        server.shutdown()
        thread.join(10)
        server.server_close()

    return stop


@pytest.fixture(
    params=[(fastapi_app, serve_asgi), (starlette_app, serve_asgi), (flask_app, serve_wsgi), (django_app, serve_wsgi)],
    ids=["fastapi", "starlette", "flask", "django"],
)
def sites(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[Site]]:
    make_app, serve = request.param
    ports = free_ports(6)
    peers = {name: f"127.0.0.1:{port}" for name, port in zip(NAMES, ports, strict=False)}
    with ExitStack() as stack:
        found = []
        for name, port in zip(NAMES, ports[3:], strict=True):
            url, machine = f"http://127.0.0.1:{port}", Counter()
            service = ConsensusService(
                name, peers=peers, storage_path=tmp_path / name, raft=QUICK, state_machine=machine, http_url=url
            )
            stack.callback(service.close)
            service.start()
            stack.callback(serve(make_app(service), port))
            found.append(Site(url, service, machine))
        eventually(lambda: one_leads([site.service for site in found]))
        eventually(lambda: all(LeadershipChecker(site.service).standing().leader_url for site in found))
        yield found


class Load:
    """Clients that write and read through all sites in turn until they are told to stop."""

    def __init__(self, sites: list[Site]) -> None:
        self.sites = sites
        self.written: list[tuple[float, int]] = []
        """When each acknowledged write ended, and the count that it made."""
        self.unknown = 0
        self.refused = 0
        self.wrong: list[str] = []
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(number,)) for number in range(3)]

    def run(self, number: int) -> None:
        with httpx.Client(timeout=5, trust_env=False) as client:
            while not self.over.is_set():
                number += 1
                site = self.sites[number % len(self.sites)].url
                try:
                    self.write(client, site)
                    self.read(client, self.sites[(number + 1) % len(self.sites)].url)
                except httpx.TransportError:
                    self.unknown += 1

    def write(self, client: httpx.Client, site: str) -> None:
        answer = client.post(f"{site}/counter")
        if answer.status_code == 200:
            self.written.append((time.monotonic(), int(answer.text)))
        elif answer.status_code == 503:
            self.refused += 1
        else:
            self.unknown += 1

    def read(self, client: httpx.Client, site: str) -> None:
        before = max((count for _, count in list(self.written)), default=0)
        answer = client.get(f"{site}/counter")
        if answer.status_code == 200 and int(answer.text) < before:
            self.wrong.append(f"{site} says {answer.text} after {before} was acknowledged")


def test_no_answer_is_wrong_while_the_leader_ends(sites: list[Site]) -> None:
    leader, _ = leader_and_others([site.service for site in sites])
    ending = next(site for site in sites if site.service is leader)
    load = Load(sites)
    for thread in load.threads:
        thread.start()
    time.sleep(SECONDS / 3)
    assert load.written, "writes through every node are acknowledged"
    leader.host.node.base.engine.stopping = "killed by the test"  # type: ignore[union-attr]  # without a handover
    ended = time.monotonic()
    time.sleep(2 * SECONDS / 3)
    load.over.set()
    for thread in load.threads:
        thread.join(20)
    assert load.wrong == []
    counts = [count for _, count in load.written]
    assert len(set(counts)) == len(counts), "each acknowledged write counted once"
    after = [at for at, _ in load.written if at > ended + 0.05]
    assert after, f"the others go on ({load.refused} refused, {load.unknown} unknown)"
    moments = sorted(at for at, _ in load.written)
    gap = max(later - sooner for sooner, later in itertools.pairwise(moments))
    print(f"longest gap between acknowledged writes: {gap * 1000:.0f} ms, {len(counts)} writes")
    assert gap < 10, "an election and the pauses of the clients"
    others = [site for site in sites if site is not ending]
    with httpx.Client(timeout=5, trust_env=False) as client:
        final = [int(client.get(f"{site.url}/counter").text) for site in others]
        told = client.get(f"{others[0].url}/counter").headers
    assert len(set(final)) == 1 and max(counts) <= final[0]
    if "x-raft-leader" in told:
        assert told["x-raft-leader"] in {site.service.settings.node_id for site in others}


def test_a_barrier_makes_a_followers_own_machine_as_new_as_everything_acknowledged(sites: list[Site]) -> None:
    leader, _ = leader_and_others([site.service for site in sites])
    for number in range(1, 21):
        assert leader.apply(Command("add", {})) == number
        for site in sites:
            detail = site.service.barrier()
            assert site.machine.value == number, "the application looks at its own machine"
            assert (detail.value, detail.stale_ms) == (None, 0)
            assert detail.applied >= leader.last_index
