"""What changes when a configuration is read again: what takes effect at once, what waits, and what is refused."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.config.changes import HOT_PROGRAM, ReloadPlan, ReloadReport, SettingChange, plan_of
from forge_consensus.config.file_reads import BYTES_MAX
from forge_consensus.config.given import ConfigProblemsError
from forge_consensus.config.loading import ConfigSource, LoadedConfig, load_config
from forge_consensus.config.resolving import ROWS
from forge_consensus.config.rows import plain
from forge_consensus.config.shown import values_of
from forge_consensus.errors import InvalidConfigError

SMALL = 'node_id: n1\nbind: "127.0.0.1:7001"\n'
OTHER: dict[str, Any] = {
    "node_id": "n9",
    "cluster_id": "other",
    "bind": "127.0.0.1:7009",
    "peers": {"n1": "127.0.0.1:7001", "n2": "127.0.0.1:7002"},
    "storage_path": "elsewhere",
    "lease_reads": True,
    "metrics": "127.0.0.1:9100",
    "events_bind": "127.0.0.1:9101",
    "advertise": "10.0.0.1:7001",
    "http_url": "http://10.0.0.1:8000",
    "join": "10.0.0.2:7001",
    "machine": "tally:Tally",
    "log_level": "debug",
    "log_format": "json",
    "exit_when_removed": True,
    "admin_api.enabled": False,
    "admin_api.bind": "127.0.0.1:8001",
    "admin_api.path_prefix": "/c",
    "admin_api.insecure": True,
    "admin_api.hosts": "h",
    "security.curve_key_file": "n1.key",
    "security.curve_secret_key": "s",
    "security.access_file": "access.json",
    "security.audit_file": "audit.jsonl",
    "security.client_key_file": "app.key",
    "security.insecure": True,
    "security.cert_file": "n1.crt",
    "security.key_file": "n1.key",
    "security.ca_file": "ca.crt",
    "security.skip_verify": True,
    "admin_api.enable_auth": True,
    "reload.watch": False,
    "reload.interval": 5.0,
    "raft.heartbeat_interval": 0.05,
    "raft.election_timeout_min": 0.9,
    "raft.election_timeout_max": 2.0,
    "raft.clock_drift": 0.2,
    "raft.suspect_checks": 3,
    "storage.quota_bytes": 1 << 30,
}
"""Another value for each setting; numbers that are not here are a little larger."""
TLS = {"security.enable_tls": True, "security.cert_file": "n1.crt", "security.key_file": "n1.key"}
PAIRS: dict[str, dict[str, Any]] = {
    "join_as": {"join": "10.0.0.2:7001", "join_as": "voter"},
    "rejoin": {"join": "10.0.0.2:7001", "join_as": "voter", "rejoin": True},
    "peers": {"peers": {"n1": "127.0.0.1:7001", "n2": "127.0.0.1:7002"}},
    "node_id": {"node_id": "n9"},
    "security.enable_encryption": {"security.enable_encryption": True, "security.encryption_key": "k"},
    **{
        f"security.encryption_key{kind}": {"security.enable_encryption": True, f"security.encryption_key{kind}": "k"}
        for kind in ("", "_file", "_command")
    },
    "security.enable_tls": TLS,
    "security.enable_mtls": {**TLS, "security.enable_mtls": True, "security.ca_file": "ca.crt"},
    "admin_api.api_key": {"admin_api.enable_auth": True, "admin_api.api_key": "0123456789abcdef"},
}
"""Settings that need others."""
BEFORE: dict[str, dict[str, Any]] = {
    f"security.encryption_key{kind}": {"security.enable_encryption": True, f"security.encryption_key{other}": "old"}
    for kind, other in (("", "_file"), ("_file", "_command"), ("_command", ""))
}
"""What is in force before a setting is changed that makes sense only then."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small file that is valid."""
    path = tmp_path / "node.yaml"
    path.write_text(SMALL)
    return path


def planned(old: dict[str, Any], new: dict[str, Any], **more: Any) -> ReloadPlan:
    """The plan between two configurations, given as arguments."""
    usual = {"node_id": "n1", "bind": "127.0.0.1:7001"}
    before, after = (load_config(environment={}, **nested({**usual, **each})) for each in (old, new))
    return plan_of(before, after, **more)


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Values by whole name, as arguments."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        section, dot, last = name.rpartition(".")
        (found.setdefault(section, {}) if dot else found)[last] = value
    return found


def another(name: str) -> dict[str, Any]:
    """Another value of a setting, with what it needs."""
    if name in PAIRS:
        return PAIRS[name]
    if name in OTHER:
        return {name: OTHER[name]}
    default = plain(ROWS[name].default)
    return {name: default + 1 if isinstance(default, int) else default * 1.5 + 0.001}


def test_encryption_is_turned_on_by_a_restart_alone() -> None:
    with pytest.raises(InvalidConfigError, match=r"security\.enable_encryption\), so nothing was changed: restart"):
        planned({}, another("security.enable_encryption"))


