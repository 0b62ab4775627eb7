"""The cluster report: every member's own status, asked for at once and put side by side.

The status command prints it; whatever else shows a whole cluster can use it. A leader is not needed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from forge_consensus.actors.messages import FULL
from forge_consensus.actors.runtime.refusals import ORDINARY
from forge_consensus.actors.runtime.status import NodeStatus
from forge_consensus.client.pending import PendingNodeQuery
from forge_consensus.client.sync import Client
from forge_consensus.errors import ConnectionFailedError, ConsensusError, ProtocolError
from forge_consensus.events.text import seconds_text
from forge_consensus.storage.ledger.configuration import LEARNER, LEAVING, VOTER, quorum_of
from forge_consensus.version import __version__

GRACE_SECONDS: Final = 1.0
"""How long the others may take when one has answered."""
LOOK_SECONDS: Final = 0.01
BEHIND_ENTRIES: Final = 1000
"""A member that lacks more committed entries is called behind."""
CLOCK_AHEAD_MS: Final = 1000.0
"""A wall clock that is further from the leader's is told of."""
NO_LEADER: Final = "no leader is known"
"""What a node says of itself where its row says "no leader"."""
REFUSES_SECONDS: Final = 15.0
"""A refusal is told as past if it is older: a node that is refused and runs greets again every five seconds."""
BEHIND_SECONDS: Final = 1.0
"""A member that the leader has not heard for longer is called slow."""
COPIED: Final = (
    "term", "leader_id", "commit_index", "last_applied", "last_log_index", "snapshot_index", "storage_used_bytes",
    "storage_quota_bytes", "disk_free_bytes", "uptime", "boot", "health", "details", "refused", "events_address",
    "snapshots_by", "snapshots_why", "snapshot_doing", "pending_restart",
)  # fmt: skip
"""Fields that a member's report takes over from its status."""

Status = Mapping[str, Any]
"""A node's status as `Client.status` returns it."""


@dataclass(frozen=True, slots=True)
class MemberReport:
    """One node: what it says itself, and how far the leader knows it to be.

    Whatever is not known is None: without an answer, everything that only the node itself can say.
    """

    node_id: str | None
    """None for an address that was given, does not answer, and is no member's."""
    role: str | None
    address: str
    state: str
    """One of "ok", "slow", "behind", "full", "refusing", "cut off", "no leader", "no member" or "no answer"."""
    match_index: int | None
    """The last entry known to be in its log; None where the leader has not learned it in its term."""
    lag: int | None
    """How many committed entries it lacks, as the leader knows; None for the leader itself."""
    last_contact: float | None
    """Seconds since the leader heard it; without a leader, since it heard one."""
    clock_ahead_ms: float | None
    """How far its wall clock is ahead of the leader's, give or take half a round trip; None without a leader."""
    version: str | None
    """The version of its program, as it says itself or the leader knows."""
    error: str | None
    """Why there is no answer."""
    term: int | None
    leader_id: str | None
    commit_index: int | None
    last_applied: int | None
    last_log_index: int | None
    snapshot_index: int | None
    storage_used_bytes: int | None
    storage_quota_bytes: int | None
    disk_free_bytes: int | None
    uptime: float | None
    """Seconds."""
    boot: int | None
    health: str | None
    details: list[str] | None
    """What the node itself says is wrong, for people."""
    refused: dict[str, int] | None
    """How often the node refused something since its start, by reason."""
    events_address: str | None
    snapshots_by: str | None
    """What writes a snapshot: "process" or "thread"."""
    snapshots_why: str | None
    """Why it is a thread where a process was meant, for people; empty if all is as meant."""
    snapshot_doing: str | None
    """What it does with snapshots at present, for people; empty if nothing."""
    pending_restart: list[str] | None
    """The settings that were given other values and wait for a restart of the node."""
    part: str | None = None
    """"voter", "learner", or "leaving" for one that votes only until the present change is complete; None for a node
    that is no member."""
    priority: int = 0
    """How much it is preferred as the leader; 0 is usual."""
    may_lead: bool = True
    """Whether it is not marked never to lead."""
    http_url: str = ""
    """Where its application, or its admin API, answers HTTP; "" if it is not known."""
    takes_entries: bool = False
    """Whether it is known to be of help to a majority: it answers, the leader hears it, and it takes entries."""
    outgoing: bool = False
    """Whether it is one of the outgoing voters of a joint configuration, of whom a majority is needed too."""

    def unusual_refusals(self) -> dict[str, int]:
        """Return what of `refused` somebody should look into: not what is part of ordinary work."""
        return {reason: count for reason, count in sorted((self.refused or {}).items()) if reason not in ORDINARY}

    def warnings(self) -> list[str]:
        """Return what a person should know of a node that is not well: how it fares, then what it says itself."""
        name = f"{self.node_id or 'a node'} at {self.address}"
        lag = f"{self.lag:,} entries behind and " if self.lag else ""
        behind = f"is {lag}" if lag else ""
        own = [f"{self.node_id}: {detail}" for detail in self.details or ()]
        return own + {
            "cut off": [f"{name} answers here, but the leader does not hear it: see what is between them"],
            "no answer": [f"{name} does not answer ({self.error}): see whether it runs and can be reached"],
            "no member": [f"{name} is not a member of this cluster: see its --cluster and --peers"],
            "no leader": [f"{name} follows no leader: see whether it reaches the others"],
            "behind": [f"{name} is {lag}catching up"],
            "full": [f"{name} {behind}takes no entries, because it has no room: make room there"],
            "refusing": [f"{name} {behind}takes no entries: see its log"],
            "slow": [f"{name} is {lag}was last heard {seconds_text(self.last_contact)} ago"],
        }.get(self.state, [])


