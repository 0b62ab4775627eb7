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
from forge_consensus.finite_range import FiniteRange
from forge_consensus.testing.campaign.machine import NamedRun
from forge_consensus.testing.campaign.run import Campaign, Settings, plan_of
from forge_consensus.testing.campaign.shrink import Run, shrink
from forge_consensus.testing.campaign.state import StateFile, StateFileError, code_version
from forge_consensus.testing.simulator.failure_story import happened_text
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.plan_text import call_of
from forge_consensus.testing.simulator.trial import Trial, attempt

FOLDER = Path(".campaign")
FOUND, UNUSABLE, INTERRUPTED = 1, 2, 130
"""Exit codes: something was found; the arguments are of no use; the campaign was interrupted."""
SPEED = Plan(1, nodes=5, clients=4, seconds=600.0)
SERVING = ("kill", "crash_leader_in_turn", "pause", "isolate_leader", "mend", "break_link")
SPEED_SERVING = replace(SPEED, kinds=SERVING, storage=Plan.of(1).storage)
"""Faults that leave most of the service, and snapshots: more happens in a virtual second. Measured, without a limit."""
SPEED_SECONDS_MAX = 30.0


class UnusableError(click.ClickException):
    """An argument or a file cannot be used."""

    exit_code = UNUSABLE


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seeds", type=click.IntRange(min=1), default=10_000, show_default=True, help="How many seeds to run.")
@click.option("--first", type=click.IntRange(min=0), default=0, show_default=True, help="The first seed.")
@click.option("--jobs", type=click.IntRange(1, 256), default=os.cpu_count() or 1, show_default="one a core")
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    help="The file that records what was done; if not given, one in .campaign, named by the version of the code.",
)
@click.option("--minutes", type=FiniteRange(min=0, min_open=True), help="Start no new seed after so many minutes.")
@click.option("--nodes", type=click.IntRange(1, 9), help="The number of nodes in every seed, instead of a random one.")
@click.option(
    "--seconds",
    type=FiniteRange(min=0, min_open=True),
    help="How long faults are injected, in virtual seconds at pace 1; in seeds whose members change, twice as long.",
)
@click.option(
    "--pace",
    type=FiniteRange(min=1),
    help="The factor by which all times are stretched in every seed, instead of a random one.",
)
@click.option("--hard", is_flag=True, help="Let several unusual conditions meet in nearly every seed.")
@click.option(
    "--seed-seconds",
    type=FiniteRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    help="A seed that takes longer, in processor time, counts as hanging.",
)
@click.option(
    "--shrink-seconds",
    type=FiniteRange(min=0),
    default=60.0,
    show_default=True,
    help="How long each failure is shrunk.",
)
@click.option(
    "--violations",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Start no new seed after so many violations.",
)
@click.option("--summary", "mode", flag_value="summary", help="Print what the state file says; run nothing.")
@click.option("--speed", "mode", flag_value="speed", help="Measure the simulator: five nodes, ten virtual minutes.")
@click.option("--replay", type=click.IntRange(min=0), metavar="SEED", help="Run one seed again and print its story.")
@click.option("--shrink", "shrinks", is_flag=True, help="With --replay: shrink it if it fails.")
@click.option("--machine", metavar="MODULE:CLASS", help="A state machine of your own, for every seed.")
@click.option(
    "--workload", metavar="MODULE:CLASS", help="What clients ask of the machine, see forge_consensus.testing.Workload."
)
def campaign(replay: int | None, shrinks: bool, mode: str | None, state: Path | None, **options: Any) -> None:
    """Run many seeds of the simulation in parallel; the same command continues where it was stopped.

    Exit code 0: nothing was found; 1: something was found, now or earlier, even if the campaign was interrupted
    (Ctrl-C) since; 2: the arguments cannot be used; 130: interrupted, and nothing found so far.
    """
    logger.disable("forge_consensus")
    changes = {name: options[name] for name in ("nodes", "seconds", "pace") if options[name] is not None}
    if shrinks and replay is None:
        raise click.UsageError("--shrink needs --replay SEED")
    try:
        run, with_what = runner(options["machine"], options["workload"])
        differs = [f"{name}={value:g}" for name, value in changes.items()]
        with_what = [*differs, *(["hard"] if options["hard"] else []), *with_what]
        path = state or FOLDER / "-".join([code_version(), *with_what]).replace("/", "_")
        settings = settings_of(options, changes)
        if mode == "speed":
            sys.exit(measure_speed())
        elif replay is not None:
            plan = plan_of(replay, changes, hard=options["hard"])
            sys.exit(replay_seed(plan, run, options["shrink_seconds"] if shrinks else 0.0, settings.options))
        elif mode == "summary":
            sys.exit(summarize(path))
        if state is None:
            make_folder()
        sys.exit(run_campaign(path, settings, run, " ".join(with_what)))
    except (StateFileError, InvalidConfigError) as error:
        raise UnusableError(str(error)) from error


