"""The secured admin API over real sockets: who gets what, who is thrown out, and that nothing leaks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import yaml

from forge_consensus import Command, ConsensusExtension
from forge_consensus.security.access import TOKEN_ID_CHARS, TOKEN_MARK, Principal, Token
from forge_consensus.security.certificates import Certified, make_authority
from tests.worlds.certified import CLUSTER, CertifiedFolder
from tests.worlds.command_line import run_command
from tests.worlds.command_nodes import CommandNodes
from tests.worlds.service_world import eventually

ANY = "127.0.0.1:0"
TAKEN_SECONDS = 1.5
"""After so long a file that has changed was taken."""
API_KEY = "planted-key-of-the-settings"
PLANTED = "planted-value"
REQUESTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "status": ("GET", "v1/cluster", {}),
    "leader": ("GET", "v1/leader", {}),
    "kv get": ("GET", "v1/kv/app/seen", {}),
    "kv put": ("PUT", "v1/kv/app/made", {"content": "1"}),
    "other key": ("GET", "v1/kv/secret", {}),
    "members add": ("POST", "v1/members", {"json": {"id": "n2", "address": "127.0.0.1:1", "dry_run": True}}),
    "config": ("GET", "v1/config", {}),
    "access": ("GET", "v1/access/tokens", {}),
    "token": ("POST", "v1/access/tokens", {"json": {"name": "made", "roles": ["read"]}}),
    "events": ("GET", "v1/events?recent=1", {"headers": {"Accept": "application/json"}}),
    "metrics": ("GET", "metrics", {}),
    "livez": ("GET", "livez", {}),
}
DONE = {"token": 201}
"""The statuses of those that are not answered with 200."""
DATA = tuple(name for name in REQUESTS if name != "livez")
ALL = frozenset(REQUESTS)
SEEN = frozenset({"status", "leader", "kv get", "other key", "events", "metrics", "livez"})
ALLOWED: dict[str, frozenset[str]] = {
    "": frozenset({"livez"}),
    "unknown": frozenset({"livez"}),
    "ended": frozenset({"livez"}),
    "revoked": frozenset({"livez"}),
    "metrics": frozenset({"status", "leader", "metrics", "livez"}),
    "read": SEEN,
    "write": SEEN | {"kv put"},
    "rules": frozenset({"leader", "kv get", "kv put", "livez"}),
    "admin": ALL,
}
"""Who -> what they get. Nothing else may be answered with more than a problem."""


class Guarded:
    """A node whose API asks everybody who they are."""

    def __init__(self, folder: CertifiedFolder, *, mtls: bool) -> None:
        self.folder = folder
        self.extension = ConsensusExtension(
            node_id="n1",
            cluster_id=CLUSTER,
            bind=ANY,
            storage_path=str(folder.folder / "data"),
            metrics=ANY,
            security=folder.security(mtls=mtls),
            admin_api={"bind": ANY, "enable_auth": True, "api_key": API_KEY},
        )

    @property
    def url(self) -> str:
        """Where it is asked."""
        assert self.extension.admin is not None
        return self.extension.admin.url

    def web(self, who: str = "", shows: Certified | None = None) -> httpx.Client:
        """A client with a token, and perhaps a certificate."""
        trusting = self.folder.trusting(shows)
        return httpx.Client(base_url=self.url, verify=trusting, headers=self.folder.bearer(who), timeout=10)

    def spare_failures(self) -> None:
        """Forget that somebody failed, so that the next question is heard."""
        assert self.extension.admin is not None
        assert self.extension.admin.admission is not None
        self.extension.admin.admission.failures.clear()


@contextmanager
def guarded(folder: Path, *, mtls: bool) -> Iterator[Guarded]:
    """A node that runs, with two keys."""
    made = Guarded(CertifiedFolder(folder), mtls=mtls)
    with made.extension:
        made.extension.service.put("app/seen", PLANTED)
        made.extension.service.put("secret", PLANTED)
        yield made


@pytest.fixture(scope="module")
def by_token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A node that is asked with tokens."""
    with guarded(tmp_path_factory.mktemp("by_token"), mtls=False) as made:
        yield made


