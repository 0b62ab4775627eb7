"""Waiting for changes over HTTP, with a watch that is scripted."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from forge_consensus.admin import key_watches
from forge_consensus.admin.key_watches import Stream, first_wanted, until_changed
from forge_consensus.admin.operation import Call
from forge_consensus.admin.problems import ProblemError
from forge_consensus.admin.shared import Shared
from forge_consensus.client.key_records import KeyChange
from forge_consensus.errors import CompactedError, NotStartedError


class Scripted:
    """A watch that has these changes, and then waits or fails."""

    def __init__(self, *changes: KeyChange, error: Exception | None = None) -> None:
        self.cursor = SimpleNamespace(changes=deque(changes))
        self.error = error
        self.behind = changes[-1].index + 1 if changes else 7
        self.closed = False
        self.waited: list[float] = []

    @property
    def next_index(self) -> int:
        return int(self.cursor.changes[0].index) if self.cursor.changes else self.behind

    async def get(self, seconds: float) -> KeyChange:
        if self.cursor.changes:
            change: KeyChange = self.cursor.changes.popleft()
            return change
        if self.error is not None:
            raise self.error
        self.waited.append(seconds)
        await asyncio.sleep(seconds)
        raise TimeoutError

    async def close(self) -> None:
        self.closed = True

    async def __aenter__(self) -> Scripted:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.close()


def put(index: int, key: str = "k") -> KeyChange:
    """A change."""
    return KeyChange(index, key, index, "put", created=1)


def parts(watch: Scripted, seconds: float = 1.0, api: Shared | None = None) -> list[bytes]:
    """The parts of a stream until nothing comes for so long, and then the server closes."""

    async def run() -> list[bytes]:
        shared = api or Shared()
        stream = Stream(watch, shared)  # type: ignore[arg-type]
        asyncio.get_running_loop().call_later(seconds, shared.end_streams)
        return [part async for part in stream.parts()]

    return asyncio.run(run())


def test_only_the_last_of_the_changes_made_as_one_has_an_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_watches, "PART_CHANGES", 3)
    watch = Scripted(put(4), put(5, "a"), put(5, "b"), put(5, "c"), put(9))
    begin, first, second = parts(watch, 0.3)
    assert begin == b"retry: 1000\nid: 3\n\n"
    ids = [line for line in (first + second).decode().splitlines() if line.startswith("id:")]
    assert ids == ["id: 4", "id: 5", "id: 9"]
    assert first.decode().split("\n\n")[2].startswith("event: put\ndata: "), "its part ends within entry 5"
    assert second.decode().startswith("id: 5\nevent: put\n")
    assert watch.closed


def test_a_quiet_stream_moves_its_id_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_watches, "ALIVE_SECONDS", 0.05)
    watch = Scripted()
    found = parts(watch, 0.2)
    assert set(found[1:]) == {b": alive\nid: 6\n\n"}
    assert 2 <= len(found[1:]) <= 5


def test_a_stream_that_cannot_go_on_says_why_and_ends() -> None:
    gone = parts(Scripted(put(4), error=CompactedError("gone", oldest=9)))
    assert gone[-1] == b'event: compacted\ndata: {"code":"CONSENSUS_COMPACTED","detail":"gone","oldest":9}\n\n'
    ended = parts(Scripted(error=NotStartedError("closed")))
    assert ended[-1].startswith(b'event: failed\ndata: {"code":"CONSENSUS_NOT_STARTED"')


def test_a_stream_gives_its_slot_back_and_ends_with_the_server() -> None:
    api = Shared()
    began = time.monotonic()
    parts(Scripted(), 0.2, api)
    assert time.monotonic() - began < 1.0
    assert not api.watches.held


def test_the_stream_of_a_mounted_api_ends_by_itself() -> None:
    api = Shared(mounted=True)
    api.stream_seconds = 0.2
    began = time.monotonic()
    parts(Scripted(), 5.0, api)
    assert time.monotonic() - began < 1.0


@pytest.mark.parametrize(("last", "since", "first"), [(None, None, None), (None, 5, 5), ("8", None, 9), ("8", 5, 9)])
def test_the_last_id_wins(last: str | None, since: int | None, first: int | None) -> None:
    headers = {} if last is None else {"last-event-id": last}
    assert first_wanted(Call(Shared(), {"since": since}, headers)) == first


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "٣", "9" * 30, "9" * 5000])
def test_an_id_that_is_none_is_refused(last: str) -> None:
    with pytest.raises(ProblemError):
        first_wanted(Call(Shared(), {"since": None}, {"last-event-id": last}))


def waited(index: int | None, wait: float, watch: Scripted, api: Shared | None = None) -> Call:
    """A request that has waited."""
    shared = api or Shared()
    asked: list[dict[str, Any]] = []

    def begin(key: str | None, **more: Any) -> Scripted:
        asked.append({"key": key, **more})
        return watch

    subject = SimpleNamespace(client=SimpleNamespace(watch=begin))
    shared.subject = subject  # type: ignore[assignment]
    call = Call(shared, {"index": index, "wait": wait, "min_index": 3}, {})
    asyncio.run(until_changed(call, key="k"))
    assert asked == ([] if index is None else [{"key": "k", "prefix": None, "since": index + 1}])
    assert not shared.watches.held
    return call


def test_a_request_waits_for_what_comes_after_its_index_and_then_asks_for_a_state_with_it() -> None:
    assert waited(8, 60.0, Scripted(put(12)))["min_index"] == 12
    began = time.monotonic()
    assert waited(8, 0.2, Scripted())["min_index"] == 3
    assert time.monotonic() - began >= 0.2
    assert waited(8, 60.0, Scripted(error=CompactedError()))["min_index"] == 3, "what is there now is the answer"
    assert waited(None, 60.0, Scripted())["min_index"] == 3


def test_a_request_at_a_mounted_api_waits_no_longer_than_a_stream_lasts() -> None:
    api, watch = Shared(mounted=True), Scripted()
    api.stream_seconds = 0.1
    waited(8, 60.0, watch, api)
    assert watch.waited == [0.1]


def test_how_long_a_request_may_take_counts_its_wait_only_if_it_waits() -> None:
    assert Call(Shared(), {"index": None, "wait": 60.0}, {}, seconds=5.0).seconds_max == 5.0
    assert Call(Shared(), {"index": 0, "wait": 60.0}, {}, seconds=5.0).seconds_max == 65.0
    assert Call(Shared(), {}, {}, seconds=5.0).seconds_max == 5.0
