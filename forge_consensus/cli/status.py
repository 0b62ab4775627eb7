"""``forge-consensus status``: every member's own account of itself, on one screen."""

from __future__ import annotations

import time
from typing import Any

import click

from forge_consensus import __version__
from forge_consensus.cli.options import client_options
from forge_consensus.client.pending import PendingNodeQuery
from forge_consensus.client.sync import Client
from forge_consensus.errors import ConnectionFailedError, ConsensusError
from forge_consensus.output import bytes_text, json_text, seconds_text, table

GRACE_S = 1.0
"""How long the others may take when one has answered."""
LOOK_S = 0.01
BEHIND_ENTRIES = 1000
BEHIND_SECONDS = 1.0
HEAD = ("NODE", "ROLE", "ADDRESS", "STATE", "MATCH", "LAG", "LAST CONTACT", "SNAPSHOT", "DISK")

Answer = dict[str, Any]


class Inquiry:
    """The question put to every endpoint and to every member that an answer names."""

    def __init__(self, client: Client, endpoints: list[str], timeout: float) -> None:
        self.client = client
        self.deadline = time.monotonic() + timeout
        self.asked: dict[str, PendingNodeQuery[Answer]] = {}
        self.answers: dict[str, Answer] = {}
        """Node id -> its answer."""
        self.errors: dict[str, str] = {}
        """Address -> why there is no answer."""
        self.given = list(endpoints)
        for endpoint in endpoints:
            self.ask(endpoint)

    def ask(self, endpoint: str) -> None:
        """Ask the node at that address, once."""
        if endpoint not in self.asked:
            question = self.client.status_query(endpoint, max(0.01, self.deadline - time.monotonic()))
            self.asked[endpoint] = question
            self.client.driver.hand_over(question)

    def run(self) -> None:
        """Wait for all of them; a bounded time for the rest once one has answered."""
        waiting = list(self.asked)
        while waiting and time.monotonic() < self.deadline:
            count = len(self.asked)
            waiting = [endpoint for endpoint in waiting if not self.take(endpoint)]
            waiting += list(self.asked)[count:]  # members that an answer named
            time.sleep(LOOK_S)
        known = self.client.driver.core.directory.endpoints
        for endpoint in waiting:
            if not self.take(endpoint):
                stands = endpoint in known and known[endpoint].connected
                self.errors[endpoint] = "no answer in time" if stands else "no connection"

    def take(self, endpoint: str) -> bool:
        """Look whether that node has answered; what it knows of other members is asked too."""
        question = self.asked[endpoint]
        if not question.finished:
            return False
        if question.error is not None:
            self.errors[endpoint] = reason_of(question.error)
            return True
        answer = question.value()
        if answer["node_id"] in self.answers:
            return True
        if not self.answers:
            self.deadline = min(self.deadline, time.monotonic() + GRACE_S)
        self.answers[answer["node_id"]] = {**answer, "asked_at": endpoint}
        for member in answer["nodes"]:
            if member["id"] not in self.answers:
                self.ask(member["address"])
        return True


def reason_of(error: ConsensusError) -> str:
    """Why a node did not answer, in a few words."""
    return "no connection" if isinstance(error, ConnectionFailedError) else str(error)


def authority(answers: dict[str, Answer]) -> Answer:
    """The answer that the others are measured by: the leader's of the latest term, else the latest."""

    def rank(answer: Answer) -> tuple[bool, int, int]:
        return answer["role"] == "leader", answer["term"], answer["commit_index"]

    return max(answers.values(), key=rank)


def report_of(inquiry: Inquiry) -> dict[str, Any]:
    """Everything that is shown; every field is always there."""
    answers = inquiry.answers
    first = authority(answers)
    leads = first["role"] == "leader"
    rows = [row_of(inquiry, first, member) for member in first["nodes"]]
    known = {row["node_id"] for row in rows}
    addresses = {row["address"] for row in rows} | {answer["asked_at"] for answer in answers.values()}
    strangers = sorted(answers.keys() - known)
    rows += [row_of(inquiry, first, {"id": node, "address": answers[node]["asked_at"]}) for node in strangers]
    rows += [row_of(inquiry, first, {"id": None, "address": name}) for name in inquiry.given if name not in addresses]
    total = len(first["nodes"])
    reachable = sum(member["id"] in answers for member in first["nodes"])
    required = total // 2 + 1
    warnings = [text for row in rows for text in warning_of(row)]
    if not leads:
        warnings.insert(0, "no node that answers leads: writes and linearizable reads wait for an election")
    elif not first["has_quorum"]:
        warnings.insert(0, f"the leader {first['node_id']} does not reach {required} of {total} members")
    serves = leads and first["has_quorum"]
    health = "unhealthy" if not serves else "degraded" if warnings else "healthy"
    return {
        "cluster_id": first["cluster_id"],
        "health": health,
        "leader_id": first["node_id"] if leads else None,
        "leader_address": first["address"] if leads else None,
        "term": first["term"],
        "uptime": first["uptime"],
        "members": total,
        "required": required,
        "reachable": reachable,
        "can_lose": max(0, reachable - required),
        "commit_index": first["commit_index"],
        "last_log_index": first["last_log_index"],
        "version": __version__,
        "nodes": rows,
        "warnings": warnings,
    }


