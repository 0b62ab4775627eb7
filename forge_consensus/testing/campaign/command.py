"""The command that runs campaigns, ``python -m forge_consensus.testing.campaign``: many seeds, or one seed again."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from loguru import logger

from forge_consensus.errors import InvalidConfigError
from forge_consensus.testing.campaign.machine import NamedRun
from forge_consensus.testing.campaign.run import Campaign, Settings
from forge_consensus.testing.campaign.shrink import Run, shrink
from forge_consensus.testing.campaign.state import StateFile, StateFileError, code_version
from forge_consensus.testing.simulator.failure_story import happened_text
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.plan_text import call_of
from forge_consensus.testing.simulator.trial import Trial, attempt

FOLDER = Path(".campaign")
FOUND, UNUSABLE, INTERRUPTED = 1, 2, 130
"""Exit codes: something was found; what was given is of no use; it was stopped."""
SPEED = Plan(1, nodes=5, clients=4, seconds=600.0)
SERVING = ("kill", "crash_leader_in_turn", "pause", "isolate_leader", "mend", "break_link")
SPEED_SERVING = replace(SPEED, kinds=SERVING, storage=Plan.of(1).storage)
"""Faults that leave most of the service, and snapshots: more happens in a virtual second. Measured too, only told."""
SPEED_S_MAX = 30.0


class UnusableError(click.ClickException):
    """What was given is of no use."""

    exit_code = UNUSABLE


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seeds", type=click.IntRange(min=1), default=10_000, show_default=True, help="How many seeds to run.")
@click.option("--first", type=click.IntRange(min=0), default=0, show_default=True, help="The first of them.")
@click.option("--jobs", type=click.IntRange(1, 256), default=os.cpu_count() or 1, show_default="one a core")
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    help="Where it is noted what was done; a file of the code's version in .campaign without.",
)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Begin nothing so long after the first.")
@click.option("--nodes", type=click.IntRange(1, 9), help="So many nodes in every seed, instead of what it draws.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="How long faults rage in every seed.")
@click.option(
    "--pace", type=click.FloatRange(min=1), help="All times so much longer in every seed, instead of what it draws."
)
@click.option(
    "--seed-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    help="A seed that takes longer hangs.",
)
@click.option(
    "--shrink-seconds",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="How long a failure is shrunk.",
)
@click.option(
    "--violations", type=click.IntRange(min=1), default=10, show_default=True, help="Begin nothing new after so many."
)
@click.option("--summary", "mode", flag_value="summary", help="Print what the state file says, run nothing.")
@click.option("--speed", "mode", flag_value="speed", help="Measure the simulator: five nodes, ten virtual minutes.")
@click.option("--replay", type=click.IntRange(min=0), metavar="SEED", help="Run one seed again and tell its story.")
@click.option("--shrink", "shrinks", is_flag=True, help="With --replay: shrink it if it fails.")
@click.option("--machine", metavar="MODULE:CLASS", help="A state machine of your own, for every seed.")
@click.option(
    "--workload", metavar="MODULE:CLASS", help="What clients ask of it, see forge_consensus.testing.Workload."
)
def campaign(replay: int | None, shrinks: bool, mode: str | None, state: Path | None, **options: Any) -> None:
    """Run many seeds of the simulation in parallel; start it again to go on where it was stopped.

    Exit code 0: nothing was found; 1: something was, now or earlier, even if it was stopped (Ctrl-C) since; 2: what
    was given is of no use; 130: it was stopped, and nothing was found so far.
    """
    logger.disable("forge_consensus")
    changes = {name: options[name] for name in ("nodes", "seconds", "pace") if options[name] is not None}
    if shrinks and replay is None:
        raise click.UsageError("--shrink needs --replay SEED")
    try:
        run, with_what = runner(options["machine"], options["workload"])
        with_what = [*(f"{name}={value:g}" for name, value in changes.items()), *with_what]
        path = state or FOLDER / "-".join([code_version(), *with_what]).replace("/", "_")
        settings = settings_of(options, changes)
        if mode == "speed":
            sys.exit(measure_speed())
        elif replay is not None:
            plan = replace(Plan.of(replay), **changes)
            sys.exit(replay_seed(plan, run, options["shrink_seconds"] if shrinks else 0.0, settings.options))
        elif mode == "summary":
            sys.exit(summarize(path))
        if state is None:
            make_folder()
        sys.exit(run_campaign(path, settings, run, " ".join(with_what)))
    except (StateFileError, InvalidConfigError) as error:
        raise UnusableError(str(error)) from error


def runner(machine: str | None, workload: str | None) -> tuple[Run, list[str]]:
    """What runs a plan, and what the state file says of it. Raises `InvalidConfigError`."""
    if machine is None:
        if workload is not None:
            raise click.UsageError("--workload needs --machine MODULE:CLASS")
        return attempt, []
    sys.path.insert(0, os.getcwd())
    run = NamedRun(machine, workload or "")
    run.check()
    run.build(Plan(0, nodes=1)).close()
    return run, [f"machine={machine}", *([f"workload={workload}"] if workload else []), f"written={run.version()}"]


def make_folder() -> None:
    """Make the folder where state files lie that are not named. Raises `StateFileError`."""
    try:
        FOLDER.mkdir(exist_ok=True)
    except OSError as error:
        raise StateFileError(
            f"the folder {FOLDER} cannot be made here ({error.strerror}): name a state file with --state"
        ) from error


def settings_of(options: dict[str, Any], changes: dict[str, Any]) -> Settings:
    """The settings that the options mean."""
    given = {name: options[name] for name in ("nodes", "seconds", "pace", "machine", "workload")}
    return Settings(
        options["first"],
        options["seeds"],
        options["jobs"],
        changes,
        options["minutes"],
        options["seed_seconds"],
        options["shrink_seconds"],
        options["violations"],
        1.0 if sys.stderr.isatty() else 5.0,
        "".join(f" --{name} {value}" for name, value in given.items() if value is not None),
    )


# --- the campaign ----------------------------------------------------------------------------------------------------


def run_campaign(path: Path, settings: Settings, run: Run = attempt, with_what: str = "") -> int:
    """Run it to its end, or to the first interrupt; returns the exit code. `with_what` is different from the usual."""
    state = StateFile.opened(path, code_version(), with_what or "plans as drawn")
    last = settings.first + settings.seeds - 1
    click.echo(
        f"seeds {settings.first}..{last} on {settings.jobs} processes; {path} has {len(state.done)} seeds", err=True
    )
    screen = Screen()
    work = Campaign(settings, state, screen.say, screen.progress, run)
    code = 0
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        work.run()
    except KeyboardInterrupt:
        screen.say("stopped; the same command goes on from here")
        code = INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
        state.close()
    screen.say(state.summary())
    return FOUND if state.failures else code


class Screen:
    """Where a person looks: one line that is written anew on a terminal, below what stays."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()

    def say(self, text: str) -> None:
        """Print what stays."""
        self.clear()
        click.echo(text)

    def progress(self, text: str) -> None:
        """Print how far it is."""
        self.clear()
        click.echo(text, err=True, nl=not self.live)

    def clear(self) -> None:
        """Empty the line."""
        if self.live:
            click.echo("\r\x1b[K", err=True, nl=False)


