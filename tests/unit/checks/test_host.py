"""What is said of an interpreter and of the limits of a process."""

from __future__ import annotations

import resource

import pytest

from forge_consensus.checks.host import host_findings, interpreter, open_file_limit, slow_build

FAST = "-DNDEBUG -g -fwrapv -O3 -Wall"
ENDLESS = resource.RLIM_INFINITY
OPTIMIZED = "'--prefix=/usr/local' '--enable-optimizations' '--with-lto'"


@pytest.mark.parametrize(
    ("arguments", "flags", "prefix", "said"),
    [
        (OPTIMIZED, FAST, "/usr/local", ""),
        ("'--prefix=/usr' 'CFLAGS=-g'", "-g -O2", "/usr", ""),
        ("", FAST, "/opt/python", ""),
        ("'--prefix=/opt/python'", FAST, "/opt/python", "compiled without --enable-optimizations"),
        (OPTIMIZED, f"{FAST} -O0", "/usr/local", "compiled with -O0"),
        (OPTIMIZED, f"-Og {FAST}", "/usr/local", ""),
    ],
)
def test_a_slow_build_is_told_by_how_it_was_configured(arguments: str, flags: str, prefix: str, said: str) -> None:
    found = slow_build(arguments, flags, prefix, debug=False)
    assert said in found
    assert bool(found) == bool(said)
    assert "for debugging" in slow_build(arguments, flags, prefix, debug=True)


def test_the_interpreter_of_this_process_is_no_problem() -> None:
    found = interpreter()
    assert found.level in ("ok", "warning")
    assert found.text.startswith("cpython 3.")
    assert [each.check for each in host_findings()] == ["interpreter", "open files"]


@pytest.mark.parametrize(
    ("peers", "soft", "hard", "level", "said"),
    [
        (2, 1024, 1 << 20, "ok", "a process may open 1,048,576 files, and a node with 2 peers takes 44"),
        (
            1,
            resource.RLIM_INFINITY,
            resource.RLIM_INFINITY,
            "ok",
            "any number of files, and a node with 1 peer takes 38",
        ),
        (2, 64, 1 << 20, "warning", "a program embeds may open 64 files, and takes 44"),
        (2, 100, 100, "warning", "a node has room for 56 clients"),
        (2, 30, 30, "problem", "a process may open 30 files"),
        (199, 1024, 1024, "problem", "a node with 199 peers takes 1226"),
    ],
)
def test_open_files_are_judged_by_what_a_node_takes(peers: int, soft: int, hard: int, level: str, said: str) -> None:
    found = open_file_limit(peers, soft, hard)
    assert (found.level, said in found.text) == (level, True), found
    assert bool(found.advice) == (level != "ok")
