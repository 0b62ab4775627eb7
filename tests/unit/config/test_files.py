"""Configuration files: the original's as it stands, positions of faults, substitutions, and who has the last word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from forge_consensus.config.given import ConfigProblemsError, Layer
from forge_consensus.config.layers import from_arguments, from_environment
from forge_consensus.config.loading import LoadedConfig, load_config
from forge_consensus.config.original import ANY, BY_NAME, FIELDS
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.resolving import ALIASES, NAMES, ROWS, resolve
from forge_consensus.config.rows import text_of
from forge_consensus.config.two_names import HALVES
from forge_consensus.errors import InvalidConfigError
from forge_consensus.events.bus import EventBus
from forge_consensus.service.consensus import ConsensusService
from forge_consensus.service.node import Node

PEERS = '{n1: "127.0.0.1:7001", n2: "127.0.0.1:7002"}'
SMALL = f"node_id: n1\npeers: {PEERS}\n"
ORIGINAL = """\
extensions:
  consensus:
    node_id: "node-1"
    cluster_id: "production-cluster"
    bind_addr: "0.0.0.0"
    bind_port: 7000

    peers:
      - id: "node-1"
        address: "10.0.1.10"
        port: 7000
      - id: "node-2"
        address: "10.0.1.11"
        port: 7000
      - id: "node-3"
        address: "10.0.1.12"
        port: 7000

    raft:
      heartbeat_interval: 1s
      election_timeout_min: 5s
      election_timeout_max: 10s
      snapshot_interval: 30m
      snapshot_threshold: 10000

    transport:
      type: grpc
      enable_compression: true
      max_message_size: 4194304  # 4MB
      timeout: 10s

    storage:
      type: badger
      path: ./data/consensus
      sync_writes: true

    discovery:
      type: kubernetes
      namespace: default
      service_name: forge-consensus
{security}
    admin_api:
      enabled: true
      path_prefix: /consensus

    observability:
      metrics:
        enabled: true
        collection_interval: 15s
      tracing:
        enabled: true
        sample_rate: 0.1
      logging:
        level: info
        log_raft_details: false
"""
"""The configuration in the original's README."""
SECURITY = """
    security:
      enable_tls: true
      cert_file: /etc/certs/server.crt
      key_file: /etc/certs/server.key
      ca_file: /etc/certs/ca.crt
      enable_mtls: true
"""


@pytest.fixture
def load(tmp_path: Path) -> Any:
    """A function that loads a text as a file called config.yaml."""

    def loaded(text: str, environment: dict[str, str] | None = None, **arguments: Any) -> LoadedConfig:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return load_config(path, environment=environment or {}, **arguments)

    return loaded


def faults(load: Any, text: str, environment: dict[str, str] | None = None) -> list[str]:
    """The faults of a file, without its folder."""
    with pytest.raises(InvalidConfigError) as raised:
        load(text, environment)
    problems = getattr(raised.value, "problems", (str(raised.value),))
    return ["config.yaml" + problem.partition("config.yaml")[2] for problem in problems]


# --- the original's file ---------------------------------------------------------------------------------------------


def test_the_file_of_the_original_gives_the_settings_that_it_means(load: Any) -> None:
    config = load(ORIGINAL.format(security=""))
    node = config.node
    assert (node.node_id, node.cluster_id, node.bind) == ("node-1", "production-cluster", "0.0.0.0:7000")
    assert node.peers == {"node-1": "10.0.1.10:7000", "node-2": "10.0.1.11:7000", "node-3": "10.0.1.12:7000"}
    raft = node.raft
    assert (raft.heartbeat_interval, raft.election_timeout_min, raft.election_timeout_max) == (1.0, 5.0, 10.0)
    assert (node.storage.snapshot_interval, node.storage.snapshot_entries) == (1800.0, 10_000)
    assert raft.message_bytes_max == 4 << 20
    assert node.storage_path == "./data/consensus"
    assert (config.program.log_level, config.program.log_format) == ("info", "text")


