"""The keys and the list of access of a local cluster, in files, to change while the nodes run."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from forge_consensus.config.security import SecuritySettings
from forge_consensus.security.access import AccessList, Principal, Rule
from forge_consensus.security.access_file import data_of_access
from forge_consensus.security.credentials import Credentials
from forge_consensus.security.curve import KeyPair, write_key_file
from forge_consensus.security.permissions import Role

ADMIN: Final = "admin"
"""The client that may do everything; the cluster asks its nodes as this one."""
MEMBER: Final[frozenset[Role]] = frozenset({"peer"})


class LocalAccess:
    """Who is known to the nodes of a `LocalCluster` that is secure, and with which keys.

    All nodes read one access file; what is changed here is in force in each of them within a second.

    Args:
        folder: where the key files and the access file are written.
        nodes: the members.

    """

    def __init__(self, folder: Path, nodes: Sequence[str]) -> None:
        self.folder = folder
        self.keys: dict[str, KeyPair] = {}
        """By node or client: the keys that it shows now."""
        self.file = folder / "access.json"
        self.listed = AccessList()
        self.add_client(ADMIN, ["admin"])
        for node in nodes:
            self.add_member(node)

    # --- who is known ------------------------------------------------------------------------------------------------

    def add_member(self, node: str) -> KeyPair:
        """Let a node be a member, unless it is one; returns its keys."""
        if not self.listed.member_keys(node):
            self.take(self.listed.with_principal(Principal(node, MEMBER, keys=(self.pair(node).public,))))
        return self.keys[node]

    def add_client(self, name: str, roles: Sequence[Role] = (), rules: Sequence[str] = ()) -> Credentials:
        """Let there be a client with these roles and rules, such as ``write app/*``; returns its credentials."""
        pair = self.pair(name)
        ruled = tuple(Rule.of(text) for text in rules)
        self.take(self.listed.with_principal(Principal(name, frozenset(roles), ruled, (pair.public,))))
        return self.credentials(name)

    def add_key(self, name: str) -> KeyPair:
        """Give somebody another key beside the present one, and have it shown from the next start on; returns it."""
        one, pair = self.listed.by_name[name], KeyPair.made()
        self.take(self.listed.with_principal(Principal(name, one.roles, one.rules, (*one.keys, pair.public))))
        self.store(name, pair)
        return pair

    def revoke(self, key: str) -> None:
        """Refuse a public key from now on, whoever lists it."""
        self.take(AccessList(self.listed.by_name.values(), {*self.listed.revoked, key}))

    def forget_key(self, name: str, key: str) -> None:
        """Let somebody have a key no more, as after an exchange."""
        one = self.listed.by_name[name]
        keys = tuple(known for known in one.keys if known != key)
        self.take(self.listed.with_principal(Principal(name, one.roles, one.rules, keys)))

    # --- what is shown -----------------------------------------------------------------------------------------------

    def pair(self, name: str) -> KeyPair:
        """The keys of a name, which is not therefore known to anybody."""
        return self.keys[name] if name in self.keys else self.store(name, KeyPair.made())

    def credentials(self, name: str) -> Credentials:
        """What a client of that name shows, known or not."""
        listed = self.listed
        members = {node: listed.member_keys(node) for node, one in listed.by_name.items() if one.is_member}
        return Credentials(self.pair(name), members or {name: (self.pair(name).public,)})

    def settings(self, node: str) -> SecuritySettings:
        """The settings with which a node shows its keys, known or not, and reads the list."""
        self.pair(node)
        return SecuritySettings(
            curve_key_file=str(self.key_file(node)),
            access_file=str(self.file),
            client_key_file=str(self.key_file(ADMIN)),
        )

    # --- files -------------------------------------------------------------------------------------------------------

    def key_file(self, name: str) -> Path:
        """The file with the secret key of a node or client."""
        return self.folder / f"{name}.key"

    def store(self, name: str, pair: KeyPair) -> KeyPair:
        """Have a name show these keys, and write its key file."""
        self.keys[name] = pair
        self.key_file(name).unlink(missing_ok=True)
        write_key_file(self.key_file(name), pair)
        return pair

    def take(self, listed: AccessList) -> None:
        """Let this be the list, and write it so that no node reads a half of it."""
        self.listed = listed
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(data_of_access(listed)))
        os.replace(new, self.file)