def runner(machine: str | None, workload: str | None) -> tuple[Run, list[str]]:
    """Return the function that runs a plan, and its description for the state file. Raises `InvalidConfigError`."""
    if machine is None:
        if workload is not None:
            raise click.UsageError("--workload needs --machine MODULE:CLASS")
        return attempt, []
    if workload == "":
        raise click.UsageError("--workload is empty: write MODULE:CLASS, or leave the option out")
    sys.path.insert(0, os.getcwd())
    run = NamedRun(machine, workload or "")
    run.check()
    run.build(Plan(0, nodes=1)).close()
    return run, [f"machine={machine}", *([f"workload={workload}"] if workload else []), f"written={run.version()}"]


def make_folder() -> None:
    """Make the folder for state files without a given name. Raises `StateFileError`."""
    try:
        FOLDER.mkdir(exist_ok=True)
    except OSError as error:
        raise StateFileError(
            f"the folder {FOLDER} cannot be made here ({error.strerror}): name a state file with --state"
        ) from error


def settings_of(options: dict[str, Any], changes: dict[str, Any]) -> Settings:
    """Return the settings that the options mean."""
    given = {name: options[name] for name in ("nodes", "seconds", "pace", "machine", "workload")}
    return Settings(
        options["first"],
        options["seeds"],
        options["jobs"],
        changes,
        options["hard"],
        options["minutes"],
        options["seed_seconds"],
        options["shrink_seconds"],
        options["violations"],
        1.0 if sys.stderr.isatty() else 5.0,
        "".join(f" --{name} {value}" for name, value in given.items() if value is not None)
        + (" --hard" if options["hard"] else ""),
    )


# --- the campaign ----------------------------------------------------------------------------------------------------


def run_campaign(path: Path, settings: Settings, run: Run = attempt, with_what: str = "") -> int:
    """Run a campaign to its end or to the first interrupt; return the exit code. `with_what` names what differs."""
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
        screen.say("stopped; the same command continues from here")
        code = INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
        state.close()
    screen.say(state.summary())
    return FOUND if state.failures else code


class Screen:
    """The output: on a terminal, one line of progress that is overwritten, below the lines that stay."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.clear()
        click.echo(text)

    def progress(self, text: str) -> None:
        """Show how far the campaign is; on a terminal, in the place of what was shown before."""
        self.clear()
        click.echo(text, err=True, nl=not self.live)

    def clear(self) -> None:
        """Take the progress off a terminal, so that the next line can stand in its place."""
        if self.live:
            click.echo("\r\x1b[K", err=True, nl=False)


def summarize(path: Path) -> int:
    """Print the contents of a state file; return the exit code."""
    state = StateFile.read(path)
    click.echo(state.summary())
    return FOUND if state.failures else 0


# --- one seed --------------------------------------------------------------------------------------------------------


def replay_seed(plan: Plan, run: Run, shrink_seconds: float, options: str) -> int:
    """Run one seed and print everything about it; return the exit code."""
    trial = run(plan)
    click.echo(f"{call_of(trial.plan)}\n")
    if trial.failure is None:
        click.echo(f"What happened:\n{happened_text(trial.ordered)}\n\n{trial_text(trial)}\nno violation")
        return 0
    click.echo(f"{trial.failure.story}\n\n{trial_text(trial)}")
    if shrink_seconds:
        click.echo("\nshrinking ...", err=True)
        click.echo(f"\n{shrink(trial, run, seconds_max=shrink_seconds, options=options).text()}")
    return FOUND


def trial_text(trial: Trial) -> str:
    """Return the measures of a run."""
    return (
        f"digest {trial.digest}: {trial.virtual_seconds:.1f} virtual seconds in {trial.seconds:.2f} s, "
        f"{trial.turns:,} turns checked, {trial.operations:,} operations judged, {trial.faults} faults, "
        f"{trial.terms} terms led, {trial.frames:,} frames"
    )


def measure_speed() -> int:
    """Run ten virtual minutes of five nodes under faults; return 1 if that takes longer than the limit."""
    began = time.monotonic()
    trial = attempt(SPEED)
    click.echo(f"{call_of(SPEED)}\n{trial_text(trial)}")
    if trial.failure is not None:
        click.echo(trial.failure.story)
        return FOUND
    within = trial.seconds <= SPEED_SECONDS_MAX
    verdict = (
        f"within the {SPEED_SECONDS_MAX:g} s that it may take"
        if within
        else f"more than {SPEED_SECONDS_MAX:g} s: too slow"
    )
    click.echo(f"{trial.seconds:.1f} s of one core ({time.monotonic() - began:.1f} s by the clock), {verdict}")
    serving = attempt(SPEED_SERVING)
    click.echo(f"\nwith faults that leave more of the service:\n{call_of(SPEED_SERVING)}\n{trial_text(serving)}")
    return 0 if within else FOUND