def row_of(inquiry: Inquiry, first: Answer, member: dict[str, Any]) -> dict[str, Any]:
    """One node: what it says itself, and how far the leader knows it to be."""
    answer = inquiry.answers.get(member["id"] or "")
    is_first = answer is first
    leads = first["role"] == "leader"
    match = member.get("match_index") if leads and not is_first else answer and answer["last_log_index"]
    lag = max(0, first["commit_index"] - match) if leads and match is not None and not is_first else None
    contact = None if is_first and leads else member.get("last_contact") if leads else answer and answer["last_contact"]
    row = {
        "node_id": member["id"],
        "role": answer["role"] if answer else None,
        "address": member["address"],
        "state": "ok",
        "match_index": match,
        "lag": lag,
        "last_contact": contact,
        "error": None if answer else inquiry.errors.get(member["address"], "no answer"),
    }
    for name in (
        "term", "leader_id", "commit_index", "last_applied", "last_log_index", "snapshot_index", "storage_used_bytes",
        "storage_quota_bytes", "disk_free_bytes", "uptime", "boot", "health", "details", "events_address",
    ):  # fmt: skip
        row[name] = answer[name] if answer else None
    row["state"] = state_of(row, first)
    return row


def state_of(row: dict[str, Any], first: Answer) -> str:
    """How a node fares, in a word or two."""
    if row["error"] is not None:
        return "unreachable"
    if row["node_id"] not in {member["id"] for member in first["nodes"]}:
        return "no member"
    if row["leader_id"] is None:
        return "no leader"
    behind = (row["lag"] or 0) > BEHIND_ENTRIES
    silent = first["role"] == "leader" and (row["last_contact"] or 0) > BEHIND_SECONDS
    return "behind" if behind else "slow" if silent else "ok"


def warning_of(row: dict[str, Any]) -> list[str]:
    """What a person should know of a node that is not well, at most one sentence."""
    name = f"{row['node_id'] or 'a node'} at {row['address']}"
    lag = f"{row['lag']:,} entries behind and " if row["lag"] else ""
    return {
        "unreachable": [f"{name} does not answer ({row['error']}): see whether it runs and can be reached"],
        "no member": [f"{name} is not a member of this cluster: see its --cluster and --peers"],
        "no leader": [f"{name} follows no leader: see whether it reaches the others"],
        "behind": [f"{name} is {lag}catching up"],
        "slow": [f"{name} is {lag}was last heard {seconds_text(row['last_contact'])} ago"],
    }.get(row["state"], [])


def number(value: int | None) -> str:
    """A number for people."""
    return "-" if value is None else f"{value:,}"


def screen(report: dict[str, Any]) -> list[str]:
    """The lines for people: answers first."""
    uptime = seconds_text(report["uptime"])
    leader = f"leader {report['leader_id']} (term {report['term']}, up {uptime})"
    spare = report["can_lose"]
    stands = report["reachable"] >= report["required"]
    lose = f"can lose {spare} node{'' if spare == 1 else 's'}" if stands else "NO QUORUM"
    lines = [
        "   ".join(
            (
                f"Cluster {report['cluster_id']}  {report['health'].upper()}",
                leader if report["leader_id"] else f"no leader (term {report['term']})",
                f"quorum {report['reachable']}/{report['members']}, {lose}",
                f"commit {report['commit_index']:,}",
                f"v{report['version']}",
            )
        )
    ]
    cells = [
        (
            (row["node_id"] or "?") + ("*" if row["node_id"] and row["node_id"] == report["leader_id"] else ""),
            row["role"] or "-",
            row["address"],
            row["state"],
            number(row["match_index"]),
            number(row["lag"]),
            seconds_text(row["last_contact"]),
            number(row["snapshot_index"]),
            bytes_text(row["storage_used_bytes"]),
        )
        for row in report["nodes"]
    ]
    return [*lines, *table(HEAD, cells)]


@click.command()
@client_options
@click.pass_context
def status(ctx: click.Context, endpoints: list[str], timeout: float, output: str) -> None:
    """Show the whole cluster on one screen; every member that can be found is asked, a leader is not needed.

    MATCH is the last entry known to be in a node's log, LAG how far it is behind what is committed. Exit code 0 if
    the cluster serves, 1 if it does not (no leader or no quorum), 69 if no node answers.
    """
    with Client(endpoints, timeout) as client:
        inquiry = Inquiry(client, endpoints, timeout)
        inquiry.run()
    if not inquiry.answers:
        reasons = "; ".join(f"{address}: {inquiry.errors.get(address, 'no answer')}" for address in endpoints)
        raise ConnectionFailedError(f"no node answers ({reasons}): see whether the nodes run and can be reached")
    report = report_of(inquiry)
    if output == "json":
        click.echo(json_text(report))
    else:
        click.echo("\n".join(screen(report)))
        for text in report["warnings"]:
            click.echo(f"! {text}", err=True)
    if report["health"] == "unhealthy":
        ctx.exit(1)
