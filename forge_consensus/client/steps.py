"""Calls of several steps, written once for the blocking and the asynchronous client.

Such a call is a generator of steps. A client carries them out one after the other and sends back what each gives: the
answer of a query of a node or of the state, or the result of work on the disk. If a step fails, the client throws its
error in, so that the call decides whether to go on. `Client` waits for a step on the calling thread; `AsyncClient`
awaits it, and does work on the disk on another thread.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from forge_consensus.client.pending import PendingNodeQuery, PendingRead

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Pause:
    """A step that only waits."""

    seconds: float


Step = PendingNodeQuery[Any] | PendingRead[Any] | Pause | Callable[[], Any]
Steps = Generator[Step, Any, Result]
