"""The story of a failure: what was found, which faults led there, where the nodes stood, and the last messages."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence

from forge_consensus.testing.faults.strike import Ordered
from forge_consensus.testing.rules.violations import ViolationError
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.plan_text import reproduction
from forge_consensus.testing.story.message_table import Line, MessageTable, aligned
from forge_consensus.testing.world.cluster import SimulatedCluster

HAPPENINGS_MAX = 60
"""Of more faults and other happenings the last so many are told."""
CALLS_MAX = 5
"""So many of the innermost calls are told of an error that no check raised."""
NUMBERED = re.compile(r"([A-Za-z][\w -]{0,30}):")


def kind_of(error: BaseException) -> str:
    """What a failure is called: the number of the invariant, or the class of the error.

    An error that a node did not expect is named by its cause: two of them are the same only if that is.
    """
    numbered = NUMBERED.match(str(error))
    if isinstance(error, ViolationError | AssertionError) and numbered:
        return numbered[1]
    name = type(error).__name__
    return f"{name} from {type(error.__cause__).__name__}" if error.__cause__ is not None else name


def story(plan: Plan, error: BaseException, ordered: Sequence[Ordered], messages: MessageTable, again: str = "") -> str:
    """All of it, as text; `again` is what runs it once more, without it the plan alone."""
    at, what = messages.timeline.now, f"{type(error).__name__}: {error}"
    parts = [
        f"seed {plan.seed}: {plan.nodes} nodes, {plan.clients} clients and a reader, pace {plan.pace:g}, "
        f"{len(ordered)} faults; found after {at:.6f} virtual seconds",
        what,
    ]
    if not isinstance(error, ViolationError):
        raised = error.__cause__ or error
        parts.append("".join(traceback.format_tb(raised.__traceback__)[-CALLS_MAX:]).rstrip())
    parts += [
        "What happened:\n" + happened_text(ordered, messages.happenings),
        "Where the nodes stand:\n" + stand_text(messages.cluster),
        "The last messages (health checks are left out):\n" + messages.text(),
        "To see it again:\n" + indented(again or reproduction(plan)),
        what,  # once more: the end is what a terminal shows
    ]
    return "\n\n".join(parts)


def indented(text: str) -> str:
    """The lines, two places further in."""
    return "\n".join(f"  {line}" for line in text.splitlines())


def happened_text(ordered: Sequence[Ordered], happenings: Sequence[Line] = ()) -> str:
    """The faults that were ordered and what became of nodes, in order; the last of many."""
    told = [(one.at, f"fault {one.number}", f"{one.kind}: {one.text}") for one in ordered]
    told += [(at, node, text) for at, node, _, text in happenings]
    rows = [(f"{at:.6f}", who, text) for at, who, text in sorted(told, key=lambda one: one[0])]
    if not rows:
        return "  nothing"
    before = len(rows) - HAPPENINGS_MAX
    head = f"  ({before} more before)\n" if before > 0 else ""
    return head + indented(aligned(("time", "who", "what"), rows[-HAPPENINGS_MAX:]))


def stand_text(cluster: SimulatedCluster) -> str:
    """Where each node stands."""
    rows: list[tuple[str, ...]] = []
    for name, node in cluster.nodes.items():
        base = node.running
        if base is None:
            rows.append((name, f"{node.boots}", "is down"))
            continue
        ledger, log = base.engine.ledger, base.engine.ledger.log
        role = "leads" if ledger.leading_term is not None else "runs"
        state = (ledger.term, ledger.vote or "-", f"{log.base_index}..{log.last}", ledger.commit_index, ledger.applied)
        rows.append((name, f"{node.boots}", role, *map(str, state)))
    head = ("node", "boots", "", "term", "vote", "log", "commit", "applied")
    cut = sorted(cluster.network.cut)
    ways = ", ".join(f"{sender} to {receiver}" for sender, receiver in cut) or "none"
    return indented(aligned(head, rows)) + f"\n  cut ways: {ways}\n  {cluster.network.weather}"
