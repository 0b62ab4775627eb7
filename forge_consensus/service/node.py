"""The node: its folder, its ledger, its system base and its actors, opened in this order and closed in reverse."""

from __future__ import annotations

import secrets
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thespian.actors import ActorSystem

from forge_consensus.actors.runtime.access_control import AccessControl
from forge_consensus.actors.runtime.actor import ReloadConfiguration
from forge_consensus.actors.runtime.audit import OPERATOR, Act, record_of
from forge_consensus.actors.runtime.engine import SettingsChange
from forge_consensus.actors.supervisor import start_system
from forge_consensus.actors.transport.endpoint import check_free, events_endpoint
from forge_consensus.actors.transport.zeromq import LocalConnection, ZeroMqBase
from forge_consensus.config.address import is_wildcard, takes_free_port
from forge_consensus.config.node import NodeSettings
from forge_consensus.errors import (
    ConsensusTimeoutError,
    InvalidConfigError,
    NotStartedError,
    OperationFailedError,
)
from forge_consensus.events.bus import EventBus
from forge_consensus.events.types import AuditRecorded, ConsensusEvent
from forge_consensus.process.descriptors import require_descriptors
from forge_consensus.process.log import LogLines, log_context
from forge_consensus.process.waiters import Latch
from forge_consensus.security.access import AccessList
from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.security.encryption_key import key_of_settings
from forge_consensus.service.access_watch import AccessWatch
from forge_consensus.service.audit_file import AuditFile
from forge_consensus.service.joining import Joining, founded_with
from forge_consensus.service.member_files import CertificateWatch, MemberFiles, Proofs, check_own
from forge_consensus.service.node_security import access_of, check_exposure, joining_credentials, own_credentials
from forge_consensus.storage.backends.folder import Folder
from forge_consensus.storage.backends.folder_tables import open_tables
from forge_consensus.storage.backends.tables import Tables
from forge_consensus.storage.ledger.configuration import Configuration, check_lease, drift_ppm_of, lease_ms_of
from forge_consensus.storage.ledger.identity import IDENTITY
from forge_consensus.storage.ledger.transaction import get_meta
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import Machine
from forge_consensus.storage.machines.naming import BUILT_IN, name_of
from forge_consensus.storage.opening import Founding, Opened, open_ledger
from forge_consensus.storage.snapshots.export import ExportProcess, exporter, why_on_thread

if TYPE_CHECKING:
    from forge_consensus.service.node_metrics import CountedMetrics

LINES = LogLines(__name__)
DESCRIPTORS = 32
"""What a node without peers takes, and one client of it."""
DESCRIPTORS_EACH = 6
"""What one peer takes: the connections to it and from it."""
LOOK_SECONDS = 0.05
"""How often a call that waits for the node looks whether it still runs."""


