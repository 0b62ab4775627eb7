"""Real nodes whose members prove by certificates that their keys are theirs: who gets in, rotation, and the end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import zmq

from forge_consensus.actors.codec import Frame, decode, encode
from forge_consensus.actors.messages import CheckPeer, Hello, HelloReply
from forge_consensus.actors.runtime.gate import KEY
from forge_consensus.client.sync import Client
from forge_consensus.config.security import SecuritySettings
from forge_consensus.feed.event_feed import EventFeed
from forge_consensus.security import certificates
from forge_consensus.security.certificate_files import write_pair
from forge_consensus.security.certificates import Certified, issue, make_authority
from forge_consensus.security.claims import Claim
from forge_consensus.security.curve import KeyPair, be_client
from forge_consensus.security.statements import Signer
from forge_consensus.testing.local.cluster import LocalCluster
from tests.cluster.test_secure_wire import Load, rows_up, wait_until

AUTHORITY, OTHERS = make_authority("tests"), make_authority("others")
CLUSTER = "local"
SKEW_SECONDS = 1.0
ANSWER_MS = 1500
SPARE = "n9"
"""A member by its key, which no process is: the tests speak in its place."""


def issued(name: str, seconds: float = 86_400.0, by: Certified = AUTHORITY) -> Certified:
    """A certificate of a member that ends in so many seconds."""
    ends = datetime.now(UTC) + timedelta(seconds=seconds)
    with patch.object(certificates, "checked_end", lambda days: ends):
        return issue(by, CLUSTER, name)


class CertifiedCluster(LocalCluster):
    """Nodes with the keys of `LocalCluster`, and certificates in files of their own."""

    def file(self, node: str, kind: str) -> Path:
        """Where the certificate (crt), its key (key) or the authorities (ca) of a node are."""
        assert self.temporary is not None
        return self.temporary / f"{node}-x509.{kind}"

    def certify(self, node: str, made: Certified, trusts: bytes = AUTHORITY.certificate) -> None:
        """Give a node a certificate and the authorities that it trusts; a running node takes them by itself."""
        write_pair(made, self.file(node, "crt"), replace=True)
        new = self.file(node, "new")
        new.write_bytes(trusts)
        os.replace(new, self.file(node, "ca"))

    def security_of(self, node: str) -> SecuritySettings:
        """The settings of a node, with its files."""
        if not self.file(node, "crt").exists():
            self.certify(node, issued(node))
        return replace(
            super().security_of(node),
            enable_tls=True,
            enable_mtls=True,
            cert_file=str(self.file(node, "crt")),
            key_file=str(self.file(node, "key")),
            ca_file=str(self.file(node, "ca")),
            clock_skew=SKEW_SECONDS,
        )

    def all_up(self) -> bool:
        """Whether each node sees all of them as alive."""
        return all(self.seen_by(node) == len(self.names) for node in self.names)

    def seen_by(self, node: str) -> int:
        """How many members a node sees as alive, itself among them."""
        with Client([self.addresses[node]], 2.0, follow=False, credentials=self.credentials()) as client:
            return rows_up(client)


@pytest.fixture(scope="module")
def cluster() -> Iterator[CertifiedCluster]:
    """Three nodes with certificates, and a member that is none of them."""
    with CertifiedCluster(nodes=3, secure=True) as made:
        made.access.add_member(SPARE)
        made.access.add_client("writer", ["write"])
        made.wait_for_leader()
        wait_until(made.all_up)
        yield made


# --- each cell of the table ------------------------------------------------------------------------------------------


def stated(made: CertifiedCluster, signer: Certified | None, **other: str) -> bytes:
    """The statement of the spare member for n1, or another one; empty without a certificate."""
    if signer is None:
        return b""
    claim = {"cluster": CLUSTER, "node": SPARE, "to": "n1", "key": made.access.pair(SPARE).public, **other}
    return Signer(signer.certificate, signer.key).state(Claim(**claim), time.time_ns() // 1_000_000)


def spoken(cluster: CertifiedCluster, statement: bytes, message: Any = None, to: str = "membership") -> Any:
    """What n1 answers to a frame of the spare member; None for nothing. The key is always the right one."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    try:
        be_client(dealer, cluster.access.pair(SPARE), cluster.access.keys["n1"].public)
        dealer.connect(f"tcp://{cluster.addresses['n1']}")
        boot = f"{SPARE}-folder"
        message = message or Hello(boot, 1, "127.0.0.1:1", "", "", statement=statement)
        dealer.send(encode(Frame(to, CLUSTER, SPARE, boot, 1, 1, 1, 1, message)))
        return decode(dealer.recv(), 1 << 20).message if dealer.poll(ANSWER_MS) else None
    finally:
        context.destroy(linger=0)