@dataclass(frozen=True, slots=True)
class ClusterReport:
    """A whole cluster, as its leader and all members that answer see it."""

    cluster_id: str
    health: str
    """Either "healthy", or "degraded" if it serves and something is wrong, or "unhealthy" if it does not serve."""
    leader_id: str | None
    leader_address: str | None
    term: int
    uptime: float
    """Seconds since the start of the node whose answer counts most: the leader's, if there is one."""
    members: int
    """How many members vote; learners count for nothing here."""
    required: int
    """How many members a majority takes, in a joint configuration at the least."""
    reachable: int
    """How many members answered."""
    connected: int
    """How many members, itself included, the leader hears; without a leader, how many answered."""
    can_lose: int
    """How many members may fail, whichever they are, before no majority takes entries. Members that do not answer, that
    the leader does not hear, or that take no entries are no help to a majority, although they may be connected."""
    commit_index: int
    last_log_index: int
    version: str
    """The version of this package here, not of the nodes."""
    nodes: tuple[MemberReport, ...]
    warnings: tuple[str, ...]
    """Sentences for people, the most important first."""
    change: str = ""
    """How far the change of members is that is under way, for people; empty if there is none."""
    advice: str = ""
    """What to do first, in one line; empty if nothing is wrong."""
    has_majority: bool = True
    """Whether the connected members are a majority, in a joint configuration of both sets of voters."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON can hold it; every field is always there."""
        return {**asdict(self), "nodes": [asdict(node) for node in self.nodes], "warnings": list(self.warnings)}


def cluster_report(client: Client, endpoints: Iterable[str], timeout: float) -> ClusterReport:
    """Ask the nodes at these addresses, and every member that an answer names, and put their answers together.

    Args:
        client: the client that asks; it need not know the endpoints.
        endpoints: addresses, HOST:PORT or ipc://PATH.
        timeout: seconds until missing answers count as missing; one second after the first answer at the latest.

    Raises `ConnectionFailedError` if no node answers.

    """
    return report_of(inquiry_of(client, endpoints, timeout))


def inquiry_of(client: Client, endpoints: Iterable[str], timeout: float, also: Iterable[str] = ()) -> Inquiry:
    """Ask as `cluster_report` does, and return the answers themselves. Raises `ConnectionFailedError`.

    `also` are addresses that are asked at once too, as those of members that were found earlier; they are no rows of
    their own, as endpoints are.
    """
    inquiry = Inquiry(client, endpoints, timeout)
    for address in also:
        inquiry.ask(address)
    inquiry.run()
    if not inquiry.answers:
        reasons = "; ".join(f"{address}: {inquiry.errors.get(address, 'no answer')}" for address in inquiry.asked)
        raise ConnectionFailedError(f"no node answers ({reasons}): see whether the nodes run and can be reached")
    return inquiry


