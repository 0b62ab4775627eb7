"""The interface between a node and Thespian: the methods that an `ActorSystem` calls on its system base."""

from __future__ import annotations

from typing import Any, Self, cast

from forge_consensus.actors.runtime.engine import Engine


class SystemBase:
    """The common part of all system bases of a node: it lets Thespian create actors and send them messages.

    A subclass sets `engine`, runs the engine's turns, and is the engine's `Transport`. Pass it to
    ``ActorSystem(systemBase=base, transientUnique=True)``. Without `transientUnique` Thespian silently returns the
    first system of the process instead of a second one. The names of the methods are Thespian's.
    """

    engine: Engine

    def newPrimaryActor(self, kind: type, requirements: Any, global_name: str | None, source_hash: Any) -> Any:
        """Create an actor that has no parent, for `ActorSystem.createActor`; returns its address."""
        return self.engine.cells.create(kind, global_name, cast("Any", None))

    def tell(self, address: Any, message: Any) -> None:
        """Send an actor a message from outside the node; it is delivered in the next turn."""
        raise NotImplementedError

    def external_clone(self) -> Self:
        """Return this base, for `ActorSystem.private`: callers may share it, because it keeps no state of theirs."""
        return self

    def exit_context(self) -> None:
        """End `ActorSystem.private`; there is nothing to undo."""

    def shutdown(self) -> None:
        """Stop the node, for `ActorSystem.shutdown`."""
        raise NotImplementedError
