"""The metrics of one scrape: metric families under one prefix, each sample labelled with node and cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)

from forge_consensus.events.metrics.distribution import Distribution

PREFIX: Final = "forge_consensus_"
Scalar = float | int | bool | None
Values = Scalar | Mapping[str, Scalar] | Iterable[tuple[tuple[str, ...], Scalar]]
"""One value; or values by the value of the only label; or values by the values of all labels. None is left out."""


class MetricPage:
    """The metric families of one scrape. A family without any known value is left out."""

    def __init__(self, node: str, cluster: str) -> None:
        self.constant = (node, cluster)
        self.families: list[Metric] = []

    def gauge(self, name: str, text: str, values: Values, *labels: str) -> None:
        """Add a metric that goes up and down."""
        family = GaugeMetricFamily(PREFIX + name, text, labels=("node", "cluster", *labels))
        self.fill(family, values)

    def counter(self, name: str, text: str, values: Values, *labels: str) -> None:
        """Add a metric that only grows until the node restarts; Prometheus shows its name with the suffix `_total`."""
        family = CounterMetricFamily(PREFIX + name, text, labels=("node", "cluster", *labels))
        self.fill(family, values)

    def unknown(self, name: str, text: str, values: Values, *labels: str) -> None:
        """Add a counter that keeps its name in the Go original, which lacks the suffix `_total` of a counter."""
        family = UnknownMetricFamily(PREFIX + name, text, labels=("node", "cluster", *labels))
        self.fill(family, values)

    def histogram(self, name: str, text: str, distribution: Distribution) -> None:
        """Add a histogram with the buckets and the sum of a distribution, also while it is empty."""
        family = HistogramMetricFamily(PREFIX + name, text, labels=("node", "cluster"))
        family.add_metric(self.constant, distribution.buckets(), distribution.total)
        self.families.append(family)

    def fill(self, family: GaugeMetricFamily | CounterMetricFamily | UnknownMetricFamily, values: Values) -> None:
        """Add the known values to the family, and the family to the page if it has any."""
        rows: Iterable[tuple[tuple[str, ...], Scalar]]
        if isinstance(values, Mapping):
            rows = [((str(label),), value) for label, value in values.items()]
        elif isinstance(values, Iterable):
            rows = values
        else:
            rows = [((), values)]
        for labels, value in rows:
            if value is not None:
                family.add_metric((*self.constant, *labels), float(value))
        if family.samples:
            self.families.append(family)