def test_what_the_original_means_otherwise_is_told_once_each_by_name(load: Any) -> None:
    notes = load(ORIGINAL.format(security="")).notes
    told = [note.partition("config.yaml:")[2].split()[1].rstrip(":") for note in notes]
    assert told == [
        "transport.type",
        "transport.enable_compression",
        "transport.timeout",
        "storage.type",
        "discovery.type",
        "discovery.namespace",
        "discovery.service_name",
        "observability.metrics.collection_interval",
        "observability.tracing.enabled",
        "observability.tracing.sample_rate",
        "admin_api.enabled",
    ]
    assert notes[0].endswith(
        "config.yaml:27:7 transport.type: grpc is taken as zmq: nodes speak ZeroMQ with one another"
    )


def test_the_originals_tls_is_loaded_and_leaves_no_connection_plain(load: Any) -> None:
    text = ORIGINAL.format(security=SECURITY)
    config = load(text)
    assert (config.node.security.enable_tls, config.node.security.enable_mtls) == (True, True)
    assert (config.node.security.cert_file, config.node.security.ca_file) == (
        "/etc/certs/server.crt",
        "/etc/certs/ca.crt",
    )
    told = "config.yaml:43:7 security.enable_tls: true is that of the admin API, and nodes speak ZeroMQ"
    assert told in config.notes[-1]
    with pytest.raises(InvalidConfigError, match=r"the connections of ZeroMQ at 0\.0\.0\.0:7000 would be plain"):
        Node(config.node, EventBus()).open()
    safe = load(text, {"FORGE_CONSENSUS_SECURITY__CURVE_KEY_FILE": "n1.key"})
    assert not any("security.enable_tls" in note for note in safe.notes)
    with pytest.raises(InvalidConfigError, match=r"/etc/certs/server\.crt"):
        Node(safe.node, EventBus()).open()


@pytest.mark.parametrize("form", ["{}", "consensus: {}", "extensions: {{consensus: {}}}"])
def test_the_section_stands_where_the_original_looks_for_it(load: Any, form: str) -> None:
    inside = "{node_id: n1, bind: '127.0.0.1:7001'}"
    text = form.format(inside)
    assert load(text).node.node_id == "n1"
    assert load(f"other: 1\n{text}" if form != "{}" else text).node.node_id == "n1"


def test_every_field_of_the_original_has_a_meaning_here() -> None:
    assert len(NAMES - ROWS.keys()) == len({*ALIASES, *BY_NAME, *HALVES})
    assert not BY_NAME.keys() & ROWS.keys()
    assert len(BY_NAME) == len(FIELDS)
    for field in FIELDS:
        assert field.why, field.name
        assert not field.why.endswith("."), field.name
        assert field.here is ANY or type(field.here) is type(field.default), field.name


# --- every field has an effect, or is told, or is refused ------------------------------------------------------------

OTHER_TEXTS = {
    "node_id": "n2",
    "peers": "n1=127.0.0.1:7001,n3=127.0.0.1:7003",
    "bind": "127.0.0.1:7009",
    "metrics": "127.0.0.1:9100",
    "events_bind": "127.0.0.1:9101",
    "advertise": "127.0.0.1:7010",
    "http_url": "http://127.0.0.1:8000",
    "join": "127.0.0.1:7011",
    "join_as": "learner",
    "rejoin": "true",
    "log_level": "debug",
    "observability.logging.level": "debug",
    "log_format": "json",
    "observability.logging.enable_structured": "true",
    "raft.clock_drift": "0.2",
    "admin_api.bind": "127.0.0.1:8001",
    "admin_api.path_prefix": "/raft",
}
"""Texts that change a setting which has no other text by rule."""
ALONE = {"join": "peers: null\nbind: '127.0.0.1:7001'\n", "join_as": "join: '127.0.0.1:7002'\n"}


