"""Batches and transactions of the key-value machine: commands that are executed as one, entirely or not at all."""

from __future__ import annotations

from collections.abc import Callable
from operator import eq, gt, lt, ne
from typing import Any, Final

from forge_consensus.storage.machines.kv_commands import OPERATIONS, Operation, check_fields, check_key, matches
from forge_consensus.storage.machines.kv_draft import READ_BYTES_MAX, Draft
from forge_consensus.storage.machines.kv_rows import head_of
from forge_consensus.storage.machines.machine import RESULT_BYTES_MAX, Command

BATCH_OPS_MAX: Final = 10_000
"""The most commands in a batch; they are carried out in one piece, at a few microseconds each."""
OP_BYTES_MIN: Final = 12
"""No command that can be carried out has fewer bytes in a batch, and no comparison in a transaction."""
ALONE: Final = frozenset({"batch", "delete_prefix", "expire", "lease_grant", "transaction"})
"""The commands that cannot be a part of a batch or of a transaction."""

SMALL: Final = frozenset({bool, int, type(None)})
SMALL_BYTES: Final = 9
"""The most bytes that a result of these types takes."""
HEAD_BYTES_MAX: Final = 5 + 32
"""The most bytes of an answer around its results."""

COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {"==": eq, "!=": ne, "<": lt, ">": gt}
EQUALITY: Final = frozenset({"==", "!="})
TARGETS: Final = {
    "value": EQUALITY,
    "created": frozenset(COMPARISONS),
    "modified": frozenset(COMPARISONS),
    "lease": EQUALITY,
    "exists": frozenset({"=="}),
}
"""What can be compared, and how."""
COMPARE_PARTS: Final = 4


def check_batch(ops: Any) -> list[Any]:
    """Return the ops of a batch. Raises `TypeError` if they are no list, `ValueError` if there are too many."""
    if not isinstance(ops, list):
        raise TypeError(f"ops is a list, not {type(ops).__name__}")
    if len(ops) > BATCH_OPS_MAX:
        raise ValueError(f"a batch has at most {BATCH_OPS_MAX} commands, this one {len(ops)}: split it")
    return ops


def apply_batch(draft: Draft, payload: dict[str, Any]) -> list[Any]:
    """{ops: [{type, ...}, ...]}: execute several commands as one. The result is the list of their results.

    If one of them fails, nothing is written. A cas that does not match has not failed: its result is False. A batch
    fails too if its results have more than `RESULT_BYTES_MAX` bytes, or if it reads more than `READ_BYTES_MAX`.
    """
    ops = check_batch(payload["ops"])
    draft.whole, draft.left = "batch", READ_BYTES_MAX
    return results_of(draft, ops)


def results_of(draft: Draft, ops: list[Any]) -> list[Any]:
    """Execute the ops of a batch or of a transaction; returns their results. Raises `TypeError` or `ValueError`."""
    results: list[Any] = []
    size = HEAD_BYTES_MAX + SMALL_BYTES * len(ops)
    for number, op in enumerate(ops):
        draft.number = number
        try:
            operation, fields = part_of(op)
            result = operation.run(draft, fields)
            if type(result) not in SMALL:
                size += len(draft.pack(result))
                if size > RESULT_BYTES_MAX:
                    raise ValueError(f"the results have more than {RESULT_BYTES_MAX} bytes: split the {draft.whole}")
            results.append(result)
        except (TypeError, ValueError) as error:
            raise of_op(error, number, draft.whole) from error
    return results


def of_op(error: Exception, number: int, whole: str) -> Exception:
    """Return the error of one op as that of the command that it is a part of."""
    kind = TypeError if isinstance(error, TypeError) else ValueError
    return kind(f"op {number} of the {whole}: {error}")


def part_of(op: Any) -> tuple[Operation, dict[str, Any]]:
    """Return the command and the fields of one op. Raises `TypeError` or `ValueError` if it can be no op of a batch."""
    if not isinstance(op, dict) or not isinstance(op.get("type"), str):
        raise TypeError("an op is a map with a type")
    name = op["type"]
    if name in ALONE:
        raise ValueError(f"{name} cannot be a part of a batch")
    operation = OPERATIONS.get(name)
    if operation is None:
        raise ValueError(f"unknown command {name!r}")
    fields = {key: value for key, value in op.items() if key != "type"}
    check_fields(name, operation, fields)
    return operation, fields


