"""What a node's settings of security come to: keys, lists, where it may listen, and what it takes over."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.config.node import NodeSettings
from forge_consensus.config.security import SecuritySettings
from forge_consensus.errors import InvalidConfigError
from forge_consensus.events.types import ConfigRejected, ConfigReloaded, ConsensusEvent
from forge_consensus.security.access import AccessList
from forge_consensus.security.curve import KeyPair, write_key_file
from forge_consensus.service.access_watch import AccessWatch
from forge_consensus.service.consensus import ConsensusService
from forge_consensus.service.node_security import access_of, check_exposure, own_credentials, own_keys

PAIR, OTHER = KeyPair.made(), KeyPair.made()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a key, and a list that knows its node."""
    write_key_file(tmp_path / "n1.key", PAIR)
    write_list(tmp_path, n1=PAIR, n2=OTHER)
    return tmp_path


def write_list(folder: Path, **members: KeyPair) -> None:
    """Write the access file as operators should: whole, in one step."""
    data = {"members": {name: {"keys": [pair.public]} for name, pair in members.items()}}
    (folder / "new").write_text(json.dumps(data))
    os.replace(folder / "new", folder / "access.json")


def security(folder: Path, **more: Any) -> SecuritySettings:
    given = {"curve_key_file": str(folder / "n1.key"), "access_file": str(folder / "access.json")}
    return SecuritySettings(**{**given, **more})


def node(**given: Any) -> NodeSettings:
    return NodeSettings(**{"node_id": "n1", **given})


# --- keys and lists --------------------------------------------------------------------------------------------------


def test_a_key_comes_from_a_file_or_as_text(folder: Path) -> None:
    assert own_keys(security(folder)) == PAIR
    assert own_keys(SecuritySettings(curve_secret_key=f" {PAIR.secret}\n")) == PAIR
    assert own_keys(SecuritySettings()) is None


def test_a_key_file_that_others_may_read_is_refused(folder: Path) -> None:
    (folder / "n1.key").chmod(0o640)
    with pytest.raises(InvalidConfigError, match="0640"):
        access_of(node(security=security(folder)))


def test_two_keys_are_one_too_many_and_neither_is_told() -> None:
    with pytest.raises(InvalidConfigError, match="both") as caught:
        SecuritySettings(curve_key_file="n1.key", curve_secret_key=PAIR.secret)
    assert PAIR.secret not in str(caught.value)


def test_a_secret_key_is_in_no_text_of_the_settings() -> None:
    given = SecuritySettings(curve_secret_key=PAIR.secret)
    assert PAIR.secret not in repr(given)
    assert PAIR.secret not in repr(node(security=given))
    with pytest.raises(InvalidConfigError) as caught:
        access_of(node(security=SecuritySettings(curve_secret_key=PAIR.secret[:-1])))
    assert PAIR.secret[:-1] not in str(caught.value)


def test_a_list_that_has_other_keys_for_this_node_is_refused(folder: Path) -> None:
    """The others would refuse it, one after the other, and it would not say why."""
    write_list(folder, n1=OTHER)
    with pytest.raises(InvalidConfigError, match="other keys for n1"):
        access_of(node(security=security(folder)))


def test_without_keys_nobody_is_asked(folder: Path) -> None:
    """The list may be there for the admin API."""
    assert access_of(node(security=security(folder, curve_key_file=None))) is None


def test_an_application_has_a_key_of_its_own(folder: Path) -> None:
    """And takes the members' keys from the list."""
    write_key_file(folder / "app.key", OTHER)
    given = security(folder, client_key_file=str(folder / "app.key"))
    found = own_credentials(given, access_of(node(security=given)))
    assert found is not None
    assert found.keys == OTHER
    assert set(found.known) == {PAIR.public, OTHER.public}
    assert own_credentials(security(folder), access_of(node(security=given))) is None


def test_a_node_in_a_process_of_its_own_needs_a_key_for_its_application(folder: Path) -> None:
    with pytest.raises(InvalidConfigError, match="client_key_file"):
        ConsensusService("n1", storage_path=folder / "data", mode="process", security=security(folder))


