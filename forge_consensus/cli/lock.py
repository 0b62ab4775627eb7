"""``forge-consensus lock``: run a command while a lock of the cluster is held."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import click

from forge_consensus.cli.child import Child, Interrupted, Signals
from forge_consensus.cli.connecting import client_of
from forge_consensus.cli.options import TIMEOUT_SECONDS, Duration, endpoints_option
from forge_consensus.client.sync import Client
from forge_consensus.errors import ConsensusError, LeaseLostError
from forge_consensus.process.threads import ForgeThread
from forge_consensus.process.waiters import Latch
from forge_consensus.recipes.lock import Lock
from forge_consensus.recipes.names import TTL_SECONDS_MAX, TTL_SECONDS_MIN, told
from forge_consensus.recipes.semaphore import LIMIT_MAX, Permit, Semaphore

WAIT_SECONDS_MAX: Final = 365 * 86_400.0
HINT_SECONDS: Final = 1.0
"""After so long the command says for whom it waits."""
EXIT_NOT_EXECUTABLE: Final = 126
EXIT_NOT_FOUND: Final = 127


@click.command()
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
@click.option(
    "--ttl",
    type=Duration(TTL_SECONDS_MIN, TTL_SECONDS_MAX),
    default=15.0,
    metavar="DURATION",
    show_default="15s",
    help="After so long without a sign of life the lock is taken from its holder.",
)
@click.option(
    "--timeout",
    type=Duration(0, WAIT_SECONDS_MAX),
    metavar="DURATION",
    help="For how long to wait for the lock; 0 to look once. Without it there is no limit.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, LIMIT_MAX),
    metavar="N",
    help="Take one of N permits of the semaphore of that name, instead of the lock.",
)
@click.option("--value", default="", metavar="TEXT", help="What others see of the holder.  [default: host and process]")
@click.option(
    "--grace",
    type=Duration(0, WAIT_SECONDS_MAX),
    default=10.0,
    metavar="DURATION",
    show_default="10s",
    help="How long COMMAND has to end after SIGTERM, if the lock is lost; then it gets SIGKILL.",
)
@endpoints_option
@click.pass_context
def lock(
    ctx: click.Context,
    name: str,
    command: tuple[str, ...],
    ttl: float,
    timeout: float | None,
    limit: int | None,
    value: str,
    grace: float,
    endpoints: list[str],
) -> None:
    """Wait for the lock NAME, run COMMAND while it is held, and end with its exit code.

    \b
    forge-consensus lock reports -- make report

    COMMAND finds in its environment FORGE_CONSENSUS_FENCING_TOKEN, a number that is larger than those of all holders
    before, FORGE_CONSENSUS_LOCK_NAME, FORGE_CONSENSUS_LOCK_KEY (the key that stands for the holder) and
    FORGE_CONSENSUS_ENDPOINTS. It runs in a process group of its own, to which signals are passed on.

    If the lock is lost while COMMAND runs, because the cluster cannot be reached for --ttl or somebody revoked the
    lease, the group gets SIGTERM, and SIGKILL after --grace; the exit code is 69. If the lock cannot be had within
    --timeout it is 75. A command that is not found gives 127, one that cannot be run 126, one that a signal ended 128
    and the signal's number. If this program itself is killed, COMMAND runs on: what must not be done twice has to
    look at the token.
    """  # noqa: D301 - click wants the backspace itself
    if code := unfit(command):
        ctx.exit(code)
    signals = Signals()
    try:
        with signals, client_of(endpoints, TIMEOUT_SECONDS) as client:
            lost = Latch()
            taken = Taking(client, name, ttl, limit, value, timeout, lost)
            with taken.held() as held:
                signals.starting = True
                environment = {
                    **os.environ,
                    "FORGE_CONSENSUS_LOCK_NAME": name,
                    "FORGE_CONSENSUS_LOCK_KEY": held.key,
                    "FORGE_CONSENSUS_FENCING_TOKEN": str(held.token),
                    "FORGE_CONSENSUS_ENDPOINTS": ",".join(endpoints),
                }
                code = run(command, environment, signals, lost, grace)
    except Interrupted as signal:
        ctx.exit(128 + signal.number)
    ctx.exit(code)


def unfit(command: Sequence[str]) -> int:
    """The exit code for a command that cannot be run, said on stderr; 0 if it seems fit."""
    if shutil.which(command[0]):
        return 0
    if os.path.dirname(command[0]) and os.path.exists(command[0]):
        click.echo(f"{command[0]} cannot be run: make it executable", err=True)
        return EXIT_NOT_EXECUTABLE
    click.echo(f"there is no command {command[0]!r}: give a program of the PATH, or the path of one", err=True)
    return EXIT_NOT_FOUND


def run(command: Sequence[str], environment: dict[str, str], signals: Signals, lost: Latch, grace: float) -> int:
    """Run a command until it ends or the lock is lost, and return its exit code. Raises `LeaseLostError`."""
    try:
        child = Child(command, environment, lost)
    except FileNotFoundError:
        click.echo(f"there is no command {command[0]!r}, or not the interpreter that it names", err=True)
        return EXIT_NOT_FOUND
    except OSError as error:
        click.echo(f"{command[0]} cannot be run: {error.strerror}", err=True)
        return EXIT_NOT_EXECUTABLE
    signals.pass_on_to(child)
    code = child.wait()
    if code is None:
        click.echo("the lock is lost: ending the command", err=True)
        child.end(grace)
        raise LeaseLostError("the lock was lost while the command ran: it was ended, and others may hold the lock")
    return code


class Taking:
    """The lock or the permit that a command needs, while it is awaited and held."""

    def __init__(
        self,
        client: Client,
        name: str,
        ttl: float,
        limit: int | None,
        value: str,
        timeout: float | None,
        lost: Latch,
    ) -> None:
        self.timeout = timeout
        self.recipe: Lock | Semaphore
        if limit is None:
            self.recipe = Lock(client, name, ttl, owner=value, on_lost=lost.set)
        else:
            self.recipe = Semaphore(client, name, limit, ttl, owner=value, on_lost=lost.set)

    @contextmanager
    def held(self) -> Iterator[Lock | Permit]:
        """Wait for it, yield it, and release it in the end. Raises `LeaseLostError` if it was lost before that."""
        recipe = self.recipe
        with self.hint():
            taken = recipe.acquire(self.timeout)
        held = recipe if isinstance(recipe, Lock) else taken
        assert isinstance(held, Lock | Permit)
        try:
            yield held
        except BaseException:
            with suppress(ConsensusError):
                held.release()
            raise
        try:
            held.release()
        except LeaseLostError:
            raise
        except ConsensusError as error:  # the command ended while it was held, so its code counts
            click.echo(f"the lock could not be released and is free when its lease ends: {error}", err=True)

    @contextmanager
    def hint(self) -> Iterator[None]:
        """Say on stderr for whom this waits, if that takes longer than a moment."""
        had = Latch()

        def say() -> None:
            if had.wait(HINT_SECONDS):
                return
            try:
                recipe = self.recipe
                names = recipe.contenders() if isinstance(recipe, Lock) else recipe.holders()
            except ConsensusError:
                return
            if names and not had.is_set():
                kind = recipe.line.kind
                click.echo(f"waiting for {kind} {recipe.name!r}, held by {told(names[0])}", err=True)

        ForgeThread(target=say, name="forge-lock-hint").start()
        try:
            yield
        finally:
            had.set()
