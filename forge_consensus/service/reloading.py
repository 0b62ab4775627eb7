"""Reading a running node's configuration again: whole, checked whole, compared, and taken by the node in one step.

A configuration with faults changes nothing. What a restart alone can change stays as it is, and is named. One reading
goes on at a time; who asks meanwhile gets the result of the next one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from forge_consensus.actors.runtime.audit import OPERATOR, Act, Outcome, Who, record_of
from forge_consensus.actors.runtime.engine import SettingsChange
from forge_consensus.config.changes import HOT_PROGRAM, ReloadPlan, ReloadReport, plan_of
from forge_consensus.config.given import ConfigProblemsError, Given
from forge_consensus.config.loading import LoadedConfig
from forge_consensus.config.node import NodeSettings
from forge_consensus.config.program import ProgramSettings
from forge_consensus.config.shown import values_of
from forge_consensus.errors import ConsensusError, ConsensusTimeoutError, InvalidConfigError, fresh
from forge_consensus.events.types import AuditRecorded, ConfigRejected, ConfigReloaded, ConfigUpdated, ConsensusEvent
from forge_consensus.process.log import LogLines

LINES = LogLines(__name__)

SECONDS: Final = 5.0
"""How long a reading waits for the one before it, and how long for the node to take the settings."""
PAUSE_SECONDS: Final = 0.05
"""Readings are at least so far apart, so that whoever asks all the time does not occupy the node's process."""
LOOK_SECONDS: Final = 0.05
"""How often who waits for a reading looks whether one has ended."""
PROBLEMS_MAX: Final = 50
PROBLEM_CHARS_MAX: Final = 500
"""An event has so many faults, each with so many characters, at most; errors tell all of them."""
IN_APPLICATION: Final = frozenset(name for name in HOT_PROGRAM if name.startswith("reload."))
"""The hot settings of a program that an application follows: it decides by itself how it logs and when it ends."""
NO_FILE: Final = "no file was given at the start, so there is nothing to read again: start the node with -c FILE"

ASKED_FOR: Final = frozenset({"client", "api"})
"""The triggers of readings that somebody asked for over the network."""

TakeSettings = Callable[[SettingsChange, float], None]
"""Has the node take settings, within so many seconds; raises `ConsensusError` if it has not."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The last reading, for those who asked before it began."""

    began: float
    """In seconds of `time.monotonic`."""
    dry_run: bool
    outcome: ReloadReport | ConsensusError


