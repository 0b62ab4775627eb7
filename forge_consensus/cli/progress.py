"""The progress of a change of members, on a terminal: a line that shows how much of the log a new node holds."""

from __future__ import annotations

import sys
import time
from typing import Any, Final

import click

from forge_consensus.client.member_calls import UNFINISHED
from forge_consensus.client.members import POLL_SECONDS, ClusterMembers, MembersPlan
from forge_consensus.client.sync import Client
from forge_consensus.errors import ConsensusTimeoutError
from forge_consensus.storage.ledger.configuration import LEARNER

BAR_CHARS: Final = 30
LINE_CHARS: Final = 100


def wait_shown(client: Client, plan: MembersPlan, timeout: float) -> None:
    """Wait until a change is complete, and show how far it is if stderr is a terminal.

    Raises `ConsensusTimeoutError` if it is not complete within `timeout` seconds, and the errors of `Client.members`.
    """
    shows, end = sys.stderr.isatty(), time.monotonic() + timeout
    try:
        while plan.index and not plan.is_done(members := client.members()):
            if time.monotonic() > end:
                raise ConsensusTimeoutError(UNFINISHED)
            if shows:
                click.echo(f"\r{progress_text(members, client.status()):{LINE_CHARS}.{LINE_CHARS}}", nl=False, err=True)
            time.sleep(POLL_SECONDS)
    finally:
        if shows:
            click.echo(f"\r{'':{LINE_CHARS}}\r", nl=False, err=True)


def progress_text(members: ClusterMembers, status: dict[str, Any]) -> str:
    """What a change waits for, as one line; `status` is the leader's."""
    rows = {row["id"]: row for row in status["nodes"]}
    joining = [each.id for each in members.members if each.part == LEARNER and each.joining]
    if not joining:
        return "waiting for a majority to have the change on disk" if not members.committed else "almost done"
    node = joining[0]
    held, last = rows.get(node, {}).get("match_index") or 0, status["last_log_index"]
    share = held / last if last else 1.0
    bar = "#" * int(BAR_CHARS * share)
    doing = f"; {status['snapshot_doing']}" if status.get("snapshot_doing") else ""
    return f"{node} catches up [{bar:{BAR_CHARS}}] {held:,} of {last:,} entries{doing}"
