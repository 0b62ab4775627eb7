"""What the benchmark beside other systems makes of samples and of several rounds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from forge_consensus.checks.host import interpreter
from tests.benchmarks.machine import busy_seconds, cpu_seconds, family, others_percent, python_build
from tests.benchmarks.peers.figures import Run, Spread, Work, summaries
from tests.benchmarks.peers.load import Loaded
from tests.benchmarks.peers.rounds import LATE, Sample, run_of

RUN = Run(
    system="own", round=1, kind="write", outstanding=64, count=1000, seconds=2.0, per_second=500.0, p50_ms=1.0,
    p99_ms=9.0, max_ms=20.0, failed=0, leader_us=10.0, follower_us=5.0, client_us=7.0,
    flushes_per_write=0.5, others_percent=1.0,
)  # fmt: skip


def test_a_spread_is_of_the_known_values_only() -> None:
    assert Spread.of([3.0, None, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of([1.0, 2.0]) == Spread(1.5, 1.0, 2.0)
    assert Spread.of([None]) is None


def test_rounds_of_one_system_and_number_are_one_summary() -> None:
    runs = [
        RUN,
        replace(RUN, outstanding=1, per_second=50.0),
        replace(RUN, system="etcd", client_us=None),
        replace(RUN, round=2, per_second=700.0, failed=2, client_us=None, note="the leader changed"),
    ]
    found = {(each.system, each.outstanding): each for each in summaries(runs)}
    assert list(found) == [("own", 64), ("own", 1), ("etcd", 64)]
    own = found["own", 64]
    assert (own.rounds, own.per_second, own.failed) == (2, Spread(600.0, 500.0, 700.0), 2)
    assert own.client_us == Spread(7.0, 7.0, 7.0)
    assert own.notes == ("the leader changed",)
    assert found["etcd", 64].client_us is None


def sample_at(
    at: float, leader: float, others: float, flushes: int | None, client: float | None = None, asked: float = 0.0
) -> Sample:
    nodes = {"n1": others, "n2": leader, "n3": others / 2}
    return Sample(at, nodes, client, at / 100, at, flushes, asked or at)


LOADED = Loaded(count=1000, seconds=4.0, p50_ms=1.0, p99_ms=2.0, max_ms=3.0, failed=5)


def test_what_was_used_between_two_samples_is_divided_among_the_writes() -> None:
    samples = (sample_at(10.0, 1.0, 1.0, 100, 2.0), sample_at(14.0, 2.0, 1.4, 600, 2.5))
    run = run_of("own", 3, Work(64, 4.0, 128), "n2", LOADED, samples, "")
    assert (run.round, run.outstanding, run.count, run.failed, run.per_second) == (3, 64, 1000, 5, 250.0)
    assert (run.leader_us, run.follower_us, run.client_us) == (1000.0, 300.0, 500.0)
    assert run.flushes_per_write == 0.5
    assert 0 < run.others_percent < 100


def test_a_look_that_came_too_late_is_noted() -> None:
    samples = (sample_at(10.5, 1.0, 1.0, 100), sample_at(14.0, 2.0, 1.4, 600))
    work = Work(1, 4.0, 128)
    assert run_of("own", 1, work, "n2", LOADED, samples, "the leader changed").note == f"the leader changed; {LATE}"
    samples = (sample_at(10.3, 1.0, 1.0, 100), samples[1])
    assert run_of("own", 1, work, "n2", LOADED, samples, "").note == ""


def test_what_was_seen_of_a_part_of_the_work_is_divided_among_the_writes_of_that_part() -> None:
    samples = (sample_at(12.0, 1.0, 1.0, 100, 2.0, asked=13.0), sample_at(14.0, 1.5, 1.2, 225, 2.25))
    run = run_of("own", 1, Work(64, 4.0, 128), "n2", LOADED, samples, "")
    assert (run.leader_us, run.follower_us, run.client_us) == (1000.0, 300.0, 500.0)
    assert run.flushes_per_write == 0.5
    assert run.note == LATE
    assert (run.count, run.per_second) == (1000, 250.0), "the load itself was seen from its beginning"


@pytest.mark.parametrize(("before", "after"), [(None, 5), (5, None), (9, 5)])
def test_flushes_that_are_not_told_or_are_anothers_are_not_known(before: int | None, after: int | None) -> None:
    samples = (sample_at(10.0, 1.0, 1.0, before), sample_at(14.0, 2.0, 1.4, after))
    run = run_of("own", 1, Work(1, 4.0, 128), "n2", LOADED, samples, "")
    assert run.flushes_per_write is None
    assert run.client_us is None


def test_others_are_what_is_left_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert others_percent(6.0, [3.0, 1.0], 2.0) == 25.0
    assert others_percent(3.9, [4.0], 2.0) == 0.0, "the clocks of /proc are coarse"


def test_a_busy_machine_is_read_from_the_kernel_without_idle_and_guests() -> None:
    assert busy_seconds("cpu  100 20 30 5000 700 4 6 40 99 99\ncpu0 1 1 1") == pytest.approx(2.0)
    assert busy_seconds() > 0


def test_a_process_counts_with_all_that_it_started() -> None:
    assert sorted(family(1, {1: [2, 3], 3: [4], 9: [5]})) == [1, 2, 3, 4]
    assert cpu_seconds(2**22 + 1) == 0.0, "there is no such process"


def test_the_build_of_python_is_named() -> None:
    assert python_build().startswith("CPython 3.")
    assert ("compiled" in python_build()) == (interpreter().level != "ok")


def test_the_warm_up_is_a_fifth_and_never_long() -> None:
    assert Work(1, 2.0, 128).warm_seconds == pytest.approx(0.4)
    assert Work(1, 60.0, 128).warm_seconds == 1.0
