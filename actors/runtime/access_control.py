"""Access control: the keys of this node, and the list of access in force.

There is one only where the node has keys; without it nobody is asked who they are.
"""

from __future__ import annotations

from typing import Final

from forge_consensus.actors.runtime.member_certificates import MemberCertificates
from forge_consensus.security.access import AccessList, Principal
from forge_consensus.security.curve import KeyPair
from forge_consensus.security.in_force import in_force

NOBODY: Final = AccessList()


class AccessControl:
    """The list of access that a node goes by.

    It changes on the node's thread only, between two turns or at the end of one. Other threads may read `current`,
    which is a value.

    Args:
        keys: the node's own pair.
        of_file: the list of the node's access file; None if it has none.
        certificates: those of the members; None if the list alone says whose a key is.

    """

    def __init__(
        self, keys: KeyPair, of_file: AccessList | None = None, certificates: MemberCertificates | None = None
    ) -> None:
        self.keys = keys
        self.certificates = certificates
        self.of_file = of_file or NOBODY
        self.of_log = NOBODY
        self.current = in_force(self.of_file, self.of_log)
        """What is in force."""
        self.version = 0
        """How often it changed."""

    def listed_in_file(self) -> AccessList:
        """Return the list of the access file, empty for a node without one; from any thread."""
        return self.of_file

    def take_file(self, access: AccessList) -> None:
        """Take another list of the access file."""
        self.of_file = access
        self.merge()

    def take_log(self, access: AccessList) -> None:
        """Take another list of the cluster's log."""
        self.of_log = access
        self.merge()

    def merge(self) -> None:
        """Put the two lists together; whoever connected is judged anew by that."""
        self.current = in_force(self.of_file, self.of_log)
        self.version += 1

    def of_key(self, key: str) -> Principal | None:
        """Return who holds the secret part of a public key now; None for nobody who is known."""
        return self.current.by_key.get(key)

    def name_of(self, key: str) -> str:
        """Return the name of whoever holds the secret part of a public key; empty for nobody who is known."""
        principal = self.current.by_key.get(key)
        return "" if principal is None else principal.name
