"""The look for known weaknesses: of which packages it asks, and what it makes of the answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.advisories import installed, main


def test_it_asks_for_what_users_install_with_all_that_needs() -> None:
    found = installed()
    assert {"pyzmq", "lmdb", "click", "pyyaml", "cryptography", "cffi", "httpx", "idna", "starlette"} <= found.keys()
    assert not {"pytest", "ruff", "forge-consensus"} & found.keys()


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ({"dependencies": [{"name": "a", "version": "1", "vulns": []}]}, 0, "no known weakness in "),
        (
            {"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}]},
            1,
            "a 1: PYSEC-1, repaired in 2",
        ),
        (
            {"dependencies": [{"name": "a", "skip_reason": "not found"}]},
            69,
            "NOT CHECKED: the database knows nothing of 1",
        ),
        (None, 69, "NOT CHECKED: pip-audit got no answer from the database of weaknesses (no network)"),
    ],
)
def test_it_says_what_was_found_and_what_was_not_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: Any, code: int, said: str
) -> None:
    program = tmp_path / "pip-audit"
    told = "echo no network >&2" if answer is None else f"echo '{json.dumps(answer)}'"
    program.write_text(f"#!/bin/sh\n{told}\nexit 1\n")
    program.chmod(0o755)
    assert main(str(program)) == code
    assert said in capsys.readouterr().out
    assert main(str(tmp_path / "missing")) == 69
