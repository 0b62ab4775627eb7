"""A helper that writes a snapshot rests, because commits need the same disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from forge_consensus.storage.snapshots import file as snapshot_file
from forge_consensus.storage.snapshots.file import write_snapshot
from forge_consensus.storage.snapshots.rests import REST_FOR_WORK, REST_SECONDS_MAX, Rests


class Time:
    """A clock that stands still but for what the test and the rests let pass."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.rested: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.rested.append(round(seconds, 6))
        self.seconds += seconds

    def rests(self, seconds_max: float = 600.0) -> Rests:
        return Rests(seconds_max, lambda: self.seconds, self.sleep)


def test_a_rest_is_in_proportion_to_the_work_since_the_last_one() -> None:
    time = Time()
    rests = time.rests()
    for worked in (0.01, 0.002):
        time.seconds += worked
        rests.rest()
    assert time.rested == [0.01 * REST_FOR_WORK, 0.002 * REST_FOR_WORK]


def test_no_rest_after_no_work() -> None:
    time = Time()
    time.rests().rest()
    assert time.rested == []


def test_a_rest_has_an_end_after_a_disk_that_stalled() -> None:
    time = Time()
    rests = time.rests()
    time.seconds += 30.0
    rests.rest()
    assert time.rested == [REST_SECONDS_MAX]


def test_rests_take_at_most_half_of_the_time_that_the_writer_has() -> None:
    time = Time()
    rests = time.rests(4.0)
    for _ in range(10):
        time.seconds += 0.2
        rests.rest()
    assert sum(time.rested) == pytest.approx(2.0)
    assert time.seconds < 100.0 + 4.1


def test_the_writer_rests_after_each_flush_and_not_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_file, "WORK_BYTES", 1000)
    time = Time()
    rested: list[int] = []

    def chunks() -> Iterator[bytes]:
        for _ in range(10):
            time.seconds += 0.01
            yield b"x" * 400
            rested.append(len(time.rested))

    rests = time.rests()
    write_snapshot(tmp_path, {"index": 1, "term": 1}, chunks(), rests=rests)
    assert rested == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    assert time.rested == [pytest.approx(0.03 * REST_FOR_WORK)] * 3


def test_a_writer_without_rests_does_not_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_file, "FLUSH_BYTES", 1000)
    monkeypatch.setattr(Rests, "rest", lambda self: pytest.fail("it rested"))
    assert write_snapshot(tmp_path, {"index": 1, "term": 1}, [b"x" * 1000] * 10).size_bytes > 10_000
