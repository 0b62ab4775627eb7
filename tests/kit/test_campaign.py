"""Tests of the campaign: every seed runs once despite crashes and interrupts, and every finding is reported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from forge_consensus.testing.campaign import command
from forge_consensus.testing.campaign import run as campaign_run
from forge_consensus.testing.campaign import worker as campaign_worker
from forge_consensus.testing.campaign.command import campaign, run_campaign
from forge_consensus.testing.campaign.run import Campaign, Settings
from forge_consensus.testing.campaign.shrink import Run, shrink
from forge_consensus.testing.campaign.state import StateFile, StateFileError
from forge_consensus.testing.simulator.plan import Plan
from tests.worlds import campaign_runs
from tests.worlds.campaign_runs import ODD

WAIT_SECONDS_MAX = 90.0


def settings(seeds: int, **changes: Any) -> Settings:
    return replace(Settings(0, seeds, 2, progress_seconds=0.5, shrink_seconds_max=0.0), **changes)


def seeds_in(path: Path) -> list[int]:
    return [int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith("seed ")]


def found_in(path: Path) -> dict[tuple[int, str], str]:
    return StateFile.read(path).failures


def ran(path: Path, run: Run, seeds: int = 8, **changes: Any) -> int:
    return run_campaign(path, settings(seeds, **changes), run)


def test_every_seed_is_run_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "state"
    assert ran(path, campaign_runs.small, 20) == 0
    assert sorted(seeds_in(path)) == list(range(20))
    said = capfd.readouterr()
    assert "no violation" in said.out
    assert "seeds 0..19" in said.out
    assert "20 of 20 seeds" in said.err
    assert "violations, 0 s left" in said.err


def test_a_finished_campaign_runs_nothing_and_an_extended_one_runs_only_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "state"
    assert ran(path, campaign_runs.small, 4) == 0
    before = path.read_text()
    assert ran(path, campaign_runs.dying, 4) == 0  # it would die of seed 3
    assert path.read_text() == before
    assert ran(path, campaign_runs.dying, 7) == 0
    assert sorted(seeds_in(path)) == list(range(7))


def test_a_seed_that_hangs_is_named_with_the_place_where_it_hangs(tmp_path: Path) -> None:
    path = tmp_path / "state"
    assert ran(path, campaign_runs.hanging, seed_seconds_max=8.0) == 1
    assert found_in(path) == {(ODD, "hangs"): "the process that ran it hangs after 8 s"}
    assert sorted(seeds_in(path)) == list(range(8))
    assert "in for_ever" in Path(f"{path}.seed-{ODD}.txt").read_text()


def test_a_seed_that_waits_for_a_processor_does_not_hang(tmp_path: Path) -> None:
    path = tmp_path / "state"
    assert ran(path, campaign_runs.crowded_out, ODD + 1, seed_seconds_max=3.0) == 0
    assert found_in(path) == {}


def test_a_seed_whose_process_dies_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state"
    assert ran(path, campaign_runs.dying) == 1
    assert found_in(path) == {(ODD, "died"): "the process that ran it died with exit code -9"}
    assert sorted(seeds_in(path)) == list(range(8))


def test_a_seed_that_does_not_replay_is_found(tmp_path: Path) -> None:
    path = tmp_path / "state"
    assert ran(path, campaign_runs.differing) == 1
    assert list(found_in(path)) == [(0, "replay")]


def test_a_violation_is_shrunk_printed_and_saved(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "state"
    changes = {"nodes": 3, "seconds": 6.0, "pace": 1.0}
    assert ran(path, campaign_runs.with_mutant, 60, shrink_seconds_max=3.0, violations_max=1, changes=changes) == 1
    found = found_in(path)
    assert "I7" in {kind for _, kind in found}
    said = capfd.readouterr().out
    for seed, _ in found:
        saved = Path(f"{path}.seed-{seed}.txt").read_text()
        assert "Shrunk from" in saved
        assert "The last messages" in saved
        assert saved.strip() in said
    assert "violations:\n" in said
    assert len(seeds_in(path)) < 60  # nothing new was begun after the first


def test_a_campaign_begins_no_seed_after_its_time_limit(tmp_path: Path) -> None:
    path = tmp_path / "state"
    # less than what a worker takes to start: the time begins with the first seed
    assert ran(path, campaign_runs.slow, 100_000, minutes=0.005) == 0
    assert 0 < len(seeds_in(path)) < 10_000


def test_the_campaign_ends_if_its_workers_never_become_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign_run, "START_SECONDS_MAX", 0.3)
    monkeypatch.setattr(campaign_worker, "DUMP_SECONDS_MAX", 0.1)
    with pytest.raises(StateFileError, match=r"no worker starts: the last one ended after 0\.3 s"):
        ran(tmp_path / "state", campaign_runs.NeverReady(), minutes=60.0)


def test_a_change_of_the_code_ends_a_running_campaign(tmp_path: Path) -> None:
    state = StateFile.opened(tmp_path / "state", "the code as it was", "plans as drawn")
    with pytest.raises(StateFileError, match="the code changed while the campaign ran"):
        Campaign(settings(4), state, print, print, campaign_runs.small).run()
    state.close()
    assert seeds_in(state.path) == []


# --- ended in its midst ----------------------------------------------------------------------------------------------

PROGRAM = """
import signal
import sys
from pathlib import Path
from forge_consensus.testing.campaign.command import run_campaign
from forge_consensus.testing.campaign.run import Campaign, Settings
from tests.worlds import campaign_runs
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts tests in the background has them ignore it
    sys.exit(run_campaign(Path(sys.argv[1]), Settings(0, 40, 2, progress_seconds=0.2), campaign_runs.slow))
