"""``forge-consensus node``: one node in the foreground, from the command line to its last word."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import threading
from types import FrameType
from typing import Any

import click

from forge_consensus.cli.log_setup import configure_logging
from forge_consensus.client.endpoints import parse_endpoint
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import InvalidConfigError
from forge_consensus.events.bus import EventBus
from forge_consensus.events.encoding import to_json_line
from forge_consensus.events.log_lines import log_events
from forge_consensus.events.types import ConsensusEvent
from forge_consensus.service.node import Node, NodeSettings, bind_address, takes_free_port
from forge_consensus.storage.backends.lmdb import MAP_BYTES, QUOTA_BYTES

OPTIONS = RaftSettings()
LIMITS = StorageSettings()
STOP_SECONDS_MAX = 10.0
"""A node that was asked to stop and has not by then is ended; what it acknowledged is on disk anyway."""
EVENTS_QUEUE_MAX = 10_000
LOG_LEVELS = ("debug", "info", "warning", "error")
SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class Seconds(click.ParamType[float]):
    """A duration: 0.1, 100ms or 1.5s."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The duration in seconds."""
        match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(ms|s|)", str(value).strip())
        if match is None:
            self.fail(f"{value!r} is no duration: write 0.1, 100ms or 1.5s", param, ctx)
        return float(match[1]) / (1000 if match[2] == "ms" else 1)


