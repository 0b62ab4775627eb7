"""The OpenAPI document: it describes every operation, once, with everything that it takes and answers."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from forge_consensus.admin.api import OPERATIONS, Api
from forge_consensus.admin.cluster import NODE_ID
from forge_consensus.admin.dispatch import places_of
from forge_consensus.admin.openapi import document
from forge_consensus.admin.operation import Operation, query_of
from forge_consensus.output import INT_EXACT_MAX

FOUND = document(OPERATIONS, "/consensus")


def described() -> list[tuple[str, str, dict[str, Any]]]:
    """Every operation in the document, with its path and method."""
    return [(path, method, each) for path, methods in FOUND["paths"].items() for method, each in methods.items()]


def test_every_operation_is_described_once() -> None:
    assert len(described()) == len(OPERATIONS)
    names = [each["operationId"] for _, _, each in described()]
    assert sorted(set(names)) == sorted(names)


def test_no_two_operations_have_one_place() -> None:
    for prefix, mounted in (("", True), ("", False), ("/consensus", False)):
        places = [(each.method, path) for each in OPERATIONS for path in places_of(each, prefix, mounted=mounted)]
        assert sorted(set(places)) == sorted(places), f"below {prefix!r}"


def test_arguments_in_paths_are_those_of_the_path() -> None:
    for path, _, each in described():
        named = {part.strip("{}") for part in path.split("/") if part.startswith("{")}
        assert {one["name"] for one in each["parameters"] if one["in"] == "path"} == named
        assert all(one["required"] for one in each["parameters"] if one["in"] == "path")


def test_no_pattern_means_something_else_in_another_language() -> None:
    r"""The document's patterns are ECMA 262: there ``\s``, ``\d`` and ``\w`` are other characters than in Python."""
    patterns = [one.pattern for each in OPERATIONS for one in each.arguments if one.pattern]
    assert patterns
    assert [pattern for pattern in patterns if re.search(r"\\[^u\[\].?]|\(\?", pattern)] == []


@pytest.mark.parametrize("letter", [*map(chr, (0, 9, 10, 0x1F, 0x7F, 0x85, 0xA0, 0x2028, 0x3000)), *" /,='\""])
def test_an_id_with_a_space_or_a_control_character_is_refused_by_the_document_and_by_the_api(letter: str) -> None:
    assert not NODE_ID.takes_text(f"n{letter}2")
    assert not re.search(NODE_ID.schema["pattern"], f"n{letter}2")
    assert NODE_ID.takes_text("n2.é-中")


def test_every_whole_number_has_bounds_that_programs_read_exactly() -> None:
    """A number without a bound would be valid by the document, and refused for its many digits."""
    numbers = [one for each in OPERATIONS for one in each.arguments if one.kind == "integer"]
    assert numbers
    for one in numbers:
        for bound in (one.minimum, one.maximum):
            assert bound is not None, one.name
            assert abs(bound) <= INT_EXACT_MAX, one.name
            assert one.of_text(str(int(bound))) == bound


def test_a_switch_in_a_query_is_on_without_a_value_and_the_document_says_so() -> None:
    found = set()
    for _, _, each in described():
        operation = next(one for one in OPERATIONS if one.name == each["operationId"])
        for one in each["parameters"]:
            if one["schema"].get("type") == "boolean":
                assert query_of(operation, one["name"].encode())[one["name"]] is True
                assert one["allowEmptyValue"] is True
                found.add(one["name"])
            else:
                assert "allowEmptyValue" not in one
    assert "stale" in found


def test_every_sentence_ends() -> None:
    for operation in OPERATIONS:
        assert operation.summary.endswith("."), operation.path
        assert all(one.what.endswith(".") for one in operation.arguments), operation.path


def test_every_operation_tells_its_success_and_its_problems() -> None:
    for path, _, each in described():
        assert any(status.startswith("2") for status in each["responses"]), path
        assert {"400", "421", "503"} <= each["responses"].keys(), path


def test_the_document_is_json() -> None:
    assert json.loads(json.dumps(FOUND)) == FOUND


def test_the_paths_of_the_original_are_below_the_prefix_in_both_spellings() -> None:
    def places(method: str) -> set[str]:
        return {
            path
            for each in OPERATIONS
            if each.method == method
            for path in places_of(each, "/consensus", mounted=False)
        }

    reads = {"health", "health/detailed", "status", "metrics", "leader", "nodes"}
    writes = {
        "add-node", "nodes/add", "remove-node", "nodes/remove", "transfer-leadership", "leadership/transfer",
        "leadership/stepdown", "snapshot", "apply", "read",
    }  # fmt: skip
    assert {f"/consensus/{name}" for name in reads} <= places("GET")
    assert {f"/consensus/{name}" for name in writes} <= places("POST")


def test_an_application_that_mounts_the_api_gets_the_originals_answers() -> None:
    def at(path: str, *, mounted: bool) -> list[str]:
        found: list[Operation] = [each for each in OPERATIONS if path in places_of(each, "", mounted=mounted)]
        return [each.path for each in found]

    assert at("/leader", mounted=True) == ["/v1/leader"]
    assert at("/metrics", mounted=True) == ["~/metrics"]
    assert (at("/leader", mounted=False), at("/metrics", mounted=False)) == (["=/leader"], ["=/metrics"])
    assert "/leader" not in Api("", mounted=True).document["paths"]
    assert "/leader" in Api("/consensus").document["paths"]
