"""The list of access on real nodes: changed by calls and commands, the same on all, over restarts and snapshots.

Security is off here: the list is then only kept.
"""

from __future__ import annotations

import asyncio
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge_consensus import AsyncClient, Client, Command, CommandError, ConsensusService, InvalidConfigError
from forge_consensus.client.access_records import AccessInfo
from forge_consensus.security.access import TOKEN_MARK, digest_of
from forge_consensus.security.curve import KeyPair, read_key_file
from forge_consensus.testing.local.cluster import LocalCluster
from tests.worlds.cli_world import Shell
from tests.worlds.ledger_world import TallyMachine

KEYS = [KeyPair.made().public for _ in range(4)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(nodes=3) as started:
        started.wait_until_settled()
        yield started


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with cluster.client(timeout=15.0) as made:
        yield made


@pytest.fixture
def shell(cluster: LocalCluster) -> Shell:
    return Shell(",".join(cluster.endpoints))


def on_each_node(cluster: LocalCluster, client: Client) -> list[AccessInfo]:
    """The list as each node tells it from its own state."""
    after = client.barrier().applied
    rows = [
        client.read({"@access": True}, "stale", read_from=endpoint, after_index=after) for endpoint in cluster.endpoints
    ]
    return [AccessInfo.of_answer(row) for row in rows]


def test_all_nodes_have_the_list_also_after_their_ends(cluster: LocalCluster, client: Client) -> None:
    assert client.add_principal("ann", roles=["admin"], keys=[KEYS[0]])
    assert client.add_principal("n9", roles=["peer"], keys=[KEYS[1]])
    text = client.create_token("shop", rules=["write shop/*"], ttl=3600)
    assert client.revoke_key(KEYS[1])
    told = client.access()
    shop = told.named("shop")
    assert shop is not None
    (token,) = shop.tokens
    assert text.startswith(f"{TOKEN_MARK}{token.id}_")
    assert (told.revoked, [one.name for one in told.principals]) == ((KEYS[1],), ["ann", "n9", "shop"])
    assert digest_of(text[len(TOKEN_MARK) + 13 :]) not in repr(told)
    assert on_each_node(cluster, client) == [told] * 3
    leader = cluster.leader()
    assert leader is not None
    cluster.kill(leader)
    assert client.add_key("ann", KEYS[2])
    cluster.restart(leader)
    cluster.wait_until_settled()
    for name, endpoint in zip(cluster.names, cluster.endpoints, strict=True):
        client.snapshot(endpoint)
        cluster.kill(name)
        cluster.restart(name)
        cluster.wait_until_settled()
    after = client.access()
    assert on_each_node(cluster, client) == [after] * 3
    assert after.revoked == (KEYS[1],)
    ann = after.named("ann")
    assert ann is not None
    assert ann.keys == (KEYS[0], KEYS[2])


def test_what_cannot_be_is_refused_by_the_client_or_the_cluster(client: Client) -> None:
    client.add_principal("ann", roles=["admin"])
    wrong: list[dict[str, Any]] = [{"roles": ["root"]}, {"roles": "admin"}, {"rules": ["app"]}, {"keys": ["short"]}]
    for arguments in wrong:
        with pytest.raises(InvalidConfigError):
            client.add_principal("bob", **arguments)
    with pytest.raises(InvalidConfigError, match="ttl is -1"):
        client.create_token("ann", ttl=-1)
    with pytest.raises(InvalidConfigError, match="there is no token"):
        client.rotate_token("x" * 12)
    with pytest.raises(CommandError, match="there is no 'nobody' in the list") as refused:
        client.remove_principal("nobody")
    assert refused.value.kind == "AccessChangeRefused"


def test_tokens_are_exchanged_without_a_gap(client: Client) -> None:
    first = client.create_token("robot", roles=["read"], ttl=60)
    token_id = first.removeprefix(TOKEN_MARK)[:12]
    with pytest.raises(InvalidConfigError, match="say for how long the new one is to last"):
        client.rotate_token(token_id)
    client.rotate_token(token_id, ttl=60, overlap=30)
    robot = client.access().named("robot")
    assert robot is not None
    ends = {token.id: token.ends for token in robot.tokens}
    assert len(ends) == 2
    old = ends.pop(token_id)
    (new,) = ends.values()
    assert old is not None
    assert new is not None
    assert 25 < new - old < 35
    assert client.revoke_token(token_id)
    assert not client.revoke_token(token_id)
    client.forget_revoked(token_id)
    assert token_id not in client.access().revoked


def test_the_same_calls_as_coroutines(cluster: LocalCluster) -> None:
    async def run() -> None:
        async with AsyncClient(cluster.endpoints, timeout=15.0) as client:
            assert await client.add_principal("coro", roles=["read"], keys=[KEYS[3]])
            text = await client.create_token("coro")
            rotated = await client.rotate_token(text.removeprefix(TOKEN_MARK)[:12])
            assert await client.revoke_token(rotated.removeprefix(TOKEN_MARK)[:12])
            assert not await client.add_key("coro", KEYS[3])
            assert await client.revoke_key(KEYS[3])
            told = await client.access("stale")
            await client.forget_revoked(KEYS[3])
            await client.remove_principal("coro")
            assert told.index < (await client.access()).index

    asyncio.run(run())


def test_a_service_with_a_machine_of_its_own_has_a_list_too(tmp_path: Path) -> None:
    with ConsensusService("n1", bind="127.0.0.1:0", storage_path=tmp_path, state_machine=TallyMachine) as service:
        service.wait_for_leader(timeout=10)
        assert service.apply(Command("add")) == 1
        assert service.add_principal("ann", roles=["admin"], keys=[KEYS[0]])
        assert service.apply(Command("add")) == 2
    with ConsensusService("n1", bind="127.0.0.1:0", storage_path=tmp_path, state_machine=TallyMachine) as service:
        service.wait_for_leader(timeout=10)
        assert [one.name for one in service.access().principals] == ["ann"]
        assert service.read("total") == 2


# --- the command line -------------------------------------------------------------------------------------------------


def test_keys_are_made_for_their_owner_alone(tmp_path: Path, shell: Shell) -> None:
    file = tmp_path / "own.key"
    made = shell.run("keygen", str(file))
    assert (made.exit_code, made.stdout.strip()) == (0, read_key_file(file).public)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_key_file(file).secret not in made.output
    again = shell.run("keygen", str(file))
    assert again.exit_code == 78
    assert "no key is overwritten" in again.stderr
    assert shell.run("keygen", "--show", str(file)).stdout == made.stdout
    both = shell.json("keygen")
    assert KeyPair.of_secret(both["secret"]).public == both["public"]
    assert shell.run("keygen", "--show").exit_code == 2


def test_users_keys_and_tokens_by_commands(tmp_path: Path, shell: Shell) -> None:
    assert shell.run("auth", "user", "set", "boss", "--role", "admin").exit_code == 0
    file = tmp_path / "shop.key"
    public = shell.run("keygen", str(file)).stdout.strip()
    added = shell.run("auth", "key", "add", "store", "--file", str(file), "--rule", "write store/*", "--role", "read")
    assert added.stdout == "added\n", added.output
    assert shell.run("auth", "key", "add", "store", public).stdout == "it was there before\n"
    other = shell.run("auth", "key", "add", "store", KEYS[0], "--role", "admin")
    assert other.exit_code == 78
    assert "store is there with the roles read and the rules write store/*" in other.stderr

    made = shell.run("auth", "token", "create", "store", "--ttl", "90d")
    token_id = made.stdout.removeprefix(TOKEN_MARK)[:12]
    assert re.fullmatch(rf"{TOKEN_MARK}[\w-]{{12}}_[\w-]{{43}}\n", made.stdout), "alone, so that it can be piped"
    assert token_id in shell.run("auth", "token", "list").stdout
    rotated = shell.json("auth", "token", "rotate", token_id, "--ttl", "1h")["token"]
    listed = {row["id"]: row for row in shell.json("auth", "token", "list")["tokens"]}
    assert token_id not in listed
    assert listed[rotated.removeprefix(TOKEN_MARK)[:12]]["name"] == "store"
    new_id = rotated.removeprefix(TOKEN_MARK)[:12]
    assert (listed[new_id]["from"], listed[new_id]["state"], listed[new_id]["in_force"]) == ("log", "valid", True)
    assert re.search(rf"{new_id} +store .* UTC +valid +log", shell.run("auth", "token", "list").stdout)
    assert shell.run("auth", "token", "revoke", new_id).stdout == "revoked\n"
    assert re.search(rf"{new_id} +- +- +- +- +revoked +log", shell.run("auth", "token", "list").stdout)
    assert new_id not in shell.run("auth", "key", "list").stdout, "it is no key"
    assert shell.run("auth", "token", "revoke", "-x").exit_code == 2

    table = shell.run("auth", "user", "list").stdout
    assert re.search(r"store +read +write store/\* +1 +0", table), table
    (row,) = [row for row in shell.json("auth", "user", "list")["users"] if row["name"] == "store"]
    assert row["keys"] == [public]
    secret = read_key_file(file).secret
    mistaken = shell.run("auth", "key", "revoke", secret)
    assert mistaken.exit_code == 78
    assert f"that is the secret key of store: name the public one, {public}" in mistaken.stderr
    assert secret not in mistaken.output + shell.run("auth", "key", "list").output
    assert shell.run("auth", "key", "revoke", public).stdout == "revoked\n"
    assert public in shell.json("auth", "key", "list")["revoked"]
    assert re.search(rf"{re.escape(public)} +- +- +- +revoked", shell.run("auth", "key", "list").stdout)
    assert shell.run("auth", "user", "remove", "store").stdout.startswith("removed")
    gone = shell.run("auth", "user", "remove", "store")
    assert gone.exit_code == 65
    assert "there is no 'store' in the list" in gone.stderr
    assert shell.run("auth", "key", "add", "store").exit_code == 2
