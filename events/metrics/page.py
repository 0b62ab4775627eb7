"""The page of metrics: families under one prefix, every sample labelled with node and cluster."""

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
"""One value; or one by the value of the only label; or ones by the values of all labels. None is left out."""


class MetricPage:
    """What one scrape sees. Families of which nothing is known are left out."""

    def __init__(self, node: str, cluster: str) -> None:
        self.constant = (node, cluster)
        self.families: list[Metric] = []

    def gauge(self, name: str, text: str, values: Values, *labels: str) -> None:
        """What goes up and down."""
        family = GaugeMetricFamily(PREFIX + name, text, labels=("node", "cluster", *labels))
        self.fill(family, values)

    def counter(self, name: str, text: str, values: Values, *labels: str) -> None:
        """What only grows, until the node is started anew; the name is told with `_total` behind it."""
        family = CounterMetricFamily(PREFIX + name, text, labels=("node", "cluster", *labels))
        self.fill(family, values)

    def unknown(self, name: str, text: str, values: Values, *labels: str) -> None:
        """What the seed's name does not let be of the type that it is."""
        family = UnknownMetricFamily(PREFIX + name, text, labels=("node", "cluster", *labels))
        self.fill(family, values)

    def histogram(self, name: str, text: str, distribution: Distribution) -> None:
        """A distribution."""
        family = HistogramMetricFamily(PREFIX + name, text, labels=("node", "cluster"))
        family.add_metric(self.constant, distribution.buckets(), distribution.total)
        self.families.append(family)

    def fill(self, family: GaugeMetricFamily | CounterMetricFamily | UnknownMetricFamily, values: Values) -> None:
        """Add what is known to the family, and the family to the page."""
        rows: Iterable[tuple[tuple[str, ...], Scalar]]
        if isinstance(values, Mapping):
            rows = [((label,), value) for label, value in values.items()]
        elif isinstance(values, Iterable):
            rows = values
        else:
            rows = [((), values)]
        for labels, value in rows:
            if value is not None:
                family.add_metric((*self.constant, *labels), float(value))
        if family.samples:
            self.families.append(family)
