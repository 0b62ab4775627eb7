"""The keys by which a node's own clients know the others: those of the list in force, also when it has changed."""

from __future__ import annotations

from pathlib import Path

from forge_consensus.actors.runtime.access_control import AccessControl
from forge_consensus.config.security import SecuritySettings
from forge_consensus.security.access import AccessList, Principal
from forge_consensus.security.credentials import Credentials
from forge_consensus.security.curve import KeyPair, write_key_file
from forge_consensus.service.node_security import own_credentials


def member(name: str, *keys: KeyPair) -> Principal:
    """A member with these keys."""
    return Principal(name, frozenset({"peer"}), keys=tuple(pair.public for pair in keys))


def test_a_key_that_was_exchanged_counts_at_once_and_the_last_one_no_more(tmp_path: Path) -> None:
    own, mine, first, second = (KeyPair.made() for _ in range(4))
    write_key_file(tmp_path / "client.key", mine)
    access = AccessControl(own, AccessList([member("n2", first)]))
    found = own_credentials(SecuritySettings(client_key_file=str(tmp_path / "client.key")), access)
    assert found is not None
    assert found.keys == mine
    assert found.of("127.0.0.1:7002") == (first.public, own.public)
    assert found.present is not None
    before = found.present()
    assert found.present() is before, "nothing is made anew for each look"
    access.take_log(AccessList([member("n2", first, second)]))
    assert found.of("127.0.0.1:7002") == (first.public, second.public, own.public)
    assert found.present() is not before
    access.take_log(AccessList([member("n2", second)], [first.public]))
    assert found.of("127.0.0.1:7002") == (second.public, own.public)


def test_an_address_that_is_named_has_keys_of_its_own_and_others_have_all() -> None:
    one, two = (KeyPair.made().public for _ in range(2))
    fixed = Credentials(KeyPair.made(), {"127.0.0.1:7001": (one,), "n2": (two, one)})
    assert fixed.of("127.0.0.1:7001") == (one,)
    assert fixed.of("127.0.0.1:7002") == (one, two)
    moving = Credentials(fixed.keys, fixed.servers, lambda: {"127.0.0.1:7002": (two,)})
    assert moving.of("127.0.0.1:7002") == moving.of("127.0.0.1:7001") == (two,)
    assert Credentials(fixed.keys, fixed.servers, dict).of("127.0.0.1:7002") == (one, two), "as at first, without any"