class Inquiry:
    """The request for a status, sent to every endpoint and to every member that an answer names."""

    def __init__(self, client: Client, endpoints: Iterable[str], timeout: float) -> None:
        self.client = client
        self.deadline = time.monotonic() + timeout
        self.asked: dict[str, PendingNodeQuery[dict[str, Any]]] = {}
        self.answers: dict[str, Status] = {}
        """Node id -> its answer."""
        self.errors: dict[str, str] = {}
        """Address -> why there is no answer."""
        self.given = list(endpoints)
        for endpoint in self.given:
            self.ask(endpoint)

    def ask(self, endpoint: str) -> None:
        """Ask the node at that address, once."""
        if endpoint not in self.asked:
            query = self.client.status_query(endpoint, max(0.01, self.deadline - time.monotonic()))
            self.asked[endpoint] = query
            self.client.driver.hand_over(query)

    def run(self) -> None:
        """Wait for all answers; for a bounded time once one has come."""
        waiting = list(self.asked)
        while waiting and time.monotonic() < self.deadline:
            count = len(self.asked)
            waiting = [endpoint for endpoint in waiting if not self.take(endpoint)]
            waiting += list(self.asked)[count:]  # members that an answer named
            time.sleep(LOOK_SECONDS)
        known = self.client.driver.core.directory.endpoints
        for endpoint in waiting:
            if not self.take(endpoint):
                connected = endpoint in known and known[endpoint].connected
                self.errors[endpoint] = "no answer in time" if connected else "no connection"

    def take(self, endpoint: str) -> bool:
        """Return whether that node has answered or failed; other members that its answer names are asked too."""
        query = self.asked[endpoint]
        if not query.finished:
            return False
        if query.error is not None:
            self.errors[endpoint] = reason_of(query.error)
            return True
        answer = query.value()
        try:
            NodeStatus.from_dict(answer)
        except ProtocolError as error:
            self.errors[endpoint] = reason_of(error)
            return True
        if answer["node_id"] in self.answers:
            if endpoint in self.given:  # another name of a node that has answered
                self.given.remove(endpoint)
            return True
        if not self.answers:
            self.deadline = min(self.deadline, time.monotonic() + GRACE_SECONDS)
        self.answers[answer["node_id"]] = {**answer, "asked_at": endpoint}
        for member in answer["nodes"]:
            if member["id"] not in self.answers:
                self.ask(member["address"])
        return True


def reason_of(error: ConsensusError) -> str:
    """Return why a node did not answer, in a few words."""
    return "no connection" if isinstance(error, ConnectionFailedError) else str(error)


def authority(answers: Mapping[str, Status]) -> Status:
    """Return the answer that the others are measured by: the leader's of the latest term, else the latest."""

    def rank(answer: Status) -> tuple[bool, int, int]:
        return answer["role"] == "leader", answer["term"], answer["commit_index"]

    return max(answers.values(), key=rank)


def report_of(inquiry: Inquiry) -> ClusterReport:
    """Judge the cluster by the answers of its nodes, first of all by what the leader says."""
    answers = inquiry.answers
    first = authority(answers)
    leads = first["role"] == "leader"
    nodes = members_of(inquiry, first)
    voters = [member for member in first["nodes"] if member.get("part") != LEARNER]
    quorum = quorum_of((row["id"], row.get("part") or VOTER, bool(row.get("outgoing"))) for row in first["nodes"])
    total, required = quorum.total, quorum.required
    reachable = {member["id"] for member in voters if member["id"] in answers}
    connected = {member["id"] for member in voters if hears(first, member)} if leads else reachable
    taking = [member["id"] for member in voters if takes_entries(first, member, answers.get(member["id"]))]
    warnings = [text for node in nodes for text in node.warnings()] + comparisons(answers, nodes)
    if not leads:
        warnings.insert(0, "no node that answers leads: writes and linearizable reads wait for an election")
    elif not first["has_quorum"]:
        warnings.insert(0, f"the leader {first['node_id']} does not reach {required} of {total} members")
    serves = leads and first["has_quorum"]
    return ClusterReport(
        cluster_id=first["cluster_id"],
        health="unhealthy" if not serves else "degraded" if warnings else "healthy",
        leader_id=first["node_id"] if leads else None,
        leader_address=first["address"] if leads else None,
        term=first["term"],
        uptime=first["uptime"],
        members=total,
        required=required,
        reachable=len(reachable),
        connected=len(connected),
        can_lose=quorum.can_lose(taking),
        commit_index=first["commit_index"],
        last_log_index=first["last_log_index"],
        version=__version__,
        nodes=tuple(nodes),
        warnings=tuple(warnings),
        change=change_of(first),
        advice=advice_of(nodes, required=required, serves=serves) if warnings else "",
        has_majority=quorum.has(connected),
    )


def change_of(first: Status) -> str:
    """Return how far a change of members is: who catches up and who leaves, as the answer that counts most says."""
    found, last = [], first["last_log_index"]
    for member in first["nodes"]:
        if member.get("joining"):
            match = member.get("match_index")
            far = "" if match is None or not last else f", {min(1.0, match / last):.0%} of {last:,} entries"
            found.append(f"{member['id']} catches up and then votes{far}")
        elif member.get("part") == LEAVING:
            found.append(f"{member['id']} votes until the change is complete")
    return "; ".join(found)


