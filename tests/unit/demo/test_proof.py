"""The proof of the demo fails when it must."""

from __future__ import annotations

from forge_consensus.demo.proof import compare

ACKNOWLEDGED = {"demo/1": "a", "demo/2": "b"}


def test_acknowledged_and_uncertain_writes_pass() -> None:
    assert compare("n1", ACKNOWLEDGED, ACKNOWLEDGED, {}) == []
    assert compare("n1", {**ACKNOWLEDGED, "demo/3": "c"}, ACKNOWLEDGED, {"demo/3": "c"}) == []
    assert compare("n1", ACKNOWLEDGED, ACKNOWLEDGED, {"demo/3": "c"}) == []


def test_a_missing_write_fails() -> None:
    (fault,) = compare("n1", {"demo/1": "a"}, ACKNOWLEDGED, {})
    assert fault == "n1: 1 acknowledged writes are missing or differ: demo/2"


def test_a_different_value_fails() -> None:
    (fault,) = compare("n1", {"demo/1": "a", "demo/2": "x"}, ACKNOWLEDGED, {})
    assert "demo/2" in fault


def test_a_value_that_was_never_written_fails() -> None:
    (fault,) = compare("n1", {**ACKNOWLEDGED, "demo/9": "z"}, ACKNOWLEDGED, {"demo/9": "y"})
    assert fault == "n1: 1 keys were never written: demo/9"