"""


def start(folder: Path) -> subprocess.Popen[str]:
    script = folder / "program.py"
    script.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))}
    return subprocess.Popen(
        [sys.executable, str(script), str(folder / "state")],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_SECONDS_MAX
    while not holds():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ended_in_its_midst(folder: Path, how: signal.Signals) -> tuple[subprocess.Popen[str], float, str]:
    """A campaign that gets a signal once some seeds are done; returns it, how long it took to end, what it said."""
    state = folder / "state"
    process = start(folder)
    try:
        wait_until(lambda: state.exists() and len(seeds_in(state)) > 5)
        workers = children(process.pid)
        process.send_signal(how)
        began = time.monotonic()
        said, _ = process.communicate(timeout=WAIT_SECONDS_MAX)
        took = time.monotonic() - began
        wait_until(lambda: not any(map(runs, workers)))
        return process, took, said
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_campaign_ends_soon_and_says_how_to_resume(tmp_path: Path, how: signal.Signals) -> None:
    process, took, said = ended_in_its_midst(tmp_path, how)
    assert process.returncode == 130
    assert took < 20.0  # less than half a second where nothing else runs
    assert "the same command continues from here" in said
    assert "Traceback" not in said
    assert 5 < len(seeds_in(tmp_path / "state")) < 40


def test_a_killed_campaign_resumes_without_losing_a_seed_or_counting_one_twice(tmp_path: Path) -> None:
    state = tmp_path / "state"
    ended_in_its_midst(tmp_path, signal.SIGKILL)
    before = seeds_in(state)
    assert 5 < len(before) < 40
    process = start(tmp_path)
    try:
        said, _ = process.communicate(timeout=WAIT_SECONDS_MAX)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    assert process.returncode == 0, said
    assert f"has {len(before)} seeds" in said
    assert sorted(seeds_in(state)) == list(range(40))
    assert StateFile.read(state).totals[0].seeds == 40


# --- the command -----------------------------------------------------------------------------------------------------


def command_with(*arguments: str) -> Result:
    return CliRunner().invoke(campaign, arguments)


CLOCK = ("--machine", "tests.worlds.campaign_runs:ClockMachine")


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["--seeds", "-5"], "-5 is not in the range x>=1"),
        (["--first", "-1"], "-1 is not in the range x>=0"),
        (["--seeds", "many"], "'many' is not a valid integer"),
        (["--jobs", "0"], "0 is not in the range"),
        (["--minutes", "0"], "0 is not in the range"),
        (["--nodes", "12"], "12 is not in the range 1<=x<=9"),
        (["--sedes", "7"], "No such option"),
        (["--shrink"], "--shrink needs --replay SEED"),
        (["--replay", "-3"], "-3 is not in the range"),
        (["--machine", "nowhere:Machine"], "'nowhere:Machine' cannot be loaded: No module named 'nowhere'"),
        (["--machine", "tests.worlds.campaign_runs:Nobody"], "has no attribute 'Nobody'"),
        (["--machine", "tests.worlds.campaign_runs"], "write package.module:Class"),
        (["--machine", "tests.worlds.campaign_runs:ODD"], "is neither a class nor a function"),
        (
            ["--machine", "tests.worlds.campaign_runs:NeverReady"],
            "NeverReady is no state machine: it has no apply, query, sn",
        ),
        (["--machine", "builtins:dict"], "dict is no state machine: it has no apply"),
        (["--machine", "tests.worlds.campaign_runs:ShyMachine"], "cannot be made, TypeError: "),
        (
            [*CLOCK, "--workload", "tests.worlds.campaign_runs:NeverReady"],
            "is not a workload, it has no command, query, at",
        ),
        ([*CLOCK, "--workload", "tests.worlds.campaign_runs:small"], "cannot be made, TypeError: small() missing"),
        ([*CLOCK, "--workload", "tests.worlds.campaign_runs:Nobody"], "has no attribute 'Nobody'"),
        (["--workload", "tests.worlds.campaign_runs:Any"], "--workload needs --machine"),
        (["--machine", ""], "write package.module:Class"),
        ([*CLOCK, "--workload", ""], "--workload is empty: write MODULE:CLASS"),
        (["--summary", "--state", "/nowhere/state"], "cannot be read: No such file"),
        (["--state", "/dev/null/state"], "cannot be written: "),
        (["--state", "/"], "cannot be written: Is a directory"),
    ],
)
def test_bad_input_gets_a_clear_answer(arguments: list[str], answer: str) -> None:
    result = command_with(*arguments)
    assert result.exit_code == 2
    assert answer in result.output
    assert "Traceback" not in result.output


def test_a_campaign_makes_its_default_folder_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "attempt", campaign_runs.small)
    assert command_with("--seeds", "1", "--jobs", "1").exit_code == 0
    assert [path.parent.name for path in tmp_path.glob("*/*")] == [command.FOLDER.name]
    result = command_with("--seeds", "1", "--jobs", "1", "--state", "slip/x")
    assert result.exit_code == 2
    assert "there is no folder slip: make it first" in result.output
    assert not Path("slip").exists()
    (tmp_path / "file").touch()
    monkeypatch.setattr(command, "FOLDER", Path("file"))
    result = command_with("--seeds", "1")
    assert result.exit_code == 2
    assert "the folder file cannot be made here (File exists): name a state file with --state" in result.output


def test_the_help_says_which_exit_code_an_interrupt_has() -> None:
    told = " ".join(command_with("--help").output.split())
    assert "1: something was found, now or earlier, even if the campaign was interrupted (Ctrl-C) since" in told


def test_a_replay_prints_the_same_run_again() -> None:
    result = command_with("--replay", "4", "--seconds", "1")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("Plan(4")
    assert "What happened:" in result.output
    assert "no violation" in result.output
    digest = result.output.partition("digest ")[2][:32]
    assert digest in command_with("--replay", "4", "--seconds", "1").output
    assert digest not in command_with("--replay", "4", "--seconds", "1", "--hard").output


def test_a_replay_of_a_failing_seed_is_printed_and_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = (Plan(seed, clients=2, seconds=6.0) for seed in range(100))
    seed = next(plan.seed for plan in plans if campaign_runs.with_mutant(plan).failure is not None)
    monkeypatch.setattr(Plan, "of", lambda seed, **drawn: Plan(seed, clients=2, seconds=6.0))
    monkeypatch.setattr(command, "attempt", campaign_runs.with_mutant)
    monkeypatch.setattr(command, "shrink", lambda trial, run, **given: shrink(trial, run, runs_max=5))
    result = command_with("--replay", str(seed))
    assert result.exit_code == 1
    assert "The last messages" in result.output
    assert "Shrunk from" not in result.output
    assert "Shrunk from" in command_with("--replay", str(seed), "--shrink").output


def test_a_bug_of_a_users_machine_is_named_with_the_command_that_runs_it_again(tmp_path: Path) -> None:
    name = "tests.worlds.campaign_runs:ClockMachine"
    state = str(tmp_path / "state")
    result = command_with(
        *("--machine", name, "--nodes", "3", "--seeds", "5", "--violations", "1", "--shrink-seconds", "1"),
        *("--state", state, "--workload", "tests.worlds.campaign_runs:PatientWorkload", "--jobs", "1"),
    )
    assert result.exit_code == 1, result.output
    assert "was applied with two results by ClockMachine" in result.output
    assert "state_machine=ClockMachine, workload=PatientWorkload()" in result.output
    assert "from tests.worlds.campaign_runs import ClockMachine" in result.output
    assert f"--nodes 3 --machine {name} --workload tests." in result.output
    assert "with nodes=3 machine=tests.worlds.campaign_runs:ClockMachine" in Path(state).read_text()


def test_the_summary_of_a_state_file_is_printed_without_running_anything(tmp_path: Path) -> None:
    path = tmp_path / "state"
    ran(path, campaign_runs.dying)
    result = command_with("--summary", "--state", str(path))
    assert result.exit_code == 1
    assert "seeds 0..7" in result.output
    assert f"seed {ODD}: died: the process that ran it died with exit code -9" in result.output
    assert [row.split()[1] for row in result.output.splitlines() if row.startswith("all")] == ["8"]


def test_a_running_campaign_locks_its_state_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    state = StateFile.opened(path, "v", "s")
    with pytest.raises(StateFileError, match="another campaign is running"):
        ran(path, campaign_runs.small)
    state.close()


def test_the_speed_is_measured_against_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPEED", "SPEED_SERVING"):
        monkeypatch.setattr(command, name, Plan(1, nodes=1, seconds=0.5))
    result = command_with("--speed")
    assert result.exit_code == 0, result.output
    assert "within the 30 s" in result.output
    monkeypatch.setattr(command, "SPEED_SECONDS_MAX", 0.0)
    assert command_with("--speed").exit_code == 1
