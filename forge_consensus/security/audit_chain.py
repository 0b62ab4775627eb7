r"""The audit's chain: lines of JSON, each with a hash of its own content and of the hash before, and how it is checked.

    {"kind":"record","n":7,...,"hash":"<64 hexadecimal digits>"}

`hash` is the SHA-256 of the previous line's hash, as text, and of this line's bytes up to and without ``,"hash":``. It
is made of bytes, so nobody need write JSON in one certain way to check it. A line is ASCII: what strangers chose is
escaped.

The first line of each file is of the kind ``begin`` and names the hash that came before it, in an earlier file. A line
of the kind ``torn`` says that the bytes before it are none of a line, because a crash cut it; one of the kind
``missing`` how many records could not be written.

Whoever can write the file can make all of it anew. So the chain shows changes only to those who have noted a hash
elsewhere, or have the file before it was changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal

VERSION: Final = 1
NOTHING: Final = "0" * 64
"""What stands for the hash before the first line of all."""
HASH_MARK: Final = b',"hash":"'
HASH_CHARS: Final = 64
TAIL: Final = len(HASH_MARK) + HASH_CHARS + len(b'"}')
LINE_BYTES_MAX: Final = 64 << 10
"""No line is longer; what is, is none."""
HEXADECIMAL: Final = frozenset(b"0123456789abcdef")

LineKind = Literal["begin", "record", "torn", "missing"]
Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """One line that is whole in itself."""

    kind: str
    fields: Fields
    hash: str
    content: bytes
    """The bytes of which the hash is made, with the hash before."""

    def follows(self, previous: str) -> bool:
        """Whether its hash is made of this one before."""
        return hash_of(previous, self.content) == self.hash


class Chain:
    """The end of a chain, to which lines are added.

    Args:
        last: the hash of the last line.
        number: the number of the last line.

    """

    def __init__(self, last: str = NOTHING, number: int = 0) -> None:
        self.last = last
        self.number = number

    def line(self, kind: LineKind, fields: Fields) -> bytes:
        """Return the next line with its line end, which is then the last one.

        Args:
            kind: what it is.
            fields: what it says; texts, numbers, and lists of them.

        """
        self.number += 1
        content = json.dumps({"kind": kind, "n": self.number, **fields}, separators=(",", ":")).encode()[:-1]
        self.last = hash_of(self.last, content)
        return b"".join((content, HASH_MARK, self.last.encode(), b'"}\n'))

    def begin(self, node: str, cluster: str, time: str) -> bytes:
        """Return the first line of a file.

        Args:
            node: whose audit it is.
            cluster: its cluster.
            time: when it begins.

        """
        return self.line(
            "begin", {"version": VERSION, "node": node, "cluster": cluster, "time": time, "after": self.last}
        )

    def torn(self, data: bytes) -> bytes:
        """Return the line that says that these bytes before it, without their line end, are none of a line."""
        return self.line("torn", {"bytes": len(data), "sha256": sha256(data).hexdigest()})


def hash_of(previous: str, content: bytes) -> str:
    """Return the hash of a line by the hash before it and its content."""
    return sha256(previous.encode() + content).hexdigest()


def line_in(data: bytes) -> Line | None:
    """Return the line that these bytes without a line end are, None for none. Its hash is not checked here."""
    content, end = data[:-TAIL], data[-TAIL:]
    digits = end[len(HASH_MARK) : -2]
    if len(data) > LINE_BYTES_MAX or not end.startswith(HASH_MARK) or not end.endswith(b'"}'):
        return None
    if not HEXADECIMAL.issuperset(digits):
        return None
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or not isinstance(fields.get("kind"), str):
        return None
    numbers = (fields.get("n"), fields.get("count", 1), fields.get("records", 0))
    if not all(type(number) is int and number >= 0 for number in numbers):
        return None
    return Line(fields["kind"], fields, digits.decode(), content)


# --- checking ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Break:
    """Where a chain does not hold."""

    file: str
    line: int
    """Counted from 1."""
    why: str


@dataclass(slots=True)
class Verdict:
    """What a check of one or more files has found."""

    records: int = 0
    """Lines of the kind ``record``."""
    events: int = 0
    """What they tell of, those that were told together counted apart."""
    lines: int = 0
    missing: int = 0
    """Records that the node could not write, as it says itself."""
    torn: int = 0
    """How often a crash cut a line."""
    first_time: str = ""
    last_time: str = ""
    after: str = NOTHING
    """The hash before the first line."""
    head: str = NOTHING
    """The hash of the last line."""
    node: str = ""
    broken: Break | None = None
    """The first place where the chain does not hold; None if all of it does."""
    heads: set[str] | None = None
    """The hashes of all lines, if they were asked for."""


class Check:
    """Checks files line by line, in the order in which they were written; `verdict` says what it has found."""

    def __init__(self) -> None:
        self.verdict = Verdict(heads=set())
        self.previous: str | None = None
        """The hash of the last line; None before the first."""
        self.number = 0
        self.loose: list[bytes] = []
        """The bytes after the last line that are none of a line."""
        self.loose_at = 0

    def file(self, name: str, lines: Iterable[bytes]) -> None:
        """Check one file.

        Args:
            name: what it is called.
            lines: its lines, with their line ends; the last one may lack it.

        """
        self.loose = []
        place = 0
        for place, data in enumerate(lines, 1):
            if self.verdict.broken is not None:
                return
            self.take(name, place, data, first=place == 1)
        if self.verdict.broken is None and self.loose:
            self.fail(name, self.loose_at, "it is no line of an audit: it was changed, or a crash has cut it")
        if not place:
            self.fail(name, 1, "the file is empty: an audit begins with a line that says whose it is")

    def take(self, name: str, place: int, data: bytes, *, first: bool) -> None:
        """Check one line."""
        line = line_in(data[:-1]) if data.endswith(b"\n") else None
        if line is None:
            if not self.loose:
                self.loose_at = place
            self.loose.append(data)
            return
        why = self.why_loose(line) if self.loose else ""
        if first and line.kind != "begin":
            why = "the file does not begin with its first line: it was cut there, or an earlier file is missing"
        if not why:
            why = self.why_not(line)
        if why:
            self.fail(name, self.loose_at if self.loose else place, why)
            return
        self.loose = []
        self.count(line)

    def why_loose(self, line: Line) -> str:
        """Why the bytes before a line are not those that it says a crash has left; empty if they are."""
        data = b"".join(self.loose).removesuffix(b"\n")
        told = (line.fields.get("bytes"), line.fields.get("sha256"))
        if line.kind == "torn" and told == (len(data), sha256(data).hexdigest()):
            return ""
        return "it is no line of an audit, and none after it says that a crash has cut it: it was changed"

    def why_not(self, line: Line) -> str:
        """Why a line cannot come here; empty if it can."""
        begins = line.kind == "begin"
        previous = self.previous
        if previous is None:
            previous = str(line.fields.get("after", NOTHING)) if begins else NOTHING
            self.verdict.after, self.number = previous, line.fields["n"] - 1
        elif begins and line.fields.get("after") != previous:
            return "the file does not continue the one before: lines, or a whole file, are missing"
        if not line.follows(previous):
            return "its hash does not fit: it was changed, or lines before it were changed, removed, added or moved"
        if line.fields["n"] != self.number + 1:
            return f"it has the number {line.fields['n']}, and {self.number + 1} was to come"
        return ""

    def count(self, line: Line) -> None:
        """Count a line that holds."""
        verdict, fields = self.verdict, line.fields
        verdict.lines += 1
        if verdict.heads is not None:
            verdict.heads.add(line.hash)
        if line.kind == "record":
            verdict.records += 1
            verdict.events += fields.get("count", 1)
        elif line.kind == "missing":
            verdict.missing += fields.get("records", 0)
        elif line.kind == "torn":
            verdict.torn += 1
        elif line.kind == "begin":
            verdict.node = str(fields.get("node", ""))
        time = fields.get("time")
        if isinstance(time, str):
            verdict.first_time = verdict.first_time or time
            verdict.last_time = time
        verdict.head = self.previous = line.hash
        self.number = fields["n"]

    def fail(self, file: str, line: int, why: str) -> None:
        """Note the first place where the chain does not hold."""
        if self.verdict.broken is None:
            self.verdict.broken = Break(file, line, why)
