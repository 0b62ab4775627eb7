"""The origin of a snapshot: what its header says of cluster and machine, for whoever restores a backup."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgpack

from forge_consensus.errors import CorruptionError
from forge_consensus.storage.backends.tables import TablesView
from forge_consensus.storage.ledger.identity import IDENTITY, MACHINE
from forge_consensus.storage.ledger.transaction import get_meta
from forge_consensus.storage.machines.naming import BUILT_IN, MachineName

CLUSTER: Final = "cluster"
MACHINE_OF: Final = "machine"
IN_LEDGER: Final = "in_ledger"
"""The keys of the header. They are equal on all nodes, so that equal states make equal files."""


class Origin(NamedTuple):
    """What a header says; a snapshot of before it did says nothing of the cluster."""

    cluster: str
    machine: MachineName
    in_ledger: bool
    """Whether the machine keeps its state in the ledger, as the built-in one does."""


def origin(tables: TablesView, *, in_ledger: bool) -> dict[str, Any]:
    """What the header of a snapshot from these tables says of where it is from. Raises `CorruptionError`."""
    identity, machine = get_meta(tables, IDENTITY), get_meta(tables, MACHINE)
    found: dict[str, Any] = {IN_LEDGER: in_ledger}
    if identity is not None:
        found[CLUSTER] = msgpack.unpackb(identity)[2]
    if machine is not None:
        found[MACHINE_OF] = msgpack.unpackb(machine)
    return found


def origin_of(header: dict[str, Any], founded_with: str) -> Origin:
    """What a header says; `founded_with` is the machine's name in the configuration, empty for the built-in one.

    Raises `CorruptionError` for a header whose machine has no name and version.
    """
    try:
        name, version = header.get(MACHINE_OF, (founded_with or BUILT_IN, 0))
        machine = MachineName(str(name), int(version))
    except (ValueError, TypeError, OverflowError) as error:
        raise CorruptionError(f"the snapshot's header names no machine: {error}") from error
    return Origin(str(header.get(CLUSTER, "")), machine, bool(header.get(IN_LEDGER, machine.name == BUILT_IN)))
