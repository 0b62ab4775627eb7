"""Running something only while the node leads: it begins with the lead, ends with it, and never doubles."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from forge_consensus.errors import ConsensusTimeoutError, InvalidConfigError, NotStartedError
from forge_consensus.events.bus import EventBus
from forge_consensus.events.types import BecameFollower, BecameLeader, LeaderStepDown, NodeStopped
from forge_consensus.service.leader_task import Lead, Leadership, LeaderTask, while_leader

LONG_S = 5.0


class FakeService:
    """A node that leads when the test says so."""

    def __init__(self) -> None:
        self.bus = EventBus()
        self.term = 0
        self.leading = self.dead = False

    def is_leader(self) -> bool:
        if self.dead:
            raise NotStartedError
        return self.leading

    def get_term(self) -> int:
        return self.term

    def lead(self) -> None:
        self.term += 1
        self.leading = True
        self.bus.publish(BecameLeader(term=self.term))

    def follow(self) -> None:
        self.leading = False
        self.bus.publish(BecameFollower(term=self.term))
        self.bus.publish(LeaderStepDown(term=self.term, leader="n1", reason="asked to"))


@pytest.fixture
def service() -> Iterator[FakeService]:
    made = FakeService()
    yield made
    made.bus.close()


def test_a_lead_begins_and_ends_with_the_events(service: FakeService) -> None:
    with Leadership(service) as leadership:
        assert leadership.wait(0.01) is None
        service.lead()
        lead = leadership.wait(0)
        assert lead is not None
        assert (lead.term, bool(lead)) == (1, True)
        service.follow()
        assert not lead
        assert leadership.wait(0) is None
        service.lead()
        second = leadership.wait(0)
        assert second is not None
        assert second.term == 2
    assert not second
    assert service.bus.listeners == ()


def test_a_lead_begins_at_once_if_the_node_already_leads(service: FakeService) -> None:
    service.lead()
    with while_leader(service, timeout=LONG_S) as lead:
        assert lead.term == 1
        assert lead.wait(0.01)
        service.bus.publish(NodeStopped())
        assert not lead.wait(LONG_S)
    assert not lead


def test_a_new_term_of_the_same_node_is_another_lead(service: FakeService) -> None:
    service.lead()
    with while_leader(service) as lead:
        service.lead()
        assert not lead


def test_a_wait_for_leadership_ends_with_an_error_at_its_timeout(service: FakeService) -> None:
    with pytest.raises(ConsensusTimeoutError, match=r"0\.05"), while_leader(service, timeout=0.05):
        raise AssertionError("nobody leads")


def test_the_lead_ends_when_the_node_dies_silently(service: FakeService) -> None:
    service.lead()
    with while_leader(service) as lead:
        service.dead = True
        began = time.monotonic()
        assert not lead.wait(LONG_S)
        assert time.monotonic() - began < 1.0


def test_a_task_runs_once_for_each_lead_and_survives_its_own_errors(service: FakeService) -> None:
    began: list[int] = []
    change = threading.Condition()

    def work(lead: Lead) -> None:
        with change:
            began.append(lead.term)
            change.notify_all()
        if lead.term == 1:
            raise RuntimeError("the first one fails")
        while lead.wait(0.01):
            pass

    def wait_for(terms: list[int]) -> None:
        with change:
            assert change.wait_for(lambda: began == terms, LONG_S)

    with LeaderTask(service, work) as task:
        service.lead()
        wait_for([1])
        service.follow()
        service.lead()
        wait_for([1, 2])
        service.follow()
        service.lead()
        wait_for([1, 2, 3])
    assert not task.thread.is_alive()


def test_a_function_where_a_time_belongs_is_answered_with_the_right_use(service: FakeService) -> None:
    wrong: Any = print
    with pytest.raises(InvalidConfigError, match=r"LeaderTask\(service, work\)"):
        while_leader(service, wrong)  # also without `with`, which would never call it
    with pytest.raises(InvalidConfigError, match="timeout is 'soon'"):
        while_leader(service, cast("Any", "soon"))


def test_a_task_shows_its_work_and_whether_it_leads(service: FakeService) -> None:
    def sweep(lead: Lead) -> None:
        lead.wait(5)

    task = LeaderTask(service, sweep)
    assert "sweep" in repr(task) and "not leading" in repr(task)
    assert [name for name in dir(task) if not name.startswith("_")] == []
