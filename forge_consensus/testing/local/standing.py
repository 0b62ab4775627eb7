"""The standing of a cluster: what all its nodes say of themselves at one moment, and what follows from that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from forge_consensus.client.sync import Client
from forge_consensus.errors import ConsensusError
from forge_consensus.storage.ledger.quorum import majority


@dataclass(frozen=True, slots=True)
class Standing:
    """What each node of those that were asked said; who did not answer has its reason in `silent`."""

    said: dict[str, dict[str, Any]]
    silent: dict[str, str] = field(default_factory=dict)

    def leader(self, members: int) -> str | None:
        """The node that leads in the highest term, as it and a majority of all members say; None if there is none."""
        term = max((row["term"] for row in self.said.values()), default=0)
        for name, row in self.said.items():
            if row["role"] == "leader" and row["term"] == term:
                followers = sum(other["leader_id"] == name and other["term"] == term for other in self.said.values())
                return name if followers >= majority(members) else None
        return None

    def level(self) -> int | None:
        """The last index, if all who were asked follow one of them and have applied the same whole log."""
        if self.silent or not self.said:
            return None
        rows = list(self.said.values())
        following = {(row["term"], row["leader_id"]) for row in rows}
        indexes = {row[name] for row in rows for name in ("last_applied", "commit_index", "last_log_index")}
        leads = len(following) == 1 and rows[0]["leader_id"] in self.said
        return indexes.pop() if leads and len(indexes) == 1 else None

    @property
    def text(self) -> str:
        """For people: a sentence about each node."""
        parts = [
            f"{name} is {row['role']} in term {row['term']} with leader {row['leader_id']}, log to "
            f"{row['last_log_index']}, committed {row['commit_index']}, applied {row['last_applied']}"
            for name, row in self.said.items()
        ]
        return "; ".join([*parts, *(f"{name}: {reason}" for name, reason in self.silent.items())]) or "nobody was asked"


def ask_all(client: Client, addresses: Mapping[str, str], seconds: float) -> Standing:
    """Ask these nodes (name -> address) at once, and wait so long for their answers."""
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
    return Standing(said, silent)
