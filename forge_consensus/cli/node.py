"""``forge-consensus node``: one node in the foreground, from the command line to its last word."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from forge_consensus.cli.log_setup import configure_logging
from forge_consensus.config.address import IPC, is_loopback, is_wildcard
from forge_consensus.config.changes import HOT_PROGRAM
from forge_consensus.config.example import default_text
from forge_consensus.config.given import Given, Layer
from forge_consensus.config.layers import LEVEL, PREFIX
from forge_consensus.config.loading import ConfigSource, LoadedConfig, settings_of
from forge_consensus.config.node import JOIN_AS, NodeSettings
from forge_consensus.config.program import LOG_FORMATS, LOG_LEVELS, ProgramSettings
from forge_consensus.config.rows import parse, row_of_texts
from forge_consensus.config.setting import Setting, describe
from forge_consensus.errors import InvalidConfigError
from forge_consensus.events.bus import EventBus
from forge_consensus.events.encoding import to_json_line
from forge_consensus.events.log_lines import log_events
from forge_consensus.events.types import ConsensusEvent, NodeRemoved
from forge_consensus.missing import missing_extra
from forge_consensus.process.descriptors import raise_descriptor_limit
from forge_consensus.process.log import LogLines
from forge_consensus.service.config_watch import ConfigWatcher
from forge_consensus.service.joining import cluster_at
from forge_consensus.service.node import Node, advertised
from forge_consensus.service.reloading import NO_FILE, Reloader
from forge_consensus.service.running import NodeRun
from forge_consensus.storage.stopped import stored_cluster

LINES: Final = LogLines(__name__)
STOP_SECONDS_MAX: Final = 10.0
"""A node that was asked to stop and has not by then is ended; what it acknowledged is on disk anyway."""
EVENTS_QUEUE_MAX: Final = 10_000
REMOVED: Final = "removed from the cluster"
SETTINGS: Final = {setting.name: setting for setting in describe(NodeSettings)}
OPTIONS: Final = {
    "node_id": "id",
    "cluster_id": "cluster",
    "bind": "listen",
    "peers": "peers",
    "storage_path": "data",
    "lease_reads": "lease-reads",
    "metrics": "metrics",
    "events_bind": "events-listen",
    "advertise": "advertise",
    "http_url": "http-url",
    "admin_api.bind": "http",
    "admin_api.insecure": "insecure",
    "join": "join",
    "join_as": "join-as",
    "rejoin": "rejoin",
    "machine": "machine",
    "log_level": "log-level",
    "log_format": "log-format",
    "exit_when_removed": "exit-when-removed",
}
"""Setting -> the option that alone sets it."""
SECRETS: Final = frozenset(
    setting.name for kind in (NodeSettings, ProgramSettings) for setting in describe(kind) if setting.described.secret
)
ARGUMENTS: Final = {"http": "admin_api.bind", "insecure": "admin_api.insecure"}
"""Argument of the command -> the setting, where they have different names."""
SHORTHANDS: Final = (
    "raft.heartbeat_interval",
    "raft.election_timeout_min",
    "raft.election_timeout_max",
    "storage.snapshot_entries",
    "storage.quota_bytes",
    "storage.map_bytes",
)
"""Settings that have an option besides --set, because they are the ones most often changed."""

if TYPE_CHECKING:
    from forge_consensus.admin.server import AdminServer

Function = TypeVar("Function", bound=Callable[..., Any])


class SettingText(click.ParamType[str]):
    """The text of a setting; one that does not stand for a value of its type is a wrong usage."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.name = setting.described.unit or setting.kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text, if it stands for a value."""
        try:
            parse(self.setting, str(value))
        except InvalidConfigError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class Assignment(click.ParamType[tuple[str, str]]):
    """The name of a setting and the text of its value, with an equals sign between them."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return the name and the text."""
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not equals:
            self.fail(f"{value!r} is no setting: write NAME=VALUE, such as raft.heartbeat_interval=50ms", param, ctx)
        return name.strip(), text


