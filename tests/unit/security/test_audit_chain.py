"""The audit's chain: what a check says of lines that were left alone, and of each way to change them."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256

import pytest

from forge_consensus.security.audit_chain import NOTHING, Chain, Check, Verdict, hash_of, line_in


def lines_of(count: int, chain: Chain | None = None) -> list[bytes]:
    """The first line of a file, and so many records behind it."""
    chain = chain or Chain()
    first = chain.begin("n1", "demo", "2026-01-02T03:04:05.000000Z")
    records = [chain.line("record", {"time": f"t{n}", "who": "ann", "count": n}) for n in range(1, count + 1)]
    return [first, *records]


def checked(*files: list[bytes]) -> Verdict:
    check = Check()
    for number, lines in enumerate(files, 1):
        check.file(f"file{number}", lines)
    return check.verdict


def broken_at(*files: list[bytes]) -> tuple[str, int] | None:
    broken = checked(*files).broken
    return None if broken is None else (broken.file, broken.line)


def test_the_hash_is_what_the_page_says() -> None:
    """Somebody else's program can check it by that sentence."""
    first, second = lines_of(1)
    content, _, end = second.rpartition(b',"hash":"')
    before = json.loads(first)["hash"]
    assert end == sha256(before.encode() + content).hexdigest().encode() + b'"}\n'


def test_a_chain_that_was_left_alone_holds() -> None:
    found = checked(lines_of(3))
    assert (found.broken, found.records, found.events, found.lines) == (None, 3, 6, 4)
    assert (found.node, found.first_time, found.last_time, found.after) == (
        "n1",
        "2026-01-02T03:04:05.000000Z",
        "t3",
        NOTHING,
    )


@pytest.mark.parametrize("fields", [{"count": "2"}, {"count": -5}, {"records": None}])
def test_numbers_that_are_none_are_a_break_although_the_hash_fits(fields: dict[str, object]) -> None:
    chain = Chain()
    lines = [*lines_of(1, chain), chain.line("record", fields)]
    assert broken_at(lines) == ("file1", 3)


def test_every_flipped_bit_is_found() -> None:
    lines = lines_of(2)
    for place, line in enumerate(lines):
        for at in range(len(line)):
            spoilt = bytearray(line)
            spoilt[at] ^= 1
            data = b"".join([*lines[:place], bytes(spoilt), *lines[place + 1 :]])
            broken = broken_at(data.splitlines(keepends=True))
            assert broken is not None, (place, at)
            assert broken[1] == place + 1, (place, at, broken)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: lines[:2] + lines[3:], 3),
        (lambda lines: lines[1:], 1),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 2),
        (lambda lines: [*lines[:2], lines[1], *lines[2:]], 3),
        (lambda lines: [*lines[:2], b'{"kind":"record"}\n', *lines[2:]], 3),
        (lambda lines: [*lines, b"more\n"], 6),
        (lambda lines: [*lines[:-1], lines[-1][:-1]], 5),
        (lambda lines: [*lines[:2], Chain(NOTHING, 2).line("record", {"who": "eve"}), *lines[3:]], 3),
        (lambda lines: [], 1),
    ],
    ids=["removed", "first removed", "swapped", "doubled", "added", "added at the end", "cut", "forged", "emptied"],
)
def test_each_change_is_found_where_it_is(change: Callable[[list[bytes]], list[bytes]], line: int) -> None:
    assert broken_at(change(lines_of(4))) == ("file1", line)


def test_an_end_that_was_cut_off_is_found_by_a_hash_that_was_noted() -> None:
    lines = lines_of(3)
    head = checked(lines).head
    cut = checked(lines[:-1])
    assert cut.broken is None
    assert head not in (cut.heads or ())
    assert cut.head in (checked(lines).heads or ())


def test_files_that_took_each_others_place_are_checked_in_their_order() -> None:
    chain = Chain()
    first, second, third = (lines_of(2, chain) for _ in range(3))
    found = checked(first, second, third)
    assert (found.broken, found.records) == (None, 6)
    assert broken_at(first, third) == ("file2", 1)
    assert broken_at(second, first) == ("file2", 1)
    later = checked(second, third)
    assert (later.broken, later.after) == (None, line_hash(first[-1]))


def line_hash(line: bytes) -> str:
    found = line_in(line[:-1])
    assert found is not None
    return found.hash


def test_half_a_line_is_taken_only_with_a_line_that_says_so() -> None:
    chain = Chain()
    lines = lines_of(2, chain)
    half = b'{"kind":"record","n":4,"who":"an'
    after = [chain.torn(half), chain.line("record", {"who": "bob"})]
    assert (checked([*lines, half + b"\n", *after]).broken, checked([*lines, half + b"\n", *after]).torn) == (None, 1)
    assert broken_at([*lines, half[:-1] + b"x\n", *after]) == ("file1", 4)
    assert broken_at([*lines, half + b"\n", after[1]]) == ("file1", 4)
    assert broken_at([*lines, *after]) is None, "whoever takes half a line away takes nothing that was recorded"


def test_missing_records_are_counted() -> None:
    chain = Chain()
    lines = [*lines_of(1, chain), chain.line("missing", {"records": 7})]
    assert (checked(lines).broken, checked(lines).missing) == (None, 7)


def test_what_strangers_chose_is_escaped() -> None:
    line = Chain().line("record", {"who": 'a"\n\x1b[2J\u202e\x00é'})
    assert line.count(b"\n") == 1
    assert line[:-1].decode("ascii").isprintable()
    assert line_in(line[:-1]) is not None


def test_what_only_looks_like_a_line_is_none() -> None:
    good = Chain().line("record", {"who": "ann"})[:-1]
    end = b',"hash":"' + b"0" * 64 + b'"}'
    nested = b"[" * 30_000
    for bad in (b"", b"{}", good[1:], good[:-1], good + b"}", b"[1]" + end, b'{"n":1' + end, b'{"kind":"x"' + end):
        assert line_in(bad) is None, bad
    assert line_in(b'{"kind":"record","n":1,"x":' + nested + end) is None
    assert line_in(b'{"kind":"record","n":1,"x":"' + b"y" * 70_000 + b'"' + end) is None


def test_a_hash_depends_on_the_one_before() -> None:
    assert hash_of(NOTHING, b"x") != hash_of("1" * 64, b"x")