def changed_text(name: str) -> str:
    """A text for a setting that differs from its default and keeps to its bounds."""
    if name in OTHER_TEXTS:
        return OTHER_TEXTS[name]
    row = ROWS.get(ALIASES.get(name, name)) or HALVES[name]
    default = row.default
    if row.kind == "bool":
        return text_of(not default)
    if row.kind in ("int", "float"):
        high = row.described.maximum
        return text_of(default * 2 + 1 if high is None or default * 2 < high else default // 2)
    return "other"


def given(name: str, text: str) -> Any:
    """The layer that gives a value, with what makes it possible."""
    base = {"node_id": "n1", "bind": "127.0.0.1:7001"}
    if name in ("join_as", "rejoin"):
        base |= {"join": "127.0.0.1:7002"}
    if name == "rejoin":
        base |= {"join_as": "voter"}
    if name in ("bind_addr", "bind_port"):
        del base["bind"]
    base[name] = text
    return from_arguments(base)


@pytest.mark.parametrize("name", sorted({*ROWS, *ALIASES, *HALVES} - {"node_id", "peers"}))
def test_every_setting_that_a_file_gives_has_an_effect(name: str) -> None:
    resolved = resolve([given(name, changed_text(name))])
    assert not resolved.problems
    target = (
        "bind" if name in ("bind_addr", "bind_port") else "log_format" if name in HALVES else ALIASES.get(name, name)
    )
    assert resolved.values[target] != ROWS[target].default
    assert resolved.origins[target].origin == f"argument {name}"


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_other_field_is_accepted_told_or_refused(field: Any) -> None:
    others = {"bool": text_of(field.here is not True), "texts": "x"}
    text = others.get(field.kind) or (field.choices[-1] if field.choices else "7")
    resolved = resolve([Layer([*given("peers", "n1=127.0.0.1:1").givens, *from_arguments({field.name: text}).givens])])
    told = [*resolved.notes, *resolved.problems]
    assert len(told) == 1, "a value that is not as it is here must be told or refused"
    assert field.why in told[0]
    assert bool(resolved.problems) == (field.otherwise == "refused")
    if field.here is not ANY:
        same = resolve([Layer(from_arguments({field.name: field.here}).givens)])
        assert not same.notes
        assert not same.problems


# --- faults ----------------------------------------------------------------------------------------------------------


def test_a_file_that_is_broken_in_seven_places_gives_seven_faults_with_their_places(load: Any) -> None:
    text = """\
node_id: n1
peers:
  - {id: n1, address: 127.0.0.1, port: 7001}
  - {id: n2, adress: 127.0.0.2, address: 127.0.0.2, port: 7001}
raft:
  electon_timeout_max: 10s
  heartbeat_interval: soon
  heartbeat_interval: 1s
  fast_retries: -1
storage:
  type: mysql
  snapshot_entries: ${ENTRIES}
"""
    assert faults(load, text) == [
        "config.yaml:4:14 peers[1].adress: unknown key, a member has id, address, port",
        'config.yaml:6:3 raft.electon_timeout_max: unknown key, did you mean "election_timeout_max"?',
        "config.yaml:7:3 raft.heartbeat_interval is 'soon': write a number of seconds of at least 0.001, such as 0.25, "
        "250ms or 2m",
        "config.yaml:8:3 raft.heartbeat_interval: duplicate key, it stands in line 7 already",
        "config.yaml:9:3 raft.fast_retries is '-1': write a whole number of at least 0",
        "config.yaml:11:3 storage.type is 'mysql': it is one of lmdb, badger, boltdb, pebble",
        "config.yaml:12:3 storage.snapshot_entries: the variable 'ENTRIES' is not set: set it, or give a default: "
        "${ENTRIES:-value}",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("- a\n", "config.yaml:1:1 there must be names with values, such as node_id: n1"),
        ("text\n", "config.yaml:1:1 there must be names with values, such as node_id: n1"),
        ('a: "\\UFFFFFFFF"\n', "config.yaml is no YAML: an escape in it is out of range"),
        ('a: "\\U00110000"\n', "config.yaml is no YAML: an escape in it is out of range"),
        ("a: [1\n", "config.yaml:2:1 is no YAML: expected ',' or ']', but got '<stream end>'"),
        (f"{SMALL}raft: 5\n", "config.yaml:3:1 raft: it is a section, give the settings in it by name"),
        (f"{SMALL}client: {{frame_items_max: 5}}\n", "it is a setting of clients and not of a node"),
        (f"{SMALL}heartbeat_interval: 1s\n", "heartbeat_interval: unknown key, did you mean raft.heartbeat_interval?"),
        (f"{SMALL}wholly_else: 1\n", "wholly_else: unknown key, see them all with: forge-consensus settings"),
        (f"{SMALL}raft: {{fast_retries: [[1]]}}\n", "config.yaml:3:23 raft.fast_retries[0]: give one value"),
        (f"{SMALL}bind: a:1\nbind_port: 7\n", "bind_port: "),
        (f"{SMALL}storage: {{snapshot_entries: 5}}\nraft: {{snapshot_threshold: 5}}\n", "says the same with"),
        (f"{SMALL}? [a]\n: 1\n", "config.yaml:3:3 a key must be a name"),
        (f"{SMALL}cluster_id: ${{OPEN\n", "has no closing brace"),
        (f"{SMALL}cluster_id: ${{file:/no/such/file}}\n", "'/no/such/file' cannot be read: No such file or directory"),
        ("node_id: n1\npeers: [{id: n1}]\n", "config.yaml:2:9 peers[0].address: it is missing"),
        ("node_id: n1\npeers: [[n1]]\n", "config.yaml:2:9 peers[0]: give one value"),
        ("node_id: n1\npeers: [n1]\n", "config.yaml:2:9 peers[0]: a member is id, address and port, or ID=HOST:PORT"),
        ("node_id: n3\npeers: {n1: 'a:1'}\n", "node 'n3' is not among the peers n1"),
        ("node_id: n1\ndiscovery: {type: dns}\nbind: 'a:1'\n", "discovery.type: dns finds nobody here"),
        (
            f"{SMALL}raft: {{heartbeat_interval: 1s}}\n",
            "config.yaml:3:8 raft.election_timeout_min is 0.8 s: it must be at least twice the raft.heartbeat_interval",
        ),
        ("cluster_id: c\n", "node_id is missing"),
        (
            "node_id: n1\npeers: [{id: n1, address: null, port: 1}]\n",
            "config.yaml:2:27 peers[0].address: it has no value",
        ),
        ("node_id: n1\npeers: {n1: null}\n", "peers.n1: it has no value"),
        ("node_id: n1\npeers: {n1: 'a:1,n2=b:2'}\n", "peers: n1: endpoint 'a:1,n2=b:2' is not an address"),
        ("node_id: n1\npeers: {n1: 'a:1', n2: b, n3: c}\n", "n2: endpoint 'b' is not an address"),
        ("node_id: n1\npeers: [{id: 'n1=x:1,n2', address: a, port: 1}]\n", "cannot be a node's id"),
        ("node_id: n1\npeers: ['n1=a:1', 'n1=b:1']\n", "node 'n1' is twice among the peers"),
        ("node_id: n1\npeers: [{id: n1, address: '10.0.0.1:7001', port: 7001}]\n", "'10.0.0.1:7001' is no host"),
        ("node_id: n1\nbind_addr: '127.0.0.1:7001'\n", "bind_addr: '127.0.0.1:7001' is no host"),
        ("node_id: n1\nbind_port: 70001\n", "config.yaml:2:1 bind_port: endpoint '127.0.0.1:70001'"),
        (
            f"{SMALL}storage: {{type: postgres}}\n",
            "config.yaml:3:11 storage.type: postgres is refused: a node keeps its log and state in LMDB, in",
        ),
        (f"{SMALL}join: nonsense\n", "config.yaml:3:1 join: endpoint 'nonsense'"),
        (f"{SMALL}join: [null]\n", "join[0]: it has no value"),
        (f"{SMALL}advertise: peers\n", "config.yaml:3:1 advertise: endpoint 'peers'"),
        (f"{SMALL}metrics: 9100\n", "config.yaml:3:1 metrics: endpoint '9100'"),
        (f"{SMALL}machine: ''\n", "machine is empty: give a value, or leave it out"),
        (f"{SMALL}machine: {{}}\n", "machine is {}: it must be a text"),
        (f"{SMALL}lease_reads: []\n", "lease_reads is (): it must be true or false"),
        (f"{SMALL}observability: 3\n", "observability: it is a section"),
        (f"{SMALL}raft: {{<<: {{fast_retries: 1}}}}\n", "raft: merge keys are not read"),
        (f"{SMALL}cluster_id: !!binary aGVsbG8=\n", "cluster_id: the tag tag:yaml.org,2002:binary has no meaning here"),
        (f"{SMALL}cluster_id: ${{X:-${{Y}}}}\n", "substitutions do not stand inside one another"),
        (f'{SMALL}cluster_id: "${{file:/tmp/\\0x}}"\n', "cannot be read: embedded null byte"),
        (f"{SMALL}raft: {{fast_retries: {'9' * 5000}}}\n", "raft.fast_retries is '999"),
        (f'{SMALL}"a\\nb": 1\n', "config.yaml:3:1 'a\\nb': unknown key"),
        (
            "consensus: {node_id: n1}\nextensions: {consensus: {node_id: n1}}\n",
            "2:14 consensus: the settings stand in line 1 too",
        ),
        ("extensions: {consensus: []}\n", "config.yaml:1:14 there must be names with values"),
        ("node_id: n1\nbind: '127.0.0.1:0'\npeers: {n1: 'a:1', n2: 'b:1'}\n", "port 0 takes whatever port is free"),
        ("", "node_id is missing"),
        ("node_id: n1\n", "there is no address to listen at"),
    ],
)
def test_a_fault_says_where_what_and_what_to_do(load: Any, text: str, fault: str) -> None:
    with pytest.raises(InvalidConfigError) as raised:
        load(text)
    assert fault in str(raised.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path, part in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InvalidConfigError, match=part):
            load_config(path, environment={})
    (tmp_path / "binary.yaml").write_bytes(b"node_id: \xff\n")
    with pytest.raises(InvalidConfigError, match="not UTF-8"):
        load_config(tmp_path / "binary.yaml", environment={})
    (tmp_path / "large.yaml").write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(InvalidConfigError, match="more than 1048576 bytes"):
        load_config(tmp_path / "large.yaml", environment={})


