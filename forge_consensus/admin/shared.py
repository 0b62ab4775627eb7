"""What all requests share: the node that is asked, the events of its cluster, and the API's own description."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final
from weakref import WeakValueDictionary

from forge_consensus.admin.admission import Admission
from forge_consensus.admin.audience import Audience, Fits
from forge_consensus.admin.event_history import EventHistory
from forge_consensus.admin.guard import Guard
from forge_consensus.admin.slots import Slots
from forge_consensus.admin.subject import Seat, ServiceSeat, Subject
from forge_consensus.errors import ConsensusError, NotStartedError
from forge_consensus.events.types import AuditRecorded
from forge_consensus.service.consensus import ConsensusService
from forge_consensus.service.leadership import Standing

MOUNTED_STREAM_SECONDS: Final = 20.0
BACKUPS_MAX: Final = 3
WATCHES_MAX: Final = 500
"""So many backups are made or sent at once; each holds an open file."""


class Shared:
    """The part of the API that its operations see; for one event loop.

    Args:
        prefix: what stands before the paths of the Go original, such as ``/consensus``; all others are there too. ""
            for an application that mounts the API below a prefix of its own.
        hosts: names by which the server may be addressed, besides addresses, ``localhost`` and this machine's name.
        only_local: whether requests from other machines are refused.
        mounted: whether the API is a part of an application. Its server waits for open streams before it tells the
            application to end, so streams end by themselves then, and their clients come back.
        admission: says who asks and what they may; None if nobody is asked who they are.

    """

    def __init__(
        self,
        prefix: str = "",
        hosts: Iterable[str] = (),
        *,
        only_local: bool = False,
        mounted: bool = False,
        admission: Admission | None = None,
    ) -> None:
        self.prefix = prefix
        self.guard = Guard(hosts, only_local=only_local)
        self.admission = admission
        self.subject: Subject | None = None
        """The node; None until it is open."""
        self.mounted = mounted
        self.stream_seconds = MOUNTED_STREAM_SECONDS if mounted else None
        """How long a stream of events lasts; None for as long as its client wants."""
        self.events: dict[tuple[str, ...], EventHistory] = {}
        """By the kinds that are held."""
        self.audiences: WeakValueDictionary[str, Audience] = WeakValueDictionary()
        """By the kinds that are asked for, as long as somebody reads them."""
        self.backups = Slots(BACKUPS_MAX, "backups are made or sent", "TOO_MANY_BACKUPS", 10)
        self.watches = Slots(WATCHES_MAX, "requests wait for changes of keys", "TOO_MANY_WATCHES", 5)
        self.closing = asyncio.Event()
        self.document: Mapping[str, Any] = {}
        """The OpenAPI document."""

    def serve(self, seat: Seat) -> None:
        """Speak for a node that is open now, anew after an end; called on the event loop."""
        self.subject = Subject(seat)
        if self.admission is not None:
            self.admission.cluster = seat.cluster_id
            self.admission.of_node, self.admission.of_log = seat.access, seat.access_of_log
        self.events = {}
        self.audiences = WeakValueDictionary()
        self.closing = asyncio.Event()

    def serve_service(self, service: ConsensusService) -> None:
        """Speak for a service of this process that runs; called on the event loop."""
        self.serve(ServiceSeat(service))

    @property
    def keeps_keys(self) -> bool:
        """Whether the node's machine is the built-in one."""
        return self.subject is not None and self.subject.seat.keeps_keys

    def audit(self, record: AuditRecorded) -> None:
        """Have the node record what was asked of the API, once it is open; before that only the log tells it."""
        if self.subject is not None:
            self.subject.seat.record(record)

    async def standing(self) -> Standing | None:
        """Return who leads, None where that is not known."""
        if self.subject is None:
            return None
        try:
            return await self.subject.standing()
        except ConsensusError:
            return None

    def history(self, kinds: tuple[str, ...] = ()) -> EventHistory:
        """Return the events of the cluster that are of these kinds, of all without them. Raises `NotStartedError`."""
        if self.subject is None:
            raise NotStartedError
        if kinds not in self.events:
            self.events[kinds] = EventHistory(self.subject, kinds)
        return self.events[kinds]

    def audience(self, history: EventHistory, kinds: str, fits: Fits) -> Audience:
        """Return the readers who ask for these kinds, in these words, of that history."""
        return self.audiences.setdefault(kinds, Audience(history, fits))

    @property
    def readers(self) -> int:
        """How many streams of events are open."""
        return sum(history.readers for history in self.events.values())

    def end_streams(self) -> None:
        """Have every stream of events end."""
        self.closing.set()
        for history in self.events.values():
            history.wake()

    async def close(self) -> None:
        """End the streams, the feeds behind them, and the clients of the node; a later `serve` begins anew."""
        self.end_streams()
        subject, self.subject = self.subject, None
        for history in self.events.values():
            await history.close()
        if subject is not None:
            await subject.close()
