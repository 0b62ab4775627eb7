"""The refusals: frames and requests that the node did not accept, counted by reason."""

from __future__ import annotations

from collections import Counter
from typing import Final

from forge_consensus.process.log import LogLines

LINES = LogLines(__name__)


REPORT_EVERY: Final = 1000
"""Each reason's first refusal gets a line in the log, and then one of every this many."""
STRANGER: Final = "stranger"
"""The reason in the answer to a node that must greet (again) before this node accepts its frames."""
STALE_TERM: Final = "stale term"
EARLIER_TERM: Final = "answer of an earlier term"
NO_MEMBERS_TERM: Final = "higher term of a node that is no member"
"""In an answer: a member that was removed may stand in terms of its own until it knows, and disturbs nobody by that."""
PEER_TAKES_NO_FRAME: Final = "peer takes no frame"
PEER_TAKES_NO_ANSWER: Final = "peer takes no answer"
CLIENT_TAKES_NO_ANSWER: Final = "client takes no answer"
"""Mostly a client that had ended: it asks all its endpoints where the leader is, and needs the first answer only."""
CLIENT_READS_TOO_LITTLE: Final = "client reads too little"
"""Mostly a client that asked for much at once: it gets the rest when it has read the first."""
BAD_HANDSHAKE: Final = "handshake failed"
"""Mostly a client that tries the known keys of the nodes one after the other, or somebody who only connects."""
HALF_OPEN: Final = "half-open connection"
"""One that proved no key, or sent nothing, and gave its place to another."""
TOO_MANY_CONNECTIONS: Final = "too many connections"
TOO_MANY_HANDSHAKES: Final = "too many handshakes"
"""Of one key or of the strangers of one network: they are let in, or told why not, a little later."""
ENDLESS_MESSAGE: Final = "message without end"
"""A connection on which the parts of one message came without end was shut, because nobody can read them before it."""
TOO_MANY_TOPICS: Final = "too many topics"
"""The subscriber that asked for most of them was shut."""
ORDINARY: Final = frozenset(
    (
        STRANGER,
        STALE_TERM,
        EARLIER_TERM,
        NO_MEMBERS_TERM,
        PEER_TAKES_NO_FRAME,
        PEER_TAKES_NO_ANSWER,
        CLIENT_TAKES_NO_ANSWER,
        CLIENT_READS_TOO_LITTLE,
        BAD_HANDSHAKE,
    )
)
"""The reasons that are part of ordinary work: they are counted for the metrics, and people are not told of them."""


class Refusals:
    """Counts the refusals since the process began; `counts` maps reasons to numbers."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def count(self, reason: str) -> None:
        """Count a refusal that is part of ordinary work: `reason` is one of `ORDINARY`."""
        self.counts[reason] += 1

    def report(self, reason: str, detail: str) -> None:
        """Count a refusal that somebody should look into, and write the first and some later ones to the log."""
        count = self.counts[reason] = self.counts[reason] + 1
        if count == 1 or count % REPORT_EVERY == 0:
            LINES.warning("refused ({} times): {}: {}", count, reason, detail)