class Node:
    """One node, to be run by one thread of its own: `open`, `run` until `stop`, `close`.

    Args:
        settings: the node's settings.
        bus: where it publishes its events; the caller closes it.
        machine: the state machine; None for the built-in key-value machine.
        counts: whether metrics are counted although the settings serve them nowhere.

    """

    def __init__(
        self, settings: NodeSettings, bus: EventBus, machine: Machine | None = None, *, counts: bool = False
    ) -> None:
        self.settings = settings
        self.bus = bus
        self.machine: Machine = machine if machine is not None else KeyValueMachine()
        self.key_settings = settings.security
        """Where the encryption key in force is from."""
        self.folder: Folder | None = None
        self.tables: Tables | None = None
        self.base: ZeroMqBase | None = None
        self.system: ActorSystem | None = None
        self.counts = counts
        self.metrics: CountedMetrics | None = None
        self.joining: Joining | None = None
        self.access: AccessControl | None = None
        """Who may do what; None for a node without keys."""
        self.audit_file: AuditFile | None = None
        self.access_watch: AccessWatch | None = None
        self.certificate_watch: CertificateWatch | None = None
        self.cluster_id = settings.cluster_id
        """The id of the cluster, which may be longer than the name that the settings give."""

    def open(self) -> None:
        """Lock the folder, open the ledger, listen.

        Raises `FolderLockedError`, `IdentityError`, `InvalidConfigError`, `CorruptionError`, `StorageError` or
        `TransportUnavailableError`; then nothing stays open.
        """
        settings = self.settings
        try:
            if settings.security.enable_tls:
                from forge_consensus.security.tls import check_start  # imported late: ssl takes milliseconds

                check_start(settings)
            bind = settings.bind
            if takes_free_port(bind):
                bind = free_address(bind)
            require_descriptors(DESCRIPTORS + DESCRIPTORS_EACH * len(settings.peers), "a node")
            check_exposure(settings, bind, settings.events_bind or events_endpoint(bind))
            self.access = access_of(settings)
            self.folder = Folder(Path(settings.storage_path))
            self.check_ports(bind)
            self.tables = open_tables(
                self.folder,
                key_of_settings(settings.security),
                quota_bytes=settings.storage.quota_bytes,
                map_bytes=settings.storage.map_bytes,
                wal_bytes=settings.storage.wal_bytes,
            )
            opened = self.open_ledger(bind)
            check_lease(opened.ledger.configuration, settings.raft.election_timeout_min)
            self.tell_findings(opened)
            self.base = ZeroMqBase(
                opened,
                settings.raft,
                self.bus,
                bind,
                advertised=advertised(settings, bind),
                events_bind=settings.events_bind,
                http_url=settings.http_url or "",
                access=self.access,
            )
            self.open_audit_file()
            self.watch_files()
            self.system = start_system(self.base)
            if settings.join is not None and not opened.ledger.log.last:
                self.joining = Joining(settings, advertised(settings, bind), joining_credentials(self.access))
                self.joining.start()
            if settings.metrics is not None or self.counts:
                from forge_consensus.service.node_metrics import (
                    CountedMetrics,  # imported late: 30 ms that most nodes need not spend
                )

                self.metrics = CountedMetrics(self.base, settings.metrics)
        except BaseException:
            self.close()
            raise

    def open_audit_file(self) -> None:
        """Have the records of the audit written to the file for them, if there is one. Raises `InvalidConfigError`."""
        path, base = self.settings.security.audit_file, self.base
        if not path or base is None:
            return
        audit = base.engine.audit

        def lacks(count: int) -> None:
            audit.missing += count

        self.audit_file = AuditFile(path, self.settings.node_id, self.cluster_id, lacks)
        self.audit_file.open()
        base.engine.events.write_audit = self.audit_file.write

    def watch_files(self) -> None:
        """Begin to follow the files of which a change is taken while the node runs."""
        self.watch_access()
        self.watch_certificates()

    def watch_access(self) -> None:
        """Begin to follow the access file, if the node has one."""
        base, access, file = self.base, self.access, self.settings.security.access_file
        if base is None or access is None or not file:
            return
        engine = base.engine

        def take(told: tuple[AccessList | None, ConsensusEvent]) -> None:
            if told[0] is not None:
                access.take_file(told[0])
            engine.untold += (told[1],)
            engine.audit.take(by_operator("access file", told[0] is not None, str(file)))

        self.access_watch = AccessWatch(file, lambda listed, event: base.post(take, (listed, event)))
        self.access_watch.start()

    def watch_certificates(self) -> None:
        """Begin to follow the files of the certificates, if the members check each other's."""
        base, files = self.base, MemberFiles.of(self.settings.security)
        if base is None or files is None or self.access is None or self.access.certificates is None:
            return
        engine, certificates = base.engine, self.access.certificates

        def take(told: tuple[Proofs | None, ConsensusEvent]) -> None:
            if told[0] is not None:
                certificates.take(*told[0])
            engine.untold += (told[1],)

        self.certificate_watch = CertificateWatch(files, lambda held, event: base.post(take, (held, event)))
        self.certificate_watch.start()

    def look_at_access(self) -> None:
        """Have the access file and the certificates looked at now, because the configuration is read again."""
        for watch in (self.access_watch, self.certificate_watch):
            if watch is not None:
                watch.rouse()

    def check_ports(self, bind: str) -> None:
        """Check that this node can listen where it will, before a new folder is founded for good.

        The folder's lock was taken, so this node itself does not run. Raises as `check_free`.
        """
        events = self.settings.events_bind or events_endpoint(bind)
        for use, address in ("", bind), ("events: ", events), ("metrics: ", self.settings.metrics):
            if address is not None:
                check_free(address, use)

    def tell_findings(self, opened: Opened) -> None:
        """Log what opening found that does no harm but that an operator should know."""
        for damage in opened.snapshots.damaged:
            LINES.warning("passed over a damaged snapshot: {}", damage)
        peers = dict(self.settings.peers)
        members = opened.ledger.configuration
        if peers and not opened.is_new and peers != members.addresses:
            LINES.warning(
                "the peers given are not those of this folder, {}: the list is read at the first start only, and this "
                "node took part in a cluster since. If it was started with a wrong list and nothing in its folder is "
                "needed, move the folder away and start it again with the right one",
                members.text,
            )
        if opened.amended is not None:
            LINES.warning(
                "this folder was founded with the members {}, and nothing but that list was in it: it now has the list "
                "given, {}",
                opened.amended.text,
                members.text,
            )

    def open_ledger(self, bind: str) -> Opened:
        """Open the ledger in the folder; a new one is founded with the settings."""
        settings, folder, tables = self.settings, self.folder, self.tables
        assert folder is not None, "the folder was opened"
        assert tables is not None, "the tables were opened"
        joins = settings.join is not None
        begun, skipped = self.begun_with() if joins else (self.founded_with(bind), "")
        founding = Founding(
            settings.node_id,
            self.cluster_id,
            begun,
            lambda: secrets.token_hex(8),
            amends=bool(settings.peers),
            joins=joins,
            skipped=skipped,
        )
        machine: Any = self.machine
        export = exporter(tables, folder.snapshots_path, type(machine), settings.storage.snapshot_seconds_max)
        opened = open_ledger(tables, folder.snapshots_path, founding, machine, settings.storage, export)
        self.cluster_id = opened.ledger.identity.cluster_id
        if self.access is not None and self.access.certificates is not None:
            check_own(self.access.certificates, self.cluster_id, settings.node_id)
        if opened.ledger.applier.ledger_machine is not None:
            opened.snapshots.on_thread = why_on_thread()
            if isinstance(export, ExportProcess):
                opened.snapshots.end_export = export.end
        return opened

    def founded_with(self, bind: str) -> Configuration:
        """The configuration that the settings name, with which a new cluster begins."""
        settings = self.settings
        return Configuration.of(
            settings.peers or {settings.node_id: settings.advertise or bind},
            lease_reads=settings.lease_reads,
            lease_ms=lease_ms_of(settings.raft.election_timeout_min),
            drift_ppm=drift_ppm_of(settings.raft.clock_drift),
            machine=founding_name(self.machine),
        )

    def begun_with(self) -> tuple[Configuration | None, str]:
        """What a new node takes from the cluster that it joins; nothing for a node that did so before."""
        assert self.tables is not None, "the tables were opened"
        if get_meta(self.tables, IDENTITY) is not None:
            return None, ""
        found = founded_with(self.settings, joining_credentials(self.access))
        self.cluster_id = found.cluster
        return Configuration.decode(found.initial), found.skipped

    @property
    def address(self) -> str:
        """Where the node listens, HOST:PORT or ipc://PATH: the port that it has, also if it was to take a free one."""
        assert self.base is not None, "the node is open"
        return self.base.sockets.bind_address

    def port(self) -> LocalConnection:
        """Return a new connection for a client in this process, which has the sessions of the client's key elsewhere.

        Raises `InvalidConfigError` for a key file that cannot be.
        """
        assert self.base is not None, "the node is open"
        credentials = own_credentials(self.settings.security, self.access)
        return LocalConnection(self.base, "" if credentials is None else credentials.keys.public)

    def serve_reloads(self, reload: ReloadConfiguration) -> None:
        """Let clients have the configuration read again by calling this, on a helper thread."""
        assert self.base is not None, "the node is open"
        self.base.engine.reload_configuration = reload

    def record(self, record: AuditRecorded) -> None:
        """Have what did not go through the node recorded in its audit; from any thread, and without waiting for it."""
        base = self.base
        if base is not None and not base.closed:
            base.post(base.engine.audit.take, record)

    def take_settings(self, change: SettingsChange, timeout: float) -> None:
        """Have the node take other settings between two turns, and wait for it; not on the node's own thread.

        Raises `NotStartedError` for a node that does not run, `ConsensusTimeoutError` if it is busy for longer than
        `timeout` seconds; then it has not taken them, and will not.
        """
        base, claim, taken, faults = self.base, [True], Latch(), list[Exception]()
        if base is None or base.closed:
            raise NotStartedError
        engine = base.engine
        change = replace(change, key=self.key_after(change))

        def take(what: SettingsChange) -> None:
            try:
                claim.pop()
            except IndexError:  # who asked waits no more
                return
            try:
                engine.take_settings(what)
            except Exception as fault:
                faults.append(fault)
            taken.set()

        base.post(take, change)
        self.look_at_access()
        end = time.monotonic() + timeout
        while not taken.wait(LOOK_SECONDS):
            if not base.closed and time.monotonic() < end:
                continue
            try:
                claim.pop()
            except IndexError:  # it is being taken at this moment
                continue
            if base.closed:
                raise NotStartedError("the node has stopped, and has not taken the settings")
            raise ConsensusTimeoutError(
                f"the node was busy for {timeout:g} s and has not taken the settings: try again"
            )
        if faults:
            raise OperationFailedError(f"the node could not take the settings: {faults[0]}") from faults[0]
        self.key_settings = change.security or self.key_settings

    def key_after(self, change: SettingsChange) -> EncryptionKey | None:
        """Return the encryption key that settings give, None if the node keeps its own. Raises `InvalidConfigError`.

        A command is run only if it is another one, because the node must go on when nobody answers it.
        """
        given, before = change.security, self.key_settings
        if given is None or not before.enable_encryption:
            return None
        if given.encryption_key_command and given.encryption_key_command == before.encryption_key_command:
            return None
        return key_of_settings(given)

    def run(self) -> None:
        """Run until `stop`. Raises what ended the node otherwise; after a storage error nothing leaves it (I16)."""
        assert self.base is not None, "the node is open"
        with log_context(node=self.settings.node_id, cluster=self.cluster_id):  # on all lines of this thread
            self.base.run()

    def stop(self, reason: str = "asked to") -> None:
        """Ask the node to stop; from any thread. If it leads, it hands over before, within an election timeout.

        A node that is asked again stops at once.
        """
        if self.base is not None:
            self.base.retire(reason)

    def close(self) -> None:
        """Close everything that is open, in whatever state the node is."""
        if self.joining is not None:
            self.joining.stop()
        for watch in (self.access_watch, self.certificate_watch):
            if watch is not None:
                watch.stop()
        if self.metrics is not None:
            self.metrics.close()
        if self.base is not None:
            self.base.close()
        if self.audit_file is not None:
            self.audit_file.close()
        if self.tables is not None:
            self.tables.close()
        if self.folder is not None:
            self.folder.release()


