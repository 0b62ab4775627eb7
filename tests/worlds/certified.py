"""Certificates, tokens and a list of access in a folder, for tests of a secured admin API."""

from __future__ import annotations

import json
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

from forge_consensus.security import certificates
from forge_consensus.security.access import AccessList, Principal, Rule, Token
from forge_consensus.security.access_file import data_of_access
from forge_consensus.security.certificate_files import write_pair
from forge_consensus.security.certificates import Certified, issue, make_authority
from forge_consensus.security.permissions import Role
from forge_consensus.security.x509_names import LOCAL

CLUSTER = "guarded"


class CertifiedFolder:
    """A folder with an authority, what it and others issued, and a list of access with one client of each kind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = make_authority("tests")
        self.ca_file = folder / "ca.crt"
        self.ca_file.write_bytes(self.authority.certificate)
        self.write("n1", self.issued("n1"))
        self.tokens: dict[str, str] = {"unknown": Token.made()[1], "": ""}
        """Name of a client -> its token."""
        self.access_file = folder / "access.json"
        self.access = self.first_list()
        self.store(self.access)

    def issued(
        self, name: str, *, ended: bool = False, by: Certified | None = None, cluster: str = CLUSTER
    ) -> Certified:
        """A certificate for a node or a client."""
        if not ended:
            return issue(by or self.authority, cluster, name, LOCAL)
        with patch.object(certificates, "checked_end", lambda days: datetime.now(UTC) - timedelta(minutes=days)):
            return issue(by or self.authority, cluster, name, LOCAL, 1)

    def write(self, name: str, made: Certified) -> Path:
        """Write a certificate and its key; return the file of the certificate."""
        write_pair(made, self.folder / f"{name}.crt", replace=True)
        return self.folder / f"{name}.crt"

    def first_list(self) -> AccessList:
        """One client for each role, one with rules, one whose token is over, one whose token was revoked."""
        found = [self.client(role, frozenset({role})) for role in ("admin", "write", "read", "metrics")]
        found.append(self.client("rules", rules=(Rule.of("write app/*"), Rule.of("read prices/*"))))
        found.append(self.client("ended", frozenset({"admin"}), ends_ms=1_000_000))
        revoked = self.client("revoked", frozenset({"admin"}))
        return AccessList([*found, revoked], [revoked.tokens[0].id])

    def client(
        self, name: str, roles: frozenset[Role] = frozenset(), rules: tuple[Rule, ...] = (), ends_ms: int = 0
    ) -> Principal:
        """A client with a token."""
        token, self.tokens[name] = Token.made(ends_ms)
        return Principal(name, roles, rules, (), (token,))

    def store(self, access: AccessList) -> None:
        """Write the list of access, at once as a whole."""
        self.access = access
        beside = self.folder / "access.new"
        beside.write_text(json.dumps(data_of_access(access)))
        beside.replace(self.access_file)

    def bearer(self, name: str) -> dict[str, str]:
        """The header that a client sends."""
        return {"Authorization": f"Bearer {self.tokens[name]}"} if name else {}

    def trusting(self, shows: Certified | None = None) -> ssl.SSLContext:
        """How a client that trusts the authority connects, perhaps with a certificate of its own."""
        context = ssl.create_default_context(cadata=self.authority.certificate.decode())
        if shows is not None:
            place = self.write("shown", shows)
            context.load_cert_chain(place, place.with_suffix(".key"))
        return context

    def security(self, *, mtls: bool = False) -> dict[str, object]:
        """The settings of a node with that."""
        found: dict[str, object] = {
            "enable_tls": True,
            "cert_file": str(self.folder / "n1.crt"),
            "key_file": str(self.folder / "n1.key"),
            "access_file": str(self.access_file),
        }
        return {**found, "enable_mtls": True, "ca_file": str(self.ca_file)} if mtls else found
