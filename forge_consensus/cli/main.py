"""The command line: its commands, imported when they are called, and the exit codes of its errors."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import click

from forge_consensus.errors import ConsensusError
from forge_consensus.missing import EXIT_NOT_INSTALLED, missing_text
from forge_consensus.version import __version__

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

PROGRAM = "forge-consensus"
CONTEXT_VARIABLE = "FORGE_CONSENSUS_CONTEXT"
ENDPOINTS_VARIABLE = "FORGE_CONSENSUS_ENDPOINTS"
CONFIG_VARIABLE = "FORGE_CONSENSUS_CONFIG"
PRECEDENCE = (
    f"the first of these that is given wins: --endpoints, --context, --config or {CONFIG_VARIABLE}, "
    f"{ENDPOINTS_VARIABLE}, {CONTEXT_VARIABLE}, the current context"
)
"""Which cluster commands ask; helps and errors say it."""
UNREAD_SECONDS_MAX = 3.0
"""How long the last word of a command waits for somebody who reads stderr; then the command ends all the same."""

EXIT_CODES = """\b
Exit codes:
  0    ok
  1    key not found, cas or transaction did not match, lease lost, cluster unhealthy, a check failed
  2    wrong usage
  65   bad data: a command too large or refused by the machine, a damaged folder or file
  66   a folder or file is missing
  69   unavailable: no leader, no quorum, nobody answers, address in use, a lock was lost
  70   internal: the store failed or is damaged, an error that has no name
  75   timed out; the outcome may be unknown
  77   not authorised
  78   wrong configuration: addresses, peers, identity, folder in use, an extra that is not installed
  130  interrupted"""

FAMILIAR = {
    "set": "put", "read": "get", "del": "delete", "rm": "delete", "remove": "delete", "increment": "incr",
    "list": "scan", "ls": "scan", "start": "node", "run": "node", "server": "node", "nodes": "members",
    "health": "status", "monitor": "top", "check": "verify", "benchmark": "bench", "options": "settings",
}  # fmt: skip
"""What other tools call these commands."""

ALIASES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("member",): ("members",),
    ("operator", "raft", "list-peers"): ("members", "list"),
    ("operator", "raft", "transfer-leader"): ("leader", "stepdown"),
    ("quorum", "status"): ("status",),
    ("endpoint", "status"): ("status",),
    ("endpoint", "health"): ("status",),
    ("kv", "del"): ("kv", "delete"),
    ("kv", "txn"): ("kv", "transaction"),
}
"""The first words of commands as etcdctl, consul and rabbitmq have them -> those of the same commands here."""


def translated(arguments: list[str]) -> list[str]:
    """Return the arguments with the words of another tool replaced by those that are used here."""
    for words, here in ALIASES.items():
        if tuple(arguments[: len(words)]) == words:
            return [*here, *arguments[len(words) :]]
    return arguments


class Commands(click.Group):
    """A group whose commands are imported when they are called, so that each starts as fast as possible."""

    homes: ClassVar[dict[str, tuple[str, str]]] = {}
    """Command -> (module and attribute, first line of its help)."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which the help lists them."""
        return [*self.homes, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, imported if need be."""
        if cmd_name not in self.homes:
            return super().get_command(ctx, cmd_name)
        module, _, name = self.homes[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command), f"{module}:{name} is a command"
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one is refused with what may have been meant."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-") and not ctx.resilient_parsing:
            known = self.list_commands(ctx)
            meant = [FAMILIAR[name]] if FAMILIAR.get(name) in known else difflib.get_close_matches(name, known, 2)
            hint = f"did you mean {' or '.join(meant)}?" if meant else f"there are {', '.join(known)}"
            ctx.fail(f"no such command {name!r}: {hint}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """Return what can stand here, without importing the commands."""
        if not self.homes:
            return super().shell_complete(ctx, incomplete)
        from click.shell_completion import CompletionItem

        known = {name: command.get_short_help_str() for name, command in self.commands.items()}
        known |= {name: text for name, (_, text) in self.homes.items()}
        found = [CompletionItem(name, help=text) for name, text in known.items() if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        rows = [
            (name, self.homes[name][1] if name in self.homes else self.commands[name].get_short_help_str(90))
            for name in self.list_commands(ctx)
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Every group ends with the exit codes."""
        formatter.write_paragraph()
        formatter.write_text(EXIT_CODES)


class Root(Commands):
    """The outermost group: it turns every error of a command into a line on stderr and an exit code."""

    homes: ClassVar[dict[str, tuple[str, str]]] = {
        "node": ("forge_consensus.cli.node:node", "Run one node in the foreground."),
        "dev": ("forge_consensus.cli.dev:dev", "Start three nodes with the dashboard in one terminal."),
        "init": ("forge_consensus.cli.init:init", "Ask what a node needs, and write its configuration file."),
        "kv": ("forge_consensus.cli.kv:kv", "Read, change and watch keys of the built-in machine."),
        "lease": ("forge_consensus.cli.lease:lease", "Grant, keep alive and revoke leases, with which keys go."),
        "lock": ("forge_consensus.cli.lock:lock", "Run a command while a lock of the cluster is held."),
        "members": (
            "forge_consensus.cli.members:members",
            "List, add, remove, promote, demote, move members.",
        ),
        "leader": ("forge_consensus.cli.leader:leader", "Show who leads, or hand the leadership over."),
        "snapshot": ("forge_consensus.cli.snapshot:snapshot", "Save the state, look at a backup, restore one."),
        "status": ("forge_consensus.cli.status:status", "Show the whole cluster on one screen."),
        "top": ("forge_consensus.cli.top:top", "Watch the whole cluster on a screen that refreshes itself."),
        "doctor": ("forge_consensus.cli.doctor:doctor", "Look for everything that may be wrong, and say what to do."),
        "check": (
            "forge_consensus.cli.check:check",
            "Check what a cluster can lose, how fast a disk or a cluster is.",
        ),
        "bench": ("forge_consensus.cli.bench:bench", "Measure how much a cluster of your own does in a second."),
        "events": ("forge_consensus.cli.events:events", "Show the events of the nodes."),
        "log": ("forge_consensus.cli.log:log", "Check a node's log, or look at it, while the node is stopped."),
        "storage": ("forge_consensus.cli.storage:storage", "Give the disk back what a stopped node does not need."),
        "recover": (
            "forge_consensus.cli.recover:recover",
            "Make one survivor of a lost majority a cluster of its own.",
        ),
        "auth": ("forge_consensus.cli.auth:auth", "Say who may do what: tokens, keys, users."),
        "audit": (
            "forge_consensus.cli.audit:audit",
            "Check and show who administered, and who was denied what.",
        ),
        "keygen": ("forge_consensus.cli.keygen:keygen", "Make a pair of keys for a node or a client."),
        "cert": ("forge_consensus.cli.cert:cert", "Make an authority, issue, renew and show certificates."),
        "context": ("forge_consensus.cli.context:context", "Name clusters, and choose the one that commands ask."),
        "config": (
            "forge_consensus.cli.config:config",
            "Check, show, write and reload configuration files.",
        ),
        "settings": ("forge_consensus.cli.settings:settings", "List every setting, its default and the reason for it."),
        "completion": (
            "forge_consensus.cli.completion:completion",
            "Print the script by which a shell completes commands.",
        ),
        "demo": ("forge_consensus.demo.command:demo", "Start a cluster, kill its leader, watch it go on."),
    }

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, also by the words of another tool."""
        return super().resolve_command(ctx, translated(args))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error ends it as `end_with` says."""
        try:
            return super().invoke(ctx)
        except click.Abort as abort:
            if not isinstance(abort.__context__, KeyboardInterrupt):
                raise
            ctx.exit(end_with(abort.__context__))  # at a question, which click ends like the end of the answers
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise
        except (Exception, KeyboardInterrupt) as error:
            ctx.exit(end_with(error))


def end_with(error: BaseException) -> int:
    """Write to stderr what went wrong, and return the exit code for it; end the process if nobody reads stderr."""
    text, code = told_of(error)
    late = threading.Timer(UNREAD_SECONDS_MAX, os._exit, (code,))
    late.daemon = True
    late.start()
    try:
        click.echo(text, err=True)
    finally:
        late.cancel()
    return code


def told_of(error: BaseException) -> tuple[str, int]:
    """Return what to say of an error, and its exit code."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if text := missing_text(error):
        return text, EXIT_NOT_INSTALLED
    if isinstance(error, ConsensusError):
        return f"error[{error.code}]: {error}", error.exit_code
    lines = "".join(traceback.format_exception(error))
    return (
        f"{lines}error[INTERNAL]: {type(error).__name__}: {error}. This is a bug of {PROGRAM}: please report it with "
        "the lines above"
    ), 70


def complete_context(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Return the names of contexts for the shell; their file is read by then only."""
    from forge_consensus.cli.contexts import complete_names

    return complete_names(ctx, param, incomplete)


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name=PROGRAM)
@click.option(
    "--context",
    metavar="NAME",
    envvar=CONTEXT_VARIABLE,
    show_envvar=True,
    shell_complete=complete_context,
    help=f"The cluster to ask, by the name that {PROGRAM} context set gave it; {PRECEDENCE}.",
)
def cli(context: str | None) -> None:
    """Raft consensus as an event-driven actor system."""
    # options.py looks for the context when a command asks a cluster; the others take no notice of it


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end the process with its exit code."""
    sys.exit(cli.main(args=None if arguments is None else list(arguments), prog_name=PROGRAM))