def once(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> str | None:
    """Return the value of an option that may be given once, None without one."""
    if len(value) > 1:
        raise click.BadParameter(f"it is given {len(value)} times: give it once", ctx, param)
    return value[0] if value else None


def not_empty(ctx: click.Context, param: click.Parameter, value: str | None) -> str:
    """Return the import path that is given, "" without the option.

    An empty one, as of a variable that is not set, is a wrong usage, because a node would be founded for good with
    another machine than was meant.
    """
    if value is not None and not value.strip():
        raise click.BadParameter(
            "it is empty: write MODULE:CLASS, such as tally:Tally, or leave the option out for keys and values",
            ctx,
            param,
        )
    return value or ""


def shorthand_options(function: Function) -> Function:
    """Give a command an option for each of `SHORTHANDS`."""
    for name in reversed(SHORTHANDS):
        setting = SETTINGS[name]
        unit = " s" if setting.described.unit == "s" else ""
        function = click.option(
            f"--{name.rpartition('.')[2].replace('_', '-')}",
            name.replace(".", "_"),
            type=SettingText(setting),
            multiple=True,
            callback=once,
            show_default=False,
            help=f"The same as --set {name}=...  [default: {default_text(setting)}{unit}]",
        )(function)
    return function


def given_texts(assignments: tuple[tuple[str, str], ...], shorthands: dict[str, str | None]) -> list[tuple[str, str]]:
    """Return the names and texts of all settings in sections that the command line gives.

    Raises `InvalidConfigError` for a setting that has an option of its own, and for a secret.
    """
    for name, _ in assignments:
        if name in OPTIONS:
            raise InvalidConfigError(f"{name} is not set by --set: use --{OPTIONS[name]}")
        if name.startswith("client."):
            raise InvalidConfigError(f"{name} is a setting of clients and not of a node: give it to the client")
        if name in SECRETS:
            raise InvalidConfigError(
                f"{name} is a secret, and every user of this machine sees the arguments of a process: give it in a "
                f"file, as ${{file:/PATH}}, or by the variable {variable_of(name)}"
            )
    short = [(name, text) for name in SHORTHANDS if (text := shorthands[name.replace(".", "_")]) is not None]
    return [*short, *assignments]


def variable_of(name: str) -> str:
    """Return the variable that gives a setting."""
    return f"{PREFIX}{name.replace('.', LEVEL).upper()}"


def layer_of_options(texts: list[tuple[str, str]], **options: str | bool | None) -> Layer:
    """Return what the command line says; an option that is not given says nothing."""
    given = [Given(name, text, f"--set {name}") for name, text in texts]
    for argument, value in options.items():
        name = ARGUMENTS.get(argument, argument)
        if value is not None and value is not False:
            given.append(Given(name, value, f"--{OPTIONS[name]}"))
    if options.get("insecure"):  # it speaks of the admin API and of the node
        given.append(Given("security.insecure", True, "--insecure"))
    return Layer(given)


def loaded(files: tuple[str, ...], options: Layer) -> LoadedConfig:
    """Return the settings of files, environment and options.

    A node that is to join and names no cluster is of the one that it finds. Raises `InvalidConfigError`, for a usage
    click's errors, and for a cluster that is not found those of `cluster_at`.
    """
    source = ConfigSource(files, last=options)
    resolved = source.resolve()
    resolved.check()
    values = resolved.values
    for name, option in (("node_id", "--id"), ("storage_path", "--data")):
        if name not in values and not (files and name == "storage_path"):
            raise click.UsageError(f"Missing option '{option}', or {name} in a file that --config names.")

    has_keys = any(values.get(f"security.{name}") for name in ("curve_key_file", "curve_secret_key"))

    def stored(folder: Path) -> str:
        # who has keys has the configuration of a cluster, which names it
        return stored_cluster(folder) or (cluster_at(values["join"]) if values.get("join") and not has_keys else "")

    return settings_of(resolved, stored, source)


@click.command(context_settings={"show_default": True})
@click.option(
    "-c",
    "--config",
    "files",
    type=click.Path(dir_okay=False),
    multiple=True,
    metavar="FILE",
    show_default=False,
    help="A YAML file with settings; may be given several times, later ones win, and other options win over all.",
)
@click.option("--id", "node_id", help="The node's id, unique in the cluster.")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where to listen, or ipc://PATH; 0 takes a free port. [default: as in --peers]",
)
@click.option(
    "--peers",
    metavar="ID=HOST:PORT,...",
    help="All members, this node too; read at its first start only. Without it the node is a cluster of its own.",
)
@click.option(
    "--advertise",
    metavar="HOST:PORT",
    help="Where members and clients reach this node, if that is not where it listens.",
)
@click.option(
    "--http",
    metavar="HOST:PORT",
    help="Serve the admin API, the dashboard, health, metrics and events there over HTTP.",
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Let the node, and --http, listen where other machines reach them, although nobody is asked who they are.",
)
@click.option(
    "--http-url",
    metavar="URL",
    help="Where this node's application answers HTTP; members tell each other, so that requests can be sent on. "
    "[default: that of --http]",
)
@click.option(
    "--join",
    metavar="HOST:PORT,...",
    help="Join the cluster of these members; a new node then waits to be added: forge-consensus members add.",
)
@click.option(
    "--join-as",
    type=click.Choice(JOIN_AS),
    help="Ask the cluster to be added as this.",
)
@click.option(
    "--rejoin",
    is_flag=True,
    help="The folder of this member is lost: have the cluster remove it, and add this node in its place.",
)
@click.option("--data", type=click.Path(file_okay=False), help="The folder of the node's data.")
@click.option(
    "--cluster",
    help="The cluster's id, the same on all members. [default: that of the folder; of a new one that of the cluster "
    "that it joins, or else: default]",
)
@click.option("--lease-reads", is_flag=True, help="Allow lease reads; the same on all members, read at first start.")
@click.option(
    "--machine",
    callback=not_empty,
    metavar="MODULE:CLASS",
    show_default=False,
    help="The state machine; its module is looked for in this folder too. [default: keys and values]",
)
@click.option(
    "--set",
    "assignments",
    type=Assignment(),
    multiple=True,
    metavar="NAME=VALUE",
    help="Any other setting, such as raft.heartbeat_interval=50ms; may be given several times. All names, defaults "
    "and reasons: forge-consensus settings.",
)
@shorthand_options
@click.option(
    "--log-level",
    type=click.Choice(LOG_LEVELS, case_sensitive=False),
    help="What goes to stderr; or FORGE_CONSENSUS_LOG_LEVEL. [default: info]",
)
@click.option(
    "--log-format",
    type=click.Choice(LOG_FORMATS, case_sensitive=False),
    help="Lines for people, or one JSON object a line; or FORGE_CONSENSUS_LOG_FORMAT. [default: text]",
)
@click.option("--metrics", metavar="HOST:PORT", help="Serve metrics for Prometheus at http://HOST:PORT/metrics.")
@click.option(
    "--events-listen",
    metavar="HOST:PORT",
    help="Where to publish events, or ipc://PATH. [default: a free port of the host of --listen]",
)
@click.option(
    "--exit-when-removed",
    is_flag=True,
    help="End with exit code 0 when this node learns that it was removed from its cluster.",
)
@click.option("--events", is_flag=True, help="Print every event as a line of JSON on stdout.")
def node(
    files: tuple[str, ...],
    node_id: str | None,
    listen: str | None,
    peers: str | None,
    data: str | None,
    cluster: str | None,
    lease_reads: bool,
    machine: str,
    assignments: tuple[tuple[str, str], ...],
    log_level: str | None,
    log_format: str | None,
    metrics: str | None,
    events_listen: str | None,
    advertise: str | None,
    http: str | None,
    insecure: bool,
    http_url: str | None,
    join: str | None,
    join_as: str | None,
    rejoin: bool,
    exit_when_removed: bool,
    events: bool,
    **shorthands: str | None,
) -> None:
    """Run one node in the foreground.

    Prints one line when it serves. SIGTERM and SIGINT end it in order, with exit code 0. An address that is in use
    ends it with 69, a folder that is in use or belongs to another node or cluster with 78, a failing store with 70.
    """
    texts = given_texts(assignments, shorthands)
    row_of_texts(NodeSettings, texts)  # refuses what an option says wrong, in the words of options
    options = layer_of_options(
        texts,
        node_id=node_id,
        cluster_id=cluster,
        bind=listen,
        peers=peers,
        storage_path=data,
        lease_reads=lease_reads,
        metrics=metrics,
        events_bind=events_listen,
        advertise=advertise,
        http=http,
        insecure=insecure,
        http_url=http_url,
        join=join,
        join_as=join_as,
        rejoin=rejoin,
        machine=machine or None,
        log_level=log_level,
        log_format=log_format,
        exit_when_removed=exit_when_removed,
    )
    config = loaded(files, options)
    program = config.program
    configure_logging(program.log_level, json=program.log_format == "json")
    for note in config.notes:
        LINES.warning("{}", note)
    serve(config, show_events=events)


