"""The audit file on a real disk: made private, continued, torn, taken away, and full."""

from __future__ import annotations

import os
import resource
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from forge_consensus.errors import InvalidConfigError
from forge_consensus.events.types import AuditRecorded, stamp
from forge_consensus.security.audit_chain import Check, Verdict
from forge_consensus.service.audit_file import AuditFile


def record(number: int, who: str = "ann") -> AuditRecorded:
    made = AuditRecorded(
        who=who,
        identity="client",
        role="admin",
        origin="127.0.0.1",
        via="",
        action="ReloadConfig",
        subject="",
        outcome="done",
    )
    event = stamp(
        made, node_id="n1", cluster_id="demo", term=1, sequence=number, time=1.7e9 + number, monotonic=float(number)
    )
    assert isinstance(event, AuditRecorded)
    return event


def opened(path: Path, lacks: Callable[[int], object] = lambda count: None) -> AuditFile:
    made = AuditFile(path, "n1", "demo", lacks)
    made.open()
    return made


def check(*paths: Path) -> Verdict:
    found = Check()
    for path in paths:
        with path.open("rb") as lines:
            found.file(path.name, lines)
    return found.verdict


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def test_it_is_made_for_its_owner_alone_and_continued_at_the_next_start(path: Path) -> None:
    before = os.umask(0)
    try:
        first = opened(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first.write(record(1))
    first.close()
    second = opened(path)
    second.write(record(2))
    second.close()
    assert (check(path).broken, check(path).records, check(path).lines) == (None, 2, 3)


@contextmanager
def refused(text: str) -> Iterator[None]:
    with pytest.raises(InvalidConfigError, match=text):
        yield


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with refused("it is a symbolic link"):
        opened(path)
    assert not (tmp_path / "elsewhere").exists()
    path.unlink()
    opened(tmp_path / "other").close()
    os.link(tmp_path / "other", path)
    with refused("has a second name"):
        opened(path)


def test_what_others_may_read_or_what_is_no_audit_of_this_node_is_refused(path: Path, tmp_path: Path) -> None:
    opened(path).close()
    path.chmod(0o640)
    with refused("has mode 0640"):
        opened(path)
    path.chmod(0o600)
    with refused("that of node 'n1'"):
        AuditFile(path, "n2", "demo").open()
    path.write_text("some notes\n")
    with refused("is no audit"):
        opened(path)
    assert path.read_text() == "some notes\n"
    with refused("cannot be written: No such file"):
        opened(tmp_path / "nowhere" / "audit")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with refused("no regular file"):
        opened(tmp_path / "pipe")


def test_two_nodes_do_not_write_one_file(path: Path) -> None:
    first = opened(path)
    with refused("is written by another process"):
        opened(path)
    first.close()
    opened(path).close()


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_half_a_line_of_a_crash_stays_and_the_chain_goes_on(path: Path, cut: int) -> None:
    file = opened(path)
    file.write(record(1))
    whole = path.stat().st_size
    file.write(record(2))
    file.close()
    os.truncate(path, path.stat().st_size - cut)
    left = path.read_bytes()
    again = opened(path)
    again.write(record(3))
    again.close()
    assert path.read_bytes().startswith(left)
    found = check(path)
    lost_only_the_line_end = cut == 1
    assert (found.broken, found.torn, found.records) == (None, not lost_only_the_line_end, 2 + lost_only_the_line_end)
    assert len(left) > whole


def test_blocks_of_zeros_at_the_end_are_told_as_torn(path: Path) -> None:
    """As file systems leave them behind after a power failure."""
    file = opened(path)
    file.write(record(1))
    file.close()
    with path.open("ab") as tail:
        tail.write(b"\0" * 3000 + b"\n" + b"\0" * 50)
    file = opened(path)
    file.write(record(2))
    file.close()
    assert (check(path).broken, check(path).torn, check(path).records) == (None, 1, 2)


def test_a_first_line_that_was_cut_is_written_anew(path: Path) -> None:
    opened(path).close()
    for size in (0, 5, 40):
        os.truncate(path, size)
        opened(path).close()
        assert (check(path).broken, check(path).lines) == (None, 1)


def test_a_file_that_was_renamed_is_followed_by_a_new_one(path: Path, tmp_path: Path) -> None:
    file = opened(path)
    file.write(record(1))
    path.rename(tmp_path / "audit.1")
    file.write(record(2))
    file.write(record(3))
    path.rename(tmp_path / "audit.2")
    file.write(record(4))
    file.close()
    found = check(tmp_path / "audit.1", tmp_path / "audit.2", path)
    assert (found.broken, found.records) == (None, 4)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert check(tmp_path / "audit.1", path).broken is not None


def test_a_file_that_was_copied_and_emptied_begins_anew(path: Path, tmp_path: Path) -> None:
    file = opened(path)
    file.write(record(1))
    shutil.copy(path, tmp_path / "audit.1")
    os.truncate(path, 0)
    file.write(record(2))
    file.close()
    assert (check(tmp_path / "audit.1", path).broken, check(tmp_path / "audit.1", path).records) == (None, 2)


@contextmanager
def bounded(size: int) -> Iterator[None]:
    """A disk that is full as soon as a file has so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 30, 400])
def test_a_full_disk_keeps_nobody_and_the_file_says_what_it_lacks(path: Path, room: int) -> None:
    lacks: list[int] = []
    file = opened(path, lacks.append)
    file.write(record(1))
    with bounded(path.stat().st_size + room):
        for number in range(2, 7):
            file.write(record(number))
    lost = len(lacks)
    assert lost == (5 if room < 200 else 4)
    file.write(record(7))
    file.close()
    found = check(path)
    assert (found.broken, found.missing, found.records) == (None, lost, 7 - lost)


def test_a_full_disk_keeps_no_node_from_starting(path: Path) -> None:
    with bounded(0):
        file = opened(path)
        file.write(record(1))
    file.write(record(2))
    file.close()
    assert (check(path).broken, check(path).missing, check(path).records) == (None, 1, 1)


def test_a_folder_that_is_gone_keeps_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "audit"
    file = opened(path)
    file.write(record(1))
    shutil.move(folder, tmp_path / "old")
    file.write(record(2))
    folder.mkdir()
    (folder / "audit").symlink_to(tmp_path / "trap")
    file.write(record(3))
    (folder / "audit").unlink()
    file.write(record(4))
    file.close()
    found = check(tmp_path / "old" / "audit", path)
    assert (found.broken, found.missing, found.records) == (None, 2, 2)
    assert not (tmp_path / "trap").exists()