@pytest.mark.parametrize("name", [name for name in ROWS if name != "security.enable_encryption"])
def test_every_changed_setting_takes_effect_or_is_named(name: str) -> None:
    plan = planned(BEFORE.get(name, {}), another(name))
    changes = {change.name: change for change in (*plan.changed, *plan.waiting)}
    assert name in changes
    change = changes[name]
    assert change.reload == ROWS[name].described.reload
    usual = nested({"node_id": "n1", "bind": "127.0.0.1:7001", **BEFORE.get(name, {})})
    old, new = values_of(load_config(environment={}, **usual)), values_of(plan.config)
    if change.reload == "hot":
        assert change in plan.changed
        assert new[name] != old[name]
    else:
        assert change in plan.waiting
        assert new[name] == old[name], "it is not in force"


def test_what_takes_effect_does_so_beside_what_waits() -> None:
    plan = planned({}, {"raft.check_interval": 1.0, "raft.heartbeat_interval": 0.05, "lease_reads": True})
    assert plan.changed == (SettingChange("raft.check_interval", "0.5", "1.0", "hot"),)
    assert (plan.named("restart"), plan.named("founding")) == (("raft.heartbeat_interval",), ("lease_reads",))
    assert plan.config.node.raft.check_interval == 1.0
    assert plan.config.node.raft.heartbeat_interval == 0.1


def test_hot_values_that_fit_only_to_what_needs_a_restart_are_refused_with_both_names() -> None:
    running = {"raft.command_bytes_max": 1 << 20}
    wanted = {"raft.command_bytes_max": 1 << 10, "storage.uncommitted_bytes_max": 1 << 16}
    with pytest.raises(InvalidConfigError) as caught:
        planned(running, wanted)
    for part in ("storage.uncommitted_bytes_max", "needs a restart (raft.command_bytes_max)", "nothing was changed"):
        assert part in str(caught.value)


def test_settings_of_a_program_that_an_application_does_not_follow_are_said() -> None:
    plan = planned({}, {"log_level": "debug", "reload.interval": 5.0}, followed=("reload.interval",))
    assert [change.name for change in plan.changed] == ["reload.interval"]
    assert plan.notes == (
        "log_level info -> debug has no effect here, because the application decides how it logs and when it ends",
    )
    assert {"log_level", "log_format", "exit_when_removed", "reload.watch", "reload.interval"} == HOT_PROGRAM


def test_origins_are_those_of_the_values_in_force(file: Path) -> None:
    source = ConfigSource([file], {})
    running = source.load()
    file.write_text(f"{SMALL}# one more line\nraft:\n  check_interval: 1s\n  heartbeat_interval: 50ms\n")
    config = plan_of(running, source.load_again(running)).config
    assert config.origins["raft.check_interval"].origin == f"{file}:5:3"
    assert config.origins["node_id"].origin == f"{file}:1:1"
    assert "raft.heartbeat_interval" not in config.origins, "the default is in force"


def test_secrets_and_very_long_values_are_not_told(file: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    file.write_text(f"{SMALL}machine: '${{file:{secret}}}'\n")
    source = ConfigSource([file], {})
    running = source.load()
    secret.write_text("swordfish")
    (change,) = plan_of(running, source.load_again(running)).waiting
    assert (change.old, change.new) == ("(secret)", "(secret)")
    (change,) = planned({}, {"machine": "m" * 5000}).waiting
    assert len(change.new) == 200


# --- reading again ---------------------------------------------------------------------------------------------------


def again(file: Path, text: str | None = None, **more: Any) -> LoadedConfig:
    """What is loaded again after the file has another text."""
    source = ConfigSource([file], {}, **more)
    running = source.load()
    if text is not None:
        file.write_text(text)
    return source.load_again(running)


def test_files_variables_and_arguments_keep_their_order(file: Path) -> None:
    environment = {"FORGE_CONSENSUS_RAFT__FAIL_CHECKS": "9"}
    source = ConfigSource([file], environment)
    running = source.load()
    file.write_text(f"{SMALL}raft: {{fail_checks: 7, check_interval: 2s}}\n")
    found = source.load_again(running)
    assert (found.node.raft.fail_checks, found.node.raft.check_interval) == (9, 2.0)
    environment["FORGE_CONSENSUS_RAFT__FAIL_CHECKS"] = ""
    assert source.load_again(running).node.raft.fail_checks == 7


def test_a_cluster_id_that_is_not_given_is_that_of_the_running_node(file: Path) -> None:
    source = ConfigSource([file], {})
    running = source.load(lambda folder: "named at the founding")
    assert source.load_again(running).node.cluster_id == "named at the founding"


def test_a_file_with_seven_faults_gives_seven_with_their_places(file: Path) -> None:
    text = (
        "node_id: 'n 1'\nbind: nowhere\nraft:\n  hartbeat: 1\n  check_interval: soon\n  fail_checks: -1\n"
        "storage:\n  quota_bytes: much\nlog_level: loud\n"
    )
    with pytest.raises(ConfigProblemsError) as caught:
        again(file, text)
    places = [problem.split()[0] for problem in caught.value.problems]
    assert places == [f"{file}:{place}" for place in ("1:1", "2:1", "4:3", "5:3", "6:3", "8:3", "9:1")]


def pipe_at(path: Path) -> None:
    """A pipe into which nobody writes."""
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: (path.unlink(), path.mkdir()), "Is a directory|no regular file"),
        (lambda path: path.write_bytes(b"node_id: \xff\n"), "is not UTF-8"),
        (lambda path: path.write_bytes(SMALL.encode("utf-16")), "is not UTF-8"),
        (lambda path: path.write_text("a" * (BYTES_MAX + 1)), "more than 1048576 bytes"),
        (lambda path: path.write_text(""), "node_id is missing"),
        (lambda path: path.write_text("{"), "is no YAML"),
        (lambda path: path.write_text("node_id: [n1"), "is no YAML"),
        (pipe_at, "no regular file"),
        (lambda path: (path.unlink(), path.symlink_to(path)), "symbolic link"),
        (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "no regular file"),
        (lambda path: path.write_text(f"{SMALL}cluster_id: ${{file:/no/secret}}\n"), "No such file"),
        (lambda path: path.write_text(f"{SMALL}cluster_id: ${{NO_SUCH_VARIABLE}}\n"), "is not set"),
    ],
)
def test_whatever_becomes_of_the_file_is_told_and_never_waited_for(file: Path, make: Any, part: str) -> None:
    source = ConfigSource([file], {})
    running = source.load()
    make(file)
    with pytest.raises(InvalidConfigError, match=part):
        source.load_again(running)
    assert source.look() == source.seen, "it is told once"
    if file.is_dir():
        file.rmdir()
    file.unlink(missing_ok=True)
    file.write_text(SMALL)
    assert source.look() != source.seen
    assert source.load_again(running) == running