def advice_of(nodes: Sequence[MemberReport], *, required: int, serves: bool) -> str:
    """Return what to do first, because it helps most: quorum before room, room before single nodes."""
    members = [node for node in nodes if node.part is not None]
    silent = [node for node in members if node.state == "no answer"]
    names = ", ".join(str(node.node_id) for node in silent)
    if not serves and silent:
        return f"start {names}, or see what is between the nodes: {required} voters are needed to serve"
    if not serves:
        return "see whether the members reach each other, and wait for an election"
    if full := [str(node.node_id) for node in members if node.state == "full"]:
        return f"make room on the disks of {', '.join(full)}"
    if silent:
        first = silent[0]
        return (
            f"start {names}; if the machine of {first.node_id} is lost, put another in its place: forge-consensus "
            f"members replace {first.node_id} ID=HOST:PORT"
        )
    return "see the lines marked with !"


def comparisons(answers: Mapping[str, Status], nodes: Sequence[MemberReport]) -> list[str]:
    """Return what is wrong between nodes: connections, greetings, settings, addresses, clocks and versions."""
    return [
        *broken_connections(answers),
        *refused_greetings(answers),
        *differences(answers),
        *clocks_apart(nodes),
        *versions_apart(nodes),
    ]


def rows_between(answers: Mapping[str, Status]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the id of every node that answered with each row that it has of a member."""
    for name, answer in sorted(answers.items()):
        for member in answer["nodes"]:
            yield name, member


def broken_connections(answers: Mapping[str, Status]) -> list[str]:
    """Return who has no connection to whom, and why."""
    return [
        f"{name} has no connection to {member['id']}: {problem}"
        for name, member in rows_between(answers)
        if (problem := member.get("problem"))
    ]


def refused_greetings(answers: Mapping[str, Status], *, past: bool | None = None) -> list[str]:
    """Return who refuses whom, and why; `past` picks those that are over, or those that are not."""
    found = []
    for name, member in rows_between(answers):
        ago = member.get("greeting_refused_ago") or 0.0
        over = ago >= REFUSES_SECONDS
        if (refused := member.get("greeting_refused")) and past in (None, over):
            tense, when = ("refused", f" {seconds_text(ago)} ago") if over else ("refuses", "")
            found.append(f"{name} {tense} {member['id']}{when}: {refused}")
    return found


def differences(answers: Mapping[str, Status]) -> list[str]:
    """Return what differs between nodes that work together all the same: settings, addresses, lists."""
    found: list[str] = []
    told: set[tuple[frozenset[str], str]] = set()
    for name, member in rows_between(answers):
        other = member["id"]
        for text in differs(member):
            both = (frozenset((name, other)), text.partition(" is ")[0])  # the other one tells of it too
            if both not in told:
                told.add(both)
                found.append(f"{name} and {other}: {text}" if other != name else f"{name}: {text}")
    return found


def clocks_apart(nodes: Sequence[MemberReport]) -> list[str]:
    """Return whose wall clock is far from the leader's."""
    found = []
    for node in nodes:
        if node.clock_ahead_ms is not None and abs(node.clock_ahead_ms) > CLOCK_AHEAD_MS:
            way = "ahead of" if node.clock_ahead_ms > 0 else "behind"
            apart = seconds_text(abs(node.clock_ahead_ms) / 1000)
            found.append(f"the wall clock of {node.node_id} is {apart} {way} the leader's: set it right")
    return found


def versions_apart(nodes: Sequence[MemberReport]) -> list[str]:
    """Return who runs which version, if they differ."""
    if len({node.version for node in nodes if node.version}) < 2:
        return []
    listed = ", ".join(f"{node.node_id} {node.version}" for node in nodes if node.version)
    return [f"the nodes run different versions of the program: {listed}"]


def differs(member: Mapping[str, Any]) -> list[str]:
    """Return what differs between a member and the node whose answer has this row."""
    return list(member.get("differs") or ())


def hears(leader: Status, member: Mapping[str, Any]) -> bool:
    """Whether a leader hears a member, as far as its own answer says; it always hears itself."""
    return bool(member["id"] == leader["node_id"] or member["status"] == "active")


def refusal_of(member: Mapping[str, Any], answer: Status | None) -> str:
    """Return why a member takes no entries, as the answer that counts most or its own knows; "" if it takes them."""
    return next((row["refusal"] for row in (member, *own_rows(answer)) if row.get("refusal")), "")


def takes_entries(first: Status, member: Mapping[str, Any], answer: Status | None) -> bool:
    """Whether a member is known to be of help to a majority: it answers, the leader hears it, and it takes entries."""
    heard = first["role"] != "leader" or hears(first, member)
    return answer is not None and heard and not refusal_of(member, answer)


def own_rows(answer: Status | None) -> list[Mapping[str, Any]]:
    """Return what a node says of itself among the members: one row, or none without an answer or a membership."""
    return [each for each in answer["nodes"] if each["id"] == answer["node_id"]] if answer else []


def members_of(inquiry: Inquiry, first: Status) -> list[MemberReport]:
    """Report every member, then nodes that answered and are none, then addresses given where nobody answered."""
    answers = inquiry.answers
    nodes = [member_of(inquiry, first, member) for member in first["nodes"]]
    known = {node.node_id for node in nodes}
    addresses = {node.address for node in nodes} | {answer["asked_at"] for answer in answers.values()}
    strangers = sorted(answers.keys() - known)
    nodes += [member_of(inquiry, first, {"id": node, "address": answers[node]["asked_at"]}) for node in strangers]
    silent = [address for address in inquiry.given if address not in addresses]
    return nodes + [member_of(inquiry, first, {"id": None, "address": address}) for address in silent]


def member_of(inquiry: Inquiry, first: Status, member: Mapping[str, Any]) -> MemberReport:
    """Report one node: what it says itself, and what the answer that counts most says of it."""
    answer = inquiry.answers.get(member["id"] or "")
    leads = first["role"] == "leader"
    if leads:
        match = first["last_log_index"] if answer is first else member.get("match_index") or None
        contact = None if answer is first else member.get("last_contact")
    else:
        match = answer["last_log_index"] if answer else None
        contact = answer["last_contact"] if answer else None
    lag = max(0, first["commit_index"] - match) if leads and match is not None and answer is not first else None
    error = None if answer else inquiry.errors.get(member["address"], "no answer")
    return MemberReport(
        node_id=member["id"],
        role=role_of(answer, member),
        address=member["address"],
        state=state_of(first, member, answer, lag, contact),
        match_index=match,
        lag=lag,
        last_contact=contact,
        clock_ahead_ms=member.get("clock_ahead_ms") if leads else None,
        version=version_of(answer, member),
        error=error,
        **{name: answer.get(name) if answer else None for name in COPIED if name != "details"},
        details=own_details(first, answer) if answer else None,
        part=part_of(first, member),
        priority=member.get("priority") or 0,
        may_lead=member.get("may_lead", True),
        http_url=next((url for row in [*own_rows(answer), member] if (url := row.get("http_url"))), ""),
        takes_entries=part_of(first, member) is not None and takes_entries(first, member, answer),
        outgoing=bool(member.get("outgoing")),
    )


def part_of(first: Status, member: Mapping[str, Any]) -> str | None:
    """Return the part of a node by the answer that counts most; None for one that is no member."""
    known = any(each is member for each in first["nodes"])
    return (member.get("part") or VOTER) if known else None


def role_of(answer: Status | None, member: Mapping[str, Any]) -> str | None:
    """Return a node's role as it says itself; a learner and a voter that leaves are named so, unless they lead."""
    if answer is None:
        return None
    part: str = member.get("part") or VOTER
    role: str = answer["role"]
    return role if part == VOTER or role == "leader" else part


def version_of(answer: Status | None, member: Mapping[str, Any]) -> str | None:
    """Return the version of a node's program: from its own row in its own answer, else as the leader knows it."""
    rows = [*own_rows(answer), member]
    version: str | None = next((each["program"] for each in rows if each.get("program")), None)
    return version


def own_details(first: Status, answer: Status) -> list[str]:
    """Return what a node says is wrong with itself; what it says of other members is left to their own rows."""
    others = tuple(f"{member['id']} is " for member in first["nodes"])
    return [detail for detail in answer["details"] if not detail.startswith(others) and detail != NO_LEADER]


def state_of(
    first: Status, member: Mapping[str, Any], answer: Status | None, lag: int | None, contact: float | None
) -> str:
    """Return how a node fares, in a word or two."""
    if answer is None:
        return "no answer"
    if member["id"] not in {each["id"] for each in first["nodes"]}:
        return "no member"
    leads = first["role"] == "leader"
    if leads and not hears(first, member):
        return "cut off"
    if answer["leader_id"] is None:
        return "no leader"
    if refusal := refusal_of(member, answer):
        return FULL if refusal == FULL else "refusing"
    silent = leads and (contact or 0) > BEHIND_SECONDS
    return "behind" if (lag or 0) > BEHIND_ENTRIES else "slow" if silent else "ok"
