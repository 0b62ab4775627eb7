"""The OpenAPI document: it describes every operation, once, with everything that it takes and answers."""

from __future__ import annotations

import json
from typing import Any

from forge_consensus.admin.api import OPERATIONS, Api
from forge_consensus.admin.dispatch import places_of
from forge_consensus.admin.openapi import document
from forge_consensus.admin.operation import Operation

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