def summarize(path: Path) -> int:
    """Print what a state file says."""
    state = StateFile.read(path)
    click.echo(state.summary())
    return FOUND if state.failures else 0


# --- one seed --------------------------------------------------------------------------------------------------------


def replay_seed(plan: Plan, run: Run, shrink_s: float, options: str) -> int:
    """Run one seed and tell all of it."""
    trial = run(plan)
    click.echo(f"{call_of(trial.plan)}\n")
    if trial.failure is None:
        click.echo(f"What happened:\n{happened_text(trial.ordered)}\n\n{trial_text(trial)}\nno violation")
        return 0
    click.echo(f"{trial.failure.story}\n\n{trial_text(trial)}")
    if shrink_s:
        click.echo("\nshrinking ...", err=True)
        click.echo(f"\n{shrink(trial, run, seconds_max=shrink_s, options=options).text()}")
    return FOUND


def trial_text(trial: Trial) -> str:
    """What a run amounted to."""
    return (
        f"digest {trial.digest}: {trial.virtual_s:.1f} virtual seconds in {trial.seconds:.2f} s, {trial.turns:,} turns "
        f"checked, {trial.operations:,} operations judged, {trial.faults} faults, {trial.terms} terms led, "
        f"{trial.frames:,} frames"
    )


def measure_speed() -> int:
    """Run ten virtual minutes of five nodes under faults with the workload; 1 if that takes longer than it may."""
    began = time.monotonic()
    trial = attempt(SPEED)
    click.echo(f"{call_of(SPEED)}\n{trial_text(trial)}")
    if trial.failure is not None:
        click.echo(trial.failure.story)
        return FOUND
    within = trial.seconds <= SPEED_S_MAX
    verdict = f"within the {SPEED_S_MAX:g} s that it may take" if within else f"more than {SPEED_S_MAX:g} s: too slow"
    click.echo(f"{trial.seconds:.1f} s of one core ({time.monotonic() - began:.1f} s by the clock), {verdict}")
    serving = attempt(SPEED_SERVING)
    click.echo(f"\nwith faults that leave more of the service:\n{call_of(SPEED_SERVING)}\n{trial_text(serving)}")
    return 0 if within else FOUND
