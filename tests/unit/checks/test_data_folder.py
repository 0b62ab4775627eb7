"""What is said of a node's folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from forge_consensus.checks import data_folder
from forge_consensus.checks.data_folder import Lock, disk_findings, folder_findings, lock_of, medium, nearest
from forge_consensus.checks.finding import Finding, is_fit
from forge_consensus.storage.backends.folder import Folder

GIB = 1 << 30


def told(folder: Path, check: str = "folder", reserve_bytes: int = 0) -> Finding:
    """What is found of one kind."""
    (found,) = [each for each in folder_findings(folder, reserve_bytes) if each.check == check]
    return found


def test_a_folder_of_ones_own_is_well(tmp_path: Path) -> None:
    data = tmp_path / "n1"
    data.mkdir(mode=0o700)
    assert is_fit(folder_findings(data, 0))
    assert (told(data).level, "(empty)" in told(data).text) == ("ok", True)
    (data / "letter").write_text("")
    assert "(no node's folder yet)" in told(data).text
    (data / "tables").mkdir()
    (data / "tables" / "data.mdb").write_text("")
    assert "(a node's folder)" in told(data).text
    data.chmod(0o755)
    assert (told(data).level, "mode 755" in told(data).text) == ("warning", True)
    assert told(data).advice.startswith(f"chmod 700 {data}")


def test_a_folder_that_is_missing_is_made_by_the_first_start(tmp_path: Path) -> None:
    data = tmp_path / "far" / "n1"
    assert told(data) == Finding("folder", "ok", f"{data} is not there: the first start of a node makes it")
    assert nearest(data) == tmp_path
    assert not data.parent.exists()


def test_a_file_in_its_place_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "n1").write_text("")
    assert told(tmp_path / "n1").level == "problem"
    (tmp_path / "n2").symlink_to(tmp_path / "nowhere")
    assert told(tmp_path / "n2").level == "problem"
    assert told(tmp_path / "n1" / "below").level == "ok"


def test_what_this_user_may_not_write_to_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *arguments: False)
    assert (told(tmp_path).level, told(tmp_path / "n1").level) == ("problem", "problem")
    assert "change the owner" in told(tmp_path / "n1").advice


def test_who_uses_it_is_told(tmp_path: Path) -> None:
    assert told(tmp_path, "lock").text == f"no process runs on {tmp_path}"
    with Folder(tmp_path):
        assert told(tmp_path, "lock").text.startswith(f"process {os.getpid()} (")
        assert told(tmp_path, "lock").level == "ok"
        (tmp_path / "LOCK").write_text("")
        assert lock_of(tmp_path) == Lock(True)
    assert lock_of(tmp_path) == Lock(False)
    with Folder(tmp_path):
        pass  # a look leaves nothing that keeps a node out


@pytest.mark.parametrize(
    ("free", "reserve", "level"), [(5 * GIB, GIB, "ok"), (GIB - 1, 1000, "warning"), (GIB - 1, GIB, "problem")]
)
def test_free_space_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, reserve: int, level: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free, total=9 * GIB))
    assert told(tmp_path, "free space", reserve).level == level


@pytest.mark.parametrize(
    ("kind", "level"), [("ext4", "ok"), ("unknown", "ok"), ("tmpfs", "warning"), ("nfs4", "problem")]
)
def test_file_systems_are_judged(kind: str, level: str) -> None:
    assert medium(kind).level == level


def test_the_disk_is_measured_where_the_folder_will_be(tmp_path: Path) -> None:
    (found,) = disk_findings(tmp_path / "far" / "n1", 0.05, 1e6)
    assert (found.check, found.level) == ("disk", "ok")
    assert list(tmp_path.iterdir()) == []
    (found,) = disk_findings(tmp_path, 0.05, 1e-9)
    assert found.level == "warning"


def test_a_disk_of_another_machine_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_folder, "file_system_of", lambda folder: "nfs")
    assert disk_findings(tmp_path, 0.05, 1.0) == []
    assert told(tmp_path, "file system").level == "problem"


def test_a_disk_that_cannot_be_measured_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    (found,) = disk_findings(tmp_path, 0.05, 1.0)
    assert (found.level, "cannot be measured" in found.text) == ("problem", True)
