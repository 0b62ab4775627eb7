"""The refreshes of ``forge-consensus top``: what the nodes answer, what has changed since, and the last events."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from forge_consensus.cli.rates import Sample, rates
from forge_consensus.cli.top_screen import Frame
from forge_consensus.client.sync import Client
from forge_consensus.errors import ConnectionFailedError, ConsensusError
from forge_consensus.events.encoding import rfc3339, to_json_line
from forge_consensus.events.envelope import ConsensusEvent
from forge_consensus.events.stream import StreamEndedError
from forge_consensus.feed.event_feed import EventFeed, Gap
from forge_consensus.output import json_text
from forge_consensus.service.cluster_report import ClusterReport, Status, inquiry_of, report_of

KINDS: Final = ("leader.*", "node.*", "health.*", "cluster.*")
"""The kinds of events that are shown, as `EventFeed` takes them; those of members begin with cluster."""
HISTORY_MAX: Final = 500
"""So many refreshes are remembered for the sparklines."""
EVENTS_MAX: Final = 100
"""So many events are remembered for the screen."""
EVENTS_EACH_MAX: Final = 20_000
"""So many events are taken at one refresh, so that it ends."""
JOURNAL_SECONDS: Final = 3.0
"""For so long after the start, events are taken for past ones of journals, which come one node after the other."""


class Refresher:
    """Asks the nodes again and again; every call of `refresh` returns the next frame.

    Args:
        client: the client that asks.
        endpoints: where nodes answer; members that were found are asked too, so that the cluster is seen when these
            have gone.
        timeout: seconds until missing answers count as missing.
        interval: seconds between refreshes; it is only told on.
        feed: where the events come from; None if they are not wanted.

    """

    def __init__(
        self, client: Client, endpoints: Sequence[str], timeout: float, interval: float, feed: EventFeed | None
    ) -> None:
        self.client = client
        self.endpoints = list(endpoints)
        self.timeout, self.interval = timeout, interval
        self.feed = feed
        self.events: list[ConsensusEvent] | None = None if feed is None else []
        self.events_error = ""
        self.members: list[str] = []
        """The addresses of the members as the last report has them."""
        self.began = time.monotonic()
        self.before: Sample | None = None
        self.answered_at: float | None = None
        """When nodes were last asked and one answered, in Unix seconds."""
        self.committed: deque[float | None] = deque(maxlen=HISTORY_MAX)
        self.slowest: deque[float | None] = deque(maxlen=HISTORY_MAX)

    def refresh(self) -> Frame:
        """Ask all nodes and return the frame; if none answers it says why.

        Raises `NotStartedError` once the client was closed.
        """
        at, moment = time.monotonic(), time.time()
        report: ClusterReport | None = None
        sample: Sample | None = None
        error = ""
        try:
            report, answers = self.ask()
        except ConnectionFailedError as failure:
            error = str(failure)
        else:
            sample = Sample.of(answers, report.cluster_id, at)
            self.members = [node.address for node in report.nodes if node.part is not None]
            self.answered_at = moment
        found = rates(self.before, sample)
        self.before = sample
        self.committed.append(found.committed_per_second)
        self.slowest.append(found.slowest_commit_seconds)
        fresh = self.take_events()
        return Frame(
            time=moment,
            at=at,
            interval=self.interval,
            report=report,
            error=error,
            answered_at=self.answered_at,
            rates=found,
            committed=tuple(self.committed),
            slowest=tuple(self.slowest),
            events=None if self.events is None else tuple(self.events),
            fresh=fresh,
            events_error=self.events_error,
        )

    def ask(self) -> tuple[ClusterReport, Mapping[str, Status]]:
        """Return the report and the answers behind it. Raises `ConnectionFailedError` if no node answers."""
        inquiry = inquiry_of(self.client, self.endpoints, self.timeout, also=self.members)
        return report_of(inquiry), inquiry.answers

    def take_events(self) -> tuple[ConsensusEvent, ...]:
        """Take the events that have come, and remember the last ones; gaps are none for people.

        Past ones are put in order by the nodes' clocks. Those that come later are not: a node whose clock is wrong
        would else hide the others.
        """
        if self.feed is None or self.events is None:
            return ()
        fresh: list[ConsensusEvent] = []
        try:
            while len(fresh) < EVENTS_EACH_MAX:
                fresh.append(self.feed.get(0))
        except TimeoutError:
            pass
        except (ConsensusError, StreamEndedError) as error:
            self.feed, self.events_error = None, f"events are not followed any more: {error}"
        fresh.sort(key=lambda event: event.time)
        told = [event for event in fresh if not isinstance(event, Gap)]
        self.events += told
        if time.monotonic() - self.began < JOURNAL_SECONDS:
            self.events.sort(key=lambda event: event.time)
        del self.events[:-EVENTS_MAX]
        return tuple(fresh)


def json_line(frame: Frame) -> str:
    """Return a frame as one line of JSON; every field is always there, and what is not known is null."""
    found = frame.rates
    line: dict[str, Any] = {
        "time": rfc3339(frame.time),
        "error": frame.error,
        "committed_per_second": found.committed_per_second,
        "slowest_commit_seconds": found.slowest_commit_seconds,
        "rates": {node: asdict(each) for node, each in found.nodes.items()},
        "events": [json.loads(to_json_line(event)) for event in frame.fresh],
        "events_error": frame.events_error,
        "report": None if frame.report is None else frame.report.to_dict(),
    }
    return json_text(line)