def test_all_faults_of_single_values_are_told_at_once(load: Any) -> None:
    text = f"{SMALL}log_level: loud\ncluster_id: ''\njoin: x\njoin_as: boss\nraft: {{fast_retries: x}}\n"
    assert [fault.split()[0] for fault in faults(load, text)] == [
        "config.yaml:3:1",
        "config.yaml:4:1",
        "config.yaml:5:1",
        "config.yaml:6:1",
        "config.yaml:7:8",
    ]


@pytest.mark.parametrize("leaf", ["1", ""])
def test_aliases_that_stand_for_very_much_end_with_a_fault(load: Any, leaf: str) -> None:
    lines = [f"a0: &a0 {{x: {leaf}, y: {leaf}}}"]
    lines += [f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(9))}}}" for n in range(1, 9)]
    with pytest.raises(ConfigProblemsError, match="too much"):
        load("\n".join(lines))
    with pytest.raises(ConfigProblemsError, match="too much"):
        load(f"s: &s {'x' * 100_000}\njoin: [{', '.join(['*s'] * 200)}]\n")


# --- substitutions and secrets ---------------------------------------------------------------------------------------


def test_variables_and_files_stand_for_values(load: Any, tmp_path: Path) -> None:
    (tmp_path / "name").write_text("from-a-file\n")
    text = f"{SMALL}cluster_id: ${{file:{tmp_path}/name}}\nraft: {{heartbeat_interval: '${{PACE:-50ms}}'}}\n"
    assert load(text).node.cluster_id == "from-a-file"
    assert load(text).node.raft.heartbeat_interval == 0.05
    assert load(text, {"PACE": "100ms"}).node.raft.heartbeat_interval == 0.1
    assert load(text, {"PACE": ""}).node.raft.heartbeat_interval == 0.05
    assert load(f"{SMALL}cluster_id: a-$${{x}}-b\n").node.cluster_id == "a-${x}-b"
    assert load("node_id: ${NAME}\npeers: ['${NAME}=127.0.0.1:1']\n", {"NAME": "n7"}).node.peers == {
        "n7": "127.0.0.1:1"
    }


