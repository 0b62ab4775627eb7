"""How new an answer of the API must be: the words are those of the middleware, in the query or in headers."""

from __future__ import annotations

import pytest

from forge_consensus.admin.dispatch import raw_standing_headers
from forge_consensus.admin.keys import OPERATIONS, level_of
from forge_consensus.admin.openapi import document
from forge_consensus.admin.operation import Call, query_of
from forge_consensus.admin.problems import ProblemError
from forge_consensus.admin.shared import Shared
from forge_consensus.middleware.request import SPELLINGS, Consistency, Request
from forge_consensus.middleware.verdict import contact_headers, freshness_headers, leader_headers
from forge_consensus.service.leadership import Standing

READ = next(each for each in OPERATIONS if each.path == "/v1/read")


def call(query: str = "", **headers: str) -> Call:
    """A read with that query and these headers."""
    given = {name.replace("_", "-").lower(): text for name, text in headers.items()}
    return Call(Shared(), query_of(READ, query.encode(), given), given)


@pytest.mark.parametrize("word", [*SPELLINGS, "STRONG"])
def test_every_word_of_the_middleware_is_understood_in_the_query_and_in_both_headers(word: str) -> None:
    meant = Request("GET", f"/?consistency={word}").consistency(Consistency.LEASE)
    assert level_of(call(f"consistency={word}")) is meant
    assert level_of(call(X_Raft_Consistency=word)) is meant
    assert level_of(call(X_Consistency_Level=word)) is meant


def test_headers_say_the_age_the_index_and_that_old_data_will_do() -> None:
    assert level_of(call()) is Consistency.STRONG
    assert level_of(call(X_Allow_Stale="true")) is level_of(call("allow_stale=true")) is Consistency.EVENTUAL
    assert level_of(call("consistency=lease", X_Allow_Stale="true")) is Consistency.LEASE
    for found in (call(X_Raft_Max_Staleness="500ms"), call(X_Max_Staleness="0.5"), call("max_staleness=500ms")):
        assert found["max_staleness"] == 0.5
    assert (call()["max_staleness"], call(X_Raft_Min_Index="7")["min_index"]) == (5.0, 7)


def test_places_that_say_the_same_are_one_and_those_that_contradict_are_refused() -> None:
    assert level_of(call("consistency=strong", X_Raft_Consistency="linearizable")) is Consistency.STRONG
    for query, headers in (
        ("consistency=lease", {"X_Raft_Consistency": "eventual"}),
        ("min_index=5", {"X_Raft_Min_Index": "6"}),
        ("", {"X_Raft_Max_Staleness": "1s", "X_Max_Staleness": "2s"}),
    ):
        with pytest.raises(ProblemError, match="give one of them") as raised:
            call(query, **headers)
        assert raised.value.status == 400


@pytest.mark.parametrize(
    ("name", "text"),
    [("X_Raft_Consistency", "soon"), ("X_Max_Staleness", "-1"), ("X_Raft_Min_Index", "x"), ("X_Allow_Stale", "maybe")],
)
def test_a_fault_in_a_header_names_it(name: str, text: str) -> None:
    with pytest.raises(ProblemError, match=f"{name.replace('_', '-')} is") as raised:
        call(**{name: text})
    assert raised.value.status == 400


def test_the_document_says_which_headers_there_are() -> None:
    parameters = document([READ], "", asks=False)["paths"]["/v1/read"]["post"]["parameters"]
    told = {each["name"]: each["description"] for each in parameters}
    assert told["consistency"].endswith("Also as the header X-Raft-Consistency or X-Consistency-Level.")
    assert told["allow_stale"].endswith("Also as the header X-Allow-Stale.")


def test_answers_say_how_new_they_are_and_when_the_leader_was_heard() -> None:
    standing = Standing("n1", "c", "follower", False, "n2", "", 7, 0.0123, 44)
    assert contact_headers(standing) == (("X-Raft-Last-Contact-Ms", "12"),)
    assert ("X-Raft-Last-Contact-Ms", "12") in leader_headers(standing)
    assert not any(name == b"x-raft-last-contact-ms" for name, _ in raw_standing_headers(standing)), "it is kept"
    assert dict(freshness_headers(Consistency.EVENTUAL, 41, 9, standing)) == {
        "X-Raft-Consistency": "eventual", "X-Consistency-Level": "eventual", "X-Raft-Stale-Ms": "9",
        "X-Commit-Index": "44", "X-Last-Applied": "41",
    }  # fmt: skip
    assert set(dict(freshness_headers(Consistency.STRONG, 41, 0, standing))) == {
        "X-Raft-Consistency", "X-Consistency-Level",
    }  # fmt: skip
