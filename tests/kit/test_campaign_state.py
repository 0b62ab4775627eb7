"""Tests of the state file: its content after any end of a campaign, and the files it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

import forge_consensus
from forge_consensus.testing.campaign import state as campaign_state
from forge_consensus.testing.campaign.state import (
    ALL,
    NO_DIGEST,
    SeedLine,
    StateFile,
    StateFileError,
    code_version,
    found_text,
    ranges_text,
)

DIGEST = "0123456789abcdef" * 2


def line(seed: int, nodes: int = 3) -> SeedLine:
    return SeedLine(seed, DIGEST, nodes, 100, 12.5, 40, 6, 200, 2, 0.25)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    state = StateFile.opened(path, "v1", "plans as drawn")
    state.add(line(1))
    state.add_failure(2, "OSError from X", 'bad: "quoted"\nand more')
    state.add(line(2, nodes=5))
    state.close()
    return path


def test_a_state_file_is_read_back(path: Path) -> None:
    state = StateFile.read(path)
    assert state.done == {1, 2}
    assert state.failures == {(2, "OSError_from_X"): 'bad: "quoted"\nand more'}
    assert state.totals[ALL].seeds == 2
    assert state.totals[ALL].virtual_seconds == 25.0
    assert state.totals[5].turns == 100
    assert state.digests == {1: DIGEST, 2: DIGEST}


def test_a_truncated_line_is_dropped_and_its_seed_runs_again(path: Path) -> None:
    with path.open("a") as file:
        file.write(line(3).text()[:-4])
    assert StateFile.read(path).done == {1, 2}
    state = StateFile.opened(path, "v1", "plans as drawn")
    state.add(line(3))
    state.close()
    assert StateFile.read(path).done == {1, 2, 3}


def test_a_seed_counts_once(path: Path) -> None:
    with path.open("a") as file:
        file.write(line(1).text())
    assert StateFile.read(path).totals[ALL].seeds == 2


def test_a_file_of_another_version_is_refused_with_what_to_do(path: Path) -> None:
    with pytest.raises(
        StateFileError, match=r"another version of the code \(v1, now v2\).*To start over, name another"
    ):
        StateFile.opened(path, "v2", "plans as drawn")
    state = StateFile.opened(path, "v1", "plans as drawn")
    assert state.done == {1, 2}  # nothing was changed, nor is the file locked
    state.close()


def test_a_file_of_other_settings_is_refused_with_what_to_do(path: Path) -> None:
    with pytest.raises(StateFileError, match=r"other settings.*plans as drawn.*now nodes=5.*start over"):
        StateFile.opened(path, "v1", "nodes=5")


@pytest.mark.parametrize("text", ["", "\n", "something else\n", "forge-consensus campaign 1\ncode v1\n"])
def test_a_file_of_another_kind_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(StateFileError, match="is not a state file"):
        StateFile.read(path)


def test_bytes_that_are_not_utf8_are_refused(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00\n" * 5)
    with pytest.raises(StateFileError, match="it is not a text file"):
        StateFile.read(path)


@pytest.mark.parametrize(
    "damaged",
    [
        f"seed 9 {DIGEST} 3",
        f"seed x {DIGEST} 3 1 1.0 1 1 1 1 1.0",
        f"seed -9 {DIGEST} 3 1 1.0 1 1 1 1 1.0",
        f"seed 9 {DIGEST} 3 -1 1.0 1 1 1 1 1.0",
        f"seed 9 {DIGEST} 3 1 -1.0 1 1 1 1 1.0",
        f"seed 9 {DIGEST} 3 1 nan 1 1 1 1 1.0",
        f"seed 9 {DIGEST} 3 1_0 1.0 1 1 1 1 1.0",
        f"seed 9 {DIGEST[1:]} 3 1 1.0 1 1 1 1 1.0",
        f"seed 9 {DIGEST[1:]}X 3 1 1.0 1 1 1 1 1.0",
        f"seed 9 {DIGEST}\N{SOFT HYPHEN} 3 1 1.0 1 1 1 1 1.0",
        "failure 3 I4 no-json",
        "failure 3 I4 7",
        'failure -3 I4 "text"',
        "noise",
    ],
)
def test_a_damaged_line_is_named(path: Path, damaged: str) -> None:
    with path.open("a") as file:
        file.write(f"{damaged}\n")
    with pytest.raises(StateFileError, match=r"line 8 of .* is not a line of a campaign"):
        StateFile.read(path)


def test_a_run_that_did_not_end_has_no_digest(path: Path) -> None:
    with path.open("a") as file:
        file.write("seed 9 - 3 0 0.0 0 0 0 0 0.0\n")
    assert StateFile.read(path).digests[9] == NO_DIGEST


def test_a_state_file_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateFileError, match=f"there is no folder {tmp_path}/slip: make it first"):
        StateFile.opened(tmp_path / "slip" / "state", "v1", "as drawn")
    assert not list(tmp_path.iterdir())


def test_an_empty_file_is_begun(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.touch()
    StateFile.opened(path, "v1", "as drawn").close()
    assert StateFile.read(path).version == "v1"


def test_the_summary_has_a_row_for_every_size_and_every_finding(path: Path) -> None:
    text = StateFile.read(path).summary()
    assert "seeds 1..2; 4.0 seeds per second of one core" in text
    rows = [row.split() for row in text.splitlines()]
    assert [row[:2] for row in rows if row and row[0] in ("3", "5", "all")] == [["3", "1"], ["5", "1"], ["all", "2"]]
    assert "1 violations:\n  seed 2: OSError from X: bad:" in text


def test_ranges_of_seeds() -> None:
    assert ranges_text(set()) == "none"
    assert ranges_text({4, 5, 6, 9}) == "4..6, 9"
    assert ranges_text(set(range(0, 40, 2))).endswith("and 12 more ranges")


def test_a_finding_is_one_line() -> None:
    assert found_text("I4", "I4: n1 leads") == "I4: n1 leads"
    assert found_text("died", "the process\n died") == "died: the process died"
    assert len(found_text("I4", "x" * 1000)) == campaign_state.TEXT_CHARS_MAX


def test_the_version_changes_with_any_file_that_a_simulation_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "package" / "actors").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "package" / "storage").symlink_to(tmp_path / "elsewhere")
    for name in ("errors.py", "actors/a.py", "__init__.py"):
        (tmp_path / "package" / name).write_text("1")
    (tmp_path / "elsewhere" / "b.py").write_text("1")
    monkeypatch.setattr(forge_consensus, "__file__", str(tmp_path / "package" / "__init__.py"))
    versions = {code_version()}
    for number, name in enumerate(("package/errors.py", "package/actors/a.py", "elsewhere/b.py"), 2):
        (tmp_path / name).write_text("2")
        versions.add(code_version())
        assert len(versions) == number
    (tmp_path / "package" / "__init__.py").write_text("2")
    assert code_version() in versions
