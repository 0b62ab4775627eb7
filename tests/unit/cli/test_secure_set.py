"""``init --secure``: the files of a cluster; nothing is overwritten, and nothing secret can be read by others."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from forge_consensus.cli import secure_set
from forge_consensus.cli.main import cli
from forge_consensus.cli.secure_set import client_text, write_secure_set
from forge_consensus.config.client_file import read_client_file
from forge_consensus.config.loading import load_config
from forge_consensus.errors import AlreadyExistsError, InvalidConfigError
from forge_consensus.security.access_file import read_access_file
from forge_consensus.security.curve import KeyPair, read_key_file

NODES = {"n1": "127.0.0.1:7601", "n2": "127.0.0.1:7602", "n3": "127.0.0.1:7603"}


def test_each_node_and_each_client_finds_its_keys_and_those_of_the_others(tmp_path: Path) -> None:
    write_secure_set(NODES, "shop", tmp_path / "set")
    access = read_access_file(tmp_path / "set" / "access.json")
    for node, address in NODES.items():
        settings = load_config(tmp_path / "set" / f"{node}.yaml").node
        assert (settings.node_id, settings.cluster_id, settings.bind, settings.peers) == (node, "shop", address, NODES)
        security = settings.security
        assert security.curve_key_file is not None
        assert access.member_keys(node) == (read_key_file(security.curve_key_file).public,)
        assert security.access_file == str(tmp_path / "set" / "access.json")
        assert security.client_key_file is not None
        application = access.of_key(read_key_file(security.client_key_file).public)
        assert application is not None
        assert not application.is_member
    for name, may_write in (("admin", True), ("reader", False)):
        file = read_client_file(tmp_path / "set" / f"{name}.yaml")
        assert file.endpoints == tuple(NODES.values())
        assert file.servers == {node: access.member_keys(node) for node in NODES}
        assert file.curve_key_file is not None
        principal = access.of_key(read_key_file(file.curve_key_file).public)
        assert principal is access.of_token(file.token, 0)
        assert principal is not None
        assert principal.may("read", [""])
        assert principal.may("write", [""]) == may_write


def test_only_the_owner_reads_what_is_secret(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        paths = write_secure_set(NODES, "shop", tmp_path / "set")
    finally:
        os.umask(mask)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in paths}
    secret = {name for name, mode in modes.items() if mode == 0o600}
    assert secret == {name for name in modes if name.endswith((".key", ".token"))}
    assert set(modes.values()) == {0o600, 0o644}
    assert stat.S_IMODE((tmp_path / "set").stat().st_mode) == 0o700
    texts = [path.read_text() for path in paths if path.name not in secret]
    for name in secret:
        held = (tmp_path / "set" / name).read_text().strip()
        assert not any(held in text for text in texts)


def test_nothing_is_overwritten_and_nothing_is_left_of_an_attempt(tmp_path: Path) -> None:
    (tmp_path / "n2.yaml").write_text("mine")
    with pytest.raises(AlreadyExistsError, match=r"n2\.yaml is there already"):
        write_secure_set(NODES, "shop", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["n2.yaml"]
    assert (tmp_path / "n2.yaml").read_text() == "mine"
    for clash in ("admin", "n1-client"):
        with pytest.raises(InvalidConfigError, match=f"{clash} is the name of a client"):
            write_secure_set({**NODES, clash: "127.0.0.1:1"}, "shop", tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        ({"ca": "127.0.0.1:1"}, r"two different files would be called ca\.key"),
        ({"n1-disk": "127.0.0.1:1"}, r"two different files would be called n1-disk\.key"),
        ({"n4": NODES["n1"]}, f"two nodes have the address {NODES['n1']}"),
    ],
)
def test_nodes_that_would_share_a_file_or_an_address_are_refused(
    tmp_path: Path, nodes: dict[str, str], text: str
) -> None:
    with pytest.raises(InvalidConfigError, match=text):
        write_secure_set({**NODES, **nodes}, "shop", tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_a_key_with_what_would_stand_for_a_variable_is_read_as_it_is(tmp_path: Path) -> None:
    key = "${abc}" + "a" * 34
    (tmp_path / "admin.key").write_text("x")
    (tmp_path / "admin.token").write_text("x")
    (tmp_path / "admin.token").chmod(0o600)
    keys = {"n1": KeyPair(key, "")}
    (tmp_path / "admin.yaml").write_text(client_text("admin", {"n1": "127.0.0.1:1"}, "c", keys))
    assert read_client_file(tmp_path / "admin.yaml", {}).servers == {"n1": (key,)}


def test_the_command_says_what_to_do_next(tmp_path: Path) -> None:
    out = tmp_path / "set"
    given = ["init", "--secure", "--out", str(out), "--nodes"]
    done = CliRunner().invoke(cli, [*given, "n1=127.0.0.1:7601"])
    assert done.exit_code == 0
    assert f"forge-consensus node -c {out}/n1.yaml\n" in done.output
    assert f"forge-consensus status --config {out}/admin.yaml\n" in done.output
    assert "copy" not in done.output
    assert CliRunner().invoke(cli, [*given, "n1=127.0.0.1:7601"]).exit_code == 78, "keys in use are not replaced"
    assert "copy to each node's host" in "\n".join(secure_set.next_steps({"n1": "10.0.0.1:7601"}, out))
    for wrong in (["init", "--secure"], ["init", "--out", str(out)], ["init", "--secure", "--nodes", "n1=h:1"]):
        assert CliRunner().invoke(cli, wrong).exit_code == 2
    assert CliRunner().invoke(cli, [*given, "n1"]).exit_code == 78
