"""The file of a client: what it says, where its paths lead, and what is wrong with one that cannot be."""

from __future__ import annotations

import json
import traceback
from pathlib import Path

import pytest

from forge_consensus.config.client_file import read_client_file
from forge_consensus.errors import InvalidConfigError

KEY = "a" * 40
WHOLE = f"""
client:
  endpoints: [127.0.0.1:7001, "127.0.0.1:7002"]
  cluster_id: shop
  timeout: 1500ms
  curve_key_file: admin.key
  servers: {{n1: ["{KEY}"], n2: "{KEY}"}}
  token_file: ${{TOKENS:-tokens}}/admin
  ca_file: /etc/ca.pem
"""


def test_a_file_says_where_the_nodes_are_and_who_the_client_is(tmp_path: Path) -> None:
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "admin").write_text("fct_secret\n")
    (tmp_path / "tokens" / "admin").chmod(0o600)
    (tmp_path / "admin.yaml").write_text(WHOLE)
    found = read_client_file(tmp_path / "admin.yaml", {})
    assert found.endpoints == ("127.0.0.1:7001", "127.0.0.1:7002")
    assert (found.cluster_id, found.timeout, found.token) == ("shop", 1.5, "fct_secret")
    assert (found.curve_key_file, found.ca_file) == (tmp_path / "admin.key", Path("/etc/ca.pem"))
    assert found.servers == {"n1": (KEY,), "n2": (KEY,)}
    assert found.is_secure
    assert "fct_secret" not in repr(found)
    (tmp_path / "tokens" / "admin").chmod(0o644)
    with pytest.raises(InvalidConfigError, match="mode 0644, so others may read it"):
        read_client_file(tmp_path / "admin.yaml", {})


def test_endpoints_alone_are_a_client_without_keys_also_in_json(tmp_path: Path) -> None:
    (tmp_path / "plain.json").write_text(json.dumps({"endpoints": "127.0.0.1:7001, 127.0.0.1:7001"}))
    found = read_client_file(tmp_path / "plain.json")
    assert found.endpoints == ("127.0.0.1:7001",)
    assert not found.is_secure


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("client: {}", "client.endpoints is missing"),
        ("client: {endpoint: x}", "client.endpoint: unknown key"),
        ("client: [1]", "there must be a section client"),
        ("client: {endpoints: [nowhere]}", "nowhere"),
        ("client: {endpoints: ['h:1'], timeout: soon}", "soon"),
        ("client: {endpoints: ['h:1'], timeout: 0}", "must be above 0"),
        ("client: {endpoints: ['h:1'], token: a, token_file: b}", "both given"),
        ("client: {endpoints: ['h:1'], curve_key_file: a}", "client.servers is missing"),
        ("client: {endpoints: ['h:1'], servers: [a]}", "client.servers: give a map"),
        ("client: {endpoints: ['h:1'], token: '${NOT_SET}'}", "'NOT_SET' is not set"),
        ("client: {endpoints: ['h:1'], cluster_id: [a]}", "client.cluster_id: give one text"),
        ("client: {", "is no YAML"),
    ],
)
def test_what_is_wrong_is_said_with_the_file_and_the_field(tmp_path: Path, text: str, wrong: str) -> None:
    path = tmp_path / "client.yaml"
    path.write_text(text)
    with pytest.raises(InvalidConfigError) as refused:
        read_client_file(path, {})
    assert wrong in str(refused.value)
    assert str(path) in str(refused.value)


SECRET = "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6"
"""The one of ZeroMQ's own documentation."""
TOKEN = "fct_k3qh4ct4gHdE_46brzMnALHdSjTwOhNeFrIvg1Z-5Jj4ewZGlE7NylIc"
"""Of the form that tokens have; not drawn, because the names of tests must be the same in each process."""


@pytest.mark.parametrize(
    "text",
    [
        f"client: {{endpoints: ['h:1'], curve_key_file: '{SECRET}'}}",
        f"client: {{endpoints: ['h:1'], token_file: {TOKEN}}}",
        f"client: {{endpoints: ['h:1'], timeout: {TOKEN}}}",
        f"client: {{endpoints: ['{SECRET}']}}",
        f"client: {{endpoints: ['h:1'], token: {TOKEN}",
        f"client:\n  endpoints: ['h:1']\n  token: !{TOKEN}\n",
        f"client:\n  endpoints: ['h:1']\n  token: *{TOKEN}\n",
        f"client:\n  endpoints: ['h:1']\n\ttoken: {TOKEN}\n",
        f"client: {{endpoints: ['h:1'], token: '${{{SECRET[:20]}=}}'}}",
        f"client: {{endpoints: ['h:1'], token: 'x${{{SECRET[:20]}='}}",
    ],
)
def test_a_secret_in_the_wrong_place_is_not_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "client.yaml"
    path.write_text(text)
    with pytest.raises(InvalidConfigError) as refused:
        read_client_file(path, {})
    told = "".join(traceback.format_exception(refused.value))
    for part in (SECRET[:20], SECRET[-20:], TOKEN[17:37], TOKEN[-20:]):
        assert part not in told
