"""What a request says: each argument is checked by its description, and a wrong one is told with what it must be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from forge_consensus.admin.operation import NESTED_MAX, Argument, Operation, answer, fields_of, json_of, query_of
from forge_consensus.admin.problems import ProblemError
from forge_consensus.security.access import Token
from forge_consensus.storage.machines.machine import DEPTH_MAX, Command


async def nothing(call: Any) -> Any:
    """A handler that is not called."""


LIST = Operation(
    "GET",
    "/v1/things",
    "things",
    "Things.",
    nothing,
    (
        Argument("limit", "How many.", "integer", default=100, minimum=1, maximum=1000),
        Argument("verbose", "Whether to tell all.", "boolean", default=False),
        Argument("age", "How old.", "seconds", minimum=0.0, maximum=60.0),
        Argument("order", "In which order.", choices=("up", "down"), default="up"),
        Argument("prefix", "What they begin with.", default="", maximum=5),
        Argument("leave", "What is left out.", repeats=True),
    ),
)
ADD = Operation(
    "POST",
    "/v1/things",
    "things",
    "Add a thing.",
    nothing,
    (
        Argument("id", "The thing's id.", where="body", required=True, minimum=1, maximum=8),
        Argument("size", "How large it is.", "integer", "body", default=1),
        Argument("more", "What else.", "object", "body", default={}),
        Argument("force", "Whether to insist.", "boolean", "body", default=False),
        Argument("ttl", "For how long.", "seconds", "body", minimum=0.1, maximum=60.0),
        Argument("all", "All of them.", "list", "body"),
    ),
    body="object",
)


def refused(call: Any) -> str:
    """What is said of a request that cannot be."""
    with pytest.raises(ProblemError) as info:
        call()
    assert info.value.status == 400
    return info.value.detail


def test_what_a_query_leaves_out_has_its_default() -> None:
    assert query_of(LIST, b"") == {
        "limit": 100, "verbose": False, "age": None, "order": "up", "prefix": "", "leave": None, "timeout": 5.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("limit=7", "limit", 7),
        ("verbose=true", "verbose", True),
        ("verbose=0", "verbose", False),
        ("verbose", "verbose", True),
        ("leave=a&leave=b", "leave", "a,b"),
        ("age=250ms", "age", 0.25),
        ("age=2", "age", 2.0),
        ("order=down", "order", "down"),
        ("prefix=%C3%A9", "prefix", "é"),
        ("timeout=1m", "timeout", 60.0),
        ("limit=1&limit=2", "limit", 2),
    ],
)
def test_a_query_is_read_by_the_description(text: str, name: str, value: Any) -> None:
    assert query_of(LIST, text.encode())[name] == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("limit=0", "limit is 0: it must be a whole number, at least 1, at most 1000"),
        ("limit=٣", "query cannot be read"),
        ("limit=1.5", "limit is '1.5': it must be a whole number"),
        ("limit=" + "9" * 50, "it must be a whole number"),
        ("verbose=perhaps", "verbose is 'perhaps': it must be true or false"),
        ("age=-1", "age is '-1': it must be a time such as 2.5 or 500ms"),
        ("age=61", "at most 60 s"),
        ("age=%D9%A3", "it must be a time such as 2.5 or 500ms"),
        ("age=nan", "age is 'nan'"),
        ("order=sideways", "it must be one of 'up', 'down'"),
        ("prefix=abcdef", "at most 5 characters"),
        ("limits=1", "there is no parameter 'limits' here: did you mean 'limit'?"),
        ("x=1", "there is no parameter 'x' here: there are limit, verbose, age, order, prefix, leave, timeout"),
        ("prefix=%FF", "percent-encoded UTF-8"),
        ("timeout=0", "timeout is 0"),
        ("timeout=1h", "at most 60 s"),
    ],
)
def test_a_wrong_query_is_told_with_what_it_must_be(text: str, said: str) -> None:
    assert said in refused(lambda: query_of(LIST, text.encode()))


def test_a_body_is_read_by_the_description() -> None:
    assert fields_of(ADD, {"id": "a", "size": 7.0})["size"] == 7, "a whole number as JSON schemas have it"
    found = {"id": "a", "size": 1, "more": {"x": [1]}, "force": False, "ttl": None, "all": None}
    assert fields_of(ADD, {"id": "a", "more": {"x": [1]}}) == found


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "the body is no JSON object"),
        ({}, "id is missing: the thing's id."),
        ({"id": 3}, "id is 3: it must be a text"),
        ({"id": ""}, "at least 1 characters"),
        ({"id": "a", "size": True}, "size is true: it must be a whole number"),
        ({"id": "a", "size": 1.5}, "size is 1.5"),
        ({"id": "a", "size": None}, "size is null"),
        ({"id": "a", "more": []}, "it must be a JSON object"),
        ({"id": "a", "force": "true"}, "it must be true or false"),
        ({"id": "a", "sise": 1}, "there is no field 'sise' here: did you mean 'size'?"),
    ],
)
def test_a_wrong_body_is_told_with_what_it_must_be(body: Any, said: str) -> None:
    assert said in refused(lambda: fields_of(ADD, body))


@pytest.mark.parametrize("number", [10**400, -(10**400)])
@pytest.mark.parametrize("field", ["id", "more", "force", "ttl", "all"])
def test_an_integer_that_is_larger_than_any_double_is_refused(field: str, number: int) -> None:
    assert f"{field} is " in refused(lambda: fields_of(ADD, {"id": "a", field: number}))


@pytest.mark.parametrize("depth", [NESTED_MAX + 1, 400, 480, 900, 950, 990, 5000])
def test_a_body_that_nests_too_deep_is_refused(depth: int) -> None:
    """At whatever depth Python's own reading, writing or walking of it would end in RecursionError."""
    for data in (b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth):
        assert f"deeper than {NESTED_MAX}" in refused(lambda data=data: json_of(data))


def test_a_body_nests_as_deep_as_a_command_takes_it_and_has_any_number_of_lists() -> None:
    value: Any = 1
    for _ in range(DEPTH_MAX - 1):
        value = [value]
    Command("set", {"key": "k", "value": value}).encode()
    body = {"type": "set", "payload": {"key": "k", "value": value}}
    assert json_of(json.dumps(body).encode()) == body
    assert json_of(b"[" + b"[],{}," * 5000 + b"[]]")[-1] == []


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff", b"NaN", b"1e400", b"[" * 100_000, b'"\\ud800"', b'{"\\ud800": 1}']
)
def test_what_is_not_json_in_utf8_is_refused(data: bytes) -> None:
    refused(lambda: json_of(data))


def test_an_answer_keeps_bytes_and_large_numbers() -> None:
    assert (
        answer({"data": b"\xff", "number": 1 << 60}).body
        == b'{"data":{"base64":"/w=="},"number":"1152921504606846976"}'
    )


@pytest.mark.parametrize("pattern", ["", "[a-z]{12}"])
def test_a_token_in_the_place_of_its_id_is_not_told(pattern: str) -> None:
    argument = Argument("id", "Its public part.", where="path", pattern=pattern, maximum=12)
    _, text = Token.made()
    with pytest.raises(ProblemError) as raised:
        argument.of_text(text)
    assert text[-20:] not in raised.value.detail
    assert "looks like a secret" in raised.value.detail