def test_secrets_are_in_no_message_and_in_no_text_of_the_result(load: Any, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hunter2\n")
    secret = f"'${{file:{tmp_path}/key}}'"
    for text in (
        f"{SMALL}security: {{encryption_key: hunter2}}\n",
        f"{SMALL}admin_api: {{api_key: {secret}}}\n",
        f"{SMALL}raft: {{fast_retries: {secret}}}\n",
        f"{SMALL}transport: {{timeout: {secret}}}\n",
        f"{SMALL}log_level: {secret}\n",
        f"{SMALL}join: {secret}\n",
        f"{SMALL}advertise: {secret}\n",
        f"bind_addr: '::x'\nbind_port: {secret}\n",
        f"node_id: {secret}\npeers: {PEERS}\n",
        f"node_id: n1\npeers: {{n1: 'a:1', n2: {secret}}}\n",
        f"node_id: n1\npeers: [{{id: {secret}, address: a, port: 1}}]\n",
        f"node_id: n1\npeers: 'n1=a:1,n2={secret[1:-1]}:x'\n",
    ):
        with pytest.raises(InvalidConfigError) as raised:
            load(text)
        assert "hunter2" not in str(raised.value), text
    config = load(f"node_id: n1\npeers: {{n1: '${{file:{tmp_path}/key}}:7001'}}\ncluster_id: {secret}\n")
    assert config.node.bind == "hunter2:7001"
    assert "hunter2" not in repr(config.origins)
    assert all(config.origins[name].secret for name in ("peers", "cluster_id", "bind"))


# --- who has the last word -------------------------------------------------------------------------------------------


def test_later_files_then_the_environment_then_arguments_win_setting_by_setting(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(f"{SMALL}raft: {{heartbeat_interval: 10ms, fast_retries: 1, suspect_checks: 3}}\n")
    two.write_text("raft: {fast_retries: 2, suspect_checks: 4, fail_checks: 9}\n")
    environment = {"FORGE_CONSENSUS_RAFT__SUSPECT_CHECKS": "5", "FORGE_CONSENSUS_RAFT__FAIL_CHECKS": "10"}
    config = load_config(one, two, environment=environment, raft={"fail_checks": 11})
    raft = config.node.raft
    assert (raft.heartbeat_interval, raft.fast_retries, raft.suspect_checks, raft.fail_checks) == (0.01, 2, 5, 11)
    origins = {name: given.origin.rpartition("/")[2] for name, given in config.origins.items()}
    assert origins["raft.heartbeat_interval"] == "one.yaml:3:8"
    assert origins["raft.fast_retries"] == "two.yaml:1:8"
    assert origins["raft.suspect_checks"] == "FORGE_CONSENSUS_RAFT__SUSPECT_CHECKS"
    assert origins["raft.fail_checks"] == "argument raft.fail_checks"


def test_a_later_layer_may_replace_a_half_of_the_place_to_listen(load: Any) -> None:
    def bind(text: str, **environment: str) -> str:
        variables = {f"FORGE_CONSENSUS_{name}": value for name, value in environment.items()}
        return str(load(f"{SMALL}{text}\n", variables).node.bind)

    assert bind("bind: '10.0.0.5:1'", BIND_PORT="2") == "10.0.0.5:2"
    assert bind("bind: '10.0.0.5:1'", BIND_ADDR="0.0.0.0") == "0.0.0.0:1"
    assert bind("bind: '[::1]:1'", BIND_PORT="2") == "[::1]:2"
    assert bind("bind_port: 1", BIND="127.0.0.2:2") == "127.0.0.2:2"
    assert bind("bind_addr: 1.1.1.1", BIND_PORT="2") == "1.1.1.1:2"
    assert bind("bind_addr: '::1'\nbind_port: 1") == "[::1]:1"
    assert bind("") == "127.0.0.1:7001"
    with pytest.raises(
        InvalidConfigError, match=r"FORGE_CONSENSUS_BIND_PORT bind_port: .*:3:1 gives a bind that is no HOST:PORT"
    ):
        bind("bind: ipc:///run/n1", BIND_PORT="2")
    origins = load(f"{SMALL}bind_addr: 1.1.1.1\n", {"FORGE_CONSENSUS_BIND_PORT": "2"}).origins
    assert origins["bind"].origin.endswith("config.yaml:3:1 and FORGE_CONSENSUS_BIND_PORT")
    structured = {"FORGE_CONSENSUS_OBSERVABILITY__LOGGING__ENABLE_STRUCTURED": "true"}
    assert load(f"{SMALL}log_format: text\n", structured).program.log_format == "json"


def test_an_empty_variable_is_not_set_and_an_empty_member_list_is_one(load: Any, tmp_path: Path) -> None:
    empty = {"FORGE_CONSENSUS_PEERS": "", "FORGE_CONSENSUS_MACHINE": "", "FORGE_CONSENSUS_RAFT__FAST_RETRIES": " "}
    config = load(f"{SMALL}machine: a:B\n", empty)
    assert len(config.node.peers) == 2
    assert config.program.machine == "a:B"
    alone = tmp_path / "alone.yaml"
    alone.write_text("peers: {}\nbind: '127.0.0.1:1'\n")
    (tmp_path / "config.yaml").write_text(SMALL)
    assert load_config(tmp_path / "config.yaml", alone, environment={}).node.peers == {}


def test_variables_of_others_are_left_alone_and_slips_are_told() -> None:
    layer = from_environment(
        {
            "FORGE_CONSENSUS_PORT_7000_TCP": "tcp://10.0.0.1:7000",
            "FORGE_CONSENSUS_SERVICE_HOST": "10.0.0.1",
            "FORGE_CONSENSUS_CONTEXT": "prod",
            "FORGE_CONSENSUS_CONTEXTS": "contexts.yaml",
            "FORGE_CONSENSUS_ENDPOINTS": "127.0.0.1:1",
            "FORGE_CONSENSUS_NODEID": "n1",
            "FORGE_CONSENSUS_LISTEN": "a:1",
            "FORGE_CONSENSUS_RAFT": "x",
            "FORGE_CONSENSUS_NODE_ID": "n1",
            "HOME": "/root",
        },
        NAMES,
    )
    assert [given.name for given in layer.givens] == ["node_id"]
    assert layer.problems == [
        "FORGE_CONSENSUS_LISTEN: there is no such setting, did you mean FORGE_CONSENSUS_BIND?",
        "FORGE_CONSENSUS_NODEID: there is no such setting, did you mean FORGE_CONSENSUS_NODE_ID?",
        "FORGE_CONSENSUS_RAFT: it is a section, give the settings in it: FORGE_CONSENSUS_RAFT__NAME",
    ]
    wrong = resolve([from_environment({"FORGE_CONSENSUS_RAFT__X": "1"}, NAMES)])
    assert wrong.problems == [
        "FORGE_CONSENSUS_RAFT__X raft.x: unknown key, see them all with: forge-consensus settings"
    ]


def test_arguments_are_values_maps_or_settings() -> None:
    config = load_config(
        environment={},
        node_id="n1",
        peers={"n1": "127.0.0.1:7001"},
        raft=RaftSettings(fast_retries=7),
        storage={"snapshot_entries": 5},
        metrics=None,
    )
    assert (config.node.raft.fast_retries, config.node.storage.snapshot_entries) == (7, 5)
    with pytest.raises(InvalidConfigError, match='argument nodeid nodeid: unknown key, did you mean "node_id"'):
        load_config(environment={}, nodeid="n1")
    joined = load_config(environment={}, node_id="n1", bind="a:1", join=["b:1", "c:1"])
    assert joined.node.join == "b:1,c:1"


def test_a_settings_class_as_an_argument_leaves_alone_what_it_does_not_change(load: Any) -> None:
    config = load(f"{SMALL}raft: {{fast_retries: 7}}\n", raft=RaftSettings(heartbeat_interval=0.05))
    assert (config.node.raft.fast_retries, config.node.raft.heartbeat_interval) == (7, 0.05)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"storage_path": b"x"}, "storage_path is b'x': it must be the path of a folder"),
        ({"raft": {"fast_retries": 10**5000}}, "argument raft.fast_retries: the number is too large"),
        ({"raft": {"fast_retries": 1.5}}, "raft.fast_retries is 1.5: it must be a whole number"),
        ({"peers": 5}, "peers is 5: it must be a map of node ids"),
        ({"peers": {"n1": "a:1,n2=b:1"}}, "endpoint 'a:1,n2=b:1' is not an address"),
        ({"node_id": 5}, "node_id is 5: it must be a text"),
        ({"environment": {"FORGE_CONSENSUS_NODE_ID": 5}}, "the variable FORGE_CONSENSUS_NODE_ID is 5"),
        ({"environment": 5}, "environment is 5: it must be a map"),
    ],
)
def test_arguments_of_a_wrong_type_are_refused(arguments: dict[str, Any], part: str) -> None:
    with pytest.raises(InvalidConfigError) as raised:
        load_config(**{"environment": {}, "node_id": "n1", "bind": "a:1", **arguments})
    assert part in str(raised.value)


