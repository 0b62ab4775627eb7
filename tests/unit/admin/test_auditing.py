"""The audit of the admin API: who asked, what is a denial, and what the API records itself."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.responses import Response

from forge_consensus.admin.admission import Admission
from forge_consensus.admin.api import OPERATIONS
from forge_consensus.admin.auditing import asker_of
from forge_consensus.admin.dispatch import Exchange
from forge_consensus.admin.operation import Call
from forge_consensus.admin.shared import Shared
from forge_consensus.admin.subject import Subject
from forge_consensus.client.asked_by import ASKED_BY, AskedBy
from forge_consensus.errors import BusyError, NotStartedError
from forge_consensus.events.types import AuditRecorded
from forge_consensus.service.leadership import Standing
from tests.worlds.certified import CLUSTER, CertifiedFolder

ADDRESS = "192.0.2.7"
SEEN: list[AskedBy | None] = []


class Silent(Subject):
    """A node that says nothing of itself."""

    def __init__(self) -> None:
        self.seat: Any = SimpleNamespace(keeps_keys=True)

    async def standing(self) -> Standing:
        raise NotStartedError


class Heard(Shared):
    """The shared part of an API that keeps what it would hand to a node."""

    def __init__(self, admission: Admission | None) -> None:
        super().__init__(admission=admission)
        self.subject = Silent()
        self.records: list[AuditRecorded] = []

    def audit(self, record: AuditRecorded) -> None:
        self.records.append(record)


@pytest.fixture
def folder(tmp_path: Path) -> CertifiedFolder:
    return CertifiedFolder(tmp_path)


@pytest.fixture
def api(folder: CertifiedFolder) -> Heard:
    return Heard(Admission(CLUSTER, None, folder.access_file))


async def refuses(call: Call) -> Response:
    """Note for whom a handler works, and fail."""
    SEEN.append(ASKED_BY.get())
    raise BusyError("planted")


def asked(api: Heard, name: str, token: str = "", headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """The status of a request, and what the API records of it; its handler fails."""
    operation = replace(next(each for each in OPERATIONS if each.name == name), handler=refuses)

    async def nothing() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def run() -> int:
        given = {"host": "localhost", **({"authorization": f"Bearer {token}"} if token else {}), **(headers or {})}
        scope = {
            "type": "http",
            "method": operation.method,
            "path": operation.path,
            "scheme": "https",
            "client": (ADDRESS, 1),
            "headers": [(key.encode(), text.encode()) for key, text in given.items()],
        }
        exchange = Exchange(api, scope, nothing)
        response = await exchange.answered({operation.method: operation})
        return response.status_code if response is not None else 0

    status = asyncio.run(run())
    found, api.records = api.records, []
    return status, found[0] if found else None


def test_denials_are_recorded_with_who_and_what_was_missing(folder: CertifiedFolder, api: Heard) -> None:
    status, record = asked(api, "get_v1_config", "")
    assert (status, record.identity, record.who, record.origin) == (401, "unknown", "", ADDRESS)
    status, record = asked(api, "get_v1_config", folder.tokens["read"])
    assert (status, record.who, record.identity, record.role) == (403, "read", "token", "read")
    assert (record.action, record.subject, record.outcome) == ("get_v1_config", "admin", "denied")
    status, record = asked(api, "get_v1_leader", headers={"host": "evil.example"})
    assert (status, record.code) == (421, "MISDIRECTED")
    for _ in range(12):
        status, record = asked(api, "get_v1_config", "")
    assert (status, record.code) == (429, "CONSENSUS_RATE_LIMIT_EXCEEDED")


def test_what_anybody_may_ask_and_what_only_fails_is_no_denial(folder: CertifiedFolder, api: Heard) -> None:
    assert asked(api, "get_livez") == (503, None)
    assert asked(api, "get_v1_config", folder.tokens["admin"]) == (503, None)


def test_an_act_that_no_node_is_asked_for_is_recorded_with_its_outcome(folder: CertifiedFolder, api: Heard) -> None:
    SEEN.clear()
    status, record = asked(api, "post_v1_config_reload", folder.tokens["admin"])
    assert (status, record.action) == (503, "post_v1_config_reload")
    assert (record.outcome, record.code) == ("failed", BusyError.code)
    asker = AskedBy(record.who, "token", "admin", ADDRESS)
    assert [asker] == SEEN, "a handler's calls speak for whoever asks"
    assert ASKED_BY.get() is None
    assert asked(api, "post_v1_members", folder.tokens["admin"])[1] is None, "the node records it"


def test_where_nobody_is_asked_everybody_is_anonymous() -> None:
    assert asker_of(None, ADDRESS, asks_all=False) == AskedBy("", "anonymous", "", ADDRESS)