def print_event(event: ConsensusEvent) -> None:
    """Write an event to stdout at once; past `sys.stdout`, which the end of the process must not wait for."""
    left = f"{to_json_line(event)}\n".encode()
    while left:
        left = left[os.write(sys.stdout.fileno(), left) :]


def end_on_signals(run: NodeRun) -> None:
    """Have SIGTERM and SIGINT end the process at once while the node opens, and stop the node in order later."""

    def asked(number: int, frame: FrameType | None) -> None:
        if not run.serving:
            sys.exit(0)
        run.stop(signal.Signals(number).name)
        late = threading.Timer(STOP_SECONDS_MAX, os._exit, (0,))
        late.daemon = True
        late.start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked)


def reload_on_signal(watcher: ConfigWatcher | None) -> None:
    """Have SIGHUP read the configuration again; without a file it does nothing, and never ends the node."""

    def asked(number: int, frame: FrameType | None) -> None:
        if watcher is None:
            LINES.warning("SIGHUP is ignored: {}", NO_FILE)
        else:
            watcher.ask("signal")

    signal.signal(signal.SIGHUP, asked)


def follow(run: NodeRun, program: ProgramSettings) -> Callable[[ProgramSettings], None]:
    """Return what follows the program's settings when some of them have changed; `program` are those of the start."""
    told = [(program.log_level, program.log_format)]

    def changed(now: ProgramSettings) -> None:
        if (now.log_level, now.log_format) not in told:
            configure_logging(now.log_level, json=now.log_format == "json", again=True)
            told[:] = [(now.log_level, now.log_format)]
        base = run.node.base if run.node is not None else None
        if now.exit_when_removed and base is not None and base.engine.reported.removed:
            run.stop(REMOVED)

    return changed


