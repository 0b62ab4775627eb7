"""No secret of a cluster is in what it and its tools write: a secure one is driven well and badly, and all is searched.

The secrets are those of `init --secure`, one of each kind given by a variable or a file that a configuration names, and
those of strangers. They are looked for in every form in which a program may write one, and in parts.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from zmq.utils import z85

from forge_consensus import Client
from forge_consensus.cli.secure_set import write_secure_set
from forge_consensus.config.client_file import read_client_file
from forge_consensus.config.loading import load_config
from forge_consensus.config.secret_text import looks_like_secret
from forge_consensus.security.access import TOKEN_ID_CHARS, TOKEN_MARK, Token
from forge_consensus.security.credentials import credentials_of
from forge_consensus.security.curve import KeyPair, write_key_file
from forge_consensus.testing.local.ports import free_ports
from tests.worlds.cli_world import Shell
from tests.worlds.waiting import wait_for

SECONDS = 30.0
PART_CHARS = 20
"""A part of a secret that is so long is found too, such as what an error cuts off."""
NODES = ("n1", "n2", "n3")
SHELL = Shell("")
NONE: Mapping[str, str] = {}


class Planted:
    """The secrets, each by what it is, in all forms."""

    def __init__(self) -> None:
        self.forms: dict[str, set[bytes]] = {}

    def text(self, what: str, secret: str) -> None:
        """Plant a text, such as a key in Z85 or what proves a token."""
        same = {secret, html.escape(secret), quote(secret), quote(secret, safe=""), secret.replace("${", "$${")}
        self.forms[what] = {form.encode() for form in {*same, secret[:PART_CHARS], secret[-PART_CHARS:]}}
        self.forms[what] |= coded(secret.encode())

    def data(self, what: str, secret: bytes) -> None:
        """Plant bytes, such as those that a key stands for."""
        self.forms[what] = {secret, *coded(secret), z85.encode(secret)}

    def key(self, what: str, secret: str) -> None:
        """Plant a key of CURVE."""
        self.text(what, secret)
        self.data(f"{what}, decoded", z85.decode(secret))

    def token(self, what: str, text: str) -> None:
        """Plant a token, of which the mark and the id are public."""
        self.text(what, text[len(TOKEN_MARK) + TOKEN_ID_CHARS + 1 :])

    def pem(self, what: str, data: bytes) -> None:
        """Plant a private key in PEM: its lines, and the number that it is."""
        number = load_pem_private_key(data, None).private_numbers().private_value  # type: ignore[union-attr]
        self.data(f"{what}, the number", number.to_bytes(32))
        self.forms[what] = {line for line in data.splitlines() if line and not line.startswith(b"-----")}

    def found_in(self, data: bytes) -> list[str]:
        """The secrets that are in some bytes."""
        return [what for what, forms in self.forms.items() if any(form in data for form in forms)]


def coded(secret: bytes) -> set[bytes]:
    """A secret in hexadecimal and in base64, without the last characters, which depend on what follows."""
    texts = {secret.hex(), secret.hex().upper(), secret.hex(":")}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        texts.add(encode(secret).decode().rstrip("=")[:-1])
    return {text.encode() for text in texts} | {repr(secret)[2:-1].encode()}


class Driven:
    """Three nodes with planted secrets, and everything that anybody wrote."""

    def __init__(self, folder: Path) -> None:
        ports = free_ports(6)
        self.folder, self.planted = folder, Planted()
        self.collected: list[tuple[str, bytes]] = []
        self.nodes = {node: f"127.0.0.1:{port}" for node, port in zip(NODES, ports[:3], strict=True)}
        self.http = {node: f"127.0.0.1:{port}" for node, port in zip(NODES, ports[3:], strict=True)}
        write_secure_set(self.nodes, "vault", folder)
        self.own = {path.stem: path.read_text().strip() for path in folder.glob("*.key")}
        self.tokens = {path.stem: path.read_text().strip() for path in folder.glob("*.token")}
        self.api_key, self.stranger = Token.made()[1], KeyPair.made()
        while "${" in self.stranger.secret or not looks_like_secret(self.stranger.secret):
            self.stranger = KeyPair.made()  # one in 500 looks like a path
        self.plant()
        self.processes = {node: self.start(node) for node in NODES}

    def plant(self) -> None:
        """Note all secrets that there are."""
        for name, text in self.own.items():
            if "PRIVATE KEY" in text:
                self.planted.pem(f"{name}.key", text.encode())
            elif name.endswith("-disk"):
                self.planted.data(f"{name}.key", bytes.fromhex(text))
            else:
                self.planted.key(f"{name}.key", text)
        for name, text in self.tokens.items():
            self.planted.token(f"{name}.token", text)
        self.planted.token("admin_api.api_key", self.api_key)
        self.planted.key("the key of a stranger", self.stranger.secret)

    def start(self, node: str) -> subprocess.Popen[bytes]:
        """Start a node with the finest log, an audit and its events on stdout.

        n2 has an API key, n3 its keys by variables.
        """
        variables = {"FORGE_CONSENSUS_SECURITY__AUDIT_FILE": str(self.folder / f"{node}.audit")}
        if node == "n2":
            variables |= {
                "FORGE_CONSENSUS_ADMIN_API__ENABLE_AUTH": "true",
                "FORGE_CONSENSUS_ADMIN_API__API_KEY": self.api_key,
            }
        if node == "n3":
            file = self.folder / "n3.yaml"
            file.write_text(re.sub(r"(?m)^ *(curve_key_file|encryption_key_file): .*\n", "", file.read_text()))
            variables |= {
                "FORGE_CONSENSUS_SECURITY__CURVE_SECRET_KEY": self.own["n3"],
                "FORGE_CONSENSUS_SECURITY__ENCRYPTION_KEY": self.own["n3-disk"],
            }
        arguments = [
            "-c",
            str(self.folder / f"{node}.yaml"),
            "--http",
            self.http[node],
            "--log-level",
            "debug",
            "--events",
        ]
        return self.background("node", *arguments, log=node, **variables)

    def background(self, *words: str, log: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start a command whose output is collected at the end."""
        command = [sys.executable, "-m", "forge_consensus", *words]
        with (self.folder / f"{log}.log").open("ab") as out:
            return subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, cwd=self.folder, env={**os.environ, **variables}
            )

    def look_at(self, process: subprocess.Popen[bytes]) -> None:
        """Collect what the list of processes shows of one."""
        self.collected.append(("the list of processes", Path(f"/proc/{process.pid}/cmdline").read_bytes()))

    def run(self, *words: str, code: int | None = 0, keys: Mapping[str, str] = NONE) -> None:
        """Run a command in this process, perhaps with these keys as variables, and collect what it writes."""
        given = {f"FORGE_CONSENSUS_SECURITY__{name}": text for name, text in keys.items()}
        done = SHELL.run(*words, stdin=None, **given)
        self.collected.append((" ".join(words), done.stdout_bytes + done.stderr_bytes))
        assert code is None or done.exit_code == code, (words, done.exit_code, done.output)

    def told(self, what: str, *objects: object) -> None:
        """Collect how objects are shown."""
        self.collected.append((what, "".join(f"{one!r} {one!s} " for one in objects).encode()))

    def ask(self, node: str, path: str, token: str, body: object = None) -> int:
        """Ask the admin API, collect the answer with its head, and return the status."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"https://{self.http[node]}{path}", data)
        request.add_header("Authorization", f"Bearer {token}")
        request.add_header("Accept", "application/json")
        request.add_header("Content-Type", "application/json")
        try:
            answer = urllib.request.urlopen(request, timeout=SECONDS, context=context)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            self.collected.append((path, str(answer.headers).encode() + answer.read()))
            return int(answer.status or 0)

    def client_file(self, name: str, **fields: object) -> str:
        """A file of a client that differs from the admin's; returns its path."""
        admin = json.loads((self.folder / "admin.json").read_text())
        path = self.folder / f"{name}.json"
        given = {field: value for field, value in {**admin, **fields}.items() if value is not None}
        path.write_text(json.dumps({"client": given}))
        return str(path)

    def stop(self) -> None:
        """End all processes, and collect what they wrote."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            process.wait(SECONDS)
        for kind in ("*.log", "*.audit"):
            self.collected += [(path.name, path.read_bytes()) for path in self.folder.glob(kind)]
        self.collected += [
            (str(path), path.read_bytes()) for path in (self.folder / "data").rglob("*") if path.is_file()
        ]


@pytest.fixture
def driven(tmp_path: Path) -> Iterator[Driven]:
    made = Driven(tmp_path / "set")
    file = read_client_file(made.folder / "admin.yaml")
    admin = {
        "endpoints": list(file.endpoints),
        "cluster_id": "vault",
        "curve_key_file": "admin.key",
        "servers": {node: list(keys) for node, keys in file.servers.items()},
    }
    (made.folder / "admin.json").write_text(json.dumps(admin))
    try:
        with Client.from_config(made.folder / "admin.yaml", timeout=SECONDS) as client:
            client.put("first", 1)
        yield made
    finally:
        for process in made.processes.values():
            process.kill()
            process.wait(SECONDS)


def test_a_secret_is_found_in_every_form() -> None:
    planted, pair, token = Planted(), KeyPair.made(), Token.made()[1]
    planted.key("key", pair.secret)
    planted.token("token", token)
    raw = z85.decode(pair.secret)
    for form in (pair.secret, raw.hex(), raw.hex().upper(), base64.b64encode(raw).decode(), pair.secret[:25]):
        assert planted.found_in(f"... {form!s} ...".encode()), form
    assert planted.found_in(raw) == ["key, decoded"]
    assert planted.found_in(repr(raw).encode()) == ["key, decoded"]
    assert planted.found_in(f"{token[:40]}...".encode()) == ["token"]
    assert planted.found_in(f"{pair.public} {token[:20]}".encode()) == []


def test_no_secret_is_in_what_a_cluster_and_its_tools_write(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    driven.processes["watch"] = driven.background(
        "events",
        "watch",
        "--since",
        "0",
        "--follow",
        "-o",
        "json",
        "--config",
        str(driven.folder / "admin.yaml"),
        log="watch",
    )
    use_well(driven)
    use_badly(driven)
    crash(driven, monkeypatch)
    wait_for(lambda: b"consensus." in (driven.folder / "watch.log").read_bytes(), SECONDS, "events are watched")
    for process in driven.processes.values():
        driven.look_at(process)
    driven.stop()
    for node in NODES:
        driven.run("audit", "verify", str(driven.folder / f"{node}.audit"))
        driven.run("audit", "show", str(driven.folder / f"{node}.audit"))
    everything = b"".join(data for _, data in driven.collected)
    for proof in (
        KeyPair.of_secret(driven.own["admin"]).public,
        '"openapi"',
        "DEBUG",
        "Traceback",
        '"action":"@access.add_token"',
        '"subject":"unknown key"',
    ):
        assert proof.encode() in everything, f"{proof} shows that it was looked for in the right place"
    leaks = [(what, found) for what, data in driven.collected if (found := driven.planted.found_in(data))]
    assert leaks == []


def use_well(driven: Driven) -> None:
    """What works: commands, the admin API, and what objects tell of themselves."""
    folder, admin = driven.folder, ("--config", str(driven.folder / "admin.yaml"))
    for words in (
        ("status", "-o", "json"),
        ("kv", "put", "k", "v"),
        ("kv", "get", "k"),
        ("members", "list"),
        ("auth", "user", "list", "-o", "json"),
        ("auth", "key", "list"),
        ("auth", "token", "list", "-o", "json"),
        ("doctor", "-c", str(folder / "n1.yaml"), "-o", "json"),
    ):
        driven.run(*words, *admin)
    driven.run("config", "reload", *admin)
    made = SHELL.run("auth", "token", "create", "shop", "--role", "read", *admin).stdout.strip()
    driven.planted.token("a token that was made", made)
    wait_for(lambda: driven.ask("n3", "/v1/kv/k", made) == 200, SECONDS, "a node that follows knows the token too")
    driven.run("auth", "token", "list", *admin)
    keys = {"CURVE_SECRET_KEY": driven.own["n3"], "ENCRYPTION_KEY": driven.own["n3-disk"]}
    for form in ("table", "json"):
        driven.run("config", "show", str(folder / "n3.yaml"), "--origin", "-o", form, keys=keys)
    driven.run("config", "validate", str(folder / "n1.yaml"))
    driven.run("keygen", "--show", str(folder / "n1.key"))
    assert driven.ask("n2", "/v1/config", driven.api_key) == 200
    for path in (
        "/openapi.json",
        "/docs",
        "/metrics",
        "/v1/config",
        "/v1/node",
        "/v1/cluster",
        "/health/detailed",
        "/v1/events",
    ):
        assert driven.ask("n1", path, driven.tokens["admin"]) == 200, path
    assert driven.ask("n1", "/v1/log/entries?payload=true", driven.tokens["admin"]) == 200
    assert driven.ask("n1", "/v1/read", driven.tokens["admin"], {"@access": True}) == 200
    file = read_client_file(folder / "admin.yaml")
    config = load_config(folder / "n3.yaml", security={name.lower(): text for name, text in keys.items()})
    with Client.from_config(folder / "admin.yaml") as client:
        driven.told(
            "objects", file, credentials_of(file), config, config.node.security, config.origins, client, driven.stranger
        )


def use_badly(driven: Driven) -> None:
    """What is refused: a stranger's key, tokens, files that are damaged, and secrets where others belong."""
    folder = driven.folder
    write_key_file(folder / "stranger.key", driven.stranger)
    stranger = driven.client_file("stranger", curve_key_file="stranger.key")
    driven.run("kv", "get", "k", "--config", stranger, "--timeout", "1", code=None)
    driven.run("doctor", "--config", stranger, "--timeout", "1", code=1)
    driven.run("auth", "key", "list", "--config", str(folder / "reader.yaml"), code=77)
    assert driven.ask("n1", "/v1/cluster", driven.api_key) == 401, "it is that of n2"
    key, token = driven.stranger.secret, driven.tokens["reader"]
    assert driven.ask("n1", "/v1/kv/k", f"{token[:-1]}{'x' if token[-1] != 'x' else 'y'}") == 401
    for name, fields in (
        ("as-file", {"curve_key_file": key}),
        ("as-token-file", {"token_file": token}),
        ("as-authority", {"ca_file": driven.own["n1-disk"]}),
        ("as-time", {"timeout": token}),
        ("as-address", {"endpoints": [key]}),
        ("half", {"curve_key_file": None, "curve_secret_key": key[:-1]}),
    ):
        for command in (("kv", "get", "k"), ("doctor",)):
            driven.run(*command, "--config", driven.client_file(name, **fields), code=None)
    first = (folder / "n1.yaml").read_text()
    for wrong in (
        f"client_key_file: '{key}'",
        f"encryption_key_file: {driven.own['n1-disk']}",
        f"client_key_file: !{key}",
        f"client_key_file: *{token[20:]}",
    ):
        before, line, after = re.split(rf"(?m)^( *{wrong.partition(':')[0]}: .*)$", first)
        indent = line[: len(line) - len(line.lstrip())]
        (folder / "n1.yaml").write_text(f"{before}{indent}{wrong}{after}")
        driven.run("config", "show", str(folder / "n1.yaml"), code=78)
        driven.run("config", "validate", str(folder / "n1.yaml"), code=78)
        driven.run("doctor", "-c", str(folder / "n1.yaml"), code=1)
        driven.run(
            "config", "reload", "--config", str(folder / "admin.yaml"), "--endpoints", driven.nodes["n1"], code=78
        )
        assert driven.ask("n1", "/v1/config", driven.tokens["admin"]) == 200, "it tells the faults of the last reading"
    (folder / "n1.yaml").write_text(first)
    for text in (f"client: {{token: {token}", f"client:\n  token: !{token}\n", f"client:\n\ttoken: {token}\n"):
        (folder / "damaged.yaml").write_text(text)
        driven.run("status", "--config", str(folder / "damaged.yaml"), code=78)
    driven.run("node", "-c", str(folder / "n1.yaml"), "--set", "security.encryption_key=00", code=78)


def crash(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw: a machine that raises while a node opens, and a command with a bug."""
    (driven.folder / "broken.py").write_text(
        "class Machine:\n    def __init__(self):\n        raise RuntimeError('planted')\n"
    )
    other = ("--listen", f"127.0.0.1:{free_ports(1)[0]}", "--data", str(driven.folder / "data" / "other"))
    arguments = (
        "node",
        "-c",
        str(driven.folder / "n1.yaml"),
        *other,
        "--machine",
        "broken:Machine",
        "--log-level",
        "debug",
    )
    broken = driven.background(*arguments, log="broken")
    assert broken.wait(SECONDS) != 0

    def fail(client: Client, *arguments: object, **options: object) -> None:
        raise RuntimeError("planted")

    with monkeypatch.context() as patched:
        patched.setattr(Client, "read_detail", fail)
        driven.run("kv", "get", "k", "--config", str(driven.folder / "admin.yaml"), code=70)