CELLS: dict[str, tuple[Callable[[CertifiedCluster], bytes], str]] = {
    "no certificate": (lambda cluster: stated(cluster, None), "has not shown"),
    "expired certificate": (lambda cluster: stated(cluster, issued(SPARE, -3 * SKEW_SECONDS)), "is over since"),
    "other CA": (lambda cluster: stated(cluster, issued(SPARE, by=OTHERS)), "no authority of security.ca_file"),
    "wrong SAN": (lambda cluster: stated(cluster, issued("n3")), "names 'n3'"),
    "other key": (lambda cluster: stated(cluster, issued(SPARE), key=KeyPair.made().public), "about the key"),
    "for another node": (lambda cluster: stated(cluster, issued(SPARE), to="n2"), "about the receiver"),
    "other cluster": (lambda cluster: stated(cluster, issued(SPARE), cluster="other"), "about the cluster"),
}


def test_a_member_with_a_good_certificate_is_heard(cluster: CertifiedCluster) -> None:
    """So it is the certificate by which the others are refused; the handshake refuses this one for other reasons."""
    reply = spoken(cluster, stated(cluster, issued(SPARE)))
    assert isinstance(reply, HelloReply)
    assert reply.reason not in ("", KEY), reply


@pytest.mark.parametrize("cell", CELLS)
def test_a_member_without_one_is_refused_with_the_reason(cluster: CertifiedCluster, cell: str) -> None:
    """Peer frames of each kind, with the right key; and the cluster goes on."""
    make, why = CELLS[cell]
    reply = spoken(cluster, make(cluster))
    assert isinstance(reply, HelloReply)
    assert (reply.reason, why in reply.detail) == (KEY, True), reply.detail
    assert spoken(cluster, b"", CheckPeer(1, make(cluster)), "health") is None
    cluster.client().put("goes on", cell)
    wait_until(cluster.all_up)


def test_clients_need_no_certificate_on_this_wire(cluster: CertifiedCluster) -> None:
    """Commands, reads and events go by the key alone: the cells of certificates do not apply to them."""
    shows = cluster.credentials("writer")
    with Client(cluster.endpoints, 10.0, credentials=shows) as client:
        client.put("by key", 1)
        assert client.get("by key") == 1
    with EventFeed(cluster.endpoints, since=0, timeout=10.0, credentials=shows) as feed:
        assert feed.get(10.0) is not None


# --- rotation --------------------------------------------------------------------------------------------------------


def taken(cluster: CertifiedCluster, node: str) -> int:
    """How often a node has told that it took other files."""
    return cluster.log_text(node).count("a file of the members' certificates has changed")


def rotate(cluster: CertifiedCluster, load: Load, by: Certified, trusts: bytes) -> None:
    """Give each node another certificate with another key, one after the other, and wait until it goes by it."""
    for node in cluster.names:
        before = taken(cluster, node)
        cluster.certify(node, issued(node, by=by), trusts)
        wait_until(lambda node=node, before=before: taken(cluster, node) > before)  # type: ignore[misc]
        load.goes_on()
    time.sleep(1.5)  # by now each has stated by the new one
    load.goes_on()
    wait_until(cluster.all_up)


