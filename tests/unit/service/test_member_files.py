"""The files of the members' certificates: read at the start, taken over when they change, and told when they end."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.config.security import SecuritySettings
from forge_consensus.errors import InvalidConfigError
from forge_consensus.events.types import ConfigRejected, ConfigReloaded, ConsensusEvent
from forge_consensus.security.certificate_files import write_pair
from forge_consensus.security.certificates import issue, make_authority
from forge_consensus.security.curve import KeyPair
from forge_consensus.service import member_files
from forge_consensus.service.consensus import ConsensusService
from forge_consensus.service.member_files import (
    DAY_SECONDS,
    SETTINGS,
    CertificateWatch,
    MemberFiles,
    Proofs,
    certificates_of,
    check_own,
)

AUTHORITY = make_authority("tests")
PAIR = KeyPair.made()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of node n1."""
    write_pair(issue(AUTHORITY, "demo", "n1", days=100), tmp_path / "n1.crt")
    (tmp_path / "ca.crt").write_bytes(AUTHORITY.certificate)
    return tmp_path


def security(folder: Path, **more: Any) -> SecuritySettings:
    given = {
        "curve_secret_key": PAIR.secret,
        "enable_tls": True,
        "enable_mtls": True,
        "cert_file": str(folder / "n1.crt"),
        "key_file": str(folder / "n1.key"),
        "ca_file": str(folder / "ca.crt"),
    }
    return SecuritySettings(**{**given, **more})