def parts_of(payload: dict[str, Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Return comparisons, ops, and ops otherwise. Raises `TypeError` for what is no list, `ValueError` for too many."""
    parts = payload["if"], payload["then"], payload.get("else", [])
    for name, part in zip(("if", "then", "else"), parts, strict=True):
        if not isinstance(part, list):
            raise TypeError(f"{name} is a list, not {type(part).__name__}")
    count = sum(map(len, parts))
    if count > BATCH_OPS_MAX:
        raise ValueError(
            f"a transaction has at most {BATCH_OPS_MAX} comparisons and commands, this one {count}: split it"
        )
    return parts


def check_compare(compare: Any) -> None:
    """Raise `TypeError` or `ValueError` unless this is [target, key, comparison, wanted] with parts that can be."""
    if not isinstance(compare, list) or len(compare) != COMPARE_PARTS:
        raise TypeError("a comparison is a list [target, key, comparison, wanted]")
    target, key, comparison, wanted = compare
    if not isinstance(target, str) or target not in TARGETS:
        raise ValueError(f"a comparison is of {', '.join(sorted(TARGETS))}, not {target!r:.50}")
    check_key(key)
    if not isinstance(comparison, str) or comparison not in TARGETS[target]:
        raise ValueError(f"{target} is compared by {' '.join(sorted(TARGETS[target]))}, not {comparison!r:.50}")
    wanted_type = {"value": object, "exists": bool}.get(target, int)
    if not isinstance(wanted, wanted_type) or (wanted_type is int and isinstance(wanted, bool)):
        raise TypeError(f"{target} is compared with a {wanted_type.__name__}, not with {type(wanted).__name__}")


def holds(draft: Draft, compare: list[Any]) -> bool:
    """Return whether a comparison holds. An absent key has no value, and `created`, `modified` and `lease` 0."""
    target, key, comparison, wanted = compare
    row = draft.row(key)
    if target == "value":
        return matches(draft, row, wanted) is (comparison == "==")
    if target == "exists":
        return (row is not None) is wanted
    found = 0
    if row is not None:
        _, modified, lease = head_of(row)
        found = {"modified": modified, "lease": lease}.get(target, 0)
        if target == "created":
            found = draft.state.created(key, row)
    return COMPARISONS[comparison](found, wanted)


def apply_transaction(draft: Draft, payload: dict[str, Any]) -> dict[str, Any]:
    """{if: [[target, key, comparison, wanted], ...], then: [op, ...], else: [op, ...]}: compare, then execute as one.

    If all comparisons hold the ops of `then` are executed, otherwise those of `else`. Ops are those of a batch. The
    result is {succeeded: whether all hold, results: [...]}. Targets are "value" (== and !=; None for a key that does
    not exist), "exists" (== True or False), "created" and "modified" (== != < >) and "lease" (== !=). If anything
    fails, or a part of either list is no op, nothing is written. The bounds are those of a batch.
    """
    compares, then, otherwise = parts_of(payload)
    for number, compare in enumerate(compares):
        try:
            check_compare(compare)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"comparison {number} of the transaction: {error}") from error
    for ops in (then, otherwise):
        for number, op in enumerate(ops):
            try:
                part_of(op)
            except (TypeError, ValueError) as error:
                raise of_op(error, number, "transaction") from error
    draft.whole, draft.left = "transaction", READ_BYTES_MAX
    succeeded = all(holds(draft, compare) for compare in compares)
    return {"succeeded": succeeded, "results": results_of(draft, then if succeeded else otherwise)}


COMMANDS: Final = {
    **OPERATIONS,
    "batch": Operation(apply_batch, frozenset({"ops"})),
    "transaction": Operation(apply_transaction, frozenset({"if", "then"}), frozenset({"else"})),
}
"""All commands by name."""


def check_bounds(command: Command) -> None:
    """Raise `ValueError` or `TypeError` for a command that can only fail, because it consists of too many others."""
    if command.type == "batch":
        check_fields(command.type, COMMANDS["batch"], command.payload)
        check_batch(command.payload["ops"])
    elif command.type == "transaction":
        check_fields(command.type, COMMANDS["transaction"], command.payload)
        parts_of(command.payload)
