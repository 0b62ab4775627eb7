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

from forge_consensus.testing.campaign_run import Campaign, Settings
from forge_consensus.testing.campaign_state import StateFile, StateFileError, code_version
from forge_consensus.testing.failure_story import happened_text
from forge_consensus.testing.plan import Plan
from forge_consensus.testing.plan_text import call_of
from forge_consensus.testing.shrink import Run, shrink
from forge_consensus.testing.trial import Trial, attempt

FOLDER = Path(".campaign")
FOUND, UNUSABLE, INTERRUPTED = 1, 2, 130
"""Exit codes: something was found; what was given is of no use; it was stopped."""
SPEED = {
    "faults of all kinds, which leave little service": Plan(1, nodes=5, clients=4, seconds=600.0),
    "faults that leave most of the service": Plan(
        1,
        nodes=5,
        clients=4,
        seconds=600.0,
        kinds=(
            "kill",
            "crash_leader_in_turn",
            "pause",
            "isolate_leader",
            "mend",
            "break_link",
            "snapshot",
            "jump_clock",
        ),
    ),
}
"""What is measured. A cluster that serves does more in a virtual second than one without a leader."""
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
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Begin nothing new after so long.")
@click.option("--nodes", type=click.IntRange(1, 9), help="So many nodes in every seed, instead of what it draws.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="How long faults rage in every seed.")
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
def campaign(replay: int | None, shrinks: bool, mode: str | None, state: Path | None, **options: Any) -> None:
    """Run many seeds of the simulation in parallel; start it again to go on where it was stopped.

    Exit code 0: nothing was found; 1: something was; 2: what was given is of no use; 130: it was stopped.
    """
    logger.disable("forge_consensus")
    changes = {name: options[name] for name in ("nodes", "seconds") if options[name] is not None}
    if shrinks and replay is None:
        raise click.UsageError("--shrink needs --replay SEED")
    try:
        if mode == "speed":
            sys.exit(measure_speed())
        elif replay is not None:
            sys.exit(replay_seed(replace(Plan.of(replay), **changes), options["shrink_seconds"] if shrinks else 0.0))
        elif mode == "summary":
            sys.exit(summarize(state or usual_path(changes)))
        sys.exit(run_campaign(state or usual_path(changes), settings_of(options, changes)))
    except StateFileError as error:
        raise UnusableError(str(error)) from error


def usual_path(changes: dict[str, Any]) -> Path:
    """Where a campaign is noted that names no file: one for each version of the code."""
    return FOLDER / "-".join([code_version(), *(f"{name}-{value:g}" for name, value in changes.items())])


def settings_of(options: dict[str, Any], changes: dict[str, Any]) -> Settings:
    """The settings that the options mean."""
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
    )


# --- the campaign ----------------------------------------------------------------------------------------------------


def run_campaign(path: Path, settings: Settings, run: Run = attempt) -> int:
    """Run it to its end, or to the first interrupt; returns the exit code."""
    with_changes = " ".join(f"{name}={value:g}" for name, value in settings.changes.items())
    state = StateFile.opened(path, code_version(), with_changes or "plans as drawn")
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


def replay_seed(plan: Plan, shrink_s: float) -> int:
    """Run one seed and tell all of it."""
    trial = attempt(plan)
    click.echo(f"{call_of(trial.plan)}\n")
    if trial.failure is None:
        click.echo(f"What happened:\n{happened_text(trial.ordered)}\n\n{trial_text(trial)}\nno violation")
        return 0
    click.echo(f"{trial.failure.story}\n\n{trial_text(trial)}")
    if shrink_s:
        click.echo("\nshrinking ...", err=True)
        click.echo(f"\n{shrink(trial, seconds_max=shrink_s).text()}")
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
    code = 0
    for what, plan in SPEED.items():
        began = time.monotonic()
        trial = attempt(plan)
        click.echo(f"{what}: {call_of(plan)}\n  {trial_text(trial)}")
        if trial.failure is not None:
            click.echo(trial.failure.story)
            return FOUND
        within = trial.seconds <= SPEED_S_MAX
        verdict = (
            f"within the {SPEED_S_MAX:g} s that it may take" if within else f"more than {SPEED_S_MAX:g} s: too slow"
        )
        click.echo(f"  {trial.seconds:.1f} s of one core ({time.monotonic() - began:.1f} s by the clock), {verdict}")
        code = code if within else FOUND
    return code


if __name__ == "__main__":
    campaign(prog_name="python -m forge_consensus.testing.campaign")