class Reloader:
    """The configuration of one node: what is in force, what a restart would take, and how it is read again.

    Safe to use from any thread but the node's own, because it waits for the node. It takes a lock, so no signal handler
    may call it: `forge_consensus.service.config_watch.ConfigWatcher.ask` is for those.

    Args:
        config: the configuration with which the node starts.
        take: has the node take settings.
        followed: the hot settings of a program that this program follows.

    """

    def __init__(self, config: LoadedConfig, take: TakeSettings, followed: Collection[str] = IN_APPLICATION) -> None:
        self.running = config
        """The values in force."""
        self.found = config
        """The last valid configuration that was read: what the next start of the node takes."""
        self.problems: tuple[str, ...] = ()
        """The faults of the last reading; empty if it had none."""
        self.read_at: float | None = None
        """The wall time of the last reading, in seconds since 1970; None before the first one."""
        self.take = take
        self.followed = followed
        self.listeners: list[Callable[[ProgramSettings], object]] = []
        """Called with a program's settings after some of them have changed."""
        self.lock = threading.Lock()
        self.last: Reading | None = None
        self.ended = 0.0

    @property
    def files(self) -> tuple[str, ...]:
        """The files that are read, as they were given."""
        source = self.running.source
        return tuple(str(path) for path in source.files) if source is not None else ()

    @property
    def plan(self) -> ReloadPlan:
        """How the last configuration that was read differs from the one in force."""
        return plan_of(self.running, self.found, self.followed)

    def begin_with(self, config: LoadedConfig) -> None:
        """Let this be the configuration with which the node starts."""
        self.running = self.found = config

    def adopt(self) -> LoadedConfig:
        """Let the last configuration that was read be in force, because the node starts anew; return it."""
        machine = self.running.program.machine  # it was made, or chosen, when the program began
        self.running = replace(self.found, program=replace(self.found.program, machine=machine))
        return self.running

    # --- reading -----------------------------------------------------------------------------------------------------

    def reload(self, trigger: str, *, dry_run: bool = False, timeout: float = SECONDS) -> ReloadReport:
        """Read the configuration again from where it was given, and have the node take what can change at once.

        Args:
            trigger: who wants it, for events and reports.
            dry_run: whether only to say what would change.
            timeout: seconds.

        Raises `InvalidConfigError` with every fault, `NotStartedError`, `ConsensusTimeoutError`. Then everything is as
        it was.

        """
        if not self.files:
            raise InvalidConfigError(NO_FILE)
        return self.one_by_one(self.read_again, trigger, dry_run=dry_run, timeout=timeout)

    def take_config(
        self, config: LoadedConfig | NodeSettings, *, dry_run: bool = False, timeout: float = SECONDS
    ) -> ReloadReport:
        """Have the node take what can change at once of a configuration that a program gives; as `reload`."""
        with held(self.lock, timeout):
            given = self.with_node(config) if isinstance(config, NodeSettings) else config
            return self.carried_out(given, "call", dry_run=dry_run, timeout=timeout)

    def with_node(self, node: NodeSettings) -> LoadedConfig:
        """Return the configuration in force with other settings of the node, whose origin is a call."""
        given = replace(self.running, node=node)
        old, new = values_of(self.running), values_of(given)
        called = {name: Given(name, new[name], "call") for name in new if new[name] != old[name]}
        return replace(given, origins={**self.running.origins, **called})

    def for_client(self, dry_run: bool) -> dict[str, Any]:
        """Read the configuration again because a client asks; the engine calls it on a helper thread."""
        return self.reload("client", dry_run=dry_run).to_dict()

    def one_by_one(
        self, read: Callable[[], LoadedConfig], trigger: str, *, dry_run: bool, timeout: float
    ) -> ReloadReport:
        """Read when nobody else does; who waited while another reading began and ended gets the outcome of that one."""
        asked, found = time.monotonic(), list[Reading]()

        def is_shared() -> bool:
            last = self.last
            if last is not None and last.began >= asked and last.dry_run == dry_run:
                found.append(last)
            return bool(found)

        with held(self.lock, timeout, unless=is_shared):
            if is_shared():
                shared = found[0].outcome
                if isinstance(shared, ConsensusError):
                    raise fresh(shared) from shared
                return shared
            pause = self.ended + PAUSE_SECONDS - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            began = time.monotonic()
            try:
                outcome = self.carried_out(read(), trigger, dry_run=dry_run, timeout=timeout)
            except ConsensusError as error:
                if isinstance(error, InvalidConfigError):
                    self.reject(error, trigger, dry_run=dry_run)
                self.last = Reading(began, dry_run, error)
                raise
            finally:
                self.ended = time.monotonic()
            self.last = Reading(began, dry_run, outcome)
            return outcome

    def read_again(self) -> LoadedConfig:
        """Read the configuration from where it was given. Raises `InvalidConfigError`."""
        source = self.running.source
        assert source is not None, "there are files to read"
        return source.load_again(self.running)

    # --- carrying out ------------------------------------------------------------------------------------------------

    def carried_out(self, wanted: LoadedConfig, trigger: str, *, dry_run: bool, timeout: float) -> ReloadReport:
        """Have the node take what can change at once. Raises `ConsensusError`; then everything is as it was."""
        plan = plan_of(self.running, wanted, self.followed)
        if not dry_run:
            change = SettingsChange(
                plan.config.node.raft,
                plan.config.node.storage,
                plan.named("restart"),
                tuple(events_of(plan, trigger)),
                plan.config.node.security,
                records=record_of_reload(trigger, "done", ", ".join(change.name for change in plan.changed)),
            )
            self.take(change, timeout)
            before, self.running, self.found = self.running, plan.config, wanted
            self.problems, self.read_at = (), time.time()
            if before.program != self.running.program:
                self.tell_program()
        return ReloadReport(
            node_id=self.running.node.node_id,
            trigger=trigger,
            dry_run=dry_run,
            changed=plan.changed,
            waiting=plan.waiting,
            notes=plan.notes,
            files=self.files,
        )

    def tell_program(self) -> None:
        """Tell the program that some of its own settings have changed."""
        for listener in self.listeners:
            try:
                listener(self.running.program)
            except Exception as error:
                LINES.error("a setting of the program could not take effect", error=error)

    def reject(self, error: InvalidConfigError, trigger: str, *, dry_run: bool) -> None:
        """Tell that a configuration has faults, unless somebody only wanted to know; the node goes on with the old."""
        if dry_run:
            return
        problems = problems_of(error)
        self.problems, self.read_at = problems, time.time()
        node = self.running.node
        told = ConfigRejected(
            trigger=trigger, problems=tuple(problem[:PROBLEM_CHARS_MAX] for problem in problems[:PROBLEMS_MAX])
        )
        records = record_of_reload(trigger, "failed", problems[0] if problems else "", error.code)
        change = SettingsChange(node.raft, node.storage, self.plan.named("restart"), (told,), records=records)
        try:
            self.take(change, SECONDS)
        except ConsensusError:  # the node ends, or has ended
            LINES.error("the configuration was refused, and nothing has changed: {}", error)


