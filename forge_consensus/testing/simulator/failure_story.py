"""The story of a failure: the error, the faults that led to it, the state of the nodes, and the last messages."""

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
"""The number of the last faults and other events that are shown."""
CALLS_MAX = 5
"""The number of the innermost calls that are shown for an error that no check raised."""
NUMBERED = re.compile(r"([A-Za-z][\w -]{0,30}):")


def kind_of(error: BaseException) -> str:
    """Return the kind of a failure: the number of the invariant, or the class of the error.

    An error that a node did not expect is named with its cause, because two such errors are the same only if their
    causes are.
    """
    numbered = NUMBERED.match(str(error))
    if isinstance(error, ViolationError | AssertionError) and numbered:
        return numbered[1]
    name = type(error).__name__
    return f"{name} from {type(error.__cause__).__name__}" if error.__cause__ is not None else name


def story(plan: Plan, error: BaseException, ordered: Sequence[Ordered], messages: MessageTable, again: str = "") -> str:
    """Return the whole story as text; `again` is the code that reproduces the failure (empty: made from the plan)."""
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
        what,  # repeated, because a terminal shows the end
    ]
    return "\n\n".join(parts)


def indented(text: str) -> str:
    """Return the lines indented by two spaces."""
    return "\n".join(f"  {line}" for line in text.splitlines())


def happened_text(ordered: Sequence[Ordered], happenings: Sequence[Line] = ()) -> str:
    """Return the injected faults and the events of nodes, in order; of many, the last ones."""
    told = [(one.at, f"fault {one.number}", f"{one.kind}: {one.text}") for one in ordered]
    told += [(at, node, text) for at, node, _, text in happenings]
    rows = [(f"{at:.6f}", who, text) for at, who, text in sorted(told, key=lambda one: one[0])]
    if not rows:
        return "  nothing"
    before = len(rows) - HAPPENINGS_MAX
    head = f"  ({before} more before)\n" if before > 0 else ""
    return head + indented(aligned(("time", "who", "what"), rows[-HAPPENINGS_MAX:]))


def stand_text(cluster: SimulatedCluster) -> str:
    """Return the state of each node as a table."""
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
