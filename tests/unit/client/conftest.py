"""What tests of the client share: a cluster of scripted nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.worlds.client_fakes import FakeCluster


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    """A cluster that serves until the test has ended."""
    fake = FakeCluster()
    yield fake
    fake.stop()
