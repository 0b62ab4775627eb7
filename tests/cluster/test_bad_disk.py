"""Bad disks under real processes: damaged, wiped, restored and full folders; refused clearly, nothing lost."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lmdb
import pytest

from forge_consensus.client.sync import Client
from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import ConsensusError, StorageFullError
from forge_consensus.storage.ledger.record import key_of
from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.node_process import NodeProcess
from tests.worlds.waiting import wait_for

MIB = 1 << 20
MAP_BYTES = 1 << 40

pytestmark = pytest.mark.timeout(60)


def change_record(folder: Path, index: int, change: Callable[[bytes], bytes | None]) -> bytes:
    """Change a record of a stopped node's log, or remove it; returns what it was, empty if there was none."""
    with lmdb.open(str(folder / "tables"), map_size=MAP_BYTES, max_dbs=8) as environment:
        table = environment.open_db(b"log", create=False)
        with environment.begin(write=True, db=table) as txn:
            before = txn.get(key_of(index), b"")
            after = change(before)
            if after is None:
                txn.delete(key_of(index))
            else:
                txn.put(key_of(index), after)
    return bytes(before)


def flipped(record: bytes) -> bytes:
    """The record with one bit of its data flipped."""
    return record[:-1] + bytes([record[-1] ^ 4])