def test_certificates_and_the_authority_are_exchanged_under_load_without_a_failed_call(
    cluster: CertifiedCluster,
) -> None:
    """Each node's certificate and key; then an authority beside the old one, in its place, and back."""
    both = AUTHORITY.certificate + OTHERS.certificate
    refused = {node: cluster.log_text(node).count("does not prove") for node in cluster.names}
    with Load(cluster.client(timeout=15.0)) as load:
        rotate(cluster, load, AUTHORITY, AUTHORITY.certificate)
        rotate(cluster, load, AUTHORITY, both)
        rotate(cluster, load, OTHERS, both)
        rotate(cluster, load, OTHERS, OTHERS.certificate)
        rotate(cluster, load, AUTHORITY, both)
        rotate(cluster, load, AUTHORITY, AUTHORITY.certificate)
    assert load.failures == []
    assert {node: cluster.log_text(node).count("does not prove") for node in cluster.names} == refused


def test_files_that_do_not_fit_are_told_and_the_earlier_ones_stay(cluster: CertifiedCluster) -> None:
    cluster.file("n1", "crt").write_bytes(issued("n1").certificate)
    wait_until(lambda: "do not belong together" in cluster.log_text("n1"))
    cluster.client().put("goes on", 1)
    wait_until(cluster.all_up)
    cluster.certify("n1", issued("n1"))


# --- the end of a certificate ----------------------------------------------------------------------------------------


def test_a_running_member_is_out_when_its_certificate_is_over_and_back_when_it_is_renewed(
    cluster: CertifiedCluster,
) -> None:
    """Nothing is restarted, and the others serve all the time, also if it was the leader."""
    name = cluster.wait_for_leader()
    others = [node for node in cluster.names if node != name]
    with Load(cluster.client(timeout=15.0)) as load:
        made = issued(name, 8.0)
        ends = certificates.facts_of(made.certificate).ends.timestamp()
        before = taken(cluster, name)
        cluster.certify(name, made)
        wait_until(lambda: taken(cluster, name) > before)
        time.sleep(2.0)  # it has stated by the new one, which is what ends
        wait_until(cluster.all_up)
        assert time.time() < ends, "it was let in until then"
        wait_until(lambda: all(cluster.seen_by(node) == 2 for node in others))
        assert ends < time.time() < ends + SKEW_SECONDS + 4.0
        assert cluster.wait_for_leader(other_than=name) in others
        load.goes_on()
        cluster.certify(name, issued(name))
        wait_until(cluster.all_up)
        load.goes_on()
    assert load.failures == []


def test_a_node_of_another_authority_stays_outside_until_it_has_a_good_certificate(cluster: CertifiedCluster) -> None:
    """It starts, because its own files are in order; neither side believes the other one."""
    name = cluster.followers()[0]
    cluster.kill(name)
    cluster.certify(name, issued(name, by=OTHERS), OTHERS.certificate)
    cluster.restart(name)
    time.sleep(2.0)
    assert cluster.seen_by(name) == 1
    cluster.client().put("without it", 1)
    wait_until(lambda: any("no authority of security.ca_file" in cluster.log_text(node) for node in cluster.names))
    cluster.certify(name, issued(name))
    wait_until(cluster.all_up)


def test_a_node_whose_certificate_names_another_one_does_not_start(cluster: CertifiedCluster) -> None:
    """The others would refuse it, so its operator is told at once."""
    name = cluster.followers()[0]
    cluster.kill(name)
    cluster.certify(name, issued("n7"))
    with pytest.raises(Exception, match="names 'n7'"):
        cluster.restart(name)
    cluster.certify(name, issued(name))
    cluster.restart(name)
    wait_until(cluster.all_up)