class Lines:
    """What was written to the log."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[str] = []
        monkeypatch.setattr(member_files.LINES, "warning", lambda text, *more: self.texts.append(text.format(*more)))


def test_without_keys_or_without_mtls_certificates_of_members_are_nobodys_affair(folder: Path) -> None:
    assert certificates_of(security(folder, enable_mtls=False), PAIR) is None
    assert certificates_of(security(folder, curve_secret_key=None), PAIR) is None
    assert certificates_of(SecuritySettings(), PAIR) is None


def test_with_them_members_are_checked_within_the_margin(folder: Path) -> None:
    found = certificates_of(security(folder, clock_skew=2.5), PAIR)
    assert found is not None
    assert found.verifier is not None
    assert (found.key, found.skew_ms) == (PAIR.public, 2500)
    check_own(found, "demo", "n1")
    check_own(found, "demo~0123456789ab", "n1")


def test_skip_verify_checks_nobody_and_says_so_loudly(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines(monkeypatch)
    found = certificates_of(security(folder, skip_verify=True), PAIR)
    assert found is not None
    assert found.verifier is None
    assert "NOBODY CHECKS" in lines.texts[0]
    check_own(found, "demo", "another")


@pytest.mark.parametrize(("cluster", "node"), [("demo", "n2"), ("other", "n1")])
def test_a_certificate_that_the_others_would_refuse_ends_the_start(folder: Path, cluster: str, node: str) -> None:
    found = certificates_of(security(folder), PAIR)
    assert found is not None
    with pytest.raises(InvalidConfigError, match="the other members would refuse this node"):
        check_own(found, cluster, node)


def test_a_certificate_of_an_authority_that_is_not_trusted_ends_the_start(folder: Path) -> None:
    (folder / "ca.crt").write_bytes(make_authority("others").certificate)
    found = certificates_of(security(folder), PAIR)
    assert found is not None
    with pytest.raises(InvalidConfigError, match="no authority"):
        check_own(found, "demo", "n1")


def test_a_key_that_others_may_read_is_refused(folder: Path) -> None:
    (folder / "n1.key").chmod(0o640)
    with pytest.raises(InvalidConfigError, match="chmod 600"):
        certificates_of(security(folder), PAIR)


def test_without_the_extra_the_node_says_which_one_it_needs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "forge_consensus.security.statements", raising=False)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(InvalidConfigError, match=r"forge-consensus\[crypto\]"):
        certificates_of(security(folder), PAIR)


# --- while the node runs ---------------------------------------------------------------------------------------------


def node(folder: Path) -> ConsensusService:
    return ConsensusService(
        "n1", cluster_id="demo", bind="127.0.0.1:0", storage_path=folder / "data", security=security(folder)
    )


def test_a_running_node_states_by_the_next_certificate_when_it_is_there(folder: Path) -> None:
    with node(folder) as service:
        service.wait_for_leader(timeout=30.0)
        found = service.host.node.base.engine.outbox.certificates  # type: ignore[union-attr]
        assert found is not None
        before, end = found.statement("n2"), time.monotonic() + 30.0
        write_pair(issue(AUTHORITY, "demo", "n1", days=200), folder / "n1.crt", replace=True)
        while found.statement("n2") == before:
            assert time.monotonic() < end
            time.sleep(0.05)
        service.put("k", 1)


def test_a_node_with_the_certificate_of_another_one_does_not_start(folder: Path) -> None:
    write_pair(issue(AUTHORITY, "demo", "n2"), folder / "n1.crt", replace=True)
    with pytest.raises(InvalidConfigError, match="names 'n2'"):
        node(folder).start()


class Taken:
    """What a watch had a node take."""

    def __init__(self) -> None:
        self.held: list[Proofs | None] = []
        self.events: list[ConsensusEvent] = []

    def __call__(self, held: Proofs | None, event: ConsensusEvent) -> None:
        self.held.append(held)
        self.events.append(event)


def watched(folder: Path, taken: Taken, now: float = 0.0) -> CertificateWatch:
    files = MemberFiles.of(security(folder))
    assert files is not None
    return CertificateWatch(files, taken, lambda: now)


def test_a_renewed_certificate_is_taken(folder: Path) -> None:
    taken = Taken()
    watch = watched(folder, taken)
    watch.follow()
    assert taken.events == []
    write_pair(issue(AUTHORITY, "demo", "n1", days=200), folder / "n1.crt", replace=True)
    watch.follow()
    watch.follow()
    (event,) = taken.events
    assert isinstance(event, ConfigReloaded)
    assert event.changed == SETTINGS[:2], "the authority is the same"
    assert taken.held[0] is not None
    assert taken.held[0][0].ends_ms == watch.ends_ms


def test_a_pair_that_is_being_replaced_is_waited_for(folder: Path) -> None:
    """Its two files are written one after the other, and a moment between is nobody's fault."""
    taken = Taken()
    watch = watched(folder, taken)
    made = issue(AUTHORITY, "demo", "n1")
    (folder / "n1.key").write_bytes(made.key)
    watch.follow()
    assert taken.events == []
    (folder / "n1.crt").write_bytes(made.certificate)
    watch.follow()
    assert [type(event) for event in taken.events] == [ConfigReloaded]


def test_files_that_stay_spoiled_are_told_once_and_good_ones_taken_later(folder: Path) -> None:
    taken = Taken()
    watch = watched(folder, taken)
    good = (folder / "n1.crt").read_bytes()
    (folder / "n1.crt").write_text("nothing")
    for _ in range(4):
        watch.follow()
    (event,) = taken.events
    assert isinstance(event, ConfigRejected)
    assert "cert_file" in event.problems[0]
    (folder / "n1.crt").write_bytes(good)
    watch.follow()
    assert [type(event) for event in taken.events] == [ConfigRejected, ConfigReloaded]


@pytest.mark.parametrize(
    ("days", "told"), [(-32.0, ""), (-29.0, "ends in 29.0 days"), (0.5, "is over, so the other members refuse it")]
)
def test_the_end_of_the_nodes_own_certificate_is_told_once_a_day(
    folder: Path, monkeypatch: pytest.MonkeyPatch, days: float, told: str
) -> None:
    lines = Lines(monkeypatch)
    watch = watched(folder, Taken())
    now = [watch.ends_ms / 1000 + days * DAY_SECONDS]
    watch.wall = lambda: now[0]
    for _ in range(3):
        watch.follow()
    assert [told in line for line in lines.texts] == ([True] if told else [])
    now[0] += DAY_SECONDS
    watch.follow()
    assert len(lines.texts) == (2 if told else 0)
