"""The measurement of a disk: what it says, and that it leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forge_consensus.checks import disk
from forge_consensus.checks.disk import judged, measure_disk
from forge_consensus.checks.file_system import file_system_of
from forge_consensus.checks.latencies import Latencies
from forge_consensus.errors import FolderNotFoundError, StorageError
from tests.worlds.cli_world import Shell

SHELL = Shell("")


def test_times_are_summed_up_by_their_ranks() -> None:
    found = Latencies.of([number / 1000 for number in range(1000, 0, -1)])
    assert found == Latencies(1000, 0.5, 0.99, 1.0)
    assert Latencies.of([0.3]) == Latencies(1, 0.3, 0.3, 0.3)
    assert Latencies.of([]) == Latencies(0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("usual", "slowest", "is_ok", "said"),
    [
        (0.01, 0.02, True, "good enough: 99 of 100 commits took at most 10ms, the slowest 20ms"),
        (0.199, 0.4, True, "good enough"),
        (0.21, 0.3, False, "too slow: one of a hundred commits takes 210ms or longer"),
        (0.01, 0.41, False, "too uneven: the slowest commit took 410ms"),
    ],
)
def test_a_disk_is_judged_by_the_election_timeout(usual: float, slowest: float, is_ok: bool, said: str) -> None:
    found, text = judged(Latencies(100, usual, usual, slowest), 0.8)
    assert found is is_ok
    assert text.startswith(said)
    assert "raft.election_timeout_min (800ms)" in text
    assert judged(Latencies(100, usual, usual, slowest), 1e6)[0]


def test_both_kinds_are_measured_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    found = measure_disk(tmp_path, 0.1, 1e6)
    assert found.is_ok
    for times in (found.flushes, found.commits):
        assert 0 < times.p50_seconds <= times.p99_seconds <= times.max_seconds
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(folder: Path, seconds: float) -> Latencies:
        folder.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(disk, "measure_commits", interrupt)
    done = SHELL.run("check", "disk", "--data", str(tmp_path), "--seconds", "0.1")
    assert (done.exit_code, done.stderr) == (130, "interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("missing", "file", "file/below"):
        with pytest.raises(FolderNotFoundError, match="there is no folder"):
            measure_disk(tmp_path / name, 0.1)
    assert SHELL.run("check", "disk", "--data", str(tmp_path / "missing")).exit_code == 66


def test_a_disk_that_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("os.fdatasync", refuse)
    with pytest.raises(StorageError, match=r"cannot measure .*the disk is full"):
        measure_disk(tmp_path, 0.1)
    assert list(tmp_path.iterdir()) == []


def test_the_command_shows_both_kinds_and_judges(tmp_path: Path) -> None:
    given = ("check", "disk", "--data", str(tmp_path), "--seconds", "0.1")
    done = SHELL.run(*given, "--election-timeout-min", "1000")
    assert done.exit_code == 0
    place, head, *rows, said = done.stdout.splitlines()
    assert place.startswith(str(tmp_path))
    assert head.split() == ["OPERATION", "COUNT", "MEDIAN", "99%", "SLOWEST"]
    assert [row.split("  ")[0] for row in rows] == ["flushed record", "durable commit"]
    assert said.startswith("good enough: ")
    done = SHELL.run(*given, "--election-timeout-min", "0.000001", "-o", "json")
    assert done.exit_code == 1
    assert '"is_ok":false' in done.stdout


@pytest.mark.parametrize("arguments", [("--seconds", "0"), ("--seconds", "nan"), ("--election-timeout-min", "0"), ()])
def test_wrong_usage_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    data = ("--data", str(tmp_path)) if arguments else ()
    assert SHELL.run("check", "disk", *data, *arguments).exit_code == 2


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:25 / /run rw shared:2 - tmpfs tmpfs rw
31 22 0:26 / /srv/two\\040words rw - nfs4 host:/export rw
32 22 0:27 / /srv rw master:1 shared:9 - xfs /dev/sdb rw
33 32 0:28 / /srv rw - overlay overlay rw
odd
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/", "ext4"), ("/home/x", "ext4"), ("/running", "ext4"), ("/run", "tmpfs"), ("/srv/two words/n1", "nfs4"),
     ("/srv/n1", "overlay")],
)  # fmt: skip
def test_the_file_system_is_that_of_the_innermost_mount(tmp_path: Path, folder: str, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert file_system_of(Path(folder), mounts) == kind
    assert file_system_of(Path(folder), tmp_path / "missing") == "unknown"