def move_data(node: NodeProcess, folder: Path) -> None:
    """Move the data of a node to another folder, killing and starting it."""
    node.kill()
    shutil.move(node.data, folder)
    node.settings = replace(node.settings, storage_path=folder)
    node.start()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Three nodes with 60 keys; each test ends with all of them level again, see `check_rejoined`."""
    with LocalCluster(folder=tmp_path_factory.mktemp("cluster")) as started:
        client = started.client()
        for number in range(60):
            client.put(f"k{number}", number)
        started.wait_until_settled(*started.names)
        yield started


def check_rejoined(cluster: LocalCluster) -> None:
    """All nodes run, are level and hold the 60 keys."""
    assert set(cluster.running()) == set(cluster.names)
    cluster.wait_until_settled(*cluster.names)
    for name in cluster.names:
        state = cluster.contents(name)
        assert [state[f"k{number}"] for number in range(60)] == list(range(60))


@contextlib.contextmanager
def set_aside(node: NodeProcess) -> Iterator[Path]:
    """Move the folder of a node that does not run; in the end it takes its place again, and the node starts."""
    kept = node.data.rename(node.data.with_name("kept"))
    yield kept
    node.kill()
    shutil.rmtree(node.data)
    kept.rename(node.data)
    node.start()


# --- damaged ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["last", "middle", "missing"])
def test_a_node_with_a_damaged_log_does_not_start_and_the_others_go_on(cluster: LocalCluster, place: str) -> None:
    node = cluster.process(cluster.followers()[0])
    last = cluster.status(node.name)["last_log_index"]
    assert node.stop() == 0
    index = last if place == "last" else last // 2
    record = change_record(node.data, index, (lambda _: None) if place == "missing" else flipped)
    assert record, f"there is no entry {index}"
    code, text = node.refused()
    assert code == 65
    assert "error[CONSENSUS_CORRUPTION]" in text
    assert str(index) in text
    assert "majority of the members" in text
    cluster.client().put("others", "go on")
    change_record(node.data, index, lambda _: record)
    node.start()
    check_rejoined(cluster)


def test_damage_in_an_old_entry_stops_the_node_when_it_reads_the_entry(tmp_path: Path) -> None:
    """Checked at start is what is replayed and the newest 10,000; a leader meets an older one when a follower needs it.

    35,000 entries are more than one checkpoint apart from the first ones.
    """
    with LocalCluster(folder=tmp_path) as cluster:
        client = cluster.client()
        processes = [cluster.process(name) for name in cluster.names]
        behind = cluster.process(cluster.followers()[0])
        behind.kill()
        futures = [client.submit(Command("set", {"key": "k", "value": number})) for number in range(35_000)]
        assert all(future.exception() is None for future in futures)
        for node in processes:
            if node is not behind:
                assert node.stop() == 0
                change_record(node.data, 1_000, flipped)
        for node in processes:
            node.start()
        leaders = [node for node in processes if node is not behind]
        ended = wait_for(lambda: [node for node in leaders if not node.running], 10.0, "the damage to be met")
        for node in ended:
            assert node.exit_code() == 65
            assert "log entry 1000 fails its checksum" in node.output()
        with contextlib.suppress(ConsensusError):
            assert cluster.status(behind.name)["last_applied"] < 1_000


# --- wiped and restored -----------------------------------------------------------------------------------------------


def test_a_wiped_folder_is_refused_and_the_old_one_is_accepted(cluster: LocalCluster) -> None:
    node = cluster.process(cluster.followers()[0])
    node.kill()
    with set_aside(node):
        code, text = node.refused()
        assert code == 78
        assert "wiped" in text
        assert "members remove ID, then members add ID=HOST:PORT" in text, "advice that can be followed"
        cluster.client().put("others", "go on")
    check_rejoined(cluster)


def test_a_wiped_folder_is_refused_also_when_the_others_start_after_it(cluster: LocalCluster) -> None:
    node = cluster.process(cluster.followers()[0])
    for each in map(cluster.process, cluster.names):
        each.kill()
    with set_aside(node):
        for each in map(cluster.process, cluster.names):
            each.launch()
        assert node.exit_code() == 78
        assert "wiped" in node.output()
        client = cluster.client()
        assert client.get("k59") == 59
        client.put("others", "go on")
    check_rejoined(cluster)


def test_an_older_copy_of_a_folder_is_refused(cluster: LocalCluster) -> None:
    node = cluster.process(cluster.followers()[0])
    node.kill()
    shutil.copytree(node.data, node.data.with_name("copy"))
    for number in range(2):
        node.start()
        cluster.client().put("later", number)
        cluster.wait_until_settled(*cluster.names)
        node.kill()
    with set_aside(node):
        node.data.with_name("copy").rename(node.data)
        code, text = node.refused()
        assert code == 78
        assert "older copy" in text
        cluster.client().put("others", "go on")
    check_rejoined(cluster)


def test_an_older_copy_of_a_folder_is_refused_even_if_only_its_last_boot_is_missing(cluster: LocalCluster) -> None:
    """The copy was taken before the last start, so its next boot has the number of the boot that it does not hold."""
    node = cluster.process(cluster.followers()[0])
    node.kill()
    shutil.copytree(node.data, node.data.with_name("copy"))
    node.start()
    cluster.client().put("later", 1)
    cluster.wait_until_settled(*cluster.names)
    node.kill()
    with set_aside(node):
        node.data.with_name("copy").rename(node.data)
        node.launch()
        wait_for(lambda: not node.running, 10.0, "the node to be refused")
    check_rejoined(cluster)


# --- full -------------------------------------------------------------------------------------------------------------


def fill(client: Client) -> tuple[dict[str, Any], ConsensusError]:
    """Write until the cluster refuses; returns what was acknowledged, and the refusal."""
    written: dict[str, Any] = {}
    for number in range(2_000):
        key, value = f"fill-{number:04}", bytes([number % 256]) * 64 * 1024
        try:
            client.put(key, value, timeout=2.0)  # long enough that no attempt is under way when it is over
        except ConsensusError as error:
            return written, error
        written[key] = value
    raise AssertionError("the store never got full")


def check_full(client: Client, written: dict[str, Any], error: ConsensusError) -> None:
    """The refusal is clear, everything acknowledged can be read, and reads go on."""
    assert isinstance(error, StorageFullError), repr(error)
    assert "nothing was lost" in str(error) or "nothing is lost" in str(error)
    assert len(written) > 10
    assert all(client.get(key) == value for key, value in written.items())


@pytest.mark.parametrize("limits", [{"quota_bytes": 24 * MIB}, {"map_bytes": 64 * MIB}])
def test_a_full_store_refuses_writes_answers_reads_and_takes_writes_again_with_a_larger_quota(
    limits: dict[str, int],
) -> None:
    with LocalCluster(1, storage=StorageSettings(**limits)) as cluster:
        node = cluster.process("n1")
        with cluster.client() as client:
            written, error = fill(client)
            check_full(client, written, error)
        assert node.stop() == 0
        node.settings = replace(node.settings, storage=StorageSettings())
        node.start()
        with cluster.client() as client:
            client.put("after", 1)
            assert all(client.get(key) == value for key, value in written.items())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=10)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"no tmpfs may be mounted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=10)


def test_a_disk_that_fills_up_refuses_writes_before_it_is_full(tmp_path: Path, small_disk: Path) -> None:
    with LocalCluster(1, folder=tmp_path) as cluster:
        node = cluster.process("n1")
        move_data(node, small_disk / "n1")
        with cluster.client() as client:
            written, error = fill(client)
            check_full(client, written, error)
        node.kill()
        node.start()
        with cluster.client() as client:
            assert all(client.get(key) == value for key, value in written.items())


def test_a_follower_on_a_full_disk_neither_stops_the_others_nor_loses_anything(
    tmp_path: Path, small_disk: Path
) -> None:
    with LocalCluster(3, folder=tmp_path) as cluster:
        follower = cluster.process(cluster.followers()[0])
        move_data(follower, small_disk / "data")
        cluster.wait_until_settled(*cluster.names)
        hog = small_disk / "hog"
        with contextlib.suppress(OSError), hog.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(64 * 1024))  # until not a byte is left, also for votes
        client = cluster.client()
        for number in range(50):
            client.put(f"k{number}", bytes(20_000))

        def refused() -> bool:
            """Whether the follower has measured its disk, which it does once a second, and met an entry since."""
            client.put("more", bytes(20_000))
            return bool(cluster.status(follower.name)["refused"].get("CONSENSUS_STORAGE_FULL"))

        with contextlib.suppress(ConsensusError):  # it ends meanwhile
            wait_for(lambda: not follower.running or refused(), 10.0, "the follower to refuse entries, or to end")
        if not follower.running:
            assert follower.exit_code() == 70
            assert "error[CONSENSUS_STORAGE_FAILED]" in follower.output()
        hog.unlink()
        if not follower.running:
            follower.start()
        cluster.wait_until_settled(*cluster.names)
        assert cluster.contents(follower.name)["k49"] == bytes(20_000)
