"""The OpenAPI 3.1 document, made of the descriptions of the operations."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

from forge_consensus.admin.operation import Argument, Operation
from forge_consensus.admin.problems import JSON_TYPE
from forge_consensus.middleware.verdict import PROBLEM_TYPE
from forge_consensus.version import __version__

PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "retryable", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string", "description": "What went wrong, the same for every such problem."},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What happened, why, and what to do."},
        "code": {"type": "string", "description": "The code of the error, such as CONSENSUS_NO_LEADER."},
        "retryable": {"type": "boolean", "description": "Whether the same request may succeed later."},
        "request_id": {"type": "string"},
        "leader": {"type": ["string", "null"]},
        "leader_url": {"type": "string"},
        "forceable": {
            "type": "boolean",
            "description": "For a change of members that was refused: whether it would be made with force=true.",
        },
    },
}
USUAL: Final = (400, 403, 405, 408, 413, 415, 421, 500, 503, 504)
"""The statuses of problems that any request may be answered with."""
CHANGES: Final = (404, 409, 422)
"""Those of requests that change something."""
VALUE_TYPES: Final = ("text/plain", JSON_TYPE, "application/octet-stream")
DESCRIPTION: Final = """\
The admin API of one node of a forge-consensus cluster. Any node can be asked: what needs the leader is sent on. Every
answer has `X-Raft-Node`, `X-Raft-Role`, `X-Raft-Term`, `X-Raft-Leader`, `X-Raft-Last-Contact-Ms` and `X-Request-ID`,
and what read state `X-Raft-Index` and `X-Raft-Consistency` too; every error is a problem of RFC 9457."""
OPEN: Final = " Nobody is asked who they are: bind it to an address that only friends reach."
ASKS: Final = " It asks for a token or a certificate; `x-permission` of an operation says what its holder needs."
SCHEMES: Final[dict[str, Any]] = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of the list of access, as forge-consensus auth token create makes it.",
    },
    "certificate": {
        "type": "mutualTLS",
        "description": "The certificate of the connection, whose URI or common name is in the list of access.",
    },
}
STRANGERS: Final = (401, 429)
"""The statuses of problems of those who are not known."""


def document(operations: Iterable[Operation], prefix: str, *, asks: bool = False) -> dict[str, Any]:
    """Return the document.

    Args:
        operations: what the API does.
        prefix: what stands before the paths of the Go original.
        asks: whether the API asks who somebody is.

    """
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = written_path(operation.path, prefix)
        paths.setdefault(path, {})[operation.method.lower()] = described(operation, asks=asks)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "forge-consensus",
            "version": __version__,
            "description": DESCRIPTION + (ASKS if asks else OPEN),
        },
        "servers": [{"url": "./"}],
        "paths": paths,
        "components": {"schemas": {"Problem": PROBLEM}, "securitySchemes": SCHEMES},
    }


def written_path(path: str, prefix: str) -> str:
    """Return a path as the document has it."""
    below = prefix if path.startswith("~") else ""
    return f"{below}{path.lstrip('~=')}".replace(":rest}", "}")


def described(operation: Operation, *, asks: bool) -> dict[str, Any]:
    """Return the description of one operation; `asks` as for `document`."""
    protected = asks and operation.needed != "nothing"
    parameters = [parameter(each) for each in (*operation.fields("path"), *operation.allowed)]
    found: dict[str, Any] = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "operationId": operation.name,
        "parameters": parameters,
        "responses": responses(operation, STRANGERS if protected else ()),
    }
    if asks:
        found["security"] = [{name: []} for name in SCHEMES] if protected else []
        found["x-permission"] = operation.needed
    if operation.body != "none":
        found["requestBody"] = body_of(operation)
    return found


def parameter(argument: Argument) -> dict[str, Any]:
    """Return the description of an argument in a path or a query."""
    found: dict[str, Any] = {
        "name": argument.name,
        "in": argument.where,
        "required": argument.where == "path" or argument.required,
        "description": argument.told,
        "schema": argument.schema,
    }
    if argument.takes_nothing:
        found["allowEmptyValue"] = True
    if argument.example is not None:
        found["example"] = argument.example
    return found


def body_of(operation: Operation) -> dict[str, Any]:
    """Return the description of a body."""
    if operation.body == "value":
        binary, not_null = {"type": "string"}, {"not": {"type": "null"}}
        return {
            "required": False,  # a value may be empty
            "content": {kind: {"schema": not_null if kind == JSON_TYPE else binary} for kind in VALUE_TYPES},
        }
    if operation.body == "any":
        return {"required": True, "content": {JSON_TYPE: {"schema": {}}}}
    fields = operation.fields("body")
    schema: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {each.name: {**each.schema, "description": each.what} for each in fields},
    }
    required = [each.name for each in fields if each.required]
    if required:
        schema["required"] = required
    if operation.any_of:
        schema["anyOf"] = [{"required": [name]} for name in operation.any_of]
    return {"required": bool(required or operation.any_of), "content": {JSON_TYPE: {"schema": schema}}}


def responses(operation: Operation, more: tuple[int, ...]) -> dict[str, Any]:
    """Return the descriptions of the answers: its own, and the problems that it may be answered with."""
    found: dict[str, Any] = {}
    problem = {"content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    changes = CHANGES if operation.method not in {"GET", "HEAD"} else ()
    for status in sorted({*operation.answers, *USUAL, *changes, *more}):
        text, schema = operation.answers.get(status, (HTTPStatus(status).phrase, None))
        own = operation.media_type if status in operation.answers else ""
        answer: dict[str, Any] = {"description": text}
        if schema is not None:
            answer["content"] = {
                operation.media_type: {"schema": schema},
                **{kind: {} for kind in operation.other_types},
            }
        elif own and status < 400:
            answer["content"] = {operation.media_type: {}}
        else:
            answer |= problem
        if own and status >= 400:
            answer["content"] = {**answer.get("content", {}), **problem["content"]}
            if schema is None and operation.media_type != JSON_TYPE:
                answer["content"][operation.media_type] = {}
        found[str(status)] = answer
    return found