@pytest.fixture(scope="module")
def by_certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A node that is asked with certificates."""
    with guarded(tmp_path_factory.mktemp("by_certificate"), mtls=True) as made:
        yield made


def outcome(web: httpx.Client, what: str) -> tuple[int, str]:
    """The status and the text of an answer; 0 if the connection is refused."""
    method, path, more = REQUESTS[what]
    headers = {**({"Content-Type": "text/plain"} if "content" in more else {}), **more.get("headers", {})}
    try:
        answer = web.request(method, path, **{**more, "headers": headers})
    except httpx.TransportError:
        return 0, ""
    if answer.status_code in {401, 403}:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "CONSENSUS_AUTHENTICATION_FAILED"
        assert ("www-authenticate" in answer.headers) == (answer.status_code == 401)
    if answer.status_code == 401:
        assert not any(name.startswith("x-raft") for name in answer.headers), "strangers learn nothing of the cluster"
        assert "leader" not in answer.json()
    return answer.status_code, answer.text


@pytest.mark.parametrize("who", ALLOWED)
def test_each_token_gets_what_the_list_allows(by_token: Guarded, who: str) -> None:
    with by_token.web(who) as web:
        for what in REQUESTS:
            by_token.spare_failures()
            status, text = outcome(web, what)
            refused = 401 if who in {"", "unknown", "ended", "revoked"} else 403
            assert status == (DONE.get(what, 200) if what in ALLOWED[who] else refused), what
            assert (PLANTED in text) == (status == 200 and what in {"kv get", "other key"}), what


@pytest.mark.parametrize("who", ["admin", "read", "rules"])
def test_each_certificate_gets_what_the_list_allows_to_its_name(by_certificate: Guarded, who: str) -> None:
    with by_certificate.web(shows=by_certificate.folder.issued(who)) as web:
        for what in REQUESTS:
            assert outcome(web, what)[0] == (DONE.get(what, 200) if what in ALLOWED[who] else 403), what


@pytest.mark.parametrize("kind", ["none", "another authority", "ended", "a copy of the authority's name"])
def test_who_shows_no_valid_certificate_does_not_even_get_in(by_certificate: Guarded, kind: str) -> None:
    folder = by_certificate.folder
    shows = {
        "none": None,
        "another authority": folder.issued("admin", by=make_authority("others")),
        "ended": folder.issued("admin", ended=True),
        "a copy of the authority's name": folder.issued("admin", by=make_authority("tests")),
    }[kind]
    with by_certificate.web("admin", shows=shows) as web:
        assert {outcome(web, what)[0] for what in REQUESTS} == {0}


@pytest.mark.parametrize(("name", "cluster"), [("nobody", CLUSTER), ("admin", "another"), ("n1", CLUSTER)])
def test_a_valid_certificate_of_nobody_who_is_known_gets_nothing(
    by_certificate: Guarded, name: str, cluster: str
) -> None:
    with by_certificate.web(shows=by_certificate.folder.issued(name, cluster=cluster)) as web:
        for what in DATA:
            by_certificate.spare_failures()
            assert outcome(web, what)[0] == 401, what
        assert outcome(web, "livez")[0] == 200


def test_a_token_counts_also_beside_the_certificate_of_somebody_else(by_certificate: Guarded) -> None:
    with by_certificate.web("admin", shows=by_certificate.folder.issued("nobody")) as web:
        assert outcome(web, "config")[0] == 200
    with by_certificate.web("read", shows=by_certificate.folder.issued("admin")) as web:
        assert outcome(web, "config")[0] == 403


@pytest.mark.parametrize("kind", ["by_token", "by_certificate"])
def test_plain_http_gets_nothing_of_a_port_with_tls(kind: str, request: pytest.FixtureRequest) -> None:
    found: Guarded = request.getfixturevalue(kind)
    with httpx.Client(base_url=found.url.replace("https", "http"), headers=found.folder.bearer("admin")) as web:
        assert {outcome(web, what)[0] for what in REQUESTS} == {0}


def test_reserved_commands_and_queries_are_for_administrators(by_token: Guarded) -> None:
    with by_token.web("write") as web:
        for path, body in (
            ("v1/apply", {"type": "@access", "payload": {}}),
            ("v1/read", {"@access": True}),
            ("v1/transaction", {"then": [{"type": "@access"}]}),
        ):
            assert web.post(path, json=body).status_code == 403, path
        assert web.post("v1/apply", json={"type": "set", "payload": {"key": "k", "value": "v"}}).status_code == 200


def test_a_token_in_the_log_counts_at_once_and_no_more_when_it_is_revoked(by_token: Guarded) -> None:
    apply = by_token.extension.service.apply
    token, text = Token.made()
    apply(Command("@access", {"do": "put", "name": "logged", "roles": ["read"]}))
    apply(Command("@access", {"do": "add_token", "name": "logged", "id": token.id, "sha256": token.digest}))
    by_token.folder.tokens["logged"] = text
    with by_token.web("logged") as web:
        assert outcome(web, "kv get")[0] == 200
        assert outcome(web, "kv put")[0] == 403
        apply(Command("@access", {"do": "revoke_token", "id": token.id}))
        assert outcome(web, "kv get")[0] == 401
    first = by_token.folder.access.by_name["metrics"].tokens[0].id
    with by_token.web("metrics") as web:
        assert outcome(web, "metrics")[0] == 200
        apply(Command("@access", {"do": "revoke_token", "id": first}))
        assert outcome(web, "metrics")[0] == 401, "the log revokes what a file lists"
        apply(Command("@access", {"do": "forget", "revoked": first}))
    by_token.spare_failures()


def test_users_keys_and_tokens_are_looked_after_over_http(by_token: Guarded) -> None:
    key = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
    with by_token.web("admin") as web:
        put = web.put("v1/access/users/robot", json={"rules": ["read app/*"]})
        assert (put.status_code, put.json()["new"]) == (200, True), put.text
        assert web.post("v1/access/keys", json={"name": "robot", "key": key}).status_code == 201
        made = web.post("v1/access/tokens", json={"name": "robot", "ttl": 600})
        assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
        number, text = made.json()["id"], made.json()["token"]
        with by_token.web() as robot:
            assert robot.get("v1/kv/app/seen", headers={"Authorization": f"Bearer {text}"}).status_code == 200
        rotated = web.post(f"v1/access/tokens/{number}/rotate", json={"ttl": 600, "overlap": 300}).json()
        listed = web.get("v1/access/tokens").text
        assert number in listed
        assert rotated["id"] in listed
        assert not any(secret[-20:] in listed for secret in (text, rotated["token"])), "told once only"
        assert web.delete(f"v1/access/tokens/{number}").json() == {"id": number, "revoked": True, "new": True}
        assert web.delete(f"v1/access/tokens/{number}").json()["new"] is False
        assert web.delete(f"v1/access/keys/{quote(key, safe='')}").json()["new"] is True
        (row,) = [row for row in web.get("v1/access/users").json()["users"] if row["name"] == "robot"]
        assert (row["rules"], row["keys"], [each["id"] for each in row["tokens"]]) == (
            ["read app/*"],
            [],
            [rotated["id"]],
        )
        assert key in web.get("v1/access/keys").json()["revoked"]
        assert web.delete("v1/access/users/robot").status_code == 200
        with by_token.web() as robot:
            refused = robot.get("v1/kv/app/seen", headers={"Authorization": f"Bearer {rotated['token']}"})
            assert refused.status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("DELETE", "users/nobody-there", None, 404),
        ("POST", "tokens/AAAAAAAAAAAA/rotate", {}, 404),
        ("POST", "keys", {"name": "nobody-there", "key": "k" * 40}, 422),
        ("PUT", "users/robot", {"roles": ["king"]}, 422),
        ("PUT", "users/robot", {"roles": [{}]}, 422),
        ("PUT", "users/robot", {"rules": ["all of it"]}, 422),
        ("POST", "tokens", {"name": "n1", "roles": ["peer"]}, 422),
        ("DELETE", "tokens/too-short", None, 400),
        ("POST", "tokens", {"name": "robot", "ttl": -1}, 400),
    ],
)
def test_what_cannot_be_in_the_list_is_a_problem_and_changes_nothing(
    by_token: Guarded, method: str, path: str, body: dict[str, Any] | None, status: int
) -> None:
    with by_token.web("admin") as web:
        before = web.get("v1/access/users").json()["index"]
        answer = web.request(method, f"v1/access/{path}", json=body)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
        assert web.get("v1/access/users").json()["index"] == before


def test_ten_failures_in_a_second_silence_an_address(by_token: Guarded) -> None:
    by_token.spare_failures()
    with by_token.web("unknown") as web:
        statuses = [web.get("v1/leader").status_code for _ in range(12)]
        last = web.get("v1/leader")
        assert web.get("livez").status_code == 200
    assert statuses[:10] == [401] * 10
    assert (last.status_code, last.headers["retry-after"], last.json()["retryable"]) == (429, "1", True)
    by_token.spare_failures()


def test_a_revoked_token_ends_a_stream_and_a_waiting_request_within_two_seconds(tmp_path: Path) -> None:
    """The file is looked at every second; what is revoked in the log of a node with keys counts at once."""
    with guarded(tmp_path, mtls=False) as found:
        folder = found.folder
        folder.store(folder.access.with_principal(folder.client("going", frozenset({"read"}))))
        web = found.web("going")
        eventually(lambda: web.get("v1/leader").status_code == 200)
        ended: dict[str, float] = {}
        statuses: list[int] = []

        def follow() -> None:
            try:
                with web.stream("GET", "v1/events?recent=1") as stream:
                    for _ in stream.iter_bytes():
                        pass
            except httpx.TransportError:
                pass
            ended["stream"] = time.monotonic()

        def wait() -> None:
            statuses.append(web.get("v1/kv/app/seen?index=1000000&wait=3s").status_code)

        threads = [threading.Thread(target=each) for each in (follow, wait)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        began = time.monotonic()
        folder.store(folder.access.without("going"))
        for thread in threads:
            thread.join(10)
        assert ended["stream"] - began < 2.0
        assert statuses == [401], "what it waited for is not told any more"
        web.close()


def test_a_token_is_rotated_and_a_certificate_renewed_without_one_failed_request(tmp_path: Path) -> None:
    with guarded(tmp_path, mtls=False) as found:
        folder = found.folder
        seen: list[int] = []
        stop = threading.Event()
        web = found.web("write")

        def load() -> None:
            while not stop.is_set():
                text = {"Content-Type": "text/plain"}
                seen.append(web.put("v1/kv/app/n", content=str(len(seen)), headers=text).status_code)
                with found.web("write") as fresh:
                    seen.append(fresh.get("v1/kv/app/n").status_code)

        thread = threading.Thread(target=load)
        thread.start()
        present = folder.access.by_name["write"]
        token, text = Token.made()
        for tokens in ((*present.tokens, token), (token,)):
            folder.store(folder.access.with_principal(Principal("write", present.roles, (), (), tokens)))
            folder.write("n1", folder.issued("n1"))
            time.sleep(TAKEN_SECONDS)
            folder.tokens["write"] = text
            web.headers.update(folder.bearer("write"))
            time.sleep(0.5)
        stop.set()
        thread.join(10)
        web.close()
        assert len(seen) > 20
        assert set(seen) == {200}


def told_by(url: str, folder: CertifiedFolder) -> list[str]:
    """What a node tells those whom it knows, and others."""
    texts = []
    with httpx.Client(base_url=url, verify=folder.trusting()) as web:
        key = {"Authorization": f"Bearer {API_KEY}", "Accept": "application/json"}
        eventually(lambda: url.rstrip("/") in web.get("v1/members", headers=key).text)
        for path in ("v1/config", "v1/cluster", "openapi.json", "metrics", "v1/events?recent=100", "v1/members"):
            answer = web.get(path, headers=key)
            assert answer.status_code == 200
            texts.append(answer.text)
        texts += [web.get("v1/config", headers=folder.bearer(name)).text for name in folder.tokens]
    assert 'certificate_seconds_left{cluster="guarded",node="n1",use="admin_api"} 3.' in texts[3]
    return texts


def test_a_process_with_all_of_it_serves_and_tells_no_secret(tmp_path: Path) -> None:
    folder = CertifiedFolder(tmp_path)
    file = tmp_path / "n1.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "node_id": "n1",
                "cluster_id": CLUSTER,
                "bind": ANY,
                "storage_path": str(tmp_path / "data"),
                "security": folder.security(),
                "admin_api": {"bind": ANY, "enable_auth": True, "api_key": API_KEY},
            }
        )
    )
    with CommandNodes() as nodes:
        process = nodes.start("-c", str(file))
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        texts = told_by(url, folder)
        process.terminate()
        out, err = process.communicate(timeout=20)
        assert process.returncode == 0
    texts += [out, err]
    texts.append(run_command("config", "show", str(file)))
    secrets = [API_KEY, *(text[len(TOKEN_MARK) + TOKEN_ID_CHARS + 1 :] for text in folder.tokens.values() if text)]
    secrets += [token.digest for principal in folder.access.by_name.values() for token in principal.tokens]
    secrets += (folder.folder / "n1.key").read_text().splitlines()[1:2]
    assert [secret for secret in secrets if any(secret in text for text in texts)] == []
