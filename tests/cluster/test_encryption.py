"""Real nodes whose disks are encrypted: nothing readable in any byte of them, and other keys while they run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from forge_consensus.client.sync import Client
from forge_consensus.config.security import SecuritySettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import InvalidConfigError
from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.security.encryption_key import write_encryption_key
from forge_consensus.service.consensus import ConsensusService
from forge_consensus.storage.machines.machine import Command
from forge_consensus.storage.restoring import inspect_snapshot
from forge_consensus.storage.stopped import StoppedFolder
from forge_consensus.storage.verify import verify_folder
from forge_consensus.testing.local.cluster import LocalCluster
from tests.worlds.waiting import wait_for

PLANTED = b"PLANTED-%06d"
SMALL = StorageSettings(
    snapshot_entries=400,
    snapshot_seconds_min=0.1,
    trailing_entries=50,
    checkpoint_entries=200,
    checkpoint_seconds=0.5,
)
SECONDS = 30.0


def encrypted(key: EncryptionKey) -> dict[str, str]:
    """The variables of a node with that key."""
    prefix = "FORGE_CONSENSUS_SECURITY__"
    return {f"{prefix}ENABLE_ENCRYPTION": "true", f"{prefix}ENCRYPTION_KEY": key.secret.hex()}


def readable(folder: Path) -> list[str]:
    """The files of a folder in whose bytes a planted value is."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files if b"PLANTED-" in path.read_bytes()]


def plant(client: Client, first: int, last: int) -> None:
    futures = [client.submit(Command("set", {"key": f"k{n}", "value": PLANTED % n})) for n in range(first, last)]
    for future in futures:
        future.result()


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("key", [EncryptionKey(bytes(range(32))), None], ids=["encrypted", "plain"])
def test_a_stolen_disk_shows_no_value(key: EncryptionKey | None, tmp_path: Path) -> None:
    """The plain cluster shows that the values would be found."""
    environment = None if key is None else encrypted(key)
    with LocalCluster(3, storage=SMALL, environment=environment, folder=tmp_path / "nodes") as cluster:
        client = cluster.client()
        plant(client, 0, 600)
        away = cluster.kill("leader")
        plant(client, 600, 2000)  # its log is compacted meanwhile, so it is sent a snapshot
        backup = client.save_snapshot(tmp_path / "backup.snap")
        cluster.restart(away)
        cluster.wait_until_settled()
        assert client.get("k1999") == PLANTED % 1999
        client.snapshot()
        folders = [tmp_path / "nodes" / name for name in cluster.names]
        wait_for(
            lambda: all(list((folder / "snapshots").glob("*.fcs")) for folder in folders),
            10.0,
            "each node to have a snapshot, which followers take by themselves",
        )
    found = {str(path) for folder in (*folders, tmp_path / "backup.snap") for path in readable_in(folder)}
    if key is None:
        assert len(found) >= 7
        return
    assert found == set()
    assert backup.key_id == key.id
    assert inspect_snapshot(tmp_path / "backup.snap", key).index == backup.index
    for folder in folders:
        report = verify_folder(folder, key)
        assert report.whole, report.faults
        with pytest.raises(InvalidConfigError, match=f"under the key {key.id}, and no key was given"):
            verify_folder(folder)


def readable_in(place: Path) -> list[str]:
    return readable(place) if place.is_dir() else [str(place)] * (b"PLANTED-" in place.read_bytes())


@pytest.fixture(params=["thread", "process"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ConsensusService]:
    """A cluster of one that is encrypted with the key in the file `old`."""
    mode: Literal["thread", "process"] = request.param
    write_encryption_key(tmp_path / "old")
    made = ConsensusService(
        node_id="n1",
        bind="127.0.0.1:0",
        storage_path=tmp_path / "n1",
        storage=SMALL,
        security=SecuritySettings(enable_encryption=True, encryption_key_file=str(tmp_path / "old")),
        mode=mode,
    )
    with made:
        yield made


def test_another_key_takes_over_under_load_and_no_call_fails(service: ConsensusService, tmp_path: Path) -> None:
    folder = tmp_path / "n1"
    old, new = (write_encryption_key(tmp_path / name) for name in ("unused", "new"))
    faults: list[Exception] = []
    written, stop = [0], threading.Event()

    def write() -> None:
        try:
            while not stop.is_set():
                service.put(f"k{written[0] % 300}", PLANTED % written[0])
                written[0] += 1
        except Exception as fault:
            faults.append(fault)

    writer = threading.Thread(target=write)
    writer.start()
    until(lambda: written[0] > 300)
    settings = service.settings
    wanted = replace(settings, security=replace(settings.security, encryption_key_file=str(tmp_path / "new")))
    report = service.update_config(wanted)
    assert [change.name for change in report.changed] == ["security.encryption_key_file"]
    missing = replace(settings, security=replace(settings.security, encryption_key_file=str(tmp_path / "none")))
    with pytest.raises(InvalidConfigError, match="cannot be read"):
        service.update_config(missing)
    began = written[0]
    until(lambda: written[0] > began + 500 or bool(faults))
    stop.set()
    writer.join()
    service.stop()
    assert faults == []
    assert readable(folder) == []
    with pytest.raises(InvalidConfigError, match=f"and the key given is {old.id}"):
        verify_folder(folder, old)
    assert verify_folder(folder, new).whole
    with StoppedFolder(folder, new).reading() as tables:
        assert tables.files is not None
        assert list(tables.files.keys) == [2], "no row has the old data key"
