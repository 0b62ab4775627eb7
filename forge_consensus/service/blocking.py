"""Refusing calls that wait on a thread whose work they would wait for, because they would never return."""

from __future__ import annotations

from collections.abc import Iterable

from forge_consensus.errors import ConsensusError
from forge_consensus.events.subscription import inside_inline_handler
from forge_consensus.process.threads import ForgeThread


class BlockingCallError(ConsensusError, RuntimeError, code="CONSENSUS_BLOCKING_CALL", exit_code=70):
    """A call that waits was made on a thread whose work it would wait for; nothing was done."""

    message = "a call that waits was made on a thread that must not wait: make it on another thread"


def refuse_to_wait(call: str, threads: Iterable[ForgeThread | None] = ()) -> None:
    """Raise `BlockingCallError` inside an inline event handler, and on any of these threads."""
    if inside_inline_handler():
        raise BlockingCallError(
            f"{call}() waits, and an inline event handler must not: it runs on the thread that would do the work. "
            "Subscribe without inline=True, or use submit(), which returns at once"
        )
    mine = [thread.name for thread in threads if thread is not None and thread.is_current()]
    if mine:
        raise BlockingCallError(
            f"{call}() waits for thread {mine[0]!r} and was called on it (by a state machine, or a callback of a "
            "command): call it on another thread"
        )
