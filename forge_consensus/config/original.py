"""The fields of the Go original's configuration that are no settings here, and what each of them means here.

The original (Forge Consensus, ``internal/config.go``) declares 110 fields. Those with a counterpart are named in the
description of that setting; the rest stands here, so that a file written for the original is understood field by field:
a value that is how this system works anyway is accepted, and any other is told or refused with the reason. Nothing is
ignored in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from forge_consensus.config.setting import Described, Setting

Otherwise = Literal["told", "refused"]
"""What happens to a value that is not how it is here: the node runs and says so, or the file is refused."""

ANY: Final = object()
"""There is no such thing here, so no value is more right than another."""
KINDS: Final[dict[type, str]] = {bool: "bool", int: "int", float: "float", str: "str", tuple: "texts"}


@dataclass(frozen=True, slots=True)
class OriginalField:
    """One field of the original that is no setting here."""

    name: str
    """The whole name in a file, such as ``raft.pre_vote``."""
    kind: str
    """One of the kinds of settings; ``texts`` is a list."""
    default: Any
    """The original's default, for the schema and for an example."""
    here: Any
    """The value that is always so here; `ANY` if the field means nothing here."""
    otherwise: Otherwise
    why: str
    """What is so instead, and how to get what the field was for; one clause without a full stop."""
    unit: str = ""
    choices: tuple[str, ...] = ()
    """The texts that the original allows, for those that have a list of them."""
    refused: tuple[tuple[str, str], ...] = ()
    """Texts that the original allows and that nothing here stands for, each with what there is instead."""

    def as_setting(self) -> Setting:
        """Return the description by which a value is read."""
        kind = "str" if self.kind == "texts" else self.kind
        return Setting(self.name, kind, self.default, Described(what="", why=self.why, unit=self.unit))


def always(name: str, here: Any, why: str, *, default: Any = None, otherwise: Otherwise = "told") -> OriginalField:
    """Return a switch or a choice that has one position here."""
    return OriginalField(name, KINDS[type(here)], here if default is None else default, here, otherwise, why)


def none_such(name: str, default: Any, why: str, *, unit: str = "") -> OriginalField:
    """Return a field for something that does not exist here."""
    return OriginalField(name, KINDS[type(default)], default, ANY, "told", why, unit)


POOL: Final = "there is one connection for each pair of nodes, and ZeroMQ keeps it"
DISCOVERY: Final = "members are found by `peers` or `join`"
NO_POSTGRES: Final = (
    "a node keeps its log and state in LMDB, in storage_path on a disk of its own, because a database that several "
    "nodes share would fail for all of them at once: write storage.type: lmdb"
)
STORE: Final = "the log is kept in LMDB, which has no such thing"
RETRIES: Final = "a node repeats with its heartbeats, a client until the deadline of its call: see client.*"
HEALTH: Final = "health is judged by the number of unanswered checks: raft.suspect_checks, raft.fail_checks"

