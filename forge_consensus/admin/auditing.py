"""The audit of the admin API: who asked, and the records of what the API itself refuses or does.

What it asks a node for is recorded by that node, which is told who asked (`forge_consensus.client.asked_by`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from forge_consensus.actors.runtime.audit import Act, Outcome, Who, record_of, role_of
from forge_consensus.admin.caller import Caller
from forge_consensus.admin.operation import Operation
from forge_consensus.admin.problems import ProblemError
from forge_consensus.client.asked_by import AskedBy
from forge_consensus.events.types import AuditRecorded
from forge_consensus.security.permissions import ROUTE_ACTS

DENIED: Final = frozenset({401, 403, 421})
"""The statuses of requests that somebody may not make."""
BARRED: Final = "CONSENSUS_RATE_LIMIT_EXCEEDED"
"""The code for requests from an address from which too many failed."""
UNKNOWN_ROUTE: Final = "unknown route"


def asker_of(caller: Caller | None, address: str, *, asks_all: bool) -> AskedBy:
    """Return who asks.

    Args:
        caller: who that is, None for nobody who is known.
        address: where the request comes from.
        asks_all: whether requests are asked who they are.

    """
    if caller is None:
        return AskedBy("", "unknown" if asks_all else "anonymous", "", address)
    identity = "token" if isinstance(caller.shown, str) else "certificate"
    return AskedBy(caller.principal.name, identity, role_of(caller.principal), address)


def is_denial(problem: ProblemError) -> bool:
    """Whether a problem is that somebody may not ask."""
    return problem.status in DENIED or problem.code == BARRED


def is_act(operation: Operation, arguments: Mapping[str, Any]) -> bool:
    """Whether the API itself records that this operation is carried out; what is only planned is no act."""
    by = ROUTE_ACTS.get(operation.name, "by the API")
    return by == "by the API" and not arguments.get("dry_run")


def record(asker: AskedBy, action: str, outcome: Outcome, code: str = "", subject: str = "") -> AuditRecorded:
    """Return the record of what somebody asked the API for.

    Args:
        asker: who asked.
        action: the name of the operation.
        outcome: what came of it.
        code: the code of the error.
        subject: on what it acts, or what was missing.

    """
    name, identity, role, origin = asker
    return record_of(Act(Who(name, identity, role, origin), action, subject), outcome, code)