class Size(click.ParamType[int]):
    """A number of bytes: 1048576, 64MiB or 2G (always powers of 1024)."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        match = re.fullmatch(r"(\d+) *([kmgt]?)(?:i?b)?", str(value).strip().lower())
        if match is None or int(match[1]) == 0:
            self.fail(f"{value!r} is no size: write a number of bytes, 64MiB or 2GiB", param, ctx)
        return int(match[1]) * SIZES[match[2]]


def parse_peers(text: str) -> dict[str, str]:
    """Node id -> address of a text like ``n1=host:port,n2=host:port``. Raises `InvalidConfigError`."""
    peers: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        node, equals, address = (piece.strip() for piece in part.partition("="))
        if not (node and equals and address):
            raise InvalidConfigError(
                f"{part!r} in the list of peers is not ID=HOST:PORT: write it like n1=127.0.0.1:7001,n2=127.0.0.1:7002"
            )
        if node in peers:
            raise InvalidConfigError(f"node {node!r} is twice in the list of peers: give each member an id of its own")
        peers[node] = parse_endpoint(address)
    return peers


def parse_listen(text: str | None, node_id: str, peers: dict[str, str]) -> str:
    """The address to listen at; that of the node in the list of peers if none is given.

    Port 0 takes a free port. Raises `InvalidConfigError`.
    """
    if text is None:
        if node_id not in peers:
            raise InvalidConfigError(
                "there is no address to listen at: give --listen HOST:PORT, or name this node in --peers"
            )
        return peers[node_id]
    if takes_free_port(text):
        bind_address(text)
        if len(peers) > 1:
            raise InvalidConfigError(
                "port 0 takes whatever port is free, and the other members could not find this node: listen at the "
                "address that --peers has for it"
            )
        return text
    return parse_endpoint(text)


@click.command(context_settings={"show_default": True})
@click.option("--id", "node_id", required=True, help="The node's id, unique in the cluster.")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where to listen, or ipc://PATH; 0 takes a free port. [default: as in --peers]",
)
@click.option(
    "--peers",
    metavar="ID=HOST:PORT,...",
    default="",
    show_default=False,
    help="All members, this node too; read at its first start only. Without it the node is a cluster of its own.",
)
@click.option("--data", required=True, type=click.Path(file_okay=False), help="The folder of the node's data.")
@click.option("--cluster", default="default", help="The cluster's id, the same on all members.")
@click.option("--lease-reads", is_flag=True, help="Allow lease reads; the same on all members, read at first start.")
@click.option("--heartbeat-interval", type=Seconds(), default=OPTIONS.heartbeat_interval)
@click.option("--election-timeout-min", type=Seconds(), default=OPTIONS.election_timeout_min)
@click.option("--election-timeout-max", type=Seconds(), default=OPTIONS.election_timeout_max)
@click.option(
    "--snapshot-entries",
    type=click.IntRange(min=1),
    default=LIMITS.snapshot_entries,
    help="Take a snapshot when so many entries were applied since the last.",
)
@click.option("--quota-bytes", type=Size(), default=f"{QUOTA_BYTES >> 30}GiB", help="Refuse proposals beyond it.")
@click.option("--map-bytes", type=Size(), default=f"{MAP_BYTES >> 30}GiB", help="Address space of the store.")
@click.option(
    "--log-level",
    type=click.Choice(LOG_LEVELS, case_sensitive=False),
    default="info",
    envvar="FORGE_CONSENSUS_LOG_LEVEL",
    help="What goes to stderr.",
)
@click.option(
    "--log-format",
    type=click.Choice(("text", "json"), case_sensitive=False),
    default="text",
    envvar="FORGE_CONSENSUS_LOG_FORMAT",
    help="Lines for people, or one JSON object a line.",
)
@click.option("--metrics", metavar="HOST:PORT", help="Serve metrics for Prometheus at http://HOST:PORT/metrics.")
@click.option("--events", is_flag=True, help="Print every event as a line of JSON on stdout.")
def node(
    node_id: str,
    listen: str | None,
    peers: str,
    data: str,
    cluster: str,
    lease_reads: bool,
    heartbeat_interval: float,
    election_timeout_min: float,
    election_timeout_max: float,
    snapshot_entries: int,
    quota_bytes: int,
    map_bytes: int,
    log_level: str,
    log_format: str,
    metrics: str | None,
    events: bool,
) -> None:
    """Run one node in the foreground.

    Prints one line when it serves. SIGTERM and SIGINT end it in order, with exit code 0. An address that is in use
    ends it with 69, a folder that is in use or belongs to another node or cluster with 78, a failing store with 70.
    """
    members = parse_peers(peers)
    settings = NodeSettings(
        node_id=node_id,
        cluster_id=cluster,
        bind=parse_listen(listen, node_id, members),
        peers=members,
        storage_path=data,
        lease_reads=lease_reads,
        options=RaftSettings(
            heartbeat_interval=heartbeat_interval,
            election_timeout_min=election_timeout_min,
            election_timeout_max=election_timeout_max,
        ),
        limits=StorageSettings(snapshot_entries=snapshot_entries),
        quota_bytes=quota_bytes,
        map_bytes=map_bytes,
        metrics=metrics,
    )
    configure_logging(log_level, json=log_format == "json")
    serve(settings, show_events=events)


def print_event(event: ConsensusEvent) -> None:
    """Write an event to stdout at once."""
    sys.stdout.write(to_json_line(event) + "\n")
    sys.stdout.flush()


class Ending:
    """What SIGTERM and SIGINT do: before the node serves they end its opening, later they ask it to stop."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.serving = False

    def install(self) -> None:
        """Take the two signals."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.asked)

    def asked(self, number: int, frame: FrameType | None) -> None:
        """One of them arrived."""
        if not self.serving:
            sys.exit(0)
        self.node.stop(signal.Signals(number).name)
        late = threading.Timer(STOP_SECONDS_MAX, os._exit, (0,))
        late.daemon = True
        late.start()


def serve(settings: NodeSettings, *, show_events: bool) -> None:
    """Open the node, say that it serves, and run it until a signal. Raises what else ends it."""
    bus = EventBus()
    log_events(bus)
    running = Node(settings, bus)
    ending = Ending(running)
    ending.install()
    try:
        running.open()
        ending.serving = True
        click.echo(f"serving {settings.node_id} of cluster {settings.cluster_id} at {running.address}")
        sys.stdout.flush()
        if show_events:
            bus.subscribe(ConsensusEvent, print_event, queue_max=EVENTS_QUEUE_MAX)
        gc.collect()
        gc.freeze()  # what exists now stays: later collections need not look at it
        running.run()
    finally:
        running.close()
        bus.close()