# --- where it may listen ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["0.0.0.0:7001", "10.0.0.1:7001", "[::]:7001", "n1.example:7001", "[fe80::1]:7001"])
def test_a_node_without_keys_does_not_serve_a_network(address: str) -> None:
    """Unless it is told to; the sentence says what to do."""
    with pytest.raises(InvalidConfigError, match=r"without encryption.*--insecure"):
        check_exposure(node(), address, "127.0.0.1:0")
    with pytest.raises(InvalidConfigError, match="publish its events"):
        check_exposure(node(), "127.0.0.1:7001", address)
    check_exposure(node(security=SecuritySettings(insecure=True)), address, address)
    check_exposure(node(security=SecuritySettings(curve_secret_key=PAIR.secret)), address, address)


@pytest.mark.parametrize("address", ["127.0.0.1:7001", "127.9.9.9:7001", "localhost:7001", "[::1]:7001", "ipc:///a/b"])
def test_a_node_without_keys_serves_its_own_machine(address: str) -> None:
    check_exposure(node(), address, address)


def test_metrics_are_plain_text_whatever_keys_there_are() -> None:
    given = node(metrics="0.0.0.0:9100", security=SecuritySettings(curve_secret_key=PAIR.secret))
    with pytest.raises(InvalidConfigError, match="serve its metrics"):
        check_exposure(given, "0.0.0.0:7001", "0.0.0.0:7002")


def test_a_node_that_would_serve_a_network_founds_no_folder(tmp_path: Path) -> None:
    """The refusal comes before anything is made."""
    service = ConsensusService("n1", bind="0.0.0.0:0", storage_path=tmp_path / "data")
    with pytest.raises(InvalidConfigError, match="--insecure"):
        service.start()
    assert not (tmp_path / "data").exists()


# --- the access file while the node runs -----------------------------------------------------------------------------


class Taken:
    """What a watch had a node take."""

    def __init__(self) -> None:
        self.lists: list[AccessList | None] = []
        self.events: list[ConsensusEvent] = []

    def __call__(self, access: AccessList | None, event: ConsensusEvent) -> None:
        self.lists.append(access)
        self.events.append(event)


def wait_until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 10.0
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_changes_in_the_file_is_taken_over(folder: Path) -> None:
    taken = Taken()
    watch = AccessWatch(folder / "access.json", taken)
    watch.start()
    try:
        write_list(folder, n1=PAIR)
        wait_until(lambda: bool(taken.lists))
        assert taken.lists[0] is not None
        assert set(taken.lists[0].by_name) == {"n1"}
        (event,) = taken.events
        assert isinstance(event, ConfigReloaded)
        assert event.changed == ("security.access_file",)
    finally:
        watch.stop()
        watch.thread.join(5.0)


def test_a_file_that_is_touched_or_the_same_is_not_taken_again(folder: Path) -> None:
    taken = Taken()
    watch = AccessWatch(folder / "access.json", taken)
    write_list(folder, n1=PAIR, n2=OTHER)
    watch.follow()
    assert taken.events == []


@pytest.mark.parametrize("text", ["{", '{"members": 7}', '{"clients": {"a": {"roles": ["king"]}}}'])
def test_a_file_with_faults_changes_nothing_and_is_told_once(folder: Path, text: str) -> None:
    taken = Taken()
    watch = AccessWatch(folder / "access.json", taken)
    (folder / "access.json").write_text(text)
    for _ in range(3):
        watch.follow()
    assert taken.lists == [None]
    (event,) = taken.events
    assert isinstance(event, ConfigRejected)
    assert "access.json" in event.problems[0]
    write_list(folder, n1=PAIR)
    watch.follow()
    assert taken.lists[1] is not None


def test_a_file_that_is_gone_leaves_the_list_in_force(folder: Path) -> None:
    taken = Taken()
    watch = AccessWatch(folder / "access.json", taken)
    (folder / "access.json").unlink()
    watch.follow()
    assert taken.lists == [None]


def test_a_running_node_goes_by_the_file(folder: Path) -> None:
    """And tells its listeners that it does."""
    service = ConsensusService("n1", bind="127.0.0.1:0", storage_path=folder / "data", security=security(folder))
    told: list[ConsensusEvent] = []
    service.bus.subscribe(ConfigReloaded, told.append, inline=True)
    with service:
        service.wait_for_leader(timeout=10.0)
        engine = service.host.node.base.engine  # type: ignore[union-attr]
        assert engine.access.of_key(OTHER.public) is not None
        write_list(folder, n1=PAIR)
        wait_until(lambda: engine.access.of_key(OTHER.public) is None)
        service.put("k", 1)
        assert service.get("k") == 1
        wait_until(lambda: bool(told))
