"""Histories as text: those written by hand in this repository, and the two formats of porcupine's test data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any

from forge_consensus.testing.histories.history import History, Operation, Outcome

CALL = re.compile(r"(\w+) ([\d.]+)-([\d.]+|\*) (\w+)(?: (.+?))??(?: = (.+))?")
ETCD = re.compile(r"INFO\s+jepsen\.util\s+-\s+(\d+)\s+:(invoke|ok|fail)\s+:(read|write|cas)\s+(.*)")
KV = re.compile(r'\{:process (\d+), :type :(invoke|ok), :f :(get|put|append), :key "(.*)", :value (?:nil|"(.*)")\}')
ETCD_KINDS = {"read": "get", "write": "set", "cas": "cas"}


def parsed_call(line: str) -> Operation:
    """Parse one line of a history that was written by hand. Raises `ValueError` for any other text."""
    match = CALL.fullmatch(line)
    if match is None:
        raise ValueError(f"{line!r} is no call")
    client, began, ended, kind, argument, result = match.groups()
    call = Operation(client, kind, "k", json.loads(argument or "null"), float(began))
    if ended != "*":
        call.ended, call.outcome, call.result = float(ended), Outcome.OK, json.loads(result or "null")
    return call


def by_hand(text: str) -> Iterator[tuple[str, bool, History]]:
    """Title, verdict and calls of each history in a text."""
    text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    for block in re.split(r"\n{2,}", text.strip()):
        title, *lines = block.splitlines()
        name, answer = title.rsplit(": ", 1)
        yield name, {"yes": True, "no": False}[answer], History([parsed_call(line) for line in lines])


class Recorder:
    """Makes calls of the lines of a log: each beginning and each end is one tick of the clock."""

    def __init__(self) -> None:
        self.history = History()
        self.running: dict[str, Operation] = {}
        self.clock = 0

    def began(self, client: str, kind: str, key: str, argument: Any) -> None:
        """A call begins."""
        self.clock += 1
        self.running[client] = self.history.begin(Operation(client, kind, key, argument, self.clock))

    def ended(self, client: str, result: Any) -> None:
        """The call has a result."""
        self.clock += 1
        call = self.running.pop(client)
        call.ended, call.outcome, call.result = self.clock, Outcome.OK, result


def matches(pattern: re.Pattern[str], path: Path) -> Iterable[re.Match[str]]:
    """The lines of a file that match a format."""
    return filter(None, map(pattern.fullmatch, path.read_text(encoding="utf-8").splitlines()))


def etcd_history(path: Path) -> History:
    """Read Jepsen's log of one register in etcd; a call that timed out has no answer."""
    recorder = Recorder()
    for match in matches(ETCD, path):
        client, phase, kind, text = match.groups()
        if phase == "invoke":
            numbers = [int(number) for number in re.findall(r"\d+", text)]
            argument = {"read": None, "write": numbers[:1], "cas": numbers}[kind]
            recorder.began(client, ETCD_KINDS[kind], "r", argument[0] if kind == "write" and argument else argument)
        elif "timed-out" in text:
            recorder.running.pop(client)
        elif kind == "cas":
            recorder.ended(client, phase == "ok")
        else:
            recorder.ended(client, None if text == "nil" or kind == "write" else int(text))
    return recorder.history


def kv_history(path: Path) -> History:
    """Read the log of a store of texts: put, append, and get of the whole text."""
    recorder = Recorder()
    for match in matches(KV, path):
        client, phase, kind, key, value = match.groups()
        if phase == "invoke":
            recorder.began(client, kind, key, value)
        else:
            recorder.ended(client, value)
    return recorder.history


class Text:
    """The model of that store: a text that is put, appended to and read; an absent text reads as empty."""

    def initial(self) -> Hashable:
        """Return the empty text."""
        return ""

    def step(self, state: Hashable, operation: Operation) -> tuple[bool, Hashable]:
        """Execute a call."""
        steps: dict[str, Callable[[], tuple[bool, Hashable]]] = {
            "get": lambda: (operation.outcome is not Outcome.OK or operation.result == state, state),
            "put": lambda: (True, operation.argument),
            "append": lambda: (True, f"{state}{operation.argument}"),
        }
        return steps[operation.kind]()
