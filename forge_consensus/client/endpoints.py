"""The endpoints of a client: addresses that it was given or learned, and the search for the leader among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf

from forge_consensus.actors.messages import Locate, Located
from forge_consensus.config.address import parse_endpoint
from forge_consensus.config.cluster_id import is_meant, name_of
from forge_consensus.errors import InvalidConfigError

LOCAL = "local"
"""The name under which an embedded node is an endpoint."""
ENDPOINTS_MAX = 64
"""A client with so many endpoints learns no more from nodes."""
FRAME_OVERHEAD_BYTES = 1024
"""More bytes than a frame has beside its calls: header, session, checksum."""
LOCATE_WAIT_MS = 500
LOCATE_GRACE_SECONDS = 0.5
"""How long after the node should have answered a search the search counts as lost."""
ASK_AGAIN_SECONDS = 0.03
LEADERLESS_SECONDS = 1.0
"""After so long without a leader, a leader of a lower term is believed, because the cluster may have been made anew."""


def parse_endpoints(given: str | Sequence[str]) -> list[str]:
    """The addresses of a list or of a text with commas between them, each once.

    Raises `InvalidConfigError` if there is none or one of them is malformed.
    """
    if not isinstance(given, str | Sequence):  # callers without a type checker
        raise InvalidConfigError(f"endpoints is {given!r:.200}: give a list of HOST:PORT, or a text with commas")
    texts = given.split(",") if isinstance(given, str) else list(given)
    texts = [text for text in texts if not isinstance(text, str) or text.strip()]
    if not texts:
        raise InvalidConfigError(
            "no endpoints: a client needs the address of at least one node, such as 127.0.0.1:7001"
        )
    return list(dict.fromkeys(parse_endpoint(text) for text in texts))


@dataclass(slots=True)
class Endpoint:
    """What the client knows of one address."""

    name: str
    connected: bool = False
    node: str = ""
    """The id of the node that answers there, empty while the endpoint is not connected."""
    last_node: str = ""
    """The id of the node that answered there last."""
    said: str = "no answer yet"
    """What was heard last from it or of it, for the texts of errors."""
    denied: bool = False
    """Whether it does not let this client in."""
    heard_at: float = 0.0
    ask_at: float = 0.0
    frame_bytes_max: int = 0
    """The node takes no larger frame, which would cost the connection; 0 while that is unknown."""
    answers: bool = False
    """Whether the node has answered on this connection: first it is asked for the leader, and so tells its limits.
    Calls go only where that is so."""
    asked_at: float = 0.0
    """When it was asked for the leader last."""


class Directory:
    """The endpoints, which of them leads, and which of them to ask about it.

    A leader is believed by its term. A wrong belief costs a refusal and nothing else.
    """

    def __init__(self, names: Sequence[str], cluster: str, random: Callable[[], float]) -> None:
        self.given = tuple(names)
        self.endpoints = {name: Endpoint(name) for name in names}
        self.left: dict[str, str] = {}
        """By given endpoint that was dropped: the id of the node that answered there last."""
        self.changes = 0
        """How often an endpoint was added or dropped."""
        self.told_in = 0
        """The highest term in which a leader told who the members are."""
        self.named = self.cluster = cluster
        """The cluster's id: the one that was given, until a node of a cluster of that name answered; then its own."""
        self.bound = False
        """Whether a node told the id."""
        self.random = random
        self.follow = True
        """Whether to go to nodes that were not given."""
        self.leader: Endpoint | None = None
        self.term = 0
        self.dismissed = ("", 0)
        """The endpoint that said that it does not lead, and in which term."""
        self.searching_since: float | None = None

    def add(self, name: str) -> Endpoint:
        """The endpoint with this name; it is added if it is new."""
        found = self.endpoints.get(name)
        if found is None:
            found = self.endpoints[name] = Endpoint(name)
            self.changes += 1
        return found

    def drop(self, name: str) -> None:
        """Go to this endpoint no more."""
        dropped = self.endpoints.pop(name)
        if name in self.given:
            self.left[name] = dropped.last_node
        self.changes += 1

    def connected(self) -> list[Endpoint]:
        """The connected endpoints, in the order in which they were given or learned."""
        return [endpoint for endpoint in self.endpoints.values() if endpoint.connected]

    def answering(self) -> list[Endpoint]:
        """Those of them that answer."""
        return [endpoint for endpoint in self.endpoints.values() if endpoint.answers]

    def ready(self) -> Endpoint | None:
        """The leader, if it is known and answers."""
        leader = self.leader
        return leader if leader is not None and leader.answers else None

    def call_bytes_max(self) -> float:
        """No call of more bytes fits into a frame to every node, as far as their limits are known."""
        known = [one.frame_bytes_max for one in self.endpoints.values() if one.frame_bytes_max]
        return max(min(known) - FRAME_OVERHEAD_BYTES, 0) if known else inf

    def search(self, now: float, *, wanted: bool) -> Iterator[tuple[Endpoint, Locate]]:
        """The endpoints to ask now who leads, if that is `wanted`, and what to ask them.

        The present leader is asked whether it still leads; the others hold the request until they know a later leader.
        """
        if not wanted:
            self.searching_since = None
            return
        if self.searching_since is None:
            self.searching_since = now
            for endpoint in self.endpoints.values():
                endpoint.ask_at = now
        elif now - self.searching_since >= LEADERLESS_SECONDS:
            for name in self.given:  # one may have come back since it left, and those that stayed may have left
                if name not in self.endpoints:
                    self.add(name).last_node = self.left.get(name, "")
        for endpoint in self.endpoints.values():
            if endpoint.connected and endpoint.ask_at <= now:
                endpoint.ask_at = now + LOCATE_WAIT_MS / 1000 + LOCATE_GRACE_SECONDS
                wait_ms = LOCATE_WAIT_MS if endpoint.answers else 0  # its limits are needed at once
                yield endpoint, Locate(self.known_term(endpoint), wait_ms)

    def unanswered(self) -> list[Endpoint]:
        """The connected endpoints that have not answered yet, and are asked again and again.

        Without an answer the client does not know their limits, and a frame that is too large for a node costs the
        connection, again and again.
        """
        return [endpoint for endpoint in self.endpoints.values() if endpoint.connected and not endpoint.answers]

    def known_term(self, endpoint: Endpoint) -> int:
        """The term of which the endpoint need not tell; the last leader may answer that it still leads in that term."""
        if endpoint is self.leader or (endpoint.name, self.term) == self.dismissed:
            return max(self.term - 1, 0)
        return self.term

    def ask_again(self, endpoint: Endpoint, now: float) -> None:
        """Ask the endpoint again soon, because its answer did not help."""
        endpoint.ask_at = now + ASK_AGAIN_SECONDS * (0.5 + self.random())

    def located(self, endpoint: Endpoint, answer: Located, now: float) -> bool:
        """Take what a node says of the leader; returns whether there is a new one."""
        self.ask_again(endpoint, now)
        if self.cluster and answer.cluster != self.cluster and not self.move_to(answer.cluster, now):
            endpoint.said = f"belongs to cluster {answer.cluster!r}, not {self.cluster!r}"
            return False
        self.cluster, self.bound = answer.cluster, True
        endpoint.node = endpoint.last_node = answer.node
        endpoint.frame_bytes_max = answer.frame_bytes_max
        endpoint.said = f"{answer.node} says that {answer.leader or 'nobody'} leads in term {answer.term}"
        known = {other.node for other in self.endpoints.values()}
        for node, address in answer.members:
            if self.follow and node not in known and address and len(self.endpoints) < ENDPOINTS_MAX:
                self.add(address)
        return self.consider(endpoint, answer.leader, answer.address, answer.term, now)

    def obsolete(self, answer: Located) -> list[Endpoint]:
        """The endpoints that lead to no member, as a leader says whose term is no lower than that of earlier ones.

        Without `follow` there are none. An address that was given may lead to a member under another address than the
        one that the cluster knows, so it stays unless the node that answered there is no member any more, or answers
        elsewhere. So does the leader's, and that of a node of this process.
        """
        leads = answer.leader == answer.node and answer.cluster == self.cluster
        if not (self.follow and leads and answer.term >= self.told_in):
            return []
        self.told_in = answer.term
        members = dict(answer.members)
        reached = {one.node for one in self.endpoints.values() if one.connected}
        found = []
        for one in self.endpoints.values():
            if one is self.leader or one.name == LOCAL or one.name in members.values() or one.node in members:
                continue
            left = bool(one.last_node) and (one.last_node not in members or one.last_node in reached)
            if left or one.name not in self.given:
                found.append(one)
        return found

    def move_to(self, cluster: str, now: float) -> bool:
        """Whether to take this id for that of the cluster; then what was believed of another one is forgotten.

        A name that was given stands for whatever id the cluster of that name has. A cluster that was known by its id
        may have been made anew, under the same name: that is believed once it has been without a leader for so long.
        """
        if name_of(self.cluster) != name_of(cluster) or (self.named and not is_meant(self.named, cluster)):
            return False
        if self.bound and not self.leaderless(now):
            return False
        self.leader, self.term, self.told_in, self.dismissed = None, 0, 0, ("", 0)
        return True

    def leaderless(self, now: float) -> bool:
        """Whether no leader was found for so long that the cluster may have been made anew."""
        return self.searching_since is not None and now - self.searching_since >= LEADERLESS_SECONDS

    def consider(self, source: Endpoint, node: str, address: str, term: int, now: float) -> bool:
        """Decide whether to believe that a node leads in a term; returns whether there is a new leader."""
        target = self.resolve(node, address) if node else None
        if target is None or (target is self.leader and term == self.term):
            return False
        if (target.name, term) == self.dismissed and source is not target:
            return False
        if term < self.term and not self.leaderless(now):
            return False
        if term == self.term and self.ready() is not None:
            return False
        self.leader, self.term = target, term
        return True

    def resolve(self, node: str, address: str) -> Endpoint | None:
        """The endpoint of a node: the one where it answered, otherwise the address under which others know it."""
        for endpoint in self.endpoints.values():
            if endpoint.node == node:
                return endpoint
        new = address not in self.endpoints
        if new and (not address or not self.follow or len(self.endpoints) >= ENDPOINTS_MAX):
            return None
        return self.add(address)

    def dismiss(self, endpoint: Endpoint) -> None:
        """Note that an endpoint says that it does not lead."""
        if endpoint is self.leader:
            self.dismissed = (endpoint.name, self.term)
            self.leader = None

    def account(self) -> str:
        """What is known of every endpoint, for the texts of errors."""
        parts = [
            f"{endpoint.name}: {'' if endpoint.connected else 'not connected, '}{endpoint.said}"
            for endpoint in self.endpoints.values()
        ]
        return "; ".join(parts)
