"""How a leader's application at an https address is checked, where the application itself says nothing of it."""

from __future__ import annotations

import ssl
from pathlib import Path

from forge_consensus.config.security import SecuritySettings
from forge_consensus.middleware import LeadershipMiddleware
from forge_consensus.security.certificates import make_authority
from forge_consensus.service.consensus import ConsensusService
from forge_consensus.service.leadership import LeadershipChecker


def middleware(tmp_path: Path, security: SecuritySettings) -> LeadershipMiddleware:
    """The middleware of a node that does not run."""
    service = ConsensusService("n1", bind="127.0.0.1:0", storage_path=tmp_path / "n1", security=security)
    return LeadershipMiddleware(LeadershipChecker(service))


def test_the_nodes_settings_say_how_the_leaders_application_is_checked(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(make_authority("tests").certificate)
    found = middleware(tmp_path, SecuritySettings(ca_file=str(tmp_path / "ca.crt")))
    for made in (found.forward(), found.read_only_routing("forward")):
        context = made.forwarding.options()["verify"]
        assert isinstance(context, ssl.SSLContext)
        assert (len(context.get_ca_certs()), context.verify_mode) == (1, ssl.CERT_REQUIRED), "that authority alone"
    own = ssl.create_default_context()
    assert found.forward(tls=own).forwarding.tls is own, "what the application says goes before it"
    assert middleware(tmp_path, SecuritySettings()).forward().forwarding.options()["verify"] is True
