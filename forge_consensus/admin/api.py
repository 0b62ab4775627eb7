"""The API as an ASGI application: all its operations, for one node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from forge_consensus.admin import (
    access,
    backup,
    cluster,
    configuration,
    event_stream,
    health,
    key_watches,
    keys,
    leases,
    log_entries,
    original,
    pages,
    snapshots,
)
from forge_consensus.admin.admission import Admission
from forge_consensus.admin.dispatch import places_of, router_of
from forge_consensus.admin.openapi import document
from forge_consensus.admin.operation import Operation
from forge_consensus.admin.shared import Shared
from forge_consensus.middleware.asgi import Receive, Scope, Sender

OPERATIONS: Final[tuple[Operation, ...]] = (
    *pages.OPERATIONS,
    *health.OPERATIONS,
    *cluster.OPERATIONS,
    *log_entries.OPERATIONS,
    *snapshots.OPERATIONS,
    *backup.OPERATIONS,
    *configuration.OPERATIONS,
    *keys.OPERATIONS,
    *key_watches.OPERATIONS,
    *leases.OPERATIONS,
    *event_stream.OPERATIONS,
    *access.OPERATIONS,
    *original.OPERATIONS,
)


class Api(Shared):
    """The admin API of one node, as an ASGI application for one event loop; the arguments are those of `Shared`."""

    def __init__(
        self,
        prefix: str = "",
        hosts: Iterable[str] = (),
        *,
        only_local: bool = False,
        mounted: bool = False,
        admission: Admission | None = None,
    ) -> None:
        super().__init__(prefix, hosts, only_local=only_local, mounted=mounted, admission=admission)
        served = [each for each in OPERATIONS if places_of(each, prefix, mounted=mounted)]
        self.document = document(served, prefix, asks=admission is not None)
        extra = [pages.INTO_FOLDER] if prefix else []
        self.router = router_of(self, [*served, *extra], prefix)

    async def __call__(self, scope: Scope, receive: Receive, send: Sender) -> None:
        """Answer one request."""
        await self.router(scope, receive, send)