def by_operator(action: str, done: bool, subject: str) -> AuditRecorded:
    """Return the record of what the operator of this node's host did by a file.

    Args:
        action: what was done.
        done: whether the node has taken it.
        subject: the file.

    """
    return record_of(
        Act(OPERATOR, action, subject), "done" if done else "failed", "" if done else InvalidConfigError.code
    )


def advertised(settings: NodeSettings, bind: str) -> str:
    """Return where the node is reached, as far as its settings say: as told, among the peers, else where it listens.

    It is empty for a node that listens on all addresses of its host and was given no peers.
    """
    own = settings.advertise or settings.peers.get(settings.node_id)
    return own if own is not None else "" if is_wildcard(bind) else bind


def founding_name(machine: Machine) -> str:
    """Return what a new cluster's configuration says of the machine: nothing of the built-in one."""
    name = name_of(machine).name
    return "" if name == BUILT_IN else name


def free_address(bind: str) -> str:
    """Return the same host with a port that is free now. Raises `InvalidConfigError` for a host of another machine."""
    host = bind.rpartition(":")[0]
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((host.strip("[]"), 0))
            return f"{host}:{probe.getsockname()[1]}"
    except OSError as error:
        raise InvalidConfigError(
            f"{bind!r} is no address to listen on: it is HOST:PORT with a host of this machine ({error})"
        ) from error
