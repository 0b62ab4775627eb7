"""Checks of a running cluster, made of the answers of its nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from forge_consensus.checks.access import listed_findings
from forge_consensus.checks.finding import Finding, ok, problem, warning
from forge_consensus.client.sync import Client
from forge_consensus.config.client_file import ClientFile
from forge_consensus.config.node import NodeSettings
from forge_consensus.errors import ConsensusError
from forge_consensus.events.text import seconds_text
from forge_consensus.security.credentials import Credentials, credentials_of
from forge_consensus.service.cluster_report import (
    ClusterReport,
    Status,
    broken_connections,
    clocks_apart,
    differences,
    inquiry_of,
    refused_greetings,
    report_of,
    versions_apart,
)
from forge_consensus.service.node_security import access_of, own_credentials

MEMBERS: Final = "members"
BETWEEN: Final = "between nodes"
PASSING: Final = ("slow", "behind")
"""States of a node that may pass by themselves."""


def cluster_findings(
    endpoints: Iterable[str], timeout: float, settings: NodeSettings | None, file: ClientFile | None = None
) -> list[Finding]:
    """Ask a cluster and check what its nodes say.

    Args:
        endpoints: where its nodes answer.
        timeout: how many seconds that may take.
        settings: what a configuration file says of one node; None without one. Without `file` its keys are shown.
        file: what a client's file says, whose keys are shown; None without one.

    """
    endpoints = list(endpoints)
    try:
        with Client(endpoints, timeout, credentials=shown(settings, file)) as client:
            inquiry = inquiry_of(client, endpoints, timeout)
            access = logged_access(client, timeout)
    except ConsensusError as error:
        return [problem(MEMBERS, str(error))]
    report = report_of(inquiry)
    found = [quorum(report), *members(report), *between(inquiry.answers), clocks(report), versions(report), *access]
    return found if settings is None else [*found, *named_peers(settings, report)]


def shown(settings: NodeSettings | None, file: ClientFile | None) -> Credentials | None:
    """Return the keys with which a cluster is asked; None for none. Raises `InvalidConfigError` for what are no keys.

    They are those of a client's file, or those with which the application of a node asks the others.
    """
    if file is not None:
        return credentials_of(file)
    if settings is None:
        return None
    return own_credentials(settings.security, access_of(settings))


def logged_access(client: Client, timeout: float) -> list[Finding]:
    """Check the list of access in the log, if this client may read it."""
    try:
        access = client.access("stale", timeout)
    except ConsensusError:  # most clients may not, and whether nodes answer is told by another check
        return []
    return listed_findings(access.principals, "the list in the log")


def quorum(report: ClusterReport) -> Finding:
    """Check whether the cluster serves, and how many nodes it can lose."""
    check, count = "quorum", f"{report.connected} of {report.members} voters, {report.required} are needed"
    if report.health == "unhealthy":
        return problem(check, report.warnings[0] if report.warnings else "the cluster does not serve", report.advice)
    led = f"{report.leader_id} leads cluster {report.cluster_id}"
    if report.members == 1:
        return ok(check, f"{led}, which has one voter: without it nothing is served")
    if not report.can_lose:
        return warning(check, f"{led}: {count}, so no other voter may be lost", report.advice)
    return ok(check, f"{led}: {count}, {report.can_lose} may be lost")


def members(report: ClusterReport) -> list[Finding]:
    """Check how each node fares."""
    found = []
    for node in report.nodes:
        is_well = node.state == "ok" or node.state in PASSING
        found += [warning(MEMBERS, text) if is_well else problem(MEMBERS, text) for text in node.warnings()]
    if report.change:
        found.append(warning(MEMBERS, f"a change is under way: {report.change}", "wait until it is complete"))
    return found or [ok(MEMBERS, f"all {len(report.nodes)} answer, follow the leader and are well")]


def between(answers: Mapping[str, Status]) -> list[Finding]:
    """Check what nodes say of one another: connections, refused greetings, settings and lists of peers that differ.

    That nobody has a connection to a member which does not answer here either is told of the member itself.
    """
    among = {
        name: {**answer, "nodes": [row for row in answer["nodes"] if row["id"] in answers]}
        for name, answer in answers.items()
    }
    found = [problem(BETWEEN, text) for text in broken_connections(among)]
    found += [problem(BETWEEN, text) for text in refused_greetings(answers, past=False)]
    found += [warning(BETWEEN, text) for text in refused_greetings(answers, past=True)]
    found += [warning(BETWEEN, text) for text in differences(answers)]
    return found or [ok(BETWEEN, "no node refuses another one, and their settings and lists of peers agree")]


def clocks(report: ClusterReport) -> Finding:
    """Check how far the wall clocks are apart."""
    if apart := clocks_apart(report.nodes):
        return warning("clocks", "; ".join(apart), "run NTP on every host")
    ahead = [abs(node.clock_ahead_ms) for node in report.nodes if node.clock_ahead_ms is not None]
    if ahead:
        return ok("clocks", f"at most {seconds_text(max(ahead) / 1000)} away from the leader's")
    return ok(
        "clocks", "there is no other one to compare with" if len(report.nodes) == 1 else "nobody has compared them"
    )


def versions(report: ClusterReport) -> Finding:
    """Check whether all nodes run one version of the program."""
    if apart := versions_apart(report.nodes):
        return warning("versions", "; ".join(apart), "upgrade the others too, one node after the other")
    known = next((node.version for node in report.nodes if node.version), None)
    if known is not None and known != report.version:
        return ok("versions", f"the nodes run {known}, and this command is of {report.version}")
    return ok("versions", f"all run {known or 'a version that they do not tell'}")


def named_peers(settings: NodeSettings, report: ClusterReport) -> list[Finding]:
    """Compare the members that a configuration names with those of the cluster."""
    check, has = "peers", {str(node.node_id): node.address for node in report.nodes if node.part is not None}
    found = []
    if settings.node_id not in has and settings.join is None:
        found.append(
            warning(
                check,
                f"{settings.node_id} of the file is no member of cluster {report.cluster_id}",
                "see whether --endpoints and the file mean one cluster, or add the node: forge-consensus members add",
            )
        )
    if settings.peers and dict(settings.peers) != has:
        found.append(
            warning(
                check,
                f"the file names {listed(settings.peers)}, and the cluster has {listed(has)}",
                "a node that runs goes by the cluster; correct the file, so that nobody founds another one with it",
            )
        )
    return found or [ok(check, "the cluster has the members that the file names")] if settings.peers else found


def listed(peers: Mapping[str, str]) -> str:
    """Return members as one text."""
    return ", ".join(f"{node}={address}" for node, address in sorted(peers.items()))
