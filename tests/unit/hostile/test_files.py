"""Hostile files: whatever a snapshot or a configuration holds, its reader returns something or says what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forge_consensus.cli.contexts import parsed
from forge_consensus.config.client_file import read_client_file
from forge_consensus.config.given import ConfigProblemsError
from forge_consensus.config.loading import load_config
from forge_consensus.config.plain_data import VALUES_MAX, check_count
from forge_consensus.errors import ConsensusError, CorruptionError, InvalidConfigError
from forge_consensus.security.access_file import read_access_file
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.restoring import inspect_snapshot
from forge_consensus.storage.snapshots import file as snapshot_file
from forge_consensus.storage.snapshots.file import name_of, read_chunks, write_snapshot
from tests.worlds.effort import effort
from tests.worlds.hostile_bytes import BYTES, spoilt
from tests.worlds.hostile_files import CHUNKS, CONFIGURATIONS, ODD_PARTS, packed_header, snapshot_bytes


def loaded(path: Path) -> object:
    """The configuration of a node in a file, whatever the variables of this process say."""
    return load_config(path, environment={})


READERS: tuple[Callable[[Path], object], ...] = (read_client_file, read_access_file)
PARTS: dict[str, Any] = {
    "index": 12,
    "term": 3,
    "time_ms": 1,
    "elapsed_ms": 1,
    "configuration": Configuration.of({"n1": "127.0.0.1:1"}).encode(),
    "sessions": [],
}
WHOLE = st.builds(snapshot_bytes, st.builds(packed_header, st.just(PARTS), ODD_PARTS) | BYTES, CHUNKS)
FEW = settings(
    max_examples=effort(60, 20_000), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(st.one_of(WHOLE, spoilt(WHOLE), st.binary(max_size=200)))
@FEW
def test_a_snapshot_file_is_inspected_or_refused(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / name_of(12, 3)
    file.write_bytes(data)
    try:
        assert inspect_snapshot(file).index >= 0
    except ConsensusError as error:
        assert str(file) in str(error) or "snapshot" in str(error) or "decode" in str(error), error


def test_a_chunk_longer_than_any_that_is_written_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = write_snapshot(tmp_path, PARTS, [b"x" * 1000])
    monkeypatch.setattr(snapshot_file, "CHUNK_BYTES_MAX", 999)
    with pytest.raises(CorruptionError, match="chunk 0 has 1000 bytes"):
        list(read_chunks(info.path))


def test_the_right_parts_alone_make_a_snapshot_that_is_inspected(tmp_path: Path) -> None:
    """So what the others are refused for is what was put into them."""
    file = tmp_path / name_of(12, 3)
    file.write_bytes(snapshot_bytes(packed_header(PARTS, {}), [msgpack.packb([[b"k", b"v"]])]))
    assert inspect_snapshot(file).members == {"n1": "127.0.0.1:1"}


@given(CONFIGURATIONS, st.sampled_from((".yaml", ".json")))
@FEW
def test_a_file_of_a_configuration_is_read_or_refused(tmp_path: Path, text: str, suffix: str) -> None:
    file = tmp_path / f"config{suffix}"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    for read in (*READERS, loaded):
        try:
            read(file)
        except InvalidConfigError as error:
            assert str(error)
    try:
        parsed(file, text)
    except (InvalidConfigError, ConfigProblemsError) as error:
        assert str(error)


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
@pytest.mark.parametrize(
    "text", ["[" * 100_000, "timeout: " + "9" * 5000, "a: 2001-02-30"], ids=["deep", "long", "day"]
)
def test_what_yaml_and_json_themselves_fail_at_is_told_as_a_fault_of_the_file(
    tmp_path: Path, text: str, suffix: str
) -> None:
    """A node reads its list of access while it runs, so such a file must not end it."""
    file = tmp_path / f"access{suffix}"
    file.write_text(text)
    for read in READERS:
        with pytest.raises(InvalidConfigError, match=r"it is no (YAML|JSON)"):
            read(file)


def test_aliases_cannot_stand_for_more_than_a_configuration_holds() -> None:
    row: list[Any] = ["x"] * 1000
    check_count({"a": [row] * 100})
    with pytest.raises(ValueError, match="fewer aliases"):
        check_count([row] * (VALUES_MAX // 1000 + 1))
    row.append(row)
    with pytest.raises(ValueError, match="fewer aliases"):
        check_count(row)
