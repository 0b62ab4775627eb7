"""The status of a cluster: the status of all its nodes at one moment, and conclusions from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from forge_consensus.client.sync import Client
from forge_consensus.errors import ConsensusError
from forge_consensus.storage.ledger.configuration import LEARNER
from forge_consensus.storage.ledger.quorum import majority


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """The status that each node returned; for each node that did not answer, `silent` has the reason."""

    said: dict[str, dict[str, Any]]
    silent: dict[str, str] = field(default_factory=dict)

    def leader(self) -> str | None:
        """The leader of the highest term, as it and a majority of its voters report; None if there is none."""
        term = max((row["term"] for row in self.said.values()), default=0)
        for name, row in self.said.items():
            if row["role"] == "leader" and row["term"] == term:
                voters = [member["id"] for member in row["nodes"] if member["part"] != LEARNER]
                rows = [self.said[voter] for voter in voters if voter in self.said]
                followers = sum(other["leader_id"] == name and other["term"] == term for other in rows)
                return name if followers >= majority(len(voters)) else None
        return None

    def level(self) -> int | None:
        """The last index, if all these nodes follow one of them and have applied the same whole log; otherwise None."""
        if self.silent or not self.said:
            return None
        rows = list(self.said.values())
        following = {(row["term"], row["leader_id"]) for row in rows}
        indexes = {row[name] for row in rows for name in ("last_applied", "commit_index", "last_log_index")}
        leads = len(following) == 1 and rows[0]["leader_id"] in self.said
        return indexes.pop() if leads and len(indexes) == 1 else None

    @property
    def text(self) -> str:
        """A sentence about each node, for people."""
        parts = [
            f"{name} is {row['role']} in term {row['term']} with leader {row['leader_id']}, log to "
            f"{row['last_log_index']}, committed {row['commit_index']}, applied {row['last_applied']}"
            for name, row in self.said.items()
        ]
        return "; ".join([*parts, *(f"{name}: {reason}" for name, reason in self.silent.items())]) or "nobody was asked"


def ask_all(client: Client, addresses: Mapping[str, str], seconds: float) -> ClusterStatus:
    """Request the status of these nodes (name -> address) at once, and wait at most `seconds` for their answers."""
    asked = {}
    for name, address in addresses.items():
        question = client.status_query(address, seconds)
        client.driver.hand_over(question)
        asked[name] = question
    said: dict[str, dict[str, Any]] = {}
    silent: dict[str, str] = {}
    for name, question in asked.items():
        try:
            said[name] = question.result()
        except ConsensusError as error:
            silent[name] = f"does not answer ({error})"
    return ClusterStatus(said, silent)
