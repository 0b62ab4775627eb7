"""What the doctor says of the protection of a node and of a client: one test for each thing that may be wrong."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import pytest

from forge_consensus.checks.access import listed_findings
from forge_consensus.checks.finding import Finding
from forge_consensus.checks.protection import When, client_findings, node_findings
from forge_consensus.checks.secret_files import bits_of
from forge_consensus.config.client_file import read_client_file
from forge_consensus.config.loading import load_config
from forge_consensus.security import certificates
from forge_consensus.security.access import AccessList, Principal, Rule, Token
from forge_consensus.security.access_file import data_of_access
from forge_consensus.security.certificates import issue, make_authority
from forge_consensus.security.curve import KeyPair, write_key_file
from forge_consensus.security.encryption_key import write_encryption_key
from tests.worlds.certified import CertifiedFolder

NOW = time.time()
"""For ages of days; a certificate that has ended is looked at by the time of the look."""
DAY = 86_400.0
BASE = "node_id: n1\nbind: 127.0.0.1:7001\n"


def of_node(
    folder: Path, text: str = "", *, days: float = 365, name: str = "node.yaml", mode: int = 0o644
) -> list[Finding]:
    """What is found of a node whose configuration has these lines too."""
    file = folder / name
    file.write_text(BASE + text)
    file.chmod(mode)
    return node_findings(load_config(file, environment={}), When(time.time(), days))


def told(found: list[Finding], check: str, level: str) -> str:
    """The text of the only finding of a check at a level."""
    (finding,) = [one for one in found if (one.check, one.level) == (check, level)]
    assert level == "ok" or finding.advice or check in {"access", "connections", "certificate"}
    return finding.text


def levels(found: list[Finding], check: str) -> list[str]:
    """The levels of the findings of a check."""
    return [one.level for one in found if one.check == check]


# --- connections ------------------------------------------------------------------------------------------------------


def test_a_node_of_this_machine_only_is_well_without_keys(tmp_path: Path) -> None:
    assert told(of_node(tmp_path), "connections", "ok") == "without keys, and only this machine reaches 127.0.0.1:7001"


def test_a_node_that_would_not_start_because_it_is_plain_is_a_problem(tmp_path: Path) -> None:
    found = of_node(tmp_path, "metrics: 10.0.0.1:9100\n")
    assert "the node would serve its metrics at 10.0.0.1:9100" in told(found, "connections", "problem")


def test_what_insecure_allows_is_a_warning_for_each_place(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text("node_id: n1\nbind: 10.0.0.1:7001\nmetrics: 10.0.0.1:9100\nsecurity: {insecure: true}\n")
    found = node_findings(load_config(file, environment={}), When(time.time(), 365))
    texts = [one.text for one in found if (one.check, one.level) == ("connections", "warning")]
    assert [text.partition(" ")[0] for text in texts] == ["bind", "events_bind", "metrics"]
    assert "reads everything and can change it" in texts[0]


def test_insecure_where_nothing_needs_it_is_a_warning(tmp_path: Path) -> None:
    found = of_node(tmp_path, "security: {insecure: true}\n")
    assert "nothing here needs it" in told(found, "connections", "warning")


def test_an_open_admin_api_is_a_problem_and_with_insecure_a_warning(tmp_path: Path) -> None:
    place = "bind: '0.0.0.0:8001'"
    text = told(of_node(tmp_path, f"admin_api: {{{place}}}\n"), "connections", "problem")
    assert "no TLS (security.enable_tls) and no tokens (admin_api.enable_auth), so the node does not start" in text
    text = told(
        of_node(tmp_path, f"admin_api: {{{place}, enable_auth: true, insecure: true}}\n"), "connections", "warning"
    )
    assert "has no TLS (security.enable_tls), because admin_api.insecure allows it" in text
    assert levels(of_node(tmp_path, f"admin_api: {{enabled: false, {place}}}\n"), "connections") == ["ok"]


def test_certificates_that_nobody_checks_are_a_warning(tmp_path: Path) -> None:
    assert "skip_verify" in told(of_node(tmp_path, "security: {skip_verify: true}\n"), "connections", "warning")


def test_a_node_with_keys_may_listen_anywhere(tmp_path: Path) -> None:
    write_key_file(tmp_path / "n1.key", KeyPair.made())
    file = tmp_path / "node.yaml"
    file.write_text(f"node_id: n1\nbind: 0.0.0.0:7001\nsecurity: {{curve_key_file: {tmp_path}/n1.key}}\n")
    found = node_findings(load_config(file, environment={}), When(time.time(), 365))
    assert levels(found, "connections") == ["ok"]
    assert told(found, "secrets", "ok").startswith("1 file with keys")


# --- files with secrets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["curve_key_file", "client_key_file", "encryption_key_file"])
def test_a_key_file_that_others_may_read_or_that_is_missing_is_a_problem(tmp_path: Path, setting: str) -> None:
    path = tmp_path / "some.key"
    text = f"security: {{{setting}: {path}, enable_encryption: {'true' if 'encryption' in setting else 'false'}}}\n"
    assert "No such file" in told(of_node(tmp_path, text), "secrets", "problem")
    if "encryption" in setting:
        write_encryption_key(path)
    else:
        write_key_file(path, KeyPair.made())
    assert levels(of_node(tmp_path, text), "secrets") == ["ok"]
    path.chmod(0o640)
    assert f"security.{setting}: {path} has mode 0640" in told(of_node(tmp_path, text), "secrets", "problem")


def test_keys_that_are_old_by_the_time_of_their_file_are_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "n1.key"
    write_key_file(path, KeyPair.made())
    os.utime(path, (NOW - 400 * DAY, NOW - 400 * DAY))
    text = f"security: {{curve_key_file: {path}}}\n"
    warned = told(of_node(tmp_path, text), "key age", "warning")
    assert warned.startswith(
        f"security.curve_key_file: {path} is 400 days old by the time of the file, and more than 365"
    )
    assert "older than 400 days" in told(of_node(tmp_path, text, days=500), "key age", "ok")


def test_a_secret_in_a_configuration_and_a_file_with_one_that_others_may_read_are_warnings(tmp_path: Path) -> None:
    secret = KeyPair.made().secret
    text = f"security: {{curve_secret_key: '{secret.replace('${', '$${')}'}}\n"
    found = of_node(tmp_path, text, mode=0o600)
    assert told(found, "secrets", "warning").startswith("security.curve_secret_key stands in ")
    assert secret not in repr(found)
    warnings = [
        one.text for one in of_node(tmp_path, text, mode=0o644) if one.level == "warning" and one.check == "secrets"
    ]
    assert "has mode 0644, so others may read it" in warnings[1]


def test_a_secret_from_a_file_or_a_variable_is_none_in_the_configuration(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text(KeyPair.made().secret)
    kept.chmod(0o600)
    text = f"security: {{curve_secret_key: '${{file:{kept}}}'}}\n"
    assert levels(of_node(tmp_path, text), "secrets") == []
    kept.chmod(0o644)
    assert f"{kept} has mode 0644" in told(of_node(tmp_path, text), "secrets", "warning")


def test_a_configuration_and_a_list_that_others_may_write_are_warnings(tmp_path: Path) -> None:
    access = tmp_path / "access.json"
    access.write_text(json.dumps(data_of_access(AccessList())))
    access.chmod(0o666)
    assert "can let themselves in" in told(
        of_node(tmp_path, f"security: {{access_file: {access}}}\n"), "secrets", "warning"
    )
    assert "can have the node do anything" in told(of_node(tmp_path, mode=0o664), "secrets", "warning")


@pytest.mark.parametrize(
    ("token", "is_strong"),
    [
        ("fct_k3qh4ct4gHdE_46brzMnALHdSjTwOhNeFrIvg1Z-5Jj4ewZGlE7NylIc", True),
        ("c" * 64, False),
        ("0123456789abcdef" * 2, False),
        ("0123456789abcdef" * 4, True),
        ("correct horse battery staple", False),
        ("fct_abcdefghijkl_short", False),
        ("J9cXh1u9f3Jv0n5yT8Qw2Lr7Zk4Pm6Sd1Gb0Ea3Ux5o=", True),
    ],
)
def test_a_token_that_can_be_guessed_is_told_by_its_length_and_characters(token: str, is_strong: bool) -> None:
    assert (bits_of(token) >= 256) is is_strong


def test_a_weak_api_key_is_a_warning(tmp_path: Path) -> None:
    text = "admin_api: {enable_auth: true, api_key: "
    assert "admin_api.api_key has at most" in told(
        of_node(tmp_path, f"{text}sixteen-letters-}}\n"), "tokens", "warning"
    )
    assert levels(of_node(tmp_path, f"{text}'{Token.made()[1]}'}}\n"), "tokens") == ["ok"]


# --- certificates -----------------------------------------------------------------------------------------------------


@pytest.fixture
def certified(tmp_path: Path) -> CertifiedFolder:
    (tmp_path / "tls").mkdir()
    return CertifiedFolder(tmp_path / "tls")


def of_certified(certified: CertifiedFolder) -> list[Finding]:
    """What is found of a node with those certificates."""
    names = {"cert_file": "n1.crt", "key_file": "n1.key", "ca_file": "ca.crt"}
    text = "".join(f"  {name}: {certified.folder / file}\n" for name, file in names.items())
    return of_node(certified.folder, f"security:\n  enable_tls: true\n{text}")


def test_a_good_certificate_is_well(certified: CertifiedFolder) -> None:
    found = of_certified(certified)
    assert levels(found, "certificate") == ["ok", "ok"]


def test_a_certificate_that_ends_soon_is_a_warning_and_one_that_is_over_a_problem(certified: CertifiedFolder) -> None:
    certified.write("n1", issue(certified.authority, "guarded", "n1", days=10))
    assert "ends in 10.0 days" in told(of_certified(certified), "certificate", "warning")
    certified.write("n1", certified.issued("n1", ended=True))
    assert "is over since" in told(of_certified(certified), "certificate", "problem")


def test_a_certificate_that_is_not_valid_yet_is_a_problem(certified: CertifiedFolder) -> None:
    with patch.object(certificates, "SKEW", timedelta(hours=-5)):
        certified.write("n1", certified.issued("n1"))
    assert "is valid from" in told(of_certified(certified), "certificate", "problem")


def test_a_certificate_of_another_authority_is_a_warning(certified: CertifiedFolder) -> None:
    certified.write("n1", certified.issued("n1", by=make_authority("others")))
    text = told(of_certified(certified), "certificate", "warning")
    assert text.startswith(f"whoever goes by {certified.ca_file} refuses {certified.folder}/n1.crt: ")


def test_a_certificate_and_a_key_that_do_not_fit_are_a_problem(certified: CertifiedFolder) -> None:
    (certified.folder / "n1.crt").write_bytes(certified.issued("n1").certificate)
    assert "they do not belong together" in told(of_certified(certified), "certificate", "problem")
    (certified.folder / "n1.key").chmod(0o644)
    assert "has mode 0644" in told(of_certified(certified), "secrets", "problem")


# --- the disk, the list of access -------------------------------------------------------------------------------------


def test_a_disk_without_encryption_is_a_warning(tmp_path: Path) -> None:
    assert "reads all data" in told(of_node(tmp_path), "encryption", "warning")
    write_encryption_key(tmp_path / "disk.key")
    text = f"security: {{enable_encryption: true, encryption_key_file: {tmp_path}/disk.key}}\n"
    assert levels(of_node(tmp_path, text), "encryption") == ["ok"]


def test_rules_for_all_keys_and_clients_who_may_all_do_everything_are_warnings(tmp_path: Path) -> None:
    admin = Principal("admin", frozenset({"admin"}))
    wide = Principal("wide", rules=(Rule.of("write *"), Rule.of("read *")))
    member = Principal("n1", frozenset({"peer"}))
    access = tmp_path / "access.json"
    access.write_text(json.dumps(data_of_access(AccessList([admin, wide, member]))))
    found = of_node(tmp_path, f"security: {{access_file: {access}}}\n")
    assert told(found, "access", "warning") == f"{access}: wide has the rule 'write *', so it may change every key"
    second = Principal("second", frozenset({"admin"}))
    (all_admins,) = listed_findings([admin, second, member], "the list")
    assert all_admins.text.startswith("the list: all 2 clients have the role admin")
    (well,) = listed_findings([admin, member], "the list")
    assert (well.level, well.text) == ("ok", "the list: 1 of 1 clients may do everything (admin)")


def test_a_list_that_cannot_be_read_or_has_another_key_for_the_node_is_a_problem(tmp_path: Path) -> None:
    access = tmp_path / "access.json"
    access.write_text("{")
    assert "is no JSON" in told(of_node(tmp_path, f"security: {{access_file: {access}}}\n"), "access", "problem")
    listed = AccessList([Principal("n1", frozenset({"peer"}), keys=(KeyPair.made().public,))])
    access.write_text(json.dumps(data_of_access(listed)))
    write_key_file(tmp_path / "n1.key", KeyPair.made())
    text = f"security: {{access_file: {access}, curve_key_file: {tmp_path}/n1.key}}\n"
    assert "has other keys for n1" in told(of_node(tmp_path, text), "access", "problem")


# --- clients ----------------------------------------------------------------------------------------------------------


def of_client(folder: Path, mode: int = 0o600, **fields: object) -> list[Finding]:
    """What is found of a client whose file has these fields."""
    path = folder / "client.json"
    path.write_text(json.dumps({"client": {"endpoints": ["127.0.0.1:7001"], **fields}}))
    path.chmod(mode)
    return client_findings(read_client_file(path), path, When(time.time(), 365))


def test_a_client_without_keys_may_ask_this_machine_only(tmp_path: Path) -> None:
    assert levels(of_client(tmp_path), "connections") == ["ok"]
    found = of_client(tmp_path, endpoints=["127.0.0.1:7001", "10.0.0.1:7001"])
    assert "the connection of this client to 10.0.0.1:7001 is plain" in told(found, "connections", "warning")


def test_the_keys_and_tokens_of_a_client_are_looked_at(tmp_path: Path) -> None:
    servers = {"n1": [KeyPair.made().public]}
    write_key_file(tmp_path / "some.key", KeyPair.made())
    token = tmp_path / "some.token"
    token.write_text("not-random-at-all\n")
    token.chmod(0o600)
    os.utime(token, (NOW - 500 * DAY, NOW - 500 * DAY))
    found = of_client(tmp_path, curve_key_file="some.key", servers=servers, token_file="some.token")
    assert levels(found, "connections") == ["ok"]
    assert levels(found, "secrets") == ["ok"]
    assert "client.token_file: " in told(found, "key age", "warning")
    assert "client.token_file has at most" in told(found, "tokens", "warning")
    (tmp_path / "some.key").chmod(0o644)
    found = of_client(tmp_path, curve_key_file="some.key", servers=servers)
    assert "has mode 0644" in told(found, "secrets", "problem")


def test_secrets_in_the_file_of_a_client_are_warnings(tmp_path: Path) -> None:
    token = Token.made()[1]
    found = of_client(tmp_path, token=token)
    assert told(found, "secrets", "warning").startswith("client.token stands in ")
    assert token not in repr(found)
    assert len([one for one in of_client(tmp_path, 0o640, token=token) if one.level == "warning"]) == 2


def test_the_authority_of_a_client_is_looked_at(tmp_path: Path, certified: CertifiedFolder) -> None:
    assert levels(of_client(tmp_path, ca_file=str(certified.ca_file)), "certificate") == ["ok"]
    assert "cannot be read" in told(of_client(tmp_path, ca_file="none.crt"), "certificate", "problem")
