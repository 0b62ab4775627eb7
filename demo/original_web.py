"""Example: "Middleware Integration" of the Go original's README in FastAPI.

It needs ``pip install fastapi`` and the extras ``web`` and ``admin``.
"""

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any, Literal

import httpx
import uvicorn
from fastapi import Depends, FastAPI

from forge_consensus import ConsensusExtension
from forge_consensus.middleware import Confirmed, Consistency
from forge_consensus.testing.local.ports import free_ports

SECONDS = 60.0
PATIENT = {"election_timeout_min": "2s", "election_timeout_max": "4s"}
"""As under "Performance Tuning" of the README; the defaults here are shorter."""


def application(consensus: ConsensusExtension) -> FastAPI:
    """Return the application of the README: its users, and the middleware in front of them."""
    middleware = consensus.middleware  # or LeadershipMiddleware(LeadershipChecker(service))
    app = FastAPI(lifespan=consensus.lifespan)

    # Add leader information to all responses.
    app.add_middleware(middleware.add_leader_header())

    # Require leader for write endpoints.
    @app.post("/api/users", dependencies=[Depends(middleware.require_leader())])
    def create_user(user: dict[str, Any]) -> str:
        consensus.service.put(f"user:{user['id']}", user)
        return f"user:{user['id']}"

    @app.put("/api/users/{name}")
    def change_user(name: str, user: dict[str, Any]) -> str:
        consensus.service.put(f"user:{name}", user)
        return f"user:{name}"

    # Enforce consistency levels. There "strong" is refused by all nodes but the leader, which may have been cut off and
    # not know it. Here any node answers, once it has everything that was acknowledged before the request came.
    @app.get("/api/users/{name}")
    def get_user(
        name: str, confirmed: Annotated[Confirmed, Depends(middleware.consistency(Consistency.STRONG))]
    ) -> dict[str, Any]:
        found: dict[str, Any] = consensus.service.get(f"user:{name}", "stale", after_index=confirmed.applied)
        return found

    # The admin API as a part of the application, as there; it answers this machine only.
    app.mount("/consensus", consensus.admin_api())
    return app


def show(what: str, answer: httpx.Response) -> None:
    """Print an answer, and what its headers say of the leader."""
    told = {
        name: answer.headers[name] for name in ("X-Consensus-Leader", "X-Consensus-Leader-ID") if name in answer.headers
    }
    print(f"{what}: {answer.status_code} {answer.text[:120]} {told or ''}".rstrip())


def ask(leader: httpx.Client, follower: httpx.Client, routed: httpx.Client) -> None:
    """Send requests to the leader's application, to a follower's, and to the same behind read_only_routing."""
    alice, bob = {"id": "123", "name": "Alice"}, {"id": "456", "name": "Bob"}
    print("require_leader")
    show("  POST to the leader", leader.post("/api/users", json=alice))
    # There the refusal is an answer of 503 too, but without a Retry-After and without the leader's address.
    show("  POST to a follower", follower.post("/api/users", json=bob))
    print("add_leader_header")
    show("  PUT to a follower, which has the leader write", follower.put("/api/users/456", json=bob))
    print("read_only_routing")
    show("  GET to a follower", routed.get("/api/users/456"))
    show("  PUT to a follower", routed.put("/api/users/456", json=alice))
    print("consistency strong")
    show("  GET to the leader", leader.get("/api/users/123"))
    show("  GET to a follower", follower.get("/api/users/123"))
    print("admin_api in the application")
    show("  GET to a follower", follower.get("/consensus/leader"))


def all_know_one(extensions: dict[str, ConsensusExtension]) -> str:
    """Wait until all nodes name the same leader, and return it."""
    end = time.monotonic() + SECONDS
    while True:
        named = {extension.get_leader() for extension in extensions.values()}
        if len(named) == 1 and (leader := named.pop()) is not None:
            return leader
        if time.monotonic() > end:
            raise SystemExit(f"the nodes do not agree who leads: {named}")
        time.sleep(0.01)


@contextmanager
def served(app: Any, port: int, lifespan: Literal["on", "off"] = "on") -> Iterator[httpx.Client]:
    """Serve an application on a thread until the end of the block; its lifespan starts and stops the node."""
    server = uvicorn.Server(uvicorn.Config(app, port=port, lifespan=lifespan, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise SystemExit("the server has ended")
            time.sleep(0.01)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


def main() -> None:
    """Run three applications, each with a node and a server of its own, as three programs would."""
    ports = free_ports(7)
    peers = {f"node-{number}": f"127.0.0.1:{port}" for number, port in enumerate(ports[:3], 1)}
    extensions, clients, apps = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        for name, port in zip(peers, ports[3:], strict=False):
            extensions[name] = ConsensusExtension(
                node_id=name,
                cluster_id="my-cluster",
                peers=peers,
                storage_path=f"{folder}/{name}",
                raft=PATIENT,
                http_url=f"http://127.0.0.1:{port}",
                wait_for_leader=0,
            )
            apps[name] = application(extensions[name])
            clients[name] = running.enter_context(served(apps[name], port))
        print("== Middleware Integration ==")
        leader = all_know_one(extensions)
        follower = next(name for name in peers if name != leader)
        # Route reads to any node, writes to leader only; around an application, middleware needs no framework.
        routing = extensions[follower].middleware.read_only_routing()
        routed = running.enter_context(served(routing(apps[follower]), ports[-1], "off"))
        ask(clients[leader], clients[follower], routed)


if __name__ == "__main__":
    main()
