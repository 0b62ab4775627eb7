"""Distributions: values fall into the bucket that Prometheus expects, and buckets are cumulative."""

from forge_consensus.events.metrics.distribution import Distribution


def test_a_value_on_a_bound_counts_below_it_and_one_above_all_only_in_the_last() -> None:
    distribution = Distribution((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        distribution.add(value)
    assert distribution.buckets() == [("1.0", 2.0), ("2.0", 3.0), ("+Inf", 4.0)]
    assert distribution.total == 12.0


def test_a_value_can_count_many_times_at_once() -> None:
    distribution = Distribution((1.0,))
    distribution.add(0.5, 1000)
    assert distribution.buckets() == [("1.0", 1000.0), ("+Inf", 1000.0)]
    assert distribution.total == 500.0
