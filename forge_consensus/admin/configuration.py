"""The configuration over HTTP: what is in force, where it was given, what waits for a restart; reading it again."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from starlette.responses import Response

from forge_consensus.admin.cluster import DRY_RUN
from forge_consensus.admin.operation import OBJECT, Argument, Call, Operation, Schema, answer
from forge_consensus.admin.problems import ProblemError
from forge_consensus.config.changes import told
from forge_consensus.config.resolving import LINE
from forge_consensus.config.shown import shown, values_of
from forge_consensus.errors import InvalidConfigError
from forge_consensus.service.reloading import NO_FILE, Reloader, problems_of

TAG: Final = "configuration"
UNPROCESSABLE: Final = 422


async def show_config(call: Call) -> Response:
    """Return every setting of this node, without secrets, and what of its configuration waits for a restart."""
    return answer(config_row(call.subject.seat.reloader))


async def reload_config(call: Call) -> Response:
    """Read the configuration of this node again. Raises `ProblemError` with every fault."""
    reloader = call.subject.seat.reloader
    if not reloader.files:
        raise ProblemError(409, "no configuration file", NO_FILE, "NO_CONFIGURATION")
    dry_run = bool(call["dry_run"])
    try:
        report = await asyncio.to_thread(reloader.reload, "api", dry_run=dry_run, timeout=call.seconds)
    except InvalidConfigError as error:
        problems = [problem_row(problem) for problem in problems_of(error)]
        raise ProblemError(
            UNPROCESSABLE, "invalid configuration", str(error), error.code, more={"problems": problems}
        ) from error
    return answer(report.to_dict())


def config_row(reloader: Reloader) -> dict[str, Any]:
    """Return the configuration as JSON has it."""
    running, found, plan = reloader.running, reloader.found, reloader.plan
    waiting = {change.name: change for change in plan.waiting}
    values = values_of(found)
    rows = []
    for row in shown(running):
        change = waiting.get(row["name"])
        rows.append(
            {
                **row,
                "pending": None if change is None else told(found, row["name"], values),
                "pending_restart": change is not None and change.reload == "restart",
            }
        )
    return {
        "settings": rows,
        "notes": list(running.notes),
        "files": list(reloader.files),
        "pending_restart": list(plan.named("restart")),
        "founding": list(plan.named("founding")),
        "problems": [problem_row(problem) for problem in reloader.problems],
        "read_at": reloader.read_at,
    }


def problem_row(problem: str) -> dict[str, Any]:
    """Return a fault, with its place if it has one."""
    place = LINE.match(problem)
    found: dict[str, Any] = {"detail": problem, "file": None, "line": None, "column": None}
    if place is not None:
        found |= {"file": place["file"], "line": int(place["line"]), "column": int(place["column"])}
    return found


CHANGE: Final[Schema] = {
    "type": "object",
    "required": ["name", "old", "new", "reload"],
    "properties": {name: {"type": "string"} for name in ("name", "old", "new", "reload")},
}
REPORT: Final[Schema] = {
    "type": "object",
    "required": ["node_id", "trigger", "dry_run", "changed", "waiting", "pending_restart", "notes", "files"],
    "properties": {
        "dry_run": {"type": "boolean"},
        "changed": {"type": "array", "items": CHANGE},
        "waiting": {"type": "array", "items": CHANGE},
        "pending_restart": {"type": "array", "items": {"type": "string"}},
    },
}

OPERATIONS: Final = (
    Operation(
        "GET",
        "/v1/config",
        TAG,
        "Every setting of this node: its value, its default, where it was given, and what a restart would change. "
        "Secrets are hidden.",
        show_config,
        answers={200: ("The settings.", OBJECT)},
    ),
    Operation(
        "POST",
        "/v1/config/reload",
        TAG,
        "Read the configuration of this node again, from where it was given at its start. Hot settings take effect at "
        "once; with a fault nothing changes.",
        reload_config,
        (Argument("dry_run", DRY_RUN, "boolean", "body", default=False),),
        {
            200: ("What took effect, and what waits for a restart.", REPORT),
            409: ("No file was given.", None),
            422: ("The configuration has faults; `problems` has each with its place.", None),
        },
        "object",
    ),
)
