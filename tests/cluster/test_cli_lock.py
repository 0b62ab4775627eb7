"""``forge-consensus lock`` on a real node: the command's code, its environment, signals, and a lock that is lost."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from forge_consensus import Client, Command, ConsensusService
from forge_consensus.recipes import Lock, Semaphore
from tests.worlds.cli_world import Shell, dead_address
from tests.worlds.source_tree import ROOT
from tests.worlds.waiting import wait_for

PROGRAM = [sys.executable, "-m", "forge_consensus", "lock"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsensusService]:
    """A cluster of one node, in this process."""
    folder = Path(tmp_path_factory.mktemp("lock"))
    with ConsensusService("n1", bind="127.0.0.1:0", storage_path=folder) as service:
        service.wait_for_leader(10)
        yield service


@contextmanager
def locking(service: ConsensusService, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command as a process of its own, ended in any case."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FORGE_CONSENSUS_ENDPOINTS": service.address}
    with subprocess.Popen(
        [*PROGRAM, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def lease_of(client: Client, name: str) -> int:
    """The lease of the one who holds the lock."""
    [entry] = client.entries(f"locks/{name}#")
    return entry.lease


def test_the_command_runs_under_the_lock_and_its_code_is_the_answer(service: ConsensusService) -> None:
    script = 'echo "$FORGE_CONSENSUS_LOCK_NAME $FORGE_CONSENSUS_FENCING_TOKEN $FORGE_CONSENSUS_LOCK_KEY"; exit 7'
    with locking(service, "jobs", "--value", "me", "--", "sh", "-c", script) as process:
        out, err = process.communicate(timeout=60)
    name, token, key = out.split()
    assert (process.returncode, err) == (7, "")
    assert (name, key) == ("jobs", f"locks/jobs#{int(token):016}")
    assert service.scan("locks/jobs") == []


def test_a_command_that_cannot_be_run_gives_127_or_126(service: ConsensusService, tmp_path: Path) -> None:
    shell = Shell(service.address)
    missing = shell.run("lock", "x", "--", "no-such-program")
    assert (missing.exit_code, missing.stderr) == (
        127,
        "there is no command 'no-such-program': give a program of the PATH, or the path of one\n",
    )
    (tmp_path / "data").write_text("no program")
    assert shell.run("lock", "x", "--", str(tmp_path / "data")).exit_code == 126
    (tmp_path / "script").write_text("#!/no/such/interpreter\n")
    (tmp_path / "script").chmod(0o755)
    assert shell.run("lock", "x", "--", str(tmp_path / "script")).exit_code == 127
    assert service.scan("locks/x") == []


def test_wrong_usage_is_told_before_anything_is_asked() -> None:
    shell = Shell(dead_address())
    assert shell.run("lock", "x").exit_code == 2
    assert shell.run("lock", "x", "--ttl", "soon", "--", "true").exit_code == 2
    assert shell.run("lock", "x", "--ttl", "100ms", "--", "true").exit_code == 2
    assert shell.run("lock", "x", "--limit", "0", "--", "true").exit_code == 2
    refused = shell.run("lock", "a#b", "--", "true")
    assert (refused.exit_code, "without '#'" in refused.stderr) == (78, True)
    unreachable = shell.run("lock", "x", "--timeout", "300ms", "--", "true")
    assert unreachable.exit_code == 69


def test_a_lock_that_is_not_free_in_time_gives_75(service: ConsensusService) -> None:
    shell = Shell(service.address)
    with Lock(service, "busy", owner="somebody"):
        late = shell.run("lock", "busy", "--timeout", "2s", "--", "true")
        assert late.exit_code == 75
        assert "'somebody' is ahead" in late.stderr
        assert shell.run("lock", "busy", "--timeout", "0", "--", "true").exit_code == 75
    assert shell.run("lock", "busy", "--timeout", "1m", "--", "true").exit_code == 0
    with Semaphore(service, "busy", 2), Semaphore(service, "busy", 2):
        assert shell.run("lock", "busy", "--limit", "2", "--timeout", "0", "--", "true").exit_code == 75
        other = shell.run("lock", "busy", "--limit", "3", "--timeout", "0", "--", "true")
        assert (other.exit_code, "has a limit of 2" in other.stderr) == (78, True)
    assert shell.run("lock", "busy", "--limit", "2", "--timeout", "0", "--", "true").exit_code == 0


def test_who_waits_says_for_whom_and_leaves_when_a_signal_comes(service: ConsensusService) -> None:
    with Lock(service, "queue", owner="somebody") as lock:
        with locking(service, "queue", "--", "true") as process:
            assert process.stderr is not None
            assert process.stderr.readline() == "waiting for lock 'queue', held by 'somebody'\n"
            process.terminate()
            assert process.wait(40) == 128 + signal.SIGTERM
        assert lock.contenders() == ["somebody"]


def test_signals_go_to_the_command(service: ConsensusService) -> None:
    script = "trap 'echo got usr1' USR1; trap 'echo got term; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    with locking(service, "signals", "--", "sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == "got usr1\n"
        process.terminate()
        assert process.wait(40) == 3
        assert process.stdout.read() == "got term\n"
    assert service.scan("locks/signals") == []


def test_a_lost_lock_ends_the_whole_group_of_the_command(service: ConsensusService, tmp_path: Path) -> None:
    grandchild = tmp_path / "grandchild"
    script = f"trap '' TERM; sh -c 'echo $$ > {grandchild}; trap \"\" TERM; sleep 60' & echo ready; wait; sleep 60"
    with (
        Client([service.address]) as client,
        locking(service, "lost", "--ttl", "3s", "--grace", "300ms", "--", "sh", "-c", script) as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        wait_for(lambda: grandchild.exists() and grandchild.read_text().strip(), 20, "the grandchild")
        client.apply(Command("lease_revoke", {"lease": lease_of(client, "lost")}))
        assert process.wait(40) == 69
        assert process.stderr.read().startswith("the lock is lost: ending the command\nerror[CONSENSUS_LEASE_LOST]")
        wait_for(lambda: not is_alive(int(grandchild.read_text())), 20, "the grandchild's end")


def is_alive(process: int) -> bool:
    """Whether a process runs; one that ended and was not asked for is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_on_a_terminal_the_command_reads_it_and_gets_its_keys(service: ConsensusService) -> None:
    script = "read line; echo read $line; trap 'echo interrupted; exit 5' INT; echo now; while :; do sleep 0.05; done"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FORGE_CONSENSUS_ENDPOINTS": service.address}
    child, terminal = pty.fork()
    if not child:
        os.execve(PROGRAM[0], [*PROGRAM, "terminal", "--", "sh", "-c", script], environment)
    shown = b""
    try:
        os.write(terminal, b"hello\n")
        end = time.monotonic() + 60
        interrupted = False
        while b"interrupted" not in shown and time.monotonic() < end:
            shown += os.read(terminal, 1000)
            if b"now" in shown and not interrupted:
                interrupted = True
                os.write(terminal, b"\x03")
        assert b"read hello" in shown
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 5
    finally:
        os.close(terminal)