@contextmanager
def held(lock: threading.Lock, timeout: float, unless: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Hold a lock, or go on without it as soon as `unless` is true, because a lock passes over some who wait for it.

    Raises `ConsensusTimeoutError` if neither is so within so many seconds.
    """
    end = time.monotonic() + timeout
    while not (taken := lock.acquire(timeout=min(LOOK_SECONDS, max(0.0, end - time.monotonic())))):
        if unless():
            break
        if time.monotonic() >= end:
            raise ConsensusTimeoutError(
                f"another reading of the configuration goes on for longer than {timeout:g} s, perhaps because a disk "
                "does not answer: nothing was read for this one, try again later"
            )
    try:
        yield
    finally:
        if taken:
            lock.release()


def record_of_reload(trigger: str, outcome: Outcome, subject: str, code: str = "") -> tuple[AuditRecorded, ...]:
    """Return what the audit has of a reading that nobody asked a node or its API for, who record it themselves.

    Args:
        trigger: what brought it about.
        outcome: what came of it.
        subject: the settings that changed, or what is wrong.
        code: the code of the error.

    """
    if trigger in ASKED_FOR:
        return ()
    who = Who("", "application", origin="local") if trigger == "call" else OPERATOR
    return (record_of(Act(who, "ReloadConfig", f"{trigger}: {subject}" if subject else trigger), outcome, code),)


def problems_of(error: InvalidConfigError) -> tuple[str, ...]:
    """Return the faults of a configuration, one line each."""
    return error.problems if isinstance(error, ConfigProblemsError) else (str(error),)


def events_of(plan: ReloadPlan, trigger: str) -> list[ConsensusEvent]:
    """Return what the node publishes when it has taken the settings."""
    names = tuple(change.name for change in plan.changed)
    reloaded = ConfigReloaded(
        trigger=trigger, changed=names, pending_restart=plan.named("restart"), founding=plan.named("founding")
    )
    if not names:
        return [reloaded]
    updated = ConfigUpdated(
        trigger=trigger,
        settings=names,
        old=tuple(change.old for change in plan.changed),
        new=tuple(change.new for change in plan.changed),
    )
    return [updated, reloaded]