@pytest.mark.parametrize("path", [None, 5, b"a", ["a"], "a\0b"])
def test_what_is_no_path_of_a_file_is_refused(path: Any) -> None:
    with pytest.raises(InvalidConfigError):
        load_config(path, environment={})


def test_times_are_read_as_go_writes_them(load: Any) -> None:
    for text, seconds in (("1m30s", 90.0), ("1h0m0s", 3600.0), ("500us", 0.0005), ("2", 2.0), ("1.5 s", 1.5)):
        assert load(f"{SMALL}storage: {{snapshot_interval: {text}}}\n").node.storage.snapshot_interval == seconds
    for wrong in ("1m30", "m", "1x", "1s m", "--1s"):
        assert faults(load, f"{SMALL}storage: {{snapshot_interval: {wrong}}}\n")


def test_an_application_makes_its_service_from_a_file(load: Any, tmp_path: Path) -> None:
    text = f"{SMALL}storage_path: {tmp_path}/n1\nraft: {{fast_retries: 7}}\nmetrics: '127.0.0.1:0'\n"
    config = load(text)
    service = ConsensusService(**config.arguments())
    assert service.settings == config.node
    assert service.settings.raft.fast_retries == 7
    with pytest.raises(InvalidConfigError, match="advertise is given, and a ConsensusService cannot follow it"):
        load(f"{text}advertise: '10.0.0.1:7001'\n").arguments()
