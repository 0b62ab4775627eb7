"""A cluster with everything on: encrypted connections, certificates of members, roles of clients, encrypted disks."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path
from typing import Final

from forge_consensus.config.security import SecuritySettings
from forge_consensus.security.certificate_files import write_pair
from forge_consensus.security.certificates import issue, make_authority
from forge_consensus.security.encryption import KEY_BYTES
from forge_consensus.security.permissions import Role
from forge_consensus.security.secret_files import SECRET_MODE, write_new_file
from forge_consensus.testing.local.cluster import LocalCluster

WRITER: Final = "writer"
READER: Final = "reader"
ROLES: Final[dict[str, Role]] = {WRITER: "write", READER: "read"}
"""The clients besides the administrator, who looks at the status of nodes and hands the leadership over."""
WHAT: Final = "CURVE, certificates of members, roles, encrypted disks"


class ProtectedCluster(LocalCluster):
    """Nodes that are secure; what `LocalCluster` does not give them is made when each is started first."""

    def security_of(self, node: str) -> SecuritySettings:
        """The settings of a node, with the files that they name."""
        assert self.temporary is not None
        authority, place = self.temporary / "ca", self.temporary / f"{node}-x509"
        disk = self.temporary / f"{node}-disk.key"
        if not disk.exists():
            self.protect(node, authority, place, disk)
        return replace(
            super().security_of(node),
            enable_tls=True,
            enable_mtls=True,
            cert_file=str(place.with_suffix(".crt")),
            key_file=str(place.with_suffix(".key")),
            ca_file=str(authority.with_suffix(".crt")),
            enable_encryption=True,
            encryption_key_file=str(disk),
        )

    def protect(self, node: str, authority: Path, place: Path, disk: Path) -> None:
        """Make the certificate of a node and the key of its disk; for the first one the authority and the clients."""
        if not authority.with_suffix(".crt").exists():
            self.authority = make_authority("siege")
            write_pair(self.authority, authority.with_suffix(".crt"))
            assert self.local_access is not None, "it is secure"
            for name, role in ROLES.items():
                self.local_access.add_client(name, [role])
        write_pair(issue(self.authority, self.cluster_id, node), place.with_suffix(".crt"))
        write_new_file(disk, f"{secrets.token_hex(KEY_BYTES)}\n".encode(), SECRET_MODE)