def test_an_optional_file_may_come_later_but_must_not_go(file: Path, tmp_path: Path) -> None:
    late = tmp_path / "late.yaml"
    source = ConfigSource([file, late], {}, optional=True)
    running = source.load()
    assert source.look() == source.seen
    late.write_text("log_level: debug\n")
    assert source.look() != source.seen
    assert source.load_again(running).program.log_level == "debug"
    late.unlink()
    with pytest.raises(InvalidConfigError, match="No such file"):
        source.load_again(running)


def test_what_a_file_names_is_looked_at_too_and_a_link_counts_by_what_it_leads_to(file: Path, tmp_path: Path) -> None:
    first, second, link = tmp_path / "1", tmp_path / "2", tmp_path / "link"
    first.write_text("a")
    second.write_text("b")
    link.symlink_to(first)
    file.write_text(f"{SMALL}machine: ${{file:{link}}}\n")
    source = ConfigSource([file], {})
    running = source.load()
    os.utime(file)
    os.utime(first)
    assert source.look() == source.seen, "a touch is no change"
    (tmp_path / "new").symlink_to(second)
    (tmp_path / "new").rename(link)
    assert source.look() != source.seen
    assert source.load_again(running).program.machine == "b"
    assert source.look() == source.seen


def test_relative_paths_count_from_where_they_were_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("node.yaml").write_text(f"{SMALL}machine: '${{file:secret}}'\n")
    Path("secret").write_text("a")
    source = ConfigSource(["node.yaml"], {})
    running = source.load()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "secret").write_text("b")
    assert source.look() != source.seen
    assert source.load_again(running).program.machine == "b"
    assert running.origins["node_id"].origin == "node.yaml:1:1"


def test_what_comes_from_a_pipe_is_read_once_and_not_watched(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.write(write, SMALL.encode())
    os.close(write)
    source = ConfigSource([f"/dev/fd/{read}"], {})
    running = source.load()
    assert running.node.node_id == "n1"
    assert not source.can_be_watched
    with pytest.raises(InvalidConfigError, match="no regular file, so it cannot be read again"):
        source.load_again(running)
    os.close(read)


# --- reports ---------------------------------------------------------------------------------------------------------


def test_a_report_goes_through_json_and_says_what_became_of_each_setting() -> None:
    plan = planned({}, {"raft.check_interval": 1.0, "raft.heartbeat_interval": 0.05, "lease_reads": True})
    report = ReloadReport("n1", "api", False, plan.changed, plan.waiting, ("a note",), ("node.yaml",))
    assert ReloadReport.from_dict(report.to_dict()) == report
    assert report.to_dict()["pending_restart"] == ["raft.heartbeat_interval"]
    assert report.lines() == [
        "raft.check_interval 0.5 -> 1.0: in force",
        "lease_reads false -> true: is read only when a new cluster is founded, and changes nothing here",
        "raft.heartbeat_interval 0.1 -> 0.05: waits for a restart of the node",
        "a note",
    ]
    assert replace(report, dry_run=True).lines()[0].endswith("would take effect at once")
    assert ReloadReport("n1", "api", False, (), ()).lines() == ["nothing has changed"]
    assert ReloadReport.from_dict({}) == ReloadReport("", "", False, (), ())
