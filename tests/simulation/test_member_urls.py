"""Members that tell where they answer HTTP, each boot elsewhere, under faults: every invariant holds all the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from loguru import logger

from forge_consensus.actors.raft import next_configuration
from forge_consensus.testing.simulator.simulation import run_seed
from forge_consensus.testing.world.base import WatchedEngine


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Nodes that fail on purpose need not say so."""
    logger.disable("forge_consensus")
    yield
    logger.enable("forge_consensus")


@pytest.mark.parametrize("seed", [3, 6_000_601, 6_000_602])
def test_what_members_tell_disturbs_no_change_and_no_election(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain: Any = WatchedEngine.__init__
    urls = next_configuration.with_urls
    proposed = []

    def located(self: WatchedEngine, opened: Any, *rest: Any) -> None:
        identity = opened.ledger.identity
        silent = identity.boot % 5 == 4  # this boot answers nowhere
        url = "" if silent else f"http://{identity.node_id}:{8000 + identity.boot % 3}"
        plain(self, opened, *rest, http_url=url)

    def noted(*arguments: Any) -> Any:
        found = urls(*arguments)
        proposed.append(found is not None)
        return found

    monkeypatch.setattr(WatchedEngine, "__init__", located)
    monkeypatch.setattr(next_configuration, "with_urls", noted)
    run_seed(seed)
    assert 0 < sum(proposed) < 40, "they are noted, and not again and again"