def serve(config: LoadedConfig, *, show_events: bool) -> None:
    """Run the node until a signal, and say when it serves. Raises what else ends it."""
    raise_descriptor_limit()
    program, bus = config.program, EventBus()
    log_events(bus)
    watcher: ConfigWatcher | None = None
    admin = admin_server(config)
    settings = config.node
    if admin is not None and settings.http_url is None:
        settings = replace(settings, http_url=url_of(admin, settings))

    def announce(node: Node) -> None:
        at = f", {admin.url}" if admin is not None else ""
        click.echo(f"serving {settings.node_id} of cluster {node.cluster_id} at {node.address}{at}")
        sys.stdout.flush()
        node.serve_reloads(reloader.for_client)
        if admin is not None:
            admin.serve_node(node, reloader)
        if watcher is not None:
            watcher.start()
        if show_events:
            bus.subscribe(ConsensusEvent, print_event, queue_max=EVENTS_QUEUE_MAX)

    if program.machine and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # an installed command does not look there by itself
    try:
        if admin is not None:
            admin.start()
        run = NodeRun(settings, program.machine, bus, announce, counts=admin is not None)
        reloader = Reloader(config, run.take_settings, HOT_PROGRAM)
        reloader.listeners.append(follow(run, program))
        watcher = ConfigWatcher(reloader) if reloader.files else None
        end_on_signals(run)
        reload_on_signal(watcher)
        bus.subscribe(NodeRemoved, lambda event: leave(run, reloader.running.program), inline=True)
        run.run()
    finally:
        if watcher is not None:
            watcher.leave()
        if admin is not None:
            admin.close()
        bus.close()


def leave(run: NodeRun, program: ProgramSettings) -> None:
    """Stop a node that was removed from its cluster, if its program is to end then."""
    if program.exit_when_removed:
        run.stop(REMOVED)


def url_of(admin: AdminServer, settings: NodeSettings) -> str | None:
    """Return where the other members reach the admin API; None if they do not, or nobody knows by what name."""
    reached = advertised(settings, settings.bind)
    if not is_wildcard(admin.address):
        local = reached.startswith(IPC) or is_loopback(reached.rpartition(":")[0].strip("[]"))
        return admin.url if local or not is_loopback(admin.address.rpartition(":")[0].strip("[]")) else None
    if not reached or reached.startswith(IPC):
        return None
    return f"{admin.scheme}://{reached.rpartition(':')[0]}:{admin.address.rpartition(':')[2]}"


def admin_server(config: LoadedConfig) -> AdminServer | None:
    """Return the admin API where one is wanted, bound and not started. Raises `InvalidConfigError`."""
    if config.program.admin_api.address is None:
        return None
    try:
        from forge_consensus.admin.server import AdminServer  # imported late: most nodes need no web server
    except ModuleNotFoundError as error:
        raise InvalidConfigError(missing_extra(error, "admin", "the admin API")) from error
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # that the server runs is told already
    return AdminServer.of(config)