FIELDS: Final = (
    # --- raft
    none_such("raft.log_cache_size", 1024, "entries are kept in memory by their bytes: storage.tail_bytes_max"),
    none_such("raft.max_append_entries", 64, "a frame of entries is bounded by its bytes: raft.append_bytes_max"),
    none_such(
        "raft.replication_batch_size",
        100,
        "what waits at the end of a turn is sent as one frame, up to raft.append_bytes_max",
    ),
    none_such(
        "raft.leader_lease_timeout", 0.5, "a lease lasts raft.election_timeout_min as it was at the founding", unit="s"
    ),
    always(
        "raft.pre_vote", True, "a candidate always asks before it raises the term, so one that was away disturbs nobody"
    ),
    always(
        "raft.check_quorum", True, "a leader without a majority always resigns, because its clients would wait for ever"
    ),
    always(
        "raft.disable_pipeline",
        False,
        "entries are sent before earlier ones are answered; raft.inflight_frames_max: 1 is near to that",
    ),
    # --- transport
    OriginalField(
        "transport.type",
        "str",
        "grpc",
        "zmq",
        "told",
        "nodes speak ZeroMQ with one another",
        choices=("zmq", "grpc", "tcp"),
    ),
    none_such(
        "transport.timeout",
        10.0,
        "no single answer is waited for; a silent connection is given up after raft.link_timeout",
        unit="s",
    ),
    always("transport.keep_alive", True, "every connection is watched: raft.link_timeout"),
    none_such(
        "transport.keep_alive_interval",
        30.0,
        "a connection is watched with the system's own interval: raft.link_timeout",
        unit="s",
    ),
    none_such(
        "transport.keep_alive_timeout", 10.0, "a silent connection is given up after raft.link_timeout", unit="s"
    ),
    none_such("transport.max_connections", 100, "connections of clients are bounded by raft.connections_max"),
    none_such(
        "transport.connection_timeout",
        5.0,
        "a connection that is not made is tried for ever, less and less often",
        unit="s",
    ),
    none_such("transport.idle_timeout", 300.0, POOL, unit="s"),
    always(
        "transport.enable_compression",
        False,
        "frames are not compressed, because that costs more time than it saves within a data centre",
        default=True,
    ),
    none_such("transport.compression_level", 6, "frames are not compressed"),
    always("transport.enable_multiplexing", True, POOL),
    # --- discovery
    OriginalField(
        "discovery.type",
        "str",
        "static",
        "static",
        "told",
        DISCOVERY,
        choices=("static", "dns", "consul", "etcd", "kubernetes"),
    ),
    none_such("discovery.endpoints", (), DISCOVERY),
    none_such("discovery.namespace", "default", DISCOVERY),
    none_such("discovery.service_name", "forge-consensus", DISCOVERY),
    none_such("discovery.refresh_interval", 30.0, "host names are looked up again at every new connection", unit="s"),
    none_such("discovery.timeout", 10.0, DISCOVERY, unit="s"),
    none_such("discovery.ttl", 60.0, DISCOVERY, unit="s"),
    none_such("discovery.enable_watch", True, "changes of members come with the log"),
    # --- storage
    OriginalField(
        "storage.type",
        "str",
        "badger",
        "lmdb",
        "told",
        "the log is kept in LMDB",
        choices=("lmdb", "badger", "boltdb", "pebble"),
        refused=(("postgres", NO_POSTGRES), ("postgresql", NO_POSTGRES)),
    ),
    always("storage.sync_writes", True, "what is acknowledged is always on the disks of a majority"),
    none_such(
        "storage.max_batch_size", 1000, "what arrives in one turn is written with one flush: raft.turn_frames_max"
    ),
    none_such(
        "storage.max_batch_delay",
        0.01,
        "a write never waits for others; those that arrive meanwhile share the next flush",
        unit="s",
    ),
    none_such(
        "storage.compact_on_start",
        False,
        "the log is compacted all the time; `forge-consensus storage compact` makes the file small",
    ),
    none_such("storage.badger_options.value_log_max_entries", 1_000_000, STORE),
    none_such("storage.badger_options.mem_table_size", 67_108_864, STORE),
    none_such("storage.badger_options.num_mem_tables", 5, STORE),
    none_such("storage.badger_options.num_level_zero_tables", 5, STORE),
    none_such("storage.badger_options.num_compactors", 4, STORE),
    always("storage.bolt_options.no_sync", False, "what is acknowledged is always on the disks of a majority"),
    always("storage.bolt_options.no_grow_sync", False, "what is acknowledged is always on the disks of a majority"),
    none_such("storage.bolt_options.initial_mmap_size", 0, "the address space of the store is storage.map_bytes"),
    none_such("storage.bolt_options.timeout", 1.0, "a folder that another process uses is refused at once", unit="s"),
    # --- election
    always(
        "election.enabled",
        True,
        "every voter stands for election; a member that must not is a learner: join_as: learner",
        otherwise="refused",
    ),
    always("election.randomized_timeout", True, "each wait is drawn anew, because equal ones would split every vote"),
    always(
        "election.pre_vote",
        True,
        "a candidate always asks before it raises the term, so one that was away disturbs nobody",
    ),
    always(
        "election.priority_election",
        False,
        "every voter may lead; `forge-consensus leader transfer` hands the leadership over",
    ),
    always("election.priority", 0, "every voter may lead; `forge-consensus leader transfer` hands the leadership over"),
    always("election.step_down_on_remove", True, "a removed leader always hands over and steps down"),
    none_such(
        "election.leader_stickiness",
        10.0,
        "who heard from a leader votes for nobody else within raft.election_timeout_min",
        unit="s",
    ),
    # --- health
    always("health.enabled", True, "health only reports, so it is always judged"),
    none_such("health.timeout", 5.0, HEALTH, unit="s"),
    none_such("health.healthy_threshold", 2, "one answer shows that a peer is alive"),
    # --- observability
    always(
        "observability.metrics.enabled",
        True,
        "metrics are always counted, and served only where `metrics: HOST:PORT` says",
    ),
    none_such(
        "observability.metrics.collection_interval",
        15.0,
        "metrics are counted as things happen and read when Prometheus asks",
        unit="s",
    ),
    always(
        "observability.metrics.namespace",
        "forge_consensus",
        "the names of the metrics are fixed, so one dashboard fits everybody",
    ),
    always("observability.metrics.enable_detailed_metrics", True, "all metrics are always counted"),
    always(
        "observability.tracing.enabled",
        False,
        "there are no traces yet; every command has a correlation id in log and events",
    ),
    none_such("observability.tracing.service_name", "forge-consensus", "there are no traces yet"),
    none_such("observability.tracing.sample_rate", 0.1, "there are no traces yet"),
    always(
        "observability.logging.log_raft_details",
        False,
        "what each actor does is told as events: `forge-consensus node --events`",
    ),
    # --- resilience
    always("resilience.enable_retry", True, RETRIES),
    none_such("resilience.max_retries", 3, RETRIES),
    none_such("resilience.retry_delay", 0.1, RETRIES, unit="s"),
    none_such("resilience.retry_backoff_factor", 2.0, RETRIES),
    none_such("resilience.max_retry_delay", 5.0, RETRIES, unit="s"),
    always(
        "resilience.enable_circuit_breaker",
        False,
        "a peer that does not answer costs nothing, so nothing has to be broken off",
        default=True,
    ),
    none_such("resilience.circuit_breaker_threshold", 5, "there is no circuit breaker"),
    none_such("resilience.circuit_breaker_timeout", 30.0, "there is no circuit breaker", unit="s"),
    # --- events
    always("events.enabled", True, "every change of state is published as an event; who needs none subscribes to none"),
    always(
        "events.emit_leader_change", True, "every change of state is published: subscribe to the kinds that you need"
    ),
    always("events.emit_node_events", True, "every change of state is published: subscribe to the kinds that you need"),
    always(
        "events.emit_cluster_events", True, "every change of state is published: subscribe to the kinds that you need"
    ),
    # --- advanced
    always(
        "advanced.enable_auto_snapshot",
        True,
        "a log without snapshots fills the disk; storage.snapshot_entries makes them rare",
    ),
    always(
        "advanced.enable_auto_compaction",
        True,
        "a log that is never cut fills the disk; storage.trailing_entries keeps more of it",
    ),
    none_such("advanced.compaction_interval", 3600.0, "the log is cut whenever a snapshot is on disk", unit="s"),
    none_such(
        "advanced.max_memory_usage",
        1_073_741_824,
        "each buffer has a bound of its own, such as storage.uncommitted_bytes_max",
    ),
    none_such("advanced.gc_interval", 300.0, "nothing is left over that has to be collected at intervals", unit="s"),
    always(
        "advanced.enable_read_index",
        True,
        "linearizable reads ask a majority, unless the cluster was founded with lease reads",
    ),
    always("require_config", False, "a file that is named must exist; without one there are defaults"),
)

BY_NAME: Final = {field.name: field for field in FIELDS}
